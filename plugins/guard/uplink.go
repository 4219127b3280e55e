package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Segment is what the guard must know of a network beside its ports.
type Segment struct {
	// Gateways are the addresses whose broadcast DHCP replies reach closed ports.
	Gateways []netip.Addr
	// Uplink leads to the part of the segment beyond this node; without a Name there is none.
	Uplink Uplink
}

// Uplink is a port that is no workload's, by which a bridge reaches the physical
// network. Nothing enters by it in the name of this node or of a workload that is
// attached here with the uplink's Name; what it may carry besides is said here.
type Uplink struct {
	Name string // the bridge's port: a NIC, a bond, a VLAN interface
	// MACs and Addrs are this node's own on the segment: no frame enters with one as its
	// source. MACs are the bridge's and the gateway's, Addrs the gateway address of a
	// gateway node and the node's own. DHCP in the name of one of the MACs may cross
	// whatever BlockDHCP says: that is the node as a client.
	MACs  []ipam.MAC
	Addrs []netip.Addr
	// Shared and SharedMACs are a gateway that other nodes have as well: ARP for and from
	// it, IPv4 from it, and frames of and to its MAC cross in neither direction.
	Shared     []netip.Addr
	SharedMACs []ipam.MAC
	// BlockDHCP: DHCP crosses in neither direction, but for the node's own and what is
	// exchanged with Relays.
	BlockDHCP bool
	Relays    []netip.Addr
}

// validate refuses what would make an element that matches nothing, or too much. The
// zero Uplink is no uplink.
func (u Uplink) validate() error {
	if u.Name == "" {
		return nil
	}
	if len(u.Name) > maxPortName || strings.ContainsAny(u.Name, "\x00/ \t\n\"*") || strings.HasPrefix(u.Name, PortPrefix) {
		return fmt.Errorf("%q is no uplink: an interface's name of up to %d characters is wanted, which does not begin with %s",
			u.Name, maxPortName, PortPrefix)
	}
	var errs []error
	for _, m := range slices.Concat(u.MACs, u.SharedMACs) {
		if m.IsZero() || m.IsMulticast() {
			errs = append(errs, fmt.Errorf("uplink %s: %s is no node's MAC: a unicast one is wanted", u.Name, m))
		}
	}
	for _, a := range slices.Concat(u.Addrs, u.Shared, u.Relays) {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
			errs = append(errs, fmt.Errorf("uplink %s: %s is no node's address: a unicast IPv4 one is wanted", u.Name, a))
		}
	}
	return errors.Join(errs...)
}

// elements are the members that make u an uplink, but for those of workloads.
func (u Uplink) elements() []element {
	if u.Name == "" {
		return nil
	}
	name := nameBytes(u.Name)
	uplink := setUplinks.element(name)
	uplink.comment = u.record()
	es := []element{uplink}
	add := func(s setName, key []byte) { es = append(es, s.element(name, key)) }
	for _, m := range slices.Concat(u.MACs, u.SharedMACs) {
		add(setUplinkMACs, m[:])
		add(setUplinkClients, m[:])
	}
	for _, a := range slices.Concat(u.Addrs, u.Shared) {
		add(setUplinkSources, a.AsSlice())
	}
	for _, m := range u.SharedMACs {
		add(setUplinkSharedMACs, m[:])
	}
	for _, a := range u.Shared {
		add(setUplinkShared, a.AsSlice())
	}
	for _, a := range u.Relays {
		add(setUplinkRelays, a.AsSlice())
	}
	if u.BlockDHCP {
		es = append(es, setUplinkDHCP.element(name))
	}
	return unique(es)
}

// uplinkElements are what keeps others from posing as p beyond its uplink. Their key
// is the uplink's, since it is there that they are looked up, so that a workload's
// names count on its own segment alone; the comment says whose they are.
//
// What a port may use besides its own (Allowed) is not among them: it may be used on
// another node as well.
func (p Port) uplinkElements() []element {
	if p.Uplink == "" {
		return nil
	}
	name := nameBytes(p.Uplink)
	es := []element{setUplinkMACs.element(name, p.MAC[:])}
	for _, a := range p.Addrs {
		es = append(es, setUplinkSources.element(name, a.AsSlice()))
	}
	for i := range es {
		es[i].comment = p.Name
	}
	return es
}

// elements are the gateways' and the uplink's members.
func (s Segment) elements() []element {
	return append(gatewayElements(s.Gateways), s.Uplink.elements()...)
}

func (s Segment) validate() error {
	return errors.Join(validateGateways(s.Gateways), s.Uplink.validate())
}

// Words of an uplink's record.
const (
	recordNoDHCP = "nodhcp"
	recordShared = "shared" // what follows is shared
	recordRelays = "relays" // what follows are relays
)

// record is the comment of the uplink's member of setUplinks, as a port's is: what is
// the node's own, what it shares, its relays. One with too many has none.
func (u Uplink) record() string {
	part := func(word string, macs []ipam.MAC, addrs []netip.Addr) (words []string) {
		for _, m := range slices.Compact(slices.SortedFunc(slices.Values(macs), compareMACs)) {
			words = append(words, m.String())
		}
		for _, a := range slices.Compact(slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)) {
			words = append(words, a.String())
		}
		if word != "" && len(words) > 0 {
			words = append([]string{word}, words...)
		}
		return words
	}
	words := part("", u.MACs, u.Addrs)
	if u.BlockDHCP {
		words = append([]string{recordNoDHCP}, words...)
	}
	words = append(words, part(recordShared, u.SharedMACs, u.Shared)...)
	words = append(words, part(recordRelays, nil, u.Relays)...)
	if s := strings.Join(words, " "); len(s) <= maxRecord {
		return s
	}
	return ""
}

func compareMACs(a, b ipam.MAC) int { return cmp.Compare(a.String(), b.String()) }

// uplink is the uplink that a member of setUplinks records; false if it records none.
func (e element) uplink() (Uplink, bool) {
	if e.set != setUplinks || e.comment == "" {
		return Uplink{}, false
	}
	u := Uplink{Name: strings.TrimRight(e.key, "\x00")}
	macs, addrs := &u.MACs, &u.Addrs
	for word := range strings.FieldsSeq(e.comment) {
		switch word {
		case recordNoDHCP:
			u.BlockDHCP = true
			continue
		case recordShared:
			macs, addrs = &u.SharedMACs, &u.Shared
			continue
		case recordRelays:
			macs, addrs = nil, &u.Relays
			continue
		}
		if a, err := netip.ParseAddr(word); err == nil {
			*addrs = append(*addrs, a)
		} else if m, err := ipam.ParseMAC(word); err == nil && macs != nil {
			*macs = append(*macs, m)
		} else {
			return Uplink{}, false
		}
	}
	return u, u.Name != "" && u.validate() == nil
}

// isUplinks says whether e's key starts with an uplink's name.
func (e element) isUplinks() bool { return strings.HasPrefix(string(e.set), "uplink") }

// ofUplink says whether e is one of the uplink of that name that no workload owns.
func (e element) ofUplink(name string) bool {
	return e.isUplinks() && strings.HasPrefix(e.key, string(nameBytes(name))) && (e.set == setUplinks || e.comment == "")
}

// Uplinks returns the names of all uplinks that are known, sorted.
func Uplinks(ctx context.Context) ([]string, error) {
	var names []string
	err := retry(ctx, func(c *conn) error {
		names = nil
		es, err := c.elements(set{setUplinks, []fieldType{ifName}})
		for _, e := range es {
			names = append(names, strings.TrimRight(e.key, "\x00"))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the guard's uplinks: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// uplinkChains are the rules about uplinks. A VLAN tag is no way past them: what the
// node's own stack reads in a frame is judged, and tags in a tag of VLAN 0, which it
// would take off one after the other, are dropped.
func uplinkChains() []chain {
	from, to := iifname(), oifname()
	source, sender, asked := ipSrc().tagged(), arpSrcIP().tagged(), arpDstIP().tagged()
	return []chain{
		{"from_uplink", nil, []rule{
			{setUplinkMACs.in(from, etherSrc()), dropAs(uplinkInMAC)},
			{setUplinkSharedMACs.in(from, etherTo()), dropAs(uplinkInGateway)},
			{protocol(etherTypeIPv4), goTo("from_uplink_ipv4")},
			{protocol(etherTypeARP), goTo("from_uplink_arp")},
			{protocol(etherTypeVLAN), goTo("from_uplink_nested")},
			{protocol(etherTypeQinQ), goTo("from_uplink_nested")},
		}},
		{"from_uplink_ipv4", nil, []rule{
			{setUplinkSources.in(from, source), dropAs(uplinkInIPv4)},
			{dhcpDst(), setUplinkDHCP.in(from), goTo("from_uplink_dhcp")},
		}},
		{"from_uplink_dhcp", nil, []rule{
			{l4protoUDP(expr.CmpOpEq), setUplinkClients.in(from, chaddr()), accept()},
			{setUplinkRelays.in(from, source), accept()},
			{dropAs(uplinkInDHCP)},
		}},
		{"from_uplink_arp", nil, []rule{
			{setUplinkMACs.in(from, arpSrcMAC().tagged()), dropAs(uplinkInARP)},
			{setUplinkSources.in(from, sender), dropAs(uplinkInARP)},
			{setUplinkShared.in(from, asked), dropAs(uplinkInGateway)},
		}},
		{"from_uplink_nested", nil, []rule{
			{priorityTag(etherTypeVLAN), dropAs(uplinkInTags)},
			{priorityTag(etherTypeQinQ), dropAs(uplinkInTags)},
		}},

		{"to_uplink", nil, []rule{
			{setUplinkSharedMACs.in(to, etherSrc()), dropAs(uplinkOutGateway)},
			{setUplinkSharedMACs.in(to, etherTo()), dropAs(uplinkOutGateway)},
			{protocol(etherTypeIPv4), goTo("to_uplink_ipv4")},
			{protocol(etherTypeARP), goTo("to_uplink_arp")},
		}},
		{"to_uplink_ipv4", nil, []rule{
			{setUplinkShared.in(to, source), dropAs(uplinkOutGateway)},
			{dhcpDst(), setUplinkDHCP.in(to), goTo("to_uplink_dhcp")},
		}},
		{"to_uplink_dhcp", nil, []rule{
			{l4protoUDP(expr.CmpOpEq), setUplinkClients.in(to, chaddr()), accept()},
			{setUplinkRelays.in(to, ipDst().tagged()), accept()},
			{dropAs(uplinkOutDHCP)},
		}},
		{"to_uplink_arp", nil, []rule{
			{setUplinkShared.in(to, sender), dropAs(uplinkOutGateway)},
			{setUplinkShared.in(to, asked), dropAs(uplinkOutGateway)},
		}},
	}
}
