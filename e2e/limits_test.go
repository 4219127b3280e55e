package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// What a workload may send in a second is the operator's to say: within its limit all of a
// burst arrives, beyond it the rest is counted, and an edit is in force for those that live.
func TestLimitsAreTheOperators(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	vm, other := n.attach("vm", lab.CNIOptions{}), n.attach("other", lab.CNIOptions{})
	p := newPath(vm, other)
	const count = 60
	from, to := netip.AddrPortFrom(vm.addr, 4000), netip.AddrPortFrom(other.addr, 53)
	burst := func(when string) (arrived int) {
		t.Helper()
		var frames [][]byte
		for i := range count {
			frames = append(frames, lab.Ethernet(other.mac, vm.mac, 0x0800, lab.UDP(from, to, fmt.Appendf(nil, "%s, query %d", when, i))))
		}
		if err := p.from.Send(append(frames, p.marker)...); err != nil {
			t.Fatal(err)
		}
		seen, err := p.to.Until(n.within(), func(f []byte) bool { return bytes.HasPrefix(f, p.marker) })
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.HasPrefix(s, f) }) {
				arrived++
			}
		}
		return arrived
	}
	for _, c := range []struct {
		name   string
		limits keys // nil = nobody has said any
		whole  bool
	}{
		{"by default", nil, true},
		{"2 a second", keys{"dns": 2}, false},
		{"another's limit", keys{"arp": 2}, true},
		{"2 a second again", keys{"dns": 2}, false},
		{"no limit", keys{"dns": 0}, true},
	} {
		if c.limits != nil {
			n.apply(keys{"limits": c.limits})
		}
		before := n.guardCount("in_dns_rate")
		arrived := burst(c.name)
		dropped := n.guardCount("in_dns_rate") - before
		if arrived+dropped != count || c.whole != (dropped == 0) {
			t.Errorf("%s: of %d queries %d arrive and %d are counted as too many", c.name, count, arrived, dropped)
		}
		vm.checked()
	}
}
