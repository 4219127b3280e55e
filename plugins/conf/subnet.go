package conf

import (
	"encoding/json"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Prefix lengths of a subnet: /30 is the smallest with an address beside the
// gateway's, /8 the largest whose addresses differ in the 24 bits a MAC carries.
const (
	minPrefixLen = 8
	maxPrefixLen = 30
)

// theRange returns the object that holds subnet, rangeStart, rangeEnd and gateway.
func (o *object) theRange() (*object, error) {
	_, here := o.raw("subnet")
	sets, err := o.list("ranges", "range sets")
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		if !here {
			return nil, invalid(o.at("subnet"), nil, `it is required, such as "10.0.0.0/24"`)
		}
		return o, nil
	}
	if here {
		return nil, o.invalid("ranges", "subnet is given too: one of the two is accepted")
	}
	for _, lone := range []string{"rangeStart", "rangeEnd", "gateway"} {
		if _, ok := o.raw(lone); ok {
			return nil, o.invalid(lone, "with ranges it belongs inside the range")
		}
	}
	if len(sets) > 1 {
		return nil, invalid(sets[1].path, sets[1].raw, "a second range set is not supported, nor is IPv6: one network has one IPv4 subnet")
	}
	set := &object{path: o.at("ranges"), fields: map[string]json.RawMessage{"0": sets[0].raw}}
	ranges, err := set.list("0", "ranges")
	if err != nil {
		return nil, invalid(sets[0].path, sets[0].raw, "a list of ranges is wanted: [[{\"subnet\": \"10.0.0.0/24\"}]]")
	}
	if len(ranges) == 0 {
		return nil, invalid(sets[0].path, sets[0].raw, "it is empty: one range is wanted")
	}
	if len(ranges) > 1 {
		return nil, invalid(sets[0].path+"[1]", ranges[1].raw, "a second range is not supported: leave addresses out with exclude")
	}
	r, err := asObject(sets[0].path+"[0]", ranges[0].raw)
	if err != nil {
		return nil, err
	}
	if err := r.checkKeys(rangeKeys); err != nil {
		return nil, err
	}
	if _, ok := r.raw("subnet"); !ok {
		return nil, invalid(r.at("subnet"), nil, `it is required, such as "10.0.0.0/24"`)
	}
	return r, nil
}

// readBounds reads the subnet and what of it is given out, with host-local's
// defaults: the gateway is the first address, the range the whole subnet.
func (o *object) readBounds(p *ipam.Pool) error {
	s, err := o.text("subnet", "")
	if err != nil {
		return err
	}
	if p.Subnet, err = asPrefix4(o.at("subnet"), s); err != nil {
		return err
	}
	if n := p.Subnet.Bits(); n < minPrefixLen || n > maxPrefixLen {
		return o.invalid("subnet", "prefix lengths from /%d to /%d are accepted", minPrefixLen, maxPrefixLen)
	}
	first, last := p.Subnet.Addr().Next(), broadcast(p.Subnet).Prev()

	if p.Gateway, err = o.inSubnet("gateway", p.Subnet, first); err != nil {
		return err
	}
	if p.Gateway.Compare(first) < 0 || p.Gateway.Compare(last) > 0 {
		return o.invalid("gateway", "it is the subnet's network or broadcast address: %s to %s are accepted", first, last)
	}
	if p.RangeStart, err = o.inSubnet("rangeStart", p.Subnet, first); err != nil {
		return err
	}
	if p.RangeEnd, err = o.inSubnet("rangeEnd", p.Subnet, last); err != nil {
		return err
	}
	// host-local accepts the network and the broadcast address as bounds; neither is given.
	if p.RangeStart.Less(first) {
		p.RangeStart = first
	}
	if last.Less(p.RangeEnd) {
		p.RangeEnd = last
	}
	if p.RangeEnd.Less(p.RangeStart) {
		return o.invalid("rangeStart", "the range would end at %s, before it starts", p.RangeEnd)
	}
	return nil
}

// inSubnet reads an address that must lie in the subnet.
func (o *object) inSubnet(key string, subnet netip.Prefix, absent netip.Addr) (netip.Addr, error) {
	a, err := o.addr4(key)
	if err != nil {
		return a, err
	}
	if !a.IsValid() {
		return absent, nil
	}
	if !subnet.Contains(a) {
		return a, o.invalid(key, "it is outside subnet %s", subnet)
	}
	return a, nil
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := range b {
		if keep := p.Bits() - 8*i; keep <= 0 {
			b[i] = 0xff
		} else if keep < 8 {
			b[i] |= 0xff >> keep
		}
	}
	return netip.AddrFrom4(b)
}
