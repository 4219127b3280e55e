package filter

import (
	"context"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func allows(list ...ipam.AllowedAddress) func(*ipam.Network) {
	return func(n *ipam.Network) { n.Bridge.AllowedAddresses = list }
}

// TestAllowedAddressesHaveChains: put in with the first workload, the same for all, gone
// when they are off the list, and none of a DEL's business.
func TestAllowedAddressesHaveChains(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		list := []ipam.AllowedAddress{
			{Addr: netip.MustParseAddr("10.0.0.200")}, {MAC: ipam.MAC{0x52, 0x54, 0, 0, 0, 1}},
			{Addr: netip.MustParseAddr("10.0.0.17"), MAC: ipam.MAC{0, 0, 0x5e, 0, 1, 7}, OnRequest: true},
			{Addr: netip.MustParseAddr("10.0.0.17"), OnRequest: true},
		}
		n := network("flat", "10.0.0.0/24", "br100", allows(list...))
		other := network("other", "10.1.0.0/24", "br101")
		table := k.table()
		networks := networksOf(n, other)
		rows := rowsOf("10.0.0.2", "10.0.0.18")
		k.attach(table, networks, n, rows...)
		k.attach(table, networks, other, rowsOf("10.1.0.2")...)
		k.holds(Held{n, rows}, Held{other, rowsOf("10.1.0.2")})
		if got := k.check(table, networks, n, rows[0]); got != nil {
			t.Errorf("defects: %q", got)
		}
		k.detach(table, n, rows[0])
		k.holds(Held{n, rows[1:]}, Held{other, rowsOf("10.1.0.2")})

		allowed := AllowedRow(netip.MustParseAddr("10.0.0.200"))
		chain := dispatchTo(n, allowed).Chain
		k.detach(table, n, allowed)
		want := []string{
			"chain FLAT-T-0a000000-24 does not lead 10.0.0.192/28 to FLAT-T-0a0000c0-28",
			"chain FLAT-T-0a0000c0-28, on the way to " + chain + ", is missing",
			"chain " + chain + " is missing",
		}
		got := k.check(table, networks, n, rows[1])
		if len(got) != len(want) || got[2] != want[2] {
			t.Errorf("defects (-want +got):\n%s", cmp.Diff(want, got))
		}
		apply := func(n ipam.Network) (changed []string) {
			t.Helper()
			k.must(func(ctx context.Context) (err error) {
				changed, err = table.Apply(ctx, networksOf(n, other), "flat", aliveRows(rows[1:]...))
				return err
			})
			return changed
		}
		apply(n)
		k.holds(Held{n, rows[1:]}, Held{other, rowsOf("10.1.0.2")})
		if changed := apply(n); changed != nil {
			t.Errorf("nothing had changed, but %q", changed)
		}
		fewer := network("flat", "10.0.0.0/24", "br100", allows(list[2]))
		apply(fewer)
		k.holds(Held{fewer, rows[1:]}, Held{other, rowsOf("10.1.0.2")})
	})
}
