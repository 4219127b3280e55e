package ipam

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// never says why an address of a subnet is given to nobody, by request neither;
// empty if it may be given.
func (p Pool) never(a netip.Addr) string {
	switch {
	case !p.Subnet.Contains(a):
		return fmt.Sprintf("it is outside subnet %s", p.Subnet)
	case a == p.Subnet.Addr():
		return "it is the network's own address"
	case a.Is4() && a == lastAddr(p.Subnet): // IPv6 has no broadcast
		return "it is the broadcast address"
	case a == p.Gateway:
		return "it is the gateway's"
	case slices.Contains(p.Nodes, a):
		return "it is a node's own (gatewayAddresses, nodeAddress)"
	}
	for _, r := range p.Exclude {
		if r.Contains(a) {
			return "it is excluded by " + rangeText(r)
		}
	}
	return ""
}

// gives reports whether the network may give an address to a workload on its own.
func (p Pool) gives(a netip.Addr) bool {
	return p.RangeStart.Compare(a) <= 0 && a.Compare(p.RangeEnd) <= 0 && p.never(a) == ""
}

// intervals returns what gives admits, ascending, disjoint and not adjacent.
func (p Pool) intervals() []Range {
	var out []Range
	holes := slices.Clone(p.Exclude)
	for _, a := range append([]netip.Addr{p.Subnet.Addr(), p.Gateway}, p.Nodes...) {
		holes = append(holes, Range{a, a})
	}
	if p.Subnet.Addr().Is4() {
		holes = append(holes, Range{lastAddr(p.Subnet), lastAddr(p.Subnet)})
	}
	slices.SortFunc(holes, func(a, b Range) int { return a.Start.Compare(b.Start) })
	from := p.RangeStart
	for _, h := range holes {
		if h.End.Less(from) {
			continue
		}
		if p.RangeEnd.Less(h.Start) {
			break
		}
		if from.Less(h.Start) {
			out = append(out, Range{from, h.Start.Prev()})
		}
		from = h.End.Next()
		if !from.IsValid() { // the hole ends at the family's last address
			return out
		}
	}
	if from.Compare(p.RangeEnd) <= 0 {
		out = append(out, Range{from, p.RangeEnd})
	}
	return out
}

// First returns the lowest address that the network gives to workloads on its own;
// zero for a pool without any, which is not valid.
func (p Pool) First() netip.Addr {
	if list := p.intervals(); len(list) > 0 {
		return list[0].Start
	}
	return netip.Addr{}
}

// sameAddresses reports whether two pools give the same addresses.
func (p Pool) sameAddresses(q Pool) bool { return slices.Equal(p.intervals(), q.intervals()) }

// derivesFrom returns the one address of the pool's subnet whose derived MAC is m,
// if there is one.
func (p Pool) derivesFrom(m MAC) (netip.Addr, bool) {
	if MACPrefix(m[:3]) != p.MACPrefix {
		return netip.Addr{}, false
	}
	b := p.Subnet.Addr().AsSlice()
	copy(b[len(b)-3:], m[3:])
	a, ok := netip.AddrFromSlice(b)
	return a, ok && p.Subnet.Contains(a)
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		if host := p.Bits() - 8*i; host <= 0 {
			b[i] = 0xff
		} else if host < 8 {
			b[i] |= 0xff >> host
		}
	}
	a, _ := netip.AddrFromSlice(b) // of a valid length
	return a
}

// size returns the number of addresses in r; an IPv6 range may have more than can
// be counted.
func (r Range) size() uint64 {
	a, b := r.Start.As16(), r.End.As16()
	var d, borrow uint64
	for i := 15; i >= 0; i-- {
		n := uint64(b[i]) - uint64(a[i]) - borrow
		borrow = n >> 63
		if i < 8 && n&0xff != 0 {
			return math.MaxUint64
		}
		if i >= 8 {
			d |= (n & 0xff) << (8 * (15 - i))
		}
	}
	if d == math.MaxUint64 {
		return d
	}
	return d + 1
}
