package conf

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Defaults of flat-ipam's keys.
const (
	defaultDomain     = "novalocal" // nova-network's
	defaultReuseDelay = 60 * time.Second
	defaultRetain     = 24 * time.Hour
)

// Prefix lengths of a subnet: /30 is the smallest with an address beside the
// gateway's, /8 the largest whose addresses differ in the 24 bits a MAC carries.
const (
	minPrefixLen = 8
	maxPrefixLen = 30
)

// checkIPAMType insists on flat-ipam: flat-bridge works on its store in process, and
// chains, guard and DHCP are all made from the rows.
func (o *object) checkIPAMType() error {
	kind, err := o.text("type", "")
	if err != nil {
		return err
	}
	if kind != FlatIPAM {
		return invalid(o.at("type"), o.fields["type"], `"flat-ipam" is wanted: chains, guard and DHCP are made from its reservations`)
	}
	return nil
}

// dataDir reads the directory of the stores.
func (o *object) dataDir() (string, error) {
	dir, err := o.text("dataDir", DefaultDataDir)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(dir) {
		return "", o.invalid("dataDir", "an absolute path is wanted, such as %q", DefaultDataDir)
	}
	return filepath.Clean(dir), nil
}

// readPool reads flat-ipam's keys; host-local's mean what they mean there.
func (o *object) readPool(p *ipam.Pool) error {
	// As in host-local the range stands here or in "ranges".
	bounds, err := o.theRange()
	if err != nil {
		return err
	}
	if err := bounds.readBounds(p); err != nil {
		return err
	}
	if err := o.readExclude(p); err != nil {
		return err
	}
	if err := o.readRoutes(p); err != nil {
		return err
	}
	if p.ResolvConf, err = o.text("resolvConf", ""); err != nil {
		return err
	}
	if p.ResolvConf != "" && !filepath.IsAbs(p.ResolvConf) {
		return o.invalid("resolvConf", "an absolute path is wanted, such as \"/etc/resolv.conf\"")
	}
	if p.Domain, err = o.text("domain", defaultDomain); err != nil {
		return err
	}
	// Stricter than dns.domain: workloads' names in it are host names (RFC 1123).
	if !isDomain(p.Domain) || strings.Contains(p.Domain, "_") {
		return o.invalid("domain", "a DNS domain is wanted, such as %q", defaultDomain)
	}
	p.Domain = strings.TrimSuffix(p.Domain, ".")
	if p.ReuseDelay, err = o.duration("reuseDelay", defaultReuseDelay, 0); err != nil {
		return err
	}
	if p.Retain, err = o.duration("retain", defaultRetain, 0); err != nil {
		return err
	}
	p.MACPrefix = ipam.DefaultMACPrefix
	return nil
}

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
		return nil, invalid(sets[1].path, sets[1].raw, "a second range set is not supported: one network has one IPv4 subnet")
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

// readExclude reads what is never given: "10.0.0.5", "10.0.0.16/28" or
// "10.0.0.5-10.0.0.9".
func (o *object) readExclude(p *ipam.Pool) error {
	items, err := o.list("exclude", "addresses, networks or ranges")
	if err != nil {
		return err
	}
	for _, item := range items {
		s, err := item.text()
		if err != nil {
			return err
		}
		r, err := asRange(item.path, s)
		if err != nil {
			return err
		}
		if !p.Subnet.Contains(r.Start) || !p.Subnet.Contains(r.End) {
			return invalid(item.path, item.raw, "it is not inside subnet %s", p.Subnet)
		}
		p.Exclude = append(p.Exclude, r)
	}
	if !anyLeft(p) {
		return o.invalid("exclude", "nothing of the range %s to %s is left to give", p.RangeStart, p.RangeEnd)
	}
	return nil
}

func asRange(path, s string) (ipam.Range, error) {
	if from, to, ok := strings.Cut(s, "-"); ok {
		start, err := asAddr4(path, strings.TrimSpace(from))
		if err != nil {
			return ipam.Range{}, err
		}
		end, err := asAddr4(path, strings.TrimSpace(to))
		if err != nil {
			return ipam.Range{}, err
		}
		if end.Less(start) {
			return ipam.Range{}, invalid(path, quoted(s), "the range ends before it starts")
		}
		return ipam.Range{Start: start, End: end}, nil
	}
	if strings.Contains(s, "/") {
		net, err := asPrefix4(path, s)
		if err != nil {
			return ipam.Range{}, err
		}
		return ipam.Range{Start: net.Addr(), End: broadcast(net)}, nil
	}
	a, err := asAddr4(path, s)
	return ipam.Range{Start: a, End: a}, err
}

// anyLeft reports whether the range has an address beside the gateway and the
// excluded ones: it goes from one exclusion's end to the next.
func anyLeft(p *ipam.Pool) bool {
	taken := append([]ipam.Range{{Start: p.Gateway, End: p.Gateway}}, p.Exclude...)
	slices.SortFunc(taken, func(a, b ipam.Range) int { return a.Start.Compare(b.Start) })
	next := p.RangeStart
	for _, t := range taken {
		if next.Less(t.Start) {
			break
		}
		if next.Compare(t.End) <= 0 {
			next = t.End.Next()
		}
	}
	return next.IsValid() && next.Compare(p.RangeEnd) <= 0
}

func (o *object) readRoutes(p *ipam.Pool) error {
	items, err := o.list("routes", "routes")
	if err != nil {
		return err
	}
	for _, item := range items {
		r, err := asObject(item.path, item.raw)
		if err != nil {
			return err
		}
		if err := r.checkKeys(routeKeys); err != nil {
			return err
		}
		dst, err := r.text("dst", "")
		if err != nil {
			return err
		}
		if dst == "" {
			return invalid(r.at("dst"), nil, `it is required, such as "0.0.0.0/0"`)
		}
		route := ipam.Route{}
		if route.Dst, err = asPrefix4(r.at("dst"), dst); err != nil {
			return err
		}
		// The kernel takes a next hop only from a network it is directly on.
		if route.GW, err = r.inSubnet("gw", p.Subnet, netip.Addr{}); err != nil {
			return err
		}
		p.Routes = append(p.Routes, route)
	}
	return nil
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

// isDomain reports whether s is a domain name: labels of letters, digits, inner
// hyphens and, since real domains have them, underscores.
func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, labelChars) != "" {
			return false
		}
	}
	return true
}

const labelChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
