package link

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var onLo = netip.MustParseAddr("169.254.169.254")

// labelOf returns the label of onLo's entry on lo; false = lo does not have it.
func labelOf(t *testing.T) (label string, there bool) {
	t.Helper()
	addrs, err := netlink.AddrList(linkNamed(t, "lo"), netlink.FAMILY_V4)
	ok(t, err)
	for _, a := range addrs {
		if a.IP.Equal(onLo.AsSlice()) {
			if ones, _ := a.Mask.Size(); ones != 32 || a.Scope != unix.RT_SCOPE_LINK {
				t.Errorf("it is %s, scope %d", a.IPNet, a.Scope)
			}
			return a.Label, true
		}
	}
	return "", false
}

// A bridge that wants an address on lo gets it once, and its removal takes it away again;
// one that somebody else put there is used and left alone.
func TestAddressOnLo(t *testing.T) {
	ctx := inLab(t)
	before := hostState(t)
	asBefore := func(what string) {
		t.Helper()
		if d := cmp.Diff(before, hostState(t)); d != "" {
			t.Errorf("%s left a difference:\n%s", what, d)
		}
	}
	spec := testBridge()
	spec.OnLo = onLo
	info := ensureBridge(ctx, t, spec)
	if label, _ := labelOf(t); label != labelOnLo || !info.AddedOnLo {
		t.Errorf("label %q, added %t", label, info.AddedOnLo)
	}
	again, _, err := EnsureBridge(ctx, spec)
	ok(t, err)
	if again.AddedOnLo {
		t.Error("the second time it is added again")
	}
	if has, err := HasAddress(ctx, onLo); err != nil || !has {
		t.Errorf("HasAddress: %t, %v", has, err)
	}
	for range 2 {
		ok(t, RemoveCreatedBridge(ctx, spec, info))
	}
	asBefore("a bridge made and removed")

	ok(t, EnsureOnLo(ctx, onLo))
	for range 2 {
		ok(t, RemoveOnLo(ctx, onLo))
	}
	asBefore("an address put on lo and removed")

	foreign := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(onLo, 32)), Scope: unix.RT_SCOPE_LINK}
	ok(t, netlink.AddrAdd(linkNamed(t, "lo"), foreign))
	defer func() { ok(t, netlink.AddrDel(linkNamed(t, "lo"), foreign)) }()
	info, _, err = EnsureBridge(ctx, spec)
	ok(t, err)
	ok(t, RemoveCreatedBridge(ctx, spec, info))
	ok(t, RemoveOnLo(ctx, onLo))
	if label, there := labelOf(t); !there || label != "lo" || info.AddedOnLo {
		t.Errorf("somebody else's address: label %q, there %t, added %t", label, there, info.AddedOnLo)
	}
}

func TestHasAddress(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	for addr, want := range map[string]bool{"10.0.0.1": true, "10.0.0.2": false, "127.0.0.1": true, "127.9.9.9": true, "192.0.2.1": false} {
		if has, err := HasAddress(ctx, netip.MustParseAddr(addr)); err != nil || has != want {
			t.Errorf("%s: %t, %v", addr, has, err)
		}
	}
}
