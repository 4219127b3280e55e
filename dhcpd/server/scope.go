package server

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
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

	mask, broadcast [4]byte
	options         []option // in the order for clients that send no option 55
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
		Network:   n.Name,
		Bridge:    b.Bridge,
		ServerID:  p.Gateway,
		Local:     slices.Clone(b.Addrs),
		Subnet:    p.Subnet.Masked(),
		LeaseTime: leaseSeconds(time.Duration(n.Bridge.LeaseTime)),
		MTU:       n.Bridge.MTU,
	}
	if s.MTU == 0 {
		s.MTU = defaultMTU
	}
	mask := ^uint32(0) << (32 - s.Subnet.Bits())
	base := s.Subnet.Addr().As4()
	binary.BigEndian.PutUint32(s.mask[:], mask)
	binary.BigEndian.PutUint32(s.broadcast[:], binary.BigEndian.Uint32(base[:])|^mask)
	s.options = networkOptions(n, b, s.MTU)
	return s, nil
}

// networkOptions lists what the network has to say beyond what every lease carries.
func networkOptions(n *ipam.Network, b Binding, mtu int) []option {
	var list []option
	add := func(code byte, value []byte) {
		if len(value) > 0 {
			list = append(list, option{code, value})
		}
	}
	dns := n.Bridge.DNS
	// nil means "unless the container has a default route", which a client that
	// asks by DHCP has not told; only an explicit false withholds the router.
	if def := n.Bridge.IsDefaultGateway; def == nil || *def {
		add(optRouter, n.Pool.Gateway.AsSlice())
	}
	nameservers := dns.Nameservers
	if b.Nameservers != nil {
		nameservers = b.Nameservers
	}
	add(optDNS, addresses(nameservers))
	domain := dns.Domain
	if domain == "" {
		domain = n.Pool.Domain
	}
	add(optDomain, []byte(domain))
	// The reservation fills in the value; its place in the order is here.
	list = append(list, option{code: optHostname})
	add(optMTU, binary.BigEndian.AppendUint16(nil, uint16(min(mtu, 0xffff))))
	add(optDomainSearch, searchList(dns.Search))
	return list
}

// isLocal reports whether a is an address of this node on the bridge. RFC 2131
// section 4.1: a server must accept any of its addresses as its identifier.
func (s *Scope) isLocal(a netip.Addr) bool {
	return a == s.ServerID || slices.Contains(s.Local, a)
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

// searchList returns domains as DNS labels (RFC 3397). Compression is allowed there
// but not used: not every client can undo it. What is no domain name is left out.
func searchList(domains []string) []byte {
	var b []byte
	for _, d := range domains {
		b = append(b, domainName(d)...)
	}
	return b
}

func domainName(d string) []byte {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(d, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// hostname returns the bare name a reservation gives its client, at most 63 bytes.
func hostname(r *ipam.Reservation) string {
	name, _, _ := strings.Cut(r.Hostname, ".")
	if name == "" {
		name = ipam.DefaultHostname(r.Addr)
	}
	return name[:min(len(name), 63)]
}
