package filter

import (
	"context"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Many rows in one transaction end in the plan, whatever is there already, and cost
// what one row costs.
func TestManyAtOnceEndInThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/16", "br100")
		other := network("other", "10.1.0.0/24", "br101")
		both := networksOf(flat, other)
		rows := append(leaf(16), rowsOf("10.0.0.2", "10.0.7.7", "10.0.7.8", "10.0.200.200")...)
		elsewhere := rowsOf("10.1.0.2", "10.1.0.99")
		attached := func(n ipam.Network, rows []ipam.Reservation) (list []Attached) {
			for _, r := range rows {
				list = append(list, Attached{n, r})
			}
			return list
		}
		table := k.table()
		k.must(func(ctx context.Context) error { // into nothing: base, roots and all
			return table.AttachAll(ctx, both, append(attached(flat, rows[:3]), attached(other, elsewhere[:1])...))
		})
		k.holds(Held{flat, rows[:3]}, Held{other, elsewhere[:1]})

		before := table.Runs()
		k.must(func(ctx context.Context) error { // beside others, in shared and in new nodes, one of them anew
			return table.AttachAll(ctx, both, append(attached(flat, rows[2:]), attached(other, elsewhere[1:])...))
		})
		k.holds(Held{flat, rows}, Held{other, elsewhere})
		one := table.Runs() - before
		before = table.Runs()
		k.must(func(ctx context.Context) error {
			return table.DetachAll(ctx, append(attached(flat, rows[1:19]), attached(other, elsewhere)...))
		})
		k.holds(Held{flat, []ipam.Reservation{rows[0], rows[19]}}, Held{other, nil})
		if many := table.Runs() - before; many != one || one > 2 {
			t.Errorf("%d programs for many attached, %d for many detached", one, many)
		}
	})
}
