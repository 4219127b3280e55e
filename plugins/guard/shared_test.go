package guard

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A shared gateway's MAC is behind a port of the bridge. What workloads send to it by IPv4
// comes in by the bridge all the same, and only ARP meets it there.
func TestSharedGatewayIsTheNodesForIPv4(t *testing.T) {
	const leg = LegPrefix + "0"
	l := newLab(t, false)
	l.plug(attacker, 2)
	l.plug(victim, 3)
	l.plug(unchecked, 5)
	l.plug(uplink, 50)
	l.plug(leg, 0x90)
	shared := l.stations[leg].mac
	apply := func(handed bool) {
		l.t.Helper()
		var ports []Port
		for _, name := range []string{attacker, victim, unchecked} {
			p := Port{Name: name, MAC: l.stations[name].mac, Addrs: addrs(l.stations[name]), CheckSource: name != unchecked}
			if handed {
				p.Gateway = shared
			}
			ports = append(ports, p)
		}
		l.mustDo("applying", func() error {
			_, err := Apply(l.t.Context(), segments(), ports, nil)
			return err
		})
	}
	outside := netip.MustParseAddr("192.0.2.9")
	type frames = func(from *station, tag []byte) []byte
	ipv4 := func(from *station, tag []byte) []byte {
		return ethernet(shared, from.mac, etherTypeIPv4, udpPacket(from.addr, outside, 1000, 2000, tag))
	}
	everybody := func(from *station, tag []byte) []byte {
		return ethernet(broadcast, from.mac, etherTypeIPv4, udpPacket(from.addr, netip.MustParseAddr("10.0.0.255"), 1000, 2000, tag))
	}
	arp := func(from *station, tag []byte) []byte {
		p := arpPacket{op: 1, senderMAC: from.mac, sender: from.addr, target: netip.MustParseAddr(gateway)}
		return ethernet(shared, from.mac, etherTypeARP, p.packet(tag))
	}
	for _, tc := range []struct {
		name      string
		from      string
		frame     frames
		handed    bool
		leg, node bool
		dropped   bool
	}{
		{"IPv4", attacker, ipv4, true, false, true, false},
		{"IPv4 of a workload that is not checked", unchecked, ipv4, true, false, true, false},
		{"IPv4, were it not handed to the node", attacker, ipv4, false, true, false, false},
		{"IPv4 of what is no workload", uplink, ipv4, true, true, false, false},
		{"ARP", attacker, arp, true, true, false, false},
		{"broadcast of a workload", attacker, everybody, true, false, true, true},
		{"broadcast of a LAN host", uplink, everybody, true, false, true, true},
		{"broadcast of the node", bridgeStation, everybody, true, false, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l.t = t
			apply(tc.handed)
			before := l.counters()
			from, tag := l.stations[tc.from], l.tag()
			at := l.arrivals(from, tc.frame(from, tag), tag)
			if at[leg] != tc.leg || at[bridgeStation] && from.port != bridgeStation != tc.node {
				t.Errorf("came out at %v; want leg %t, node %t", at, tc.leg, tc.node)
			}
			if dropped := l.counters()[outLeg] > before[outLeg]; dropped != tc.dropped {
				t.Errorf("counter %s moved: %t; want %t", outLeg, dropped, tc.dropped)
			}
		})
	}

	l.t = t
	// The kernel's stack takes only what is marked as the machine's own.
	apply(true)
	l.stations[bridgeStation].received(nil)
	l.send(l.stations[attacker], ipv4(l.stations[attacker], l.tag()))
	buf := make([]byte, 2048)
	var to unix.Sockaddr
	for {
		_, from, err := unix.Recvfrom(l.stations[bridgeStation].fd, buf, 0)
		if err == nil {
			to = from
			break
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			t.Fatal(err)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(l.stations[bridgeStation].fd), Events: unix.POLLIN}}, 10_000); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	if ll, ok := to.(*unix.SockaddrLinklayer); !ok || ll.Pkttype != unix.PACKET_HOST || buf[0] != shared.HostSide()[0] {
		t.Errorf("the node hears %x as %+v, not as its own", buf[:6], to)
	}
}
