package server

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

const (
	defaultMTU       = 1500
	defaultLeaseTime = time.Hour
	infinite         = 0xffffffff // option 51's word for a lease without end
)

// option is one option as it goes on the wire, less code and length.
type option struct {
	code  byte
	value []byte
}

// Scope is what one network tells its clients on one bridge, worked out once for
// each change of the network or of the bridge. It is immutable after NewScope.
type Scope struct {
	Network   string
	Bridge    string
	ServerID  netip.Addr   // option 54: the gateway, reachable by unicast
	Local     []netip.Addr // every address of this node on the bridge: all of them are "us"
	Subnet    netip.Prefix
	LeaseTime uint32 // seconds; infinite = 0xffffffff
	MTU       int

	mask        [4]byte
	broadcast   netip.Addr // the subnet's
	options     []option   // in the order for clients that send no option 55
	at          [256]uint8 // by code: 1 + the index into options; 0 = none
	second      option     // option 3 of a container that has a default route by another interface
	allowed     []netip.Addr
	rapidCommit bool
}

// NewScope returns the scope of network n on bridge b.
// It fails if n has no bridge, is no gateway or is not IPv4.
func NewScope(n *ipam.Network, b Binding) (*Scope, error) {
	if n.Bridge == nil || !n.Bridge.IsGateway {
		return nil, fmt.Errorf("network %s serves no DHCP: it has no bridge with isGateway", n.Name)
	}
	p := &n.Pool
	if !p.Subnet.Addr().Is4() || !p.Gateway.Is4() {
		return nil, fmt.Errorf("network %s serves no DHCP: subnet %s with gateway %s is not IPv4", n.Name, p.Subnet, p.Gateway)
	}
	s := &Scope{
		Network:     n.Name,
		Bridge:      b.Bridge,
		ServerID:    p.Gateway,
		Local:       slices.Clone(b.Addrs),
		Subnet:      p.Subnet.Masked(),
		LeaseTime:   leaseSeconds(time.Duration(n.Bridge.LeaseTime)),
		MTU:         n.Bridge.MTU,
		allowed:     slices.Clone(n.Bridge.DHCP.Relays),
		rapidCommit: n.Bridge.DHCP.RapidCommit,
	}
	if s.MTU == 0 {
		s.MTU = defaultMTU
	}
	binary.BigEndian.PutUint32(s.mask[:], ^uint32(0)<<(32-s.Subnet.Bits()))
	var last [4]byte
	base := s.Subnet.Addr().As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(base[:])|^binary.BigEndian.Uint32(s.mask[:]))
	s.broadcast = netip.AddrFrom4(last)
	s.options = merged(networkOptions(n, b, s), n.Bridge.DHCPOptions)
	for i, o := range s.options {
		s.at[o.code] = uint8(i + 1)
	}
	s.second, _ = s.configured(optRouter)
	if n.Bridge.IsDefaultGateway == nil {
		router := merged([]option{{optRouter, routeRouter(n)}}, n.Bridge.DHCPOptions)
		i := slices.IndexFunc(router, func(o option) bool { return o.code == optRouter })
		if s.second = (option{}); i >= 0 {
			s.second = router[i]
		}
	}
	return s, nil
}

// networkOptions lists what the network's own keys have to say beyond what every lease
// carries.
func networkOptions(n *ipam.Network, b Binding, s *Scope) []option {
	var list []option
	add := func(code byte, value []byte) {
		if len(value) > 0 {
			list = append(list, option{code, value})
		}
	}
	add(optBroadcast, s.broadcast.AsSlice())
	add(optRouter, router(n))
	dns := n.Bridge.DNS
	nameservers := dns.Nameservers
	if b.Nameservers != nil {
		nameservers = b.Nameservers
	}
	add(optDNS, addresses(nameservers))
	domain := dns.Domain
	if domain == "" {
		domain = n.Pool.Domain
	}
	add(optDomain, []byte(strings.TrimSuffix(domain, ".")))
	// The reservation fills in the value; its place in the order is here.
	list = append(list, option{code: optHostname})
	add(optMTU, binary.BigEndian.AppendUint16(nil, uint16(min(s.MTU, 0xffff))))
	add(optDomainSearch, searchList(dns.Search))
	add(optRoutes, classless(n, b))
	return list
}

// merged puts configured options in the place of those of the same number and adds the
// rest: setting one never drops another. What is configured as empty is not sent.
func merged(list []option, set dhcpoption.Set) []option {
	for _, o := range set {
		i := slices.IndexFunc(list, func(p option) bool { return p.code == o.Code })
		switch {
		case i < 0 && len(o.Value) > 0:
			list = append(list, option{o.Code, o.Value})
		case i >= 0 && len(o.Value) > 0:
			list[i].value = o.Value
		case i >= 0:
			list = slices.Delete(list, i, i+1)
		}
	}
	return list
}

// router returns option 3. An isDefaultGateway of nil means "unless the container has a
// default route", which is seen when it is attached: then Scope.second counts. An explicit
// false withholds the router.
func router(n *ipam.Network) []byte {
	if def := n.Bridge.IsDefaultGateway; def == nil || *def {
		return n.Pool.Gateway.AsSlice()
	}
	return routeRouter(n)
}

// routeRouter returns what remains of option 3 where the router is withheld: the network's
// routes may have a default one all the same.
func routeRouter(n *ipam.Network) []byte {
	for _, r := range n.Pool.Routes {
		if r.Dst.Bits() == 0 && ordinary(r) {
			return via(n, r).AsSlice()
		}
	}
	return nil
}

// classless returns option 121 less the default route: the routes that containers get as
// well, and the one to the metadata service, which is behind the gateway although its
// address is one of the link's. It is empty if there is nothing but the default route to
// tell, for which option 3 is enough and which some clients would take twice.
func classless(n *ipam.Network, b Binding) []byte {
	var list []byte
	for _, r := range n.Pool.Routes {
		if r.Dst.Bits() > 0 && ordinary(r) {
			list = dhcpoption.AppendRoute(list, dhcpoption.Route{Dst: r.Dst, Via: via(n, r)})
		}
	}
	if b.Metadata {
		list = dhcpoption.AppendRoute(list, dhcpoption.Route{Dst: metadata, Via: n.Pool.Gateway})
	}
	return list
}

var metadata = netip.MustParsePrefix("169.254.169.254/32")

// ordinary reports whether DHCP can tell of r: an IPv4 route of the main table.
func ordinary(r ipam.Route) bool {
	const main = 254
	return r.Dst.Addr().Is4() && (r.Table == nil || *r.Table == main || *r.Table == 0)
}

// via returns r's router; 0.0.0.0 means that r's destination is on the link.
func via(n *ipam.Network, r ipam.Route) netip.Addr {
	const link = 253
	switch {
	case r.GW.Is4():
		return r.GW
	case r.Scope != nil && *r.Scope == link:
		return zeroIP
	default:
		return n.Pool.Gateway
	}
}

// isLocal reports whether a is an address of this node on the bridge. RFC 2131
// section 4.1: a server must accept any of its addresses as its identifier.
func (s *Scope) isLocal(a netip.Addr) bool {
	return a == s.ServerID || slices.Contains(s.Local, a)
}

// relays reports whether a is a relay agent's address that is allowed. Our own never is.
func (s *Scope) relays(a netip.Addr) bool {
	return slices.Contains(s.allowed, a) && !s.isLocal(a)
}

// configured returns the network's option of that number.
func (s *Scope) configured(code byte) (option, bool) {
	if i := s.at[code]; i > 0 {
		return s.options[i-1], true
	}
	return option{}, false
}

// leaseSeconds rounds down to seconds within what option 51 can say.
func leaseSeconds(d time.Duration) uint32 {
	if d < time.Second {
		d = defaultLeaseTime
	}
	return uint32(min(int64(d/time.Second), infinite))
}

// addresses returns the IPv4 addresses of list in wire form: four bytes each (an
// option of 16-byte addresses makes Windows drop the whole offer).
func addresses(list []netip.Addr) []byte {
	var b []byte
	for _, a := range list {
		if a = a.Unmap(); a.Is4() {
			b = append(b, a.AsSlice()...)
		}
	}
	return b
}

// searchList returns domains as option 119 has them. What is no domain name is left out.
func searchList(domains []string) []byte {
	var b []byte
	for _, d := range domains {
		b = dhcpoption.AppendDomain(b, d)
	}
	return b
}

// hostname returns the bare name a reservation gives its client, at most 63 bytes.
func hostname(r *ipam.Reservation) string {
	name, _, _ := strings.Cut(r.Hostname, ".")
	if name == "" {
		name = ipam.DefaultHostname(r.Addr)
	}
	return name[:min(len(name), 63)]
}
