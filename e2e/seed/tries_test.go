package seed

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// otherNode is the receiver's, unless it is the sender's.
func (w *closedWay) otherNode() []*node {
	if w.to.n == w.from.n {
		return nil
	}
	return []*node{w.to.n}
}

var (
	fallback  = func(w *closedWay) rule { return w.to.fallback() }
	toClosed  = func(w *closedWay) rule { return w.to.n.guardCounter("out_closed") }
	foreign   = func(w *closedWay) rule { return w.to.n.guardCounter("out_address") }
	midstream = func(w *closedWay) rule {
		r := w.from.n.first("FLAT-MIDSTREAM", "-m conntrack --ctstate NEW -j DROP")
		only := r.remove
		r.remove = func() {
			only()
			if w.to.n != w.from.n {
				w.to.n.first("FLAT-MIDSTREAM", "-m conntrack --ctstate NEW -j DROP").remove()
			}
		}
		r.also = w.otherNode()
		return r
	}
	invalid = func(w *closedWay) rule { return w.to.n.first(w.to.chain(), "-m conntrack --ctstate INVALID -j DROP") }
	related = func(w *closedWay) rule {
		return w.to.chainRule("-s 10.0.0.0/24 -m conntrack --ctstate RELATED -j DROP")
	}
)

// first is a chain's first rule, which carries its comment.
func (n *node) first(chain, text string) rule {
	return rule{n: n, counter: chain + " " + text, name: n.Name() + ", " + chain + ": " + text,
		remove: func() { n.run("iptables", "-D", chain, "1") }}
}

const byGateway = "by way of the gateway's MAC (hairpin)"

var group = net.HardwareAddr{1, 0, 0x5e, 0, 0, 0xfb}

// tries are those of the toggle: nothing of them reaches a workload whose toggle is off.
var tries = []try{
	{name: "ICMP echo request", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.Echo(w.from.addr, w.to.addr, w.port(), 1, []byte(tag)))
	}},
	{name: "UDP datagram", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "TCP SYN", by: fallback, frames: func(w *closedWay, tag string) [][]byte { return w.unicast(w.tcp(lab.TCPSyn, tag)) }},
	{name: "unknown IP protocol", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.IPv4(w.from.addr, w.to.addr, 253, fmt.Appendf(nil, "%d%s", w.port(), tag)))
	}},
	{name: "UDP datagram in fragments", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		packet := lab.UDP(netip.AddrPortFrom(w.from.addr, w.port()), netip.AddrPortFrom(w.to.addr, 9), append(make([]byte, 48), tag...))
		two := lab.Fragments(packet, 32, w.s.flows)
		return w.unicast(two[0], two[1])
	}},
	{name: "the same, the second fragment first", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		packet := lab.UDP(netip.AddrPortFrom(w.from.addr, w.port()), netip.AddrPortFrom(w.to.addr, 9), append(make([]byte, 48), tag...))
		two := lab.Fragments(packet, 32, w.s.flows)
		return w.unicast(two[1], two[0])
	}},
	{name: byGateway, by: fallback, opened: returned, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(w.hop, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "forged UDP answer, from port 53", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.udp(53, w.port(), w.to.addr, tag))
	}},
	{name: "forged TCP ACK", by: midstream, opened: midstream, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.tcp(lab.TCPAck, tag))
	}},
	{name: "forged TCP SYN, ACK", by: invalid, opened: invalid, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.tcp(lab.TCPSyn|lab.TCPAck, tag))
	}},
	{name: "forged ICMP echo reply", by: invalid, opened: invalid, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.EchoReply(w.from.addr, w.to.addr, w.port(), 1, []byte(tag)))
	}},
	{name: "ICMP error quoting a flow of the receiver's", by: related, frames: (*closedWay).quoting},
	{name: "broadcast 255.255.255.255", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, netip.MustParseAddr("255.255.255.255"), tag))
	}},
	{name: "broadcast of the subnet", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, netip.MustParseAddr("10.0.0.255"), tag))
	}},
	{name: "multicast", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(group, w.udp(w.port(), 5353, netip.MustParseAddr("224.0.0.251"), tag))
	}},
	{name: "the receiver's address in a broadcast frame", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "the receiver's address in a multicast frame", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(group, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "IPv6, to all nodes", by: noIPv6ToAll, opened: noIPv6, frames: func(w *closedWay, tag string) [][]byte {
		return [][]byte{ipv6(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, w.from.mac, "ff02::1", tag)}
	}},
	{name: "IPv6, to a link-local address", by: noIPv6, opened: noIPv6, frames: func(w *closedWay, tag string) [][]byte {
		return [][]byte{ipv6(w.to.mac, w.from.mac, "fe80::2", tag)}
	}},
	{name: "an address of the node's range that nobody has, at the receiver's MAC", by: foreign, opened: foreign,
		frames: func(w *closedWay, tag string) [][]byte {
			return w.unicast(w.udp(w.port(), 9, netip.MustParseAddr("10.0.0.60"), tag))
		}},
	{name: "ARP request (stays possible)", frames: func(w *closedWay, tag string) [][]byte {
		// The tag is where Ethernet pads short frames.
		return [][]byte{append(arpRequest(w.from, w.to.addr.String()), tag...)}
	}},
}

// returned is what the controller sends back to the node that it came from.
func returned(w *closedWay) rule {
	if w.s.shape.multi || w.from.n != w.to.n {
		return rule{}
	}
	return w.to.n.guardCounter("uplink_in_ipv4")
}

func noIPv6(w *closedWay) rule {
	if w.lan {
		return w.to.n.guardCounter("out_ethertype")
	}
	r := w.from.n.guardCounter("in_ethertype")
	r.also = w.otherNode()
	return r
}

// noIPv6ToAll: what is to all a closed port does not get, whatever it is.
func noIPv6ToAll(w *closedWay) rule {
	if w.lan {
		return toClosed(w)
	}
	return noIPv6(w)
}

// ipv6 is a packet of no next header, which nobody answers.
func ipv6(dst, src net.HardwareAddr, to, tag string) []byte {
	p := []byte{0x60, 0, 0, 0, 0, byte(len(tag)), 59, 255}
	p = append(p, netip.MustParseAddr("fe80::1").AsSlice()...)
	p = append(p, netip.MustParseAddr(to).AsSlice()...)
	return lab.Ethernet(dst, src, 0x86dd, append(p, tag...))
}
