package filter

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestApplyChangesOnlyWhatDiffers(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		open, shut := network("flat", "10.0.0.0/24", "br100"), network("flat", "10.0.0.0/24", "br100", closed)
		table := k.table()
		rows := rowsOf("10.0.0.2", "10.0.0.3", "10.0.0.40")
		apply := func(n ipam.Network, rows ...ipam.Reservation) (changed []string) {
			t.Helper()
			k.must(func(ctx context.Context) (err error) {
				changed, err = table.Apply(ctx, networksOf(n), "flat", aliveRows(rows...))
				return err
			})
			return changed
		}
		apply(open, rows...)
		k.holds(Held{open, rows})
		if again := apply(open, rows...); again != nil {
			t.Errorf("nothing had changed, but %q", again)
		}
		if got := apply(shut, rows...); len(got) != len(rows) {
			t.Errorf("the toggle is in the workloads' chains alone, but %q", got)
		}
		k.holds(Held{shut, rows})
		apply(shut, rows[1:]...)
		k.holds(Held{shut, rows[1:]})

		tampered := dispatchTo(shut, rows[1]).Chain
		k.ipt("-D " + tampered + " 4")
		if diff := cmp.Diff([]string{tampered + ": written"}, apply(shut, rows[1:]...)); diff != "" {
			t.Error(diff)
		}
		unheld := row("10.0.0.9")
		unheld.Holder = nil
		if got := apply(shut, append(rowsOf("10.0.0.3", "10.0.0.40"), unheld)...); got != nil {
			t.Errorf("an administrator's reservation changed %q", got)
		}
		k.holds(Held{shut, rows[1:]})
	})
}

func TestLinesOfNetworksUnknownToTheCallerStay(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, other := network("flat", "10.0.0.0/24", "br100"), network("elsewhere", "172.16.0.0/24", "br1", deny(ipam.Rule{Protocol: "icmp"}))
		third := network("third", "192.0.2.0/24", "br2")
		table := k.table()
		k.attach(table, networksOf(other), other, row("172.16.0.2"))
		k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
		both := []Held{{flat, rowsOf("10.0.0.2")}, {other, rowsOf("172.16.0.2")}}
		own, _ := ours(k.save())
		if diff := cmp.Diff(sortedLines(planned(both...)), sortedLines(own)); diff != "" {
			t.Errorf("after attaching with one network known:\n%s", diff)
		}
		k.attach(table, networksOf(flat, third), flat, row("10.0.0.3"))
		var ranks []int
		for line := range strings.Lines(k.save()) {
			if strings.HasPrefix(line, "-A FLAT-FORWARD") {
				words := strings.Fields(line)
				ranks = append(ranks, rankOf(words[len(words)-1]))
			}
		}
		// Three networks: what keeps cut connections cut, dispatch, and two that accept.
		if diff := cmp.Diff([]int{0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2}, ranks); diff != "" {
			t.Errorf("FLAT-FORWARD must dispatch for all networks before it accepts for any: (-want +got)\n%s\n%s", diff, k.save())
		}
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(third), flat) })
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), third) })
		own, _ = ours(k.save())
		if diff := cmp.Diff(planned(Held{other, rowsOf("172.16.0.2")}), own); diff != "" {
			t.Errorf("after removing the known ones:\n%s", diff)
		}
	})
}

func sortedLines(s string) []string {
	m := map[string]bool{}
	for line := range strings.Lines(s) {
		m[line] = true
	}
	return sortedKeys(m)
}

func TestRemoveTakesOneNetworkOnly(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, other := network("flat", "10.0.0.0/24", "br100"), network("other", "10.0.1.0/24", "br1")
		table := k.table()
		nets := networksOf(flat, other)
		k.attach(table, nets, flat, rowsOf("10.0.0.2", "10.0.0.3")...)
		k.attach(table, nets, other, row("10.0.1.2"))
		k.must(func(ctx context.Context) error { return table.Remove(ctx, nets, flat) })
		k.holds(Held{other, rowsOf("10.0.1.2")})
		k.must(func(ctx context.Context) error { return table.Remove(ctx, nets, flat) })
		k.holds(Held{other, rowsOf("10.0.1.2")})
	})
}

// Chains go and come for workloads that run; what an unfiltered network needs stays, and
// one that needs nothing leaves nothing.
func TestFilterIsSwitchedOffAndOnUnderWorkloads(t *testing.T) {
	bridge := func(n *ipam.Network) { n.Bridge.IsGateway = false }
	on, off := everything(), network("flat", "10.0.0.0/24", "br100", unfiltered, ipMasq)
	needless := network("flat", "10.0.0.0/24", "br100", unfiltered, bridge)
	other := network("other", "172.16.0.0/24", "br1")
	onBothBackends(t, func(t *testing.T, k kernel) {
		table, rows := k.table(), rowsOf("10.0.0.2", "10.0.0.3")
		apply := func(networks ...ipam.Network) {
			t.Helper()
			k.must(func(ctx context.Context) error {
				_, err := table.Apply(ctx, networksOf(networks...), "flat", aliveRows(rows...))
				return err
			})
		}
		for _, others := range [][]ipam.Network{nil, {other}} {
			var alone []Held
			for _, o := range others {
				k.attach(table, networksOf(o), o, row("172.16.0.2"))
				alone = append(alone, Held{o, rowsOf("172.16.0.2")})
			}
			with := func(n ipam.Network) []ipam.Network { return append([]ipam.Network{n}, others...) }
			k.attach(table, networksOf(with(on)...), on, rows...)
			for range 2 {
				apply(with(off)...)
				k.holds(append([]Held{{off, rows}}, alone...)...)
				k.attach(table, networksOf(with(off)...), off, row("10.0.0.4")) // costs no chain
				k.holds(append([]Held{{off, rows}}, alone...)...)
				apply(with(on)...)
				k.holds(append([]Held{{on, rows}}, alone...)...)
			}
			apply(with(needless)...)
			k.attach(table, networksOf(with(needless)...), needless, rows...)
			if len(others) > 0 {
				k.holds(alone...)
			} else if own, _ := ours(k.save()); own != "" {
				t.Errorf("left:\n%s", own)
			}
		}
	})
}
