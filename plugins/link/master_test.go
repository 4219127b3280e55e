package link

import (
	"slices"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestMACsAndMasterOf(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2).attach(ctx, t)
	bridge := testBridge().MAC
	got, err := MACs(ctx, "br100", "nothing", w.spec.Name, "br100")
	ok(t, err)
	if want := []ipam.MAC{bridge, w.spec.MAC.HostSide()}; !slices.Equal(got, want) {
		t.Errorf("MACs are %v, want %v", got, want)
	}
	for name, want := range map[string]string{w.spec.Name: "br100", "br100": "", "nothing": ""} {
		got, err := MasterOf(ctx, name)
		ok(t, err)
		if got != want {
			t.Errorf("%s is a port of %q, want %q", name, got, want)
		}
	}
}
