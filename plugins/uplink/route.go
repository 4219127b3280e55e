package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route is one route that leads to a link.
type Route struct {
	Text string `json:"text"` // for people
	Link int    `json:"link"` // index of the link that it led to
	// Raw is struct rtmsg and its attributes, as the kernel dumped them. An IPv6 route of
	// several hops is several routes of one, which is how the kernel has it.
	Raw []byte `json:"raw"`
}

// ErrNextHop says that a route refers to a nexthop object.
var ErrNextHop = errors.New("its next hop is an object of its own (`ip nexthop`), which belongs to the interface")

// rtaNHID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNHID = 30

// userHZ is what the kernel counts a route's remaining time in (jiffies_to_clock_t).
const userHZ = 100

// parsedRoute is what this package wants to know of a Route.
type parsedRoute struct {
	dst      netip.Prefix
	table    uint32
	protocol uint8
	scope    uint8
	kind     uint8 // RTN_UNICAST
	onlink   bool
	metric   uint32
	gateway  netip.Addr // of its only hop; zero = none
	src      netip.Addr
	links    []int // of all next hops
	hops     int   // of RTA_MULTIPATH
	object   bool  // a nexthop object
	expires  int64 // in ticks of userHZ; 0 = never
}

func newRoute(raw []byte) (Route, error) {
	r := Route{Raw: raw}
	p, err := r.parse()
	if err != nil {
		return r, err
	}
	var b strings.Builder
	if p.dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(p.dst.String())
	}
	if p.gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", p.gateway)
	}
	if p.hops > 1 {
		fmt.Fprintf(&b, " by %d hops", p.hops)
	}
	if p.src.IsValid() {
		fmt.Fprintf(&b, " src %s", p.src)
	}
	if p.metric != 0 {
		fmt.Fprintf(&b, " metric %d", p.metric)
	}
	if p.onlink {
		b.WriteString(" onlink")
	}
	if p.table != unix.RT_TABLE_MAIN {
		fmt.Fprintf(&b, " table %d", p.table)
	}
	r.Text = b.String()
	return r, nil
}

func (r Route) parse() (p parsedRoute, err error) {
	if len(r.Raw) < unix.SizeofRtMsg {
		return p, fmt.Errorf("a route message of %d bytes is too short", len(r.Raw))
	}
	family, bits := r.Raw[0], int(r.Raw[1])
	p.table, p.protocol, p.scope, p.kind = uint32(r.Raw[4]), r.Raw[5], r.Raw[6], r.Raw[7]
	p.onlink = u32(r.Raw[8:])&unix.RTNH_F_ONLINK != 0
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	err = eachAttr(r.Raw[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			p.links = append(p.links, int(u32(v)))
		case unix.RTA_GATEWAY:
			p.gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_VIA: // a gateway of the other family, which struct rtvia names first
			if len(v) > 2 {
				p.gateway, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_PRIORITY:
			p.metric = u32(v)
		case unix.RTA_PREFSRC:
			p.src, _ = netip.AddrFromSlice(v)
		case unix.RTA_TABLE:
			p.table = u32(v)
		case rtaNHID:
			p.object = true
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo: rta_expires is the third
			if len(v) >= 12 {
				p.expires = int64(int32(u32(v[8:])))
			}
		case unix.RTA_MULTIPATH:
			eachHop(v, func(hop []byte) {
				p.hops++
				p.links = append(p.links, int(u32(hop[4:])))
				_ = eachAttr(hop[unix.SizeofRtNexthop:], func(kind uint16, v []byte) {
					if kind == unix.RTA_GATEWAY {
						p.gateway, _ = netip.AddrFromSlice(v)
					}
				})
			})
		}
	})
	if p.hops > 1 {
		p.gateway = netip.Addr{}
	}
	p.dst = netip.PrefixFrom(dst, bits)
	return p, err
}

// eachHop calls f for every struct rtnexthop, with its attributes, of RTA_MULTIPATH.
func eachHop(b []byte, f func(hop []byte)) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(nl.NativeEndian().Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return
		}
		f(b[:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}

func (r Route) ipv6() bool { return r.Raw[0] == unix.AF_INET6 }

// kernelMade reports whether the kernel makes the route by itself as soon as a link has
// addresses.
func (r Route) kernelMade(addresses []Address) bool {
	p, _ := r.parse() // it was parsed before
	if p.kind != unix.RTN_UNICAST || p.table == unix.RT_TABLE_LOCAL {
		return true // local, broadcast, anycast, multicast
	}
	if p.protocol != unix.RTPROT_KERNEL {
		return false
	}
	if r.ipv6() && (p.dst.Addr().IsLinkLocalUnicast() || p.dst.Addr().IsMulticast()) {
		return true
	}
	// NetworkManager calls its own routes the kernel's, and keeps the kernel from making any.
	for _, a := range addresses {
		q, _ := a.parse()
		if q.flags&unix.IFA_F_NOPREFIXROUTE == 0 && (q.prefix.Masked() == p.dst || q.peer == p.dst.Addr()) {
			return true
		}
	}
	return false
}

// same reports whether two routes, of two links, lead to the same.
func (r Route) same(o Route) bool {
	p, _ := r.parse()
	q, _ := o.parse()
	return p.dst == q.dst && p.table == q.table && p.metric == q.metric && p.gateway == q.gateway &&
		p.src == q.src && r.Raw[3] == o.Raw[3] && p.kind == q.kind && max(p.hops, 1) == max(q.hops, 1)
}

// routesTo returns those routes of a message that lead to a link: IPv6 ones of several hops
// apart.
func routesTo(link int, raw []byte) ([]Route, error) {
	r, err := newRoute(raw)
	if err != nil {
		return nil, err
	}
	p, _ := r.parse()
	if !slices.Contains(p.links, link) {
		return nil, nil
	}
	r.Link = link
	if !r.ipv6() || p.hops == 0 {
		return []Route{r}, nil
	}
	var list []Route
	rest := append([]byte(nil), raw[:unix.SizeofRtMsg]...)
	var hops []byte
	_ = eachAttr(raw[unix.SizeofRtMsg:], func(kind uint16, v []byte) { // parsed just now
		if kind == unix.RTA_MULTIPATH {
			hops = v
			return
		}
		rest = append(rest, nl.NewRtAttr(int(kind), v).Serialize()...)
	})
	eachHop(hops, func(hop []byte) {
		if int(u32(hop[4:])) != link || err != nil {
			return
		}
		var one Route
		one, err = newRoute(append(rest[:len(rest):len(rest)], nl.NewRtAttr(unix.RTA_MULTIPATH, hop).Serialize()...))
		one.Link = link
		list = append(list, one)
	})
	return list, err
}

// request returns the message that makes the route, or removes it, as one that leads to
// link to.
func (r Route) request(to int) []byte {
	b := append([]byte(nil), r.Raw[:unix.SizeofRtMsg]...)
	nl.NativeEndian().PutUint32(b[8:], u32(b[8:])&unix.RTNH_F_ONLINK) // the others are the kernel's
	p, _ := r.parse()
	_ = eachAttr(r.Raw[unix.SizeofRtMsg:], func(kind uint16, v []byte) { // parsed before
		v = append([]byte(nil), v...)
		switch kind {
		case unix.RTA_CACHEINFO:
			return
		case unix.RTA_OIF:
			relink(v, r.Link, to)
		case unix.RTA_MULTIPATH:
			eachHop(v, func(hop []byte) {
				hop[2] &= unix.RTNH_F_ONLINK
				relink(hop[4:], r.Link, to)
			})
		}
		b = append(b, nl.NewRtAttr(int(kind), v).Serialize()...)
	})
	if p.expires > 0 && r.ipv6() {
		b = append(b, nl.NewRtAttr(unix.RTA_EXPIRES, nl.Uint32Attr(uint32(p.expires/userHZ))).Serialize()...)
	}
	return b
}

func relink(index []byte, from, to int) {
	if len(index) >= 4 && int(u32(index)) == from {
		nl.NativeEndian().PutUint32(index, uint32(to))
	}
}
