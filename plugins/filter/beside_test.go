package filter

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// What is done beside the program may change nf_tables, as the guard does: the program then
// reads anew, and all is in.
func TestAttachBesideOtherChangesOfTheRuleset(t *testing.T) {
	k := newKernel(t, BackendNFT)
	flat := network("flat", "10.0.0.0/16", "br100")
	table := New(Options{Iptables: []string{k.iptables()}, LockPath: k.lock, RecordPath: k.record})
	rows := leaf(16)
	calls := 0
	for _, r := range rows {
		k.must(func(ctx context.Context) error {
			return table.AttachBeside(ctx, networksOf(flat), []Attached{{flat, r}}, func() {
				calls++
				for range 5 {
					for _, verb := range []string{"add", "delete"} {
						if out, err := exec.Command("nft", verb, "table", "inet", "another").CombinedOutput(); err != nil {
							t.Errorf("nft: %v: %s", err, out)
						}
					}
				}
			})
		})
	}
	k.holds(Held{flat, rows})
	if runs := table.Runs(); calls != runs || runs < len(rows) {
		t.Errorf("%d calls beside %d programs for %d rows", calls, runs, len(rows))
	}
}

func TestNothingIsCalledBesideNoProgram(t *testing.T) {
	k := newKernel(t, BackendNFT)
	none := network("none", "10.0.0.0/24", "br100", unfiltered, func(n *ipam.Network) { n.Bridge.IsGateway = false })
	broken := func(context.Context) ([]ipam.Network, error) { return nil, ipam.ErrDamaged }
	for want, networks := range map[string]Networks{"": networksOf(none), ipam.ErrDamaged.Error(): broken} {
		err := k.try(func(ctx context.Context) error {
			return k.table().AttachBeside(ctx, networks, []Attached{{none, row("10.0.0.2")}}, func() { t.Error("it is called") })
		})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
