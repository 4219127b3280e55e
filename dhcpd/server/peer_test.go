package server

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// peered is the network with one peer.
func peered(node string, start, end netip.Addr) *ipam.Network {
	n := testNetwork()
	n.Pool.MACPrefix = ipam.DefaultMACPrefix
	n.Pool.Peers = []ipam.Peer{{Node: node, RangeStart: start, RangeEnd: end}}
	return n
}

// theirs is a workload of compute-1, which has 10.0.0.64 to 10.0.0.127.
var (
	theirs   = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 66}
	theirsIP = netip.MustParseAddr("10.0.0.66")
)

func onCompute1() *ipam.Network {
	return peered("compute-1", netip.MustParseAddr("10.0.0.64"), netip.MustParseAddr("10.0.0.127"))
}

// TestPeerLease: whose MAC stands for which reservation, and what of this node's own
// counts before.
func TestPeerLease(t *testing.T) {
	lease := func(node, addr, mac string) *ipam.Reservation {
		m, err := ipam.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		a := netip.MustParseAddr(addr)
		return &ipam.Reservation{Addr: a, MAC: m, Hostname: "host-" + strings.ReplaceAll(addr, ".", "-"),
			Workload: ipam.Workload{Kind: ipam.KindPeer, Value: node, IfName: "derived"}}
	}
	own := func(addr string) ipam.Reservation {
		return ipam.Reservation{Addr: netip.MustParseAddr(addr), MAC: ipam.MAC{2, 0, 0, 0, 0, 9}, Hostname: "own"}
	}
	excluded := onCompute1()
	excluded.Pool.Exclude = []ipam.Range{{Start: theirsIP, End: theirsIP}}
	wide := onCompute1()
	wide.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/8")
	wide.Pool.Peers = append(wide.Pool.Peers, ipam.Peer{
		Node: "compute-2", RangeStart: netip.MustParseAddr("10.7.0.0"), RangeEnd: netip.MustParseAddr("10.8.255.255"),
	})
	for _, tc := range []struct {
		name string
		copy *snapshot.Copy
		mac  string
		want *ipam.Reservation
	}{
		{"in the range", copyOf(onCompute1()), "fa:16:3e:00:00:42", lease("compute-1", "10.0.0.66", "fa:16:3e:00:00:42")},
		{"the first of it", copyOf(onCompute1()), "fa:16:3e:00:00:40", lease("compute-1", "10.0.0.64", "fa:16:3e:00:00:40")},
		{"the last of it", copyOf(onCompute1()), "fa:16:3e:00:00:7f", lease("compute-1", "10.0.0.127", "fa:16:3e:00:00:7f")},
		{"one below", copyOf(onCompute1()), "fa:16:3e:00:00:3f", nil},
		{"one above", copyOf(onCompute1()), "fa:16:3e:00:00:80", nil},
		{"the same low bits in another subnet", copyOf(onCompute1()), "fa:16:3e:00:01:42", nil},
		{"another prefix", copyOf(onCompute1()), "02:16:3e:00:00:42", nil},
		{"the host side of such a port", copyOf(onCompute1()), "fe:16:3e:00:00:42", nil},
		{"no peers", copyOf(testNetwork()), "fa:16:3e:00:00:42", nil},
		{"excluded", copyOf(excluded), "fa:16:3e:00:00:42", nil},
		{"another row has the address", copyOf(onCompute1(), own("10.0.0.66")), "fa:16:3e:00:00:42", nil},
		{"rows around it", copyOf(onCompute1(), own("10.0.0.65"), own("10.0.0.67")), "fa:16:3e:00:00:42", lease("compute-1", "10.0.0.66", "fa:16:3e:00:00:42")},
		{"24 bits", copyOf(wide), "fa:16:3e:08:ff:ff", lease("compute-2", "10.8.255.255", "fa:16:3e:08:ff:ff")},
		{"24 bits, between two peers", copyOf(wide), "fa:16:3e:06:ff:ff", nil},
		{"24 bits, above all peers", copyOf(wide), "fa:16:3e:09:00:00", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mac, err := ipam.ParseMAC(tc.mac)
			if err != nil {
				t.Fatal(err)
			}
			var p peerLeases
			got := p.of(tc.copy, mac)
			if diff := cmp.Diff(tc.want, got, addrEqual); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := p.of(tc.copy, mac); again != got {
				t.Error("the second time another one is made")
			}
		})
	}
}

// TestPeerLeasesFollowTheRecord: one made before is good only as long as the address is
// that peer's.
func TestPeerLeasesFollowTheRecord(t *testing.T) {
	var p peerLeases
	if r := p.of(copyOf(onCompute1()), theirs); r == nil || r.Workload.Peer() != "compute-1" {
		t.Fatal(r)
	}
	if r := p.of(copyOf(peered("compute-2", theirsIP, theirsIP)), theirs); r == nil || r.Workload.Peer() != "compute-2" {
		t.Error(r)
	}
	moved := onCompute1()
	moved.Pool.Subnet = netip.MustParsePrefix("10.1.0.0/16")
	moved.Pool.Peers[0].RangeStart, moved.Pool.Peers[0].RangeEnd = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.255.254")
	if r := p.of(copyOf(moved), theirs); r != nil {
		t.Error(r)
	}
	if r := p.of(copyOf(testNetwork()), theirs); r != nil {
		t.Error(r)
	}
}

// TestPeerLeasesAreBounded: a station that goes through all MACs of a range costs no
// memory beyond what is kept.
func TestPeerLeasesAreBounded(t *testing.T) {
	wide := peered("compute-1", netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.255.0.0"))
	wide.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/8")
	c := copyOf(wide)
	var p peerLeases
	for i := range 3 * maxPeerLeases {
		if p.of(c, ipam.MAC{0xfa, 0x16, 0x3e, 1, byte(i >> 8), byte(i)}) == nil {
			t.Fatal("unknown")
		}
	}
	if len(p.made) > maxPeerLeases {
		t.Errorf("%d are kept", len(p.made))
	}
	h := newHolds()
	for i := range 3 * maxHeld {
		h.decline(ipam.MAC{0xfa, 0x16, 0x3e, 1, byte(i >> 8), byte(i)}, time.Unix(0, 0))
	}
	if len(h.declined) > maxHeld {
		t.Errorf("%d DECLINEs are kept", len(h.declined))
	}
}

// TestPeersWorkloadIsServed takes a client of a peer through a lease and what may happen to
// it, among them a row that comes into the store meanwhile.
func TestPeersWorkloadIsServed(t *testing.T) {
	heard := &listener{}
	r := &rows{current: copyOf(onCompute1(), *testRow())}
	_, w, log := running(t, r, func(s *Server) { s.Hook = heard })
	exchange := func(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, ip netip.Addr) *dhcpv4.DHCPv4 {
		t.Helper()
		w.send(m)
		got := w.next(t)
		if got.MessageType() != kind || !got.YourIPAddr.Equal(ip.AsSlice()) {
			t.Errorf("%v of %v, want %v of %v", got.MessageType(), got.YourIPAddr, kind, ip)
		}
		return got
	}
	selecting := []dhcpv4.Modifier{from(theirs), option4(54, gateway), option4(50, theirsIP)}
	exchange(client(t, dhcpv4.MessageTypeDiscover, from(theirs)), dhcpv4.MessageTypeOffer, theirsIP)
	ack := exchange(client(t, dhcpv4.MessageTypeRequest, append(selecting, raw(55, 3, 12, 15))...), dhcpv4.MessageTypeAck, theirsIP)
	if ack.HostName() != "host-10-0-0-66" || ack.DomainName() != "novalocal" || !ack.Router()[0].Equal(gateway.AsSlice()) {
		t.Errorf("ACK says %v", ack.Summary())
	}
	exchange(client(t, dhcpv4.MessageTypeRequest, from(theirs), ciaddr(theirsIP)), dhcpv4.MessageTypeAck, theirsIP)
	exchange(client(t, dhcpv4.MessageTypeRequest, from(theirs), option4(50, reserved)), dhcpv4.MessageTypeNak, zeroIP)
	await(t, "the events", func() bool { return len(heard.heard()) == 4 })
	heard.mu.Lock()
	events := slices.Clone(heard.list)
	heard.mu.Unlock()
	for _, e := range events {
		if e.Row.Workload.Peer() != "compute-1" || e.MAC != theirs {
			t.Errorf("event %v of %v", e.Kind, e.Row)
		}
	}

	// A row by address: the address is another's, and the MAC stands for nothing any more.
	imported := ipam.Reservation{Addr: theirsIP, MAC: ipam.MAC{2, 0, 0, 0, 0, 66}, Hostname: "vm", Workload: ipam.Workload{Kind: ipam.KindPeer, Value: "compute-1:name:vm", IfName: "eth0"}}
	r.mu.Lock()
	r.current = copyOf(onCompute1(), *testRow(), imported)
	r.mu.Unlock()
	w.send(client(t, dhcpv4.MessageTypeDiscover, from(theirs)))
	await(t, "silence", func() bool {
		return strings.Contains(log.String(), "DHCPDISCOVER(br100) fa:16:3e:00:00:42 no address available")
	})
	// What comes next proves that nothing was sent.
	exchange(client(t, dhcpv4.MessageTypeDiscover, from(imported.MAC)), dhcpv4.MessageTypeOffer, theirsIP)

	// A row by MAC: here with another address.
	r.mu.Lock()
	r.current = copyOf(onCompute1(), ipam.Reservation{Addr: taken, MAC: theirs, Hostname: "own"})
	r.mu.Unlock()
	exchange(client(t, dhcpv4.MessageTypeDiscover, from(theirs)), dhcpv4.MessageTypeOffer, taken)
}

// TestPeersWorkloadDeclines: its address is held down, and released means nothing.
func TestPeersWorkloadDeclines(t *testing.T) {
	_, w, log := running(t, &rows{current: copyOf(onCompute1(), *testRow())})
	w.send(client(t, dhcpv4.MessageTypeRelease, from(theirs), option4(54, gateway), ciaddr(theirsIP)))
	w.send(client(t, dhcpv4.MessageTypeDecline, from(theirs), option4(54, gateway), option4(50, theirsIP)))
	w.send(client(t, dhcpv4.MessageTypeDiscover, from(theirs)))
	for _, want := range []string{
		"DHCPRELEASE(br100) 10.0.0.66 fa:16:3e:00:00:42",
		"DHCPDECLINE(br100) 10.0.0.66 fa:16:3e:00:00:42 address in use by another station on the bridge",
		"DHCPDISCOVER(br100) fa:16:3e:00:00:42 ignored: the address was declined a moment ago",
	} {
		await(t, want, func() bool { return strings.Contains(log.String(), want) })
	}
	// The control, of another client: silence was for this one.
	w.send(client(t, dhcpv4.MessageTypeDiscover))
	if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeOffer || !m.YourIPAddr.Equal(reserved.AsSlice()) {
		t.Errorf("got %v", m.Summary())
	}
	w.send(client(t, dhcpv4.MessageTypeRequest, from(theirs), ciaddr(theirsIP)))
	if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("a renewal while it is held down got %v", m.MessageType())
	}
}
