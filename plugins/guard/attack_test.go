package guard

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The lab's ports. lan0 is a port that is not ours, such as the uplink; br0 the
// node itself.
const (
	attacker   = "fdpattacker"
	victim     = "fdpvictim"
	closed     = "fdpclosed"
	unchecked  = "fdpunchecked" // antiSpoofing false
	nestedShut = "fdpnestshut"  // antiSpoofing false and closed
	macOnly    = "fdpmaconly"   // antiSpoofing false and macspoofchk
	stranger   = "fdpstranger"  // a port of ours in no set
	lan        = "lan0"
	lan2       = "lan1" // another
	node       = bridgeStation
)

func newAttackLab(t *testing.T) *lab {
	l := newLab(t, false)
	for i, name := range []string{attacker, victim, closed, unchecked, nestedShut, stranger, macOnly} {
		l.plug(name, byte(2+i))
	}
	l.plug(lan, 98)
	l.plug(lan2, 97)
	return l
}

func (l *lab) guard() {
	l.t.Helper()
	port := func(name string, closed, check bool) Port {
		s := l.stations[name]
		return Port{Name: name, MAC: s.mac, Addrs: []netip.Addr{s.addr}, Closed: closed, CheckSource: check}
	}
	mac := port(macOnly, false, false)
	mac.CheckMAC = true
	l.mustDo("attaching", func() error {
		_, err := Apply(l.t.Context(), segments(), []Port{
			port(attacker, false, true), port(victim, false, true), port(closed, true, true),
			port(unchecked, false, false), port(nestedShut, true, false), mac}, nil)
		return err
	})
}

func (l *lab) unguard() {
	l.t.Helper()
	l.mustDo("removing the guard", func() error { return Remove(l.t.Context()) })
}

// A parts gives a case its frame: who sends, whom it is for, and the tag to carry.
type parts struct {
	from, to *station
	tag      []byte
}

// ip is a packet inside the frame that its sender and receiver would use.
func (p parts) ip(packet []byte) []byte {
	return ethernet(p.to.mac, p.from.mac, etherTypeIPv4, packet)
}

// data is an ordinary datagram between two addresses.
func (p parts) data(src, dst netip.Addr) []byte { return udpPacket(src, dst, 5000, 9, p.tag) }

// arp is the packet that asks for the receiver's address.
func (p parts) arp(change func(*arpPacket)) []byte {
	a := arpPacket{op: 1, senderMAC: p.from.mac, sender: p.from.addr, target: p.to.addr}
	if change != nil {
		change(&a)
	}
	return a.packet(p.tag)
}

type attack struct {
	name     string
	from, to string
	frame    func(p parts) []byte
	// counter is the reason for which the guard drops the frame; empty if it passes.
	counter string
}

var (
	all            = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allOfSubnet    = netip.AddrFrom4([4]byte{10, 0, 0, 255})
	unspecified    = netip.IPv4Unspecified()
	someGroup      = netip.AddrFrom4([4]byte{224, 0, 0, 251})
	someGroupMAC   = ipam.MAC{1, 0, 0x5e, 0, 0, 0xfb}
	foreign        = netip.AddrFrom4([4]byte{192, 168, 5, 5})
	unknownMAC     = mac(77)
	bpduMAC        = ipam.MAC{1, 0x80, 0xc2, 0, 0, 0}
	allNodesMAC    = ipam.MAC{0x33, 0x33, 0, 0, 0, 1}
	firstOfMany    = uint16(0x2000)
	secondFragment = uint16(0x2001)
)

// attacks is every rule's frame that it stops, and the frames next to it that it
// must not.
func attacks() []attack {
	ordinary := func(p parts) []byte { return p.ip(p.data(p.from.addr, p.to.addr)) }
	inBroadcast := func(typ uint16, packet func(p parts) []byte) func(parts) []byte {
		return func(p parts) []byte { return ethernet(broadcast, p.from.mac, typ, packet(p)) }
	}
	arpOf := func(change func(p parts, a *arpPacket)) func(parts) []byte {
		return inBroadcast(etherTypeARP, func(p parts) []byte {
			return p.arp(func(a *arpPacket) { change(p, a) })
		})
	}
	arpAsIs := arpOf(func(parts, *arpPacket) {})
	dhcp := func(src, dst netip.Addr, sport, dport uint16) func(parts) []byte {
		return inBroadcast(etherTypeIPv4, func(p parts) []byte { return udpPacket(src, dst, sport, dport, p.tag) })
	}
	client := func(chaddr byte, src, dst netip.Addr, sport, dport uint16) func(parts) []byte {
		return inBroadcast(etherTypeIPv4, func(p parts) []byte {
			return udpPacket(src, dst, sport, dport, dhcpMessage(mac(chaddr), p.tag))
		})
	}
	offer := func(change func(*ipv4)) func(parts) []byte {
		return func(p parts) []byte {
			h := ipv4{src: p.from.addr, dst: p.to.addr, proto: 17}
			change(&h)
			return p.ip(h.packet(udpDatagram(67, 68, p.tag)))
		}
	}
	ra := func(p parts) []byte {
		advertisement := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 7, 8}, p.tag)
		return ethernet(allNodesMAC, p.from.mac, etherTypeIPv6, ipv6Packet("ff02::1", 58, advertisement))
	}
	ipv6 := func(p parts) []byte {
		return ethernet(p.to.mac, p.from.mac, etherTypeIPv6, ipv6Packet("fe80::2", 17, udpDatagram(5000, 9, p.tag)))
	}
	llc := func(dst ipam.MAC) func(parts) []byte {
		return func(p parts) []byte { return ethernet(dst, p.from.mac, 38, []byte{0x42, 0x42, 3}, p.tag) }
	}
	// SNAP carries an ethertype behind an LLC header (RFC 1042).
	snap := func(dst func(parts) ipam.MAC) func(parts) []byte {
		return func(p parts) []byte {
			packet := p.data(p.from.addr, p.to.addr)
			return ethernet(dst(p), p.from.mac, uint16(8+len(packet)), []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, packet)
		}
	}
	toOne, toAll := func(p parts) ipam.MAC { return p.to.mac }, func(parts) ipam.MAC { return broadcast }
	inGroup := func(frame func(parts) []byte) func(parts) []byte {
		return func(p parts) []byte {
			f := frame(p)
			copy(f, broadcast[:])
			return f
		}
	}
	unicast := func(typ uint16) func(parts) []byte {
		return func(p parts) []byte { return ethernet(p.to.mac, p.from.mac, typ, p.data(p.from.addr, p.to.addr)) }
	}
	tagged := func(tpid, vid uint16) func(parts) []byte {
		return func(p parts) []byte { return vlanTag(ordinary(p), tpid, vid) }
	}
	toAddr := func(dst netip.Addr) func(parts) []byte {
		return func(p parts) []byte { return p.ip(p.data(p.from.addr, dst)) }
	}
	fromAddr := func(src netip.Addr) func(parts) []byte {
		return func(p parts) []byte { return p.ip(p.data(src, p.to.addr)) }
	}
	group := func(dstMAC ipam.MAC, dst netip.Addr) func(parts) []byte {
		return func(p parts) []byte { return ethernet(dstMAC, p.from.mac, etherTypeIPv4, p.data(p.from.addr, dst)) }
	}
	gw := netip.MustParseAddr(gateway)
	bytes := func(n int) []byte { return make([]byte, n) }

	return []attack{
		{"datagram between workloads", attacker, victim, ordinary, ""},
		{"datagram to the node", attacker, node, ordinary, ""},
		{"datagram from the node", node, victim, ordinary, ""},
		{"datagram from outside", lan, victim, ordinary, ""},
		{"datagram to outside", attacker, lan, ordinary, ""},
		{"datagram to a closed port", attacker, closed, ordinary, ""}, // its chain decides

		{"source MAC of another", attacker, victim, func(p parts) []byte {
			return ethernet(p.to.mac, unknownMAC, etherTypeIPv4, p.data(p.from.addr, p.to.addr))
		}, inMAC},
		{"source MAC of the bridge", attacker, victim, func(p parts) []byte {
			return ethernet(p.to.mac, mac(9), etherTypeIPv4, p.data(p.from.addr, p.to.addr))
		}, inMAC},
		{"ARP in a frame of another MAC", attacker, victim, func(p parts) []byte {
			return ethernet(p.to.mac, unknownMAC, etherTypeARP, p.arp(nil))
		}, inMAC},

		{"source address of another", attacker, victim, fromAddr(addr(4)), inIPv4},
		{"source address of the gateway", attacker, victim, fromAddr(gw), inIPv4},
		{"no source address", attacker, victim, fromAddr(unspecified), inIPv4},
		{"source address of another, to outside", attacker, lan, fromAddr(addr(4)), inIPv4},
		{"source address of another, to the node", attacker, node, fromAddr(addr(4)), inIPv4},
		{"source address of another in a later fragment", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: addr(4), dst: p.to.addr, proto: 17, fragment: secondFragment}.packet(p.tag))
		}, inIPv4},

		{"ARP request", attacker, victim, arpAsIs, ""},
		{"ARP request of the node", node, victim, arpAsIs, ""},
		{"ARP reply", attacker, victim, arpOf(func(p parts, a *arpPacket) { a.op, a.targetMAC = 2, p.to.mac }), ""},
		{"ARP probe", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.sender = unspecified }), ""},
		{"ARP announcement", attacker, victim, arpOf(func(p parts, a *arpPacket) { a.target = p.from.addr }), ""},
		{"ARP padded to a minimal frame", attacker, victim, inBroadcast(etherTypeARP, func(p parts) []byte {
			return slices.Concat(p.arp(nil), bytes(maxARPLength-28-len(p.tag)))
		}), ""},
		{"ARP sender address of the gateway", attacker, victim,
			arpOf(func(_ parts, a *arpPacket) { a.sender, a.op = gw, 2 }), inARP},
		{"ARP sender address of another", attacker, victim,
			arpOf(func(_ parts, a *arpPacket) { a.sender = addr(4) }), inARP},
		{"ARP sender MAC of another", attacker, victim,
			arpOf(func(_ parts, a *arpPacket) { a.senderMAC = mac(4) }), inARP},
		{"ARP probe with the MAC of another", attacker, victim,
			arpOf(func(_ parts, a *arpPacket) { a.sender, a.senderMAC = unspecified, mac(4) }), inARP},
		{"ARP reply of no address", attacker, victim,
			arpOf(func(_ parts, a *arpPacket) { a.sender, a.op = unspecified, 2 }), inARP},
		{"ARP of another hardware", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.htype = 6 }), inARP},
		{"ARP of another protocol", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.ptype = 0x86dd }), inARP},
		{"ARP with odd hardware length", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.hlen = 7 }), inARP},
		{"ARP with odd protocol length", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.plen = 16 }), inARP},
		{"ARP of another operation", attacker, victim, arpOf(func(_ parts, a *arpPacket) { a.op = 3 }), inARP},
		{"ARP with a load", attacker, victim, inBroadcast(etherTypeARP, func(p parts) []byte {
			return slices.Concat(p.arp(nil), bytes(11))
		}), inARP},
		{"ARP cut short", attacker, victim, inBroadcast(etherTypeARP, func(p parts) []byte { return p.tag }), inARP},

		{"DHCP discover", attacker, node, client(2, unspecified, all, 68, 67), ""},
		{"DHCP rebinding", attacker, node, client(2, addr(2), all, 68, 67), ""},
		{"DHCP renewal", attacker, node, func(p parts) []byte {
			return p.ip(udpPacket(p.from.addr, p.to.addr, 68, 67, dhcpMessage(p.from.mac, p.tag)))
		}, ""},
		{"DHCP discover from an unused port", attacker, node, client(2, unspecified, all, 1068, 67), inIPv4},
		{"DHCP discover of nobody to one server", attacker, lan, client(2, unspecified, addr(98), 68, 67), inIPv4},
		{"DHCP discover from another's address", attacker, node, client(2, addr(3), all, 68, 67), inIPv4},
		{"datagram of nobody to all", attacker, node, client(2, unspecified, all, 68, 5353), inIPv4},
		{"DHCP discover with the MAC of another", attacker, node, func(p parts) []byte {
			return ethernet(broadcast, unknownMAC, etherTypeIPv4, udpPacket(unspecified, all, 68, 67, dhcpMessage(p.from.mac, p.tag)))
		}, inMAC},
		{"DHCP decline in the name of another", attacker, node, client(3, unspecified, all, 68, 67), inDHCPClient},
		{"DHCP decline in the name of another from one's address", attacker, node, client(3, addr(2), addr(1), 68, 67), inDHCPClient},
		{"DHCP decline in the name of another, fragmented before it", attacker, node, func(p parts) []byte {
			first := slices.Concat(udpDatagram(68, 67, nil), p.tag)
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, fragment: firstOfMany}.packet(first))
		}, inDHCPClient},

		{"DHCP offer to one", attacker, victim, offer(func(*ipv4) {}), inDHCPServer},
		{"DHCP offer to all", attacker, victim, dhcp(addr(2), all, 67, 68), inDHCPServer},
		{"DHCP offer to outside", attacker, lan, dhcp(addr(2), all, 67, 68), inDHCPServer},
		{"DHCP offer in the gateway's name", attacker, victim, dhcp(gw, all, 67, 68), inDHCPServer},
		{"DHCP offer to an unusual port", attacker, victim, dhcp(addr(2), all, 67, 1068), inDHCPServer},
		{"DHCP offer behind IP options", attacker, victim,
			offer(func(h *ipv4) { h.options = []byte{1, 1, 1, 0} }), inDHCPServer},
		{"DHCP offer's first fragment", attacker, victim,
			offer(func(h *ipv4) { h.fragment = firstOfMany }), inDHCPServer},
		{"DHCP offer without MAC check", unchecked, victim, offer(func(*ipv4) {}), inDHCPServer},
		{"DHCP offer that lies about its length", attacker, victim,
			offer(func(h *ipv4) { h.length = 1000 }), inMalformed},
		{"DHCP offer shorter than its header", attacker, victim,
			offer(func(h *ipv4) { h.length = 10 }), inMalformed},
		{"datagram without room for its ports", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, options: slices.Concat(p.tag), fragment: firstOfMany}.packet(nil))
		}, inMalformed},
		{"IPv4 cut short", attacker, victim, func(p parts) []byte { return p.ip(p.tag) }, inMalformed},
		{"later fragment", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, fragment: secondFragment}.packet(p.tag))
		}, ""},
		{"TCP from port 67", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 6}.packet(slices.Concat([]byte{0, 67, 0, 68}, p.tag, bytes(8))))
		}, ""},

		{"router advertisement", attacker, victim, ra, inEtherType},
		{"router advertisement of outside", lan, victim, ra, outEtherType},
		{"IPv6 of outside to one", lan, victim, ipv6, outEtherType},
		{"IPv6 to one", attacker, victim, ipv6, inEtherType},
		{"PPPoE session", attacker, victim, unicast(0x8864), inEtherType},
		{"BPDU", attacker, lan, llc(bpduMAC), inBPDU},
		{"BPDU without MAC check", unchecked, lan, llc(bpduMAC), inBPDU},
		{"802.3 with LLC", attacker, victim, llc(mac(3)), inEtherType},
		{"802.3 without MAC check", unchecked, victim, llc(mac(3)), inEtherType},
		{"802.3 with SNAP", attacker, victim, snap(toOne), inEtherType},
		{"802.3 with SNAP to all", attacker, victim, snap(toAll), inEtherType},
		{"802.3 with SNAP without MAC check", unchecked, victim, snap(toOne), inEtherType},
		{"802.3 with SNAP to all of outside", lan, victim, snap(toAll), outEtherType},
		{"VLAN tag to all", attacker, victim, inGroup(tagged(0x8100, 5)), inEtherType},
		{"priority tag to all", attacker, victim, inGroup(tagged(0x8100, 0)), inEtherType},
		{"priority tag without MAC check", unchecked, victim, tagged(0x8100, 0), inEtherType},
		{"service tag", attacker, victim, tagged(0x88a8, 5), inEtherType},
		{"QinQ to all", attacker, victim, inGroup(func(p parts) []byte {
			return vlanTag(vlanTag(ordinary(p), 0x8100, 5), 0x88a8, 6)
		}), inEtherType},
		{"QinQ without MAC check", unchecked, victim, func(p parts) []byte {
			return vlanTag(vlanTag(ordinary(p), 0x8100, 5), 0x88a8, 6)
		}, inEtherType},
		{"first fragment with the address of another", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: addr(4), dst: p.to.addr, proto: 17, fragment: firstOfMany}.packet(udpDatagram(5000, 9, p.tag)))
		}, inIPv4},
		{"first fragment with the address of another to all", attacker, victim, inGroup(func(p parts) []byte {
			return p.ip(ipv4{src: addr(4), dst: p.to.addr, proto: 17, fragment: firstOfMany}.packet(udpDatagram(5000, 9, p.tag)))
		}), inIPv4},
		{"later fragment with the address of another, without MAC check", unchecked, victim, func(p parts) []byte {
			return p.ip(ipv4{src: addr(4), dst: p.to.addr, proto: 17, fragment: secondFragment}.packet(p.tag))
		}, ""},
		{"first fragment", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, fragment: firstOfMany}.packet(udpDatagram(5000, 9, p.tag)))
		}, ""},
		{"later fragment to another's address", attacker, victim, func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: addr(4), proto: 17, fragment: secondFragment}.packet(p.tag))
		}, outAddress},
		{"later fragment in a broadcast frame to a closed port", attacker, closed, inGroup(func(p parts) []byte {
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, fragment: secondFragment}.packet(p.tag))
		}), outClosed},
		{"VLAN tag", attacker, victim, tagged(0x8100, 5), inEtherType},
		{"priority tag", attacker, victim, tagged(0x8100, 0), inEtherType},
		{"QinQ", attacker, victim, func(p parts) []byte {
			return vlanTag(vlanTag(ordinary(p), 0x8100, 5), 0x88a8, 6)
		}, inEtherType},
		{"VLAN tag without MAC check", unchecked, victim, tagged(0x8100, 5), inEtherType},
		{"VLAN tag of outside", lan, victim, tagged(0x8100, 5), outEtherType},
		{"DHCP offer in a VLAN", unchecked, victim, func(p parts) []byte {
			return vlanTag(offer(func(*ipv4) {})(p), 0x8100, 0)
		}, inEtherType},

		{"foreign address to one's MAC", attacker, victim, toAddr(foreign), outAddress},
		{"another's address to one's MAC", attacker, victim, toAddr(addr(4)), outAddress},
		{"group address to one's MAC", attacker, victim, toAddr(someGroup), outAddress},
		{"broadcast address to one's MAC", attacker, victim, toAddr(all), outAddress},
		{"foreign address of outside to one's MAC", lan, victim, toAddr(foreign), outAddress},
		{"foreign address of the node to one's MAC", node, victim, toAddr(foreign), outAddress},
		{"foreign address to one's MAC, without MAC check", attacker, unchecked, toAddr(foreign), outAddress},
		{"flooded frame of another", lan, victim, func(p parts) []byte {
			return ethernet(unknownMAC, p.from.mac, etherTypeIPv4, p.data(p.from.addr, addr(77)))
		}, outAddress},

		{"broadcast to an open port", attacker, victim, group(broadcast, all), ""},
		{"multicast to an open port", attacker, victim, group(someGroupMAC, someGroup), ""},
		{"broadcast to a closed port", attacker, closed, group(broadcast, all), outClosed},
		{"broadcast of the node to a closed port", node, closed, group(broadcast, all), outClosed},
		{"broadcast of outside to a closed port", lan, closed, group(broadcast, all), outClosed},
		{"subnet broadcast to a closed port", attacker, closed, group(broadcast, allOfSubnet), outClosed},
		{"multicast to a closed port", attacker, closed, group(someGroupMAC, someGroup), outClosed},
		{"one's address in a broadcast frame to a closed port", attacker, closed, group(broadcast, addr(4)), outClosed},
		{"one's address in a multicast frame to a closed port", attacker, closed, group(someGroupMAC, addr(4)), outClosed},
		{"broadcast to a closed port without MAC check", attacker, nestedShut, group(broadcast, all), outClosed},
		{"router advertisement of outside to a closed port", lan, closed, ra, outClosed},
		{"ARP to a closed port", attacker, closed, arpAsIs, ""},
		{"ARP reply to a closed port", attacker, closed, func(p parts) []byte {
			return ethernet(p.to.mac, p.from.mac, etherTypeARP, p.arp(func(a *arpPacket) { a.op, a.targetMAC = 2, p.to.mac }))
		}, ""},
		{"ARP of another operation of outside", lan, closed,
			arpOf(func(_ parts, a *arpPacket) { a.op = 25 }), outARP},
		{"ARP of another operation of outside, to one", lan, victim, func(p parts) []byte {
			return ethernet(p.to.mac, p.from.mac, etherTypeARP, p.arp(func(a *arpPacket) { a.op = 25 }))
		}, outARP},

		{"DHCP reply of the gateway to all, to a closed port", node, closed, dhcp(gw, all, 67, 68), ""},
		{"DHCP reply of a remote gateway to a closed port", lan, closed, dhcp(gw, all, 67, 68), ""},
		{"DHCP reply of a rogue outside to a closed port", lan, closed, dhcp(addr(98), all, 67, 68), outClosed},
		{"DHCP reply of a rogue inside to a closed port", attacker, closed, dhcp(addr(2), all, 67, 68), inDHCPServer},
		{"other broadcast of the gateway to a closed port", node, closed, dhcp(gw, all, 5353, 68), outClosed},
		{"broadcast of the gateway from port 67 to another", node, closed, dhcp(gw, all, 67, 69), outClosed},
		{"DHCP reply of the gateway to one", node, closed, func(p parts) []byte {
			return p.ip(udpPacket(gw, p.to.addr, 67, 68, p.tag))
		}, ""},
		{"DHCP reply of the gateway to another's address", node, victim, func(p parts) []byte {
			return p.ip(udpPacket(gw, addr(4), 67, 68, p.tag))
		}, outAddress},

		{"datagram of a port in no set", stranger, victim, ordinary, inNoPort},
		{"ARP of a port in no set", stranger, victim, arpAsIs, inNoPort},
		{"DHCP discover of a port in no set", stranger, node, client(7, unspecified, all, 68, 67), inNoPort},
		{"BPDU of a port in no set", stranger, lan, llc(bpduMAC), inNoPort},
		{"datagram to a port in no set", attacker, stranger, ordinary, outNoPort},
		{"ARP to a port in no set", attacker, stranger, arpAsIs, outNoPort},
		{"broadcast to a port in no set", attacker, stranger, group(broadcast, all), outNoPort},
		{"datagram of the node to a port in no set", node, stranger, ordinary, outNoPort},
		{"DHCP reply of the gateway to a port in no set", node, stranger, dhcp(gw, all, 67, 68), outNoPort},

		{"any MAC without MAC check", unchecked, victim, func(p parts) []byte {
			return ethernet(p.to.mac, unknownMAC, etherTypeIPv4, p.data(addr(4), p.to.addr))
		}, ""},
		{"any address without MAC check", unchecked, victim, fromAddr(addr(4)), ""},
		{"any ARP without MAC check", unchecked, victim, arpOf(func(_ parts, a *arpPacket) {
			a.sender, a.senderMAC = addr(4), mac(4)
		}), ""},
		{"IPv6 without MAC check", unchecked, victim, ipv6, inEtherType},

		{"any address with a MAC check alone", macOnly, victim, fromAddr(addr(4)), ""},
		{"address of the gateway with a MAC check alone", macOnly, node, fromAddr(gw), ""},
		{"MAC of another with a MAC check alone", macOnly, victim, func(p parts) []byte {
			return ethernet(p.to.mac, unknownMAC, etherTypeIPv4, p.data(p.from.addr, p.to.addr))
		}, inMAC},
		{"MAC of another with a MAC check alone, to outside", macOnly, lan, func(p parts) []byte {
			return ethernet(p.to.mac, mac(3), etherTypeIPv4, p.data(p.from.addr, p.to.addr))
		}, inMAC},
		{"ARP of any address with a MAC check alone", macOnly, victim, arpOf(func(_ parts, a *arpPacket) { a.sender = addr(4) }), ""},
		{"ARP sender MAC of another with a MAC check alone", macOnly, victim, arpOf(func(_ parts, a *arpPacket) { a.senderMAC = mac(4) }), inARP},
		{"ARP in a frame of another MAC with a MAC check alone", macOnly, victim, func(p parts) []byte {
			return ethernet(p.to.mac, unknownMAC, etherTypeARP, p.arp(nil))
		}, inMAC},
		{"ARP with odd hardware length with a MAC check alone", macOnly, victim, arpOf(func(_ parts, a *arpPacket) { a.hlen = 7 }), inARP},
		{"ARP with a load with a MAC check alone", macOnly, victim, inBroadcast(etherTypeARP, func(p parts) []byte {
			return slices.Concat(p.arp(nil), bytes(11))
		}), inARP},
		{"DHCP discover with a MAC check alone", macOnly, node, client(8, unspecified, all, 68, 67), ""},
		{"DHCP decline in the name of another with a MAC check alone", macOnly, node, client(3, unspecified, all, 68, 67), inDHCPClient},
		{"DHCP decline in the name of another with a MAC check alone, fragmented before it", macOnly, node, func(p parts) []byte {
			first := slices.Concat(udpDatagram(68, 67, nil), p.tag)
			return p.ip(ipv4{src: p.from.addr, dst: p.to.addr, proto: 17, fragment: firstOfMany}.packet(first))
		}, inDHCPClient},
		{"DHCP offer with a MAC check alone", macOnly, victim, offer(func(*ipv4) {}), inDHCPServer},
		{"later fragment with a MAC check alone", macOnly, victim, func(p parts) []byte {
			return p.ip(ipv4{src: addr(4), dst: p.to.addr, proto: 17, fragment: secondFragment}.packet(p.tag))
		}, ""},
		{"IPv6 with a MAC check alone", macOnly, victim, ipv6, inEtherType},
		{"VLAN tag with a MAC check alone", macOnly, victim, tagged(0x8100, 5), inEtherType},
		{"BPDU with a MAC check alone", macOnly, lan, llc(bpduMAC), inBPDU},
		{"foreign address to one's MAC, with a MAC check alone", attacker, macOnly, toAddr(foreign), outAddress},

		{"IPv6 between ports that are not ours", lan, lan2, ipv6, ""},
		{"BPDU between ports that are not ours", lan, lan2, llc(bpduMAC), ""},
		{"VLAN tag between ports that are not ours", lan, lan2, tagged(0x8100, 5), ""},
		{"DHCP offer between ports that are not ours", lan, lan2, offer(func(*ipv4) {}), ""},
		{"source MAC and address of a workload outside", lan, lan2, func(p parts) []byte {
			return ethernet(p.to.mac, mac(2), etherTypeIPv4, p.data(addr(2), foreign))
		}, ""},
	}
}

func (l *lab) parts(a attack) parts {
	l.t.Helper()
	p := parts{l.stations[a.from], l.stations[a.to], l.tag()}
	if p.from == nil || p.to == nil {
		l.t.Fatalf("%s: no station %s or %s", a.name, a.from, a.to)
	}
	return p
}

// TestAttacks sends each frame twice: without a guard, where it arrives, and with
// it, where it arrives only if it may, and else one counter tells why not.
func TestAttacks(t *testing.T) {
	l := newAttackLab(t)
	l.checkUnguarded(t, attacks())
	l.guard()
	l.checkGuarded(t, attacks())

	l.unguard()
	a := attacks()[0]
	p := l.parts(a)
	if !l.arrivals(p.from, a.frame(p), p.tag)[a.to] {
		t.Errorf("nothing arrives after the guard's removal")
	}
}

// TestAttacksWithBridgedFramesInIptables: br_netfilter changes nothing of it.
func TestAttacksWithBridgedFramesInIptables(t *testing.T) {
	l := newAttackLab(t)
	l.mustDo("turning br_netfilter on", func() error { return bridgeNetfilter("1") })
	l.guard()
	l.checkGuarded(t, attacks())
}

// checkUnguarded is the control: every frame of the list arrives.
func (l *lab) checkUnguarded(t *testing.T, list []attack) {
	t.Helper()
	for _, a := range list {
		p := l.parts(a)
		if !l.arrivals(p.from, a.frame(p), p.tag)[a.to] {
			t.Errorf("%s: does not arrive even without a guard, so that the test shows nothing", a.name)
		}
	}
}

func (l *lab) checkGuarded(t *testing.T, list []attack) {
	t.Helper()
	for _, a := range list {
		p := l.parts(a)
		before := l.counters()
		at := l.arrivals(p.from, a.frame(p), p.tag)
		moved := difference64(before, l.counters())
		if a.counter == "" {
			if !at[a.to] {
				t.Errorf("%s: does not arrive, counted as %v", a.name, moved)
			}
			continue
		}
		if at[a.to] {
			t.Errorf("%s: arrives", a.name)
		}
		if moved[a.counter] == 0 {
			t.Errorf("%s: not counted as %s, but as %v", a.name, a.counter, moved)
		}
		// What is dropped on its way in is seen by nobody, and counted once.
		if strings.Contains("_"+a.counter, "_in_") {
			if diff := cmp.Diff(map[string]uint64{a.counter: 1}, moved); diff != "" {
				t.Errorf("%s: counters moved otherwise:\n%s", a.name, diff)
			}
			if len(at) > 0 {
				t.Errorf("%s: arrives at %v", a.name, slices.Sorted(maps.Keys(at)))
			}
		}
	}
}

func difference64(before, after map[string]uint64) map[string]uint64 {
	d := map[string]uint64{}
	for name, n := range after {
		if n != before[name] {
			d[name] = n - before[name]
		}
	}
	return d
}
