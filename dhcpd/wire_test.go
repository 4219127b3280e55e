package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// message builds a client's message.
func message(t testing.TB, mac ipam.MAC, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac.HardwareAddr()), dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func asking(ip netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip.AsSlice()))
}

func choosing(ip netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip.AsSlice()))
}

func having(ip netip.Addr) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip.AsSlice() }
}

// exchange sends m and returns the answer to it.
func exchange(t testing.TB, s *testnet.Station, m *dhcpv4.DHCPv4, e testnet.Envelope) *testnet.Received {
	t.Helper()
	s.Send(t, m, e)
	r, err := s.Receive(patience, answers(m))
	if err != nil {
		t.Fatalf("%v: %v", m.MessageType(), err)
	}
	return r
}

func answers(m *dhcpv4.DHCPv4) func(*testnet.Received) bool {
	return func(r *testnet.Received) bool {
		return r.OpCode == dhcpv4.OpcodeBootReply && r.TransactionID == m.TransactionID
	}
}

// silent shows that m gets no answer: a message of a known client that is sent after
// it, and so is handled after it, gets one, and none to m comes before.
func silent(t testing.TB, s *testnet.Station, m *dhcpv4.DHCPv4, e testnet.Envelope) {
	t.Helper()
	s.Send(t, m, e)
	// A message that needs a look at the store is handled by another goroutine; a
	// NAK needs one too, so it comes after whatever m could get.
	control := message(t, known, dhcpv4.MessageTypeRequest, asking(netip.MustParseAddr("10.0.0.250")))
	s.Send(t, control, testnet.Envelope{})
	r, err := s.Receive(patience, func(r *testnet.Received) bool { return answers(m)(r) || answers(control)(r) })
	if err != nil {
		t.Fatalf("positive control: %v", err)
	}
	if answers(m)(r) {
		t.Errorf("%v was answered with %v", m.MessageType(), r.MessageType())
	}
}

// servedNode is a node with one client known to it.
func servedNode(t testing.TB) (*node, *testnet.NS, *testnet.Station, *daemon) {
	t.Helper()
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved)
	d := n.start(t)
	d.serving(t, 1)
	return n, c, c.Station(t, "eth0"), d
}

// TestOnTheWire has each kind of exchange once through sockets, bridge and veth. The
// station verifies checksums and lengths of all that comes.
func TestOnTheWire(t *testing.T) {
	_, _, s, d := servedNode(t)
	toServer := testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC}

	check := func(t *testing.T, r *testnet.Received, kind dhcpv4.MessageType, toMAC ipam.MAC, to netip.Addr) {
		t.Helper()
		if r.MessageType() != kind || r.ToMAC != toMAC || r.To != to || r.FromMAC != bridgeMAC || r.From != gateway || r.FromPort != 67 || r.ToPort != 68 {
			t.Errorf("got %v from %v %v:%d to %v %v:%d, want %v to %v %v", r.MessageType(), r.FromMAC, r.From, r.FromPort, r.ToMAC, r.To, r.ToPort, kind, toMAC, to)
		}
		want := reserved
		if kind == dhcpv4.MessageTypeNak {
			want = netip.IPv4Unspecified()
		}
		if y, _ := netip.AddrFromSlice(r.YourIPAddr.To4()); y != want {
			t.Errorf("yiaddr %v, want %v", y, want)
		}
	}
	t.Run("discover", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeOffer, known, reserved)
	})
	t.Run("discover with broadcast flag", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true)), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeOffer, testnet.BroadcastMAC, testnet.BroadcastIP)
	})
	t.Run("discover from an odd port", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{Port: 1068})
		check(t, r, dhcpv4.MessageTypeOffer, known, reserved)
	})
	t.Run("discover from another Ethernet source", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{FromMAC: stranger})
		check(t, r, dhcpv4.MessageTypeOffer, known, reserved)
	})
	t.Run("selecting", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("init-reboot", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved)), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("init-reboot with a wrong address", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(netip.MustParseAddr("10.0.0.9"))), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeNak, testnet.BroadcastMAC, testnet.BroadcastIP)
	})
	t.Run("renewing", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), toServer)
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("rebinding", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), testnet.Envelope{From: reserved})
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("renewing a wrong address: refused by broadcast and by unicast", func(t *testing.T) {
		wrong := netip.MustParseAddr("10.0.0.9")
		m := message(t, known, dhcpv4.MessageTypeRequest, having(wrong))
		e := toServer
		e.From = wrong
		check(t, exchange(t, s, m, e), dhcpv4.MessageTypeNak, testnet.BroadcastMAC, testnet.BroadcastIP)
		r, err := s.Receive(patience, answers(m))
		if err != nil {
			t.Fatalf("second copy: %v", err)
		}
		check(t, r, dhcpv4.MessageTypeNak, known, wrong)
	})
	t.Run("rebinding a wrong address: refused by broadcast", func(t *testing.T) {
		wrong := netip.MustParseAddr("10.0.0.9")
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(wrong)), testnet.Envelope{From: wrong})
		check(t, r, dhcpv4.MessageTypeNak, testnet.BroadcastMAC, testnet.BroadcastIP)
	})
	t.Run("rebinding an address of another subnet", func(t *testing.T) {
		wrong := netip.MustParseAddr("192.168.9.9")
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(wrong)), testnet.Envelope{From: wrong})
		check(t, r, dhcpv4.MessageTypeNak, testnet.BroadcastMAC, testnet.BroadcastIP)
	})
	t.Run("inform", func(t *testing.T) {
		m := message(t, known, dhcpv4.MessageTypeInform, having(reserved))
		r := exchange(t, s, m, toServer)
		if r.MessageType() != dhcpv4.MessageTypeAck || r.To != reserved || !r.YourIPAddr.IsUnspecified() || r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
			t.Errorf("answer to INFORM: %v", r.Summary())
		}
	})
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"a stranger discovers":             message(t, stranger, dhcpv4.MessageTypeDiscover),
		"a stranger asks for a known one":  message(t, stranger, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)),
		"a stranger reboots":               message(t, stranger, dhcpv4.MessageTypeRequest, asking(reserved)),
		"a stranger rebinds":               message(t, stranger, dhcpv4.MessageTypeRequest, having(reserved)),
		"another server is chosen":         message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(netip.MustParseAddr("10.0.0.200"))),
		"a request that names no address":  message(t, known, dhcpv4.MessageTypeRequest),
		"a release":                        message(t, known, dhcpv4.MessageTypeRelease, having(reserved), choosing(gateway)),
		"a server's message":               message(t, known, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }),
		"a relayed message":                message(t, known, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = reserved.AsSlice() }),
		"a client that is no Ethernet one": message(t, known, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.HWType = 6 }),
	} {
		t.Run("silence: "+name, func(t *testing.T) { silent(t, s, m, testnet.Envelope{}) })
	}
	t.Run("a released address is still the client's", func(t *testing.T) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved)), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("after garbage it serves on", func(t *testing.T) {
		for _, b := range [][]byte{{}, {1}, make([]byte, 236), make([]byte, 400), make([]byte, 1400)} {
			s.SendRaw(t, b, testnet.Envelope{FromMAC: known})
		}
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		check(t, r, dhcpv4.MessageTypeOffer, known, reserved)
	})
	t.Run("a declined address is held down, but for who uses it", func(t *testing.T) {
		silent(t, s, message(t, known, dhcpv4.MessageTypeDecline, asking(reserved), choosing(gateway)), testnet.Envelope{})
		silent(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		silent(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)), testnet.Envelope{})
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), toServer)
		check(t, r, dhcpv4.MessageTypeAck, known, reserved)
	})
	t.Run("the log speaks dnsmasq's language", func(t *testing.T) {
		for _, line := range []string{
			"DHCPDISCOVER(br100) fa:16:3e:00:00:02\n",
			"DHCPOFFER(br100) 10.0.0.2 fa:16:3e:00:00:02\n",
			"DHCPREQUEST(br100) 10.0.0.2 fa:16:3e:00:00:02\n",
			"DHCPACK(br100) 10.0.0.2 fa:16:3e:00:00:02 cirros\n",
			"DHCPNAK(br100) 10.0.0.9 fa:16:3e:00:00:02 wrong address\n",
			"DHCPNAK(br100) 192.168.9.9 fa:16:3e:00:00:02 wrong network\n",
			"DHCPDISCOVER(br100) fa:16:3e:00:00:63 no address available\n",
			"DHCPRELEASE(br100) 10.0.0.2 fa:16:3e:00:00:02\n",
			"DHCP, static leases only on 10.0.0.2, lease time 2m",
		} {
			// What the daemon writes comes to us through a pipe.
			await(t, line, func() bool { return strings.Contains(d.log.String(), line) })
		}
	})
	d.stop(t)
}

// TestNovasSyslog: the exchange of nova-network's best-known example gives the lines
// that its dnsmasq wrote (less those about DISCOVER, which the example leaves out).
func TestNovasSyslog(t *testing.T) {
	cirros, gone := ipam.MAC{0xfa, 0x16, 0x3e, 0x2c, 0xe8, 0xec}, ipam.MAC{0xfa, 0x16, 0x3e, 0x5a, 0x9b, 0xde}
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, cirros)
	n.reserve(t, "cirros", cirros, reserved)
	d := n.start(t)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	s.Send(t, message(t, gone, dhcpv4.MessageTypeRelease, having(netip.MustParseAddr("10.0.0.3"))), testnet.Envelope{})
	await(t, "the release", func() bool { return strings.Contains(d.log.String(), "DHCPRELEASE") })
	exchange(t, s, message(t, cirros, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	exchange(t, s, message(t, cirros, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)), testnet.Envelope{})
	exchange(t, s, message(t, cirros, dhcpv4.MessageTypeRequest, having(reserved)), testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC})
	d.stop(t)
	var got []string
	for l := range strings.Lines(d.log.String()) {
		_, text, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " flat-dhcpd: ")
		if strings.HasPrefix(text, "DHCP, static") || strings.Contains(text, "(br100)") && !strings.HasPrefix(text, "DHCPDISCOVER") {
			got = append(got, text)
		}
	}
	want := []string{
		"DHCP, static leases only on 10.0.0.2, lease time 2m",
		"DHCPRELEASE(br100) 10.0.0.3 fa:16:3e:5a:9b:de unknown lease",
		"DHCPOFFER(br100) 10.0.0.2 fa:16:3e:2c:e8:ec",
		"DHCPREQUEST(br100) 10.0.0.2 fa:16:3e:2c:e8:ec",
		"DHCPACK(br100) 10.0.0.2 fa:16:3e:2c:e8:ec cirros",
		"DHCPREQUEST(br100) 10.0.0.2 fa:16:3e:2c:e8:ec",
		"DHCPACK(br100) 10.0.0.2 fa:16:3e:2c:e8:ec cirros",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestReservationRacesDiscover: a DISCOVER sent once the row is committed is always
// answered, however fast; one sent before meets silence and is not held against the
// client: the next one is answered.
func TestReservationRacesDiscover(t *testing.T) {
	n, _, s, _ := servedNode(t)
	const runs = 100
	for i := range runs {
		mac := ipam.MAC{0x02, 0, 0, 0, 1, byte(i)}
		name := fmt.Sprintf("w%d", i)
		early := message(t, mac, dhcpv4.MessageTypeDiscover)
		silent(t, s, early, testnet.Envelope{})
		g := n.reserve(t, name, mac, netip.Addr{})
		late := message(t, mac, dhcpv4.MessageTypeDiscover)
		s.Send(t, late, testnet.Envelope{})
		r, err := s.Receive(patience, func(r *testnet.Received) bool { return answers(late)(r) || answers(early)(r) })
		if err != nil {
			t.Fatalf("run %d: a DISCOVER sent after the commit: %v", i, err)
		}
		if answers(early)(r) || r.MessageType() != dhcpv4.MessageTypeOffer || !r.YourIPAddr.Equal(g.Addr.AsSlice()) {
			t.Fatalf("run %d: %v of %v, want an offer of %v", i, r.MessageType(), r.YourIPAddr, g.Addr)
		}
		// While another reservation is being made the same holds for a DISCOVER that is
		// under way: it gets its address or silence, and the next one its address.
		racing := ipam.MAC{0x02, 0, 0, 0, 2, byte(i)}
		done := make(chan error, 1)
		go func() {
			_, err := n.tryReserve(name+"-racing", racing, netip.Addr{})
			done <- err
		}()
		m := message(t, racing, dhcpv4.MessageTypeDiscover)
		s.Send(t, m, testnet.Envelope{})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		exchange(t, s, message(t, racing, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		n.release(t, name)
		n.release(t, name+"-racing")
		silentSoon(t, s, mac)
	}
}

// TestMovedReservationIsNotConfirmed: a client that asks for its old address right
// after its reservation moved is refused, however late the daemon hears of the change.
func TestMovedReservationIsNotConfirmed(t *testing.T) {
	n, _, s, _ := servedNode(t)
	const runs = 100
	mac := ipam.MAC{0x02, 0, 0, 0, 3, 1}
	g := n.reserve(t, "w", mac, netip.MustParseAddr("10.0.0.99"), wide)
	for i := range runs {
		old := g.Addr
		exchange(t, s, message(t, mac, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		n.release(t, "w")
		g = n.reserve(t, "w", mac, netip.AddrFrom4([4]byte{10, 0, 0, 100 + byte(i)}), wide)
		if r := exchange(t, s, message(t, mac, dhcpv4.MessageTypeRequest, asking(old), choosing(gateway)), testnet.Envelope{}); r.MessageType() != dhcpv4.MessageTypeNak {
			t.Fatalf("run %d: %v of %v, which is reserved no more", i, r.MessageType(), r.YourIPAddr)
		}
		// And what is offered right after it moved again is the new one at once.
		n.release(t, "w")
		g = n.reserve(t, "w", mac, netip.AddrFrom4([4]byte{10, 0, 1, 1 + byte(i)}), wide)
		if r := exchange(t, s, message(t, mac, dhcpv4.MessageTypeDiscover), testnet.Envelope{}); !r.YourIPAddr.Equal(g.Addr.AsSlice()) {
			t.Fatalf("run %d: %v offered, want %v", i, r.YourIPAddr, g.Addr)
		}
		r := exchange(t, s, message(t, mac, dhcpv4.MessageTypeRequest, asking(g.Addr)), testnet.Envelope{})
		if r.MessageType() != dhcpv4.MessageTypeAck || !r.YourIPAddr.Equal(g.Addr.AsSlice()) {
			t.Fatalf("run %d: %v of %v, want an ACK of %v", i, r.MessageType(), r.YourIPAddr, g.Addr)
		}
	}
}

// silentSoon: a released reservation is no longer served once the copy is renewed.
func silentSoon(t testing.TB, s *testnet.Station, mac ipam.MAC) {
	t.Helper()
	await(t, "silence after the release", func() bool {
		m := message(t, mac, dhcpv4.MessageTypeDiscover)
		s.Send(t, m, testnet.Envelope{})
		control := message(t, known, dhcpv4.MessageTypeRequest, asking(netip.MustParseAddr("10.0.0.250")))
		s.Send(t, control, testnet.Envelope{})
		r, err := s.Receive(patience, func(r *testnet.Received) bool { return answers(m)(r) || answers(control)(r) })
		return err == nil && answers(control)(r)
	})
}

// TestBridgeIsMadeAgain: without conflists, from the record alone.
func TestBridgeIsMadeAgain(t *testing.T) {
	n, _, s, d := servedNode(t)
	for i := range 3 {
		n.Delete(t, "br100")
		d.serving(t, i+2)
		n.Rejoin(t, "br100", "tap0")
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		if r.FromMAC != bridgeMAC {
			t.Errorf("the bridge has MAC %s now", r.FromMAC)
		}
	}
	d.stop(t)
}

func TestBridgeChangesItsMACAndAddresses(t *testing.T) {
	n, _, s, d := servedNode(t)
	other, second := ipam.MAC{0xfa, 0x16, 0x3e, 9, 9, 9}, netip.MustParsePrefix("10.0.0.77/24")
	if got := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{}).FromMAC; got != bridgeMAC {
		t.Errorf("an answer from %s, want the bridge's %s", got, bridgeMAC)
	}
	n.Do(t, func() error {
		br, err := netlink.LinkByName("br100")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetHardwareAddr(br, other.HardwareAddr()), netlink.AddrAdd(br, testnet.Address(second)))
	})
	await(t, "answers from the bridge's new MAC", func() bool {
		return exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{}).FromMAC == other
	})
	// Every address of the node on the bridge is a name of this server; one that has
	// not been noticed yet is another server's, and meets silence.
	await(t, "the second address counting as ours", func() bool {
		m := message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(second.Addr()))
		s.Send(t, m, testnet.Envelope{})
		_, err := s.Receive(50*time.Millisecond, answers(m))
		return err == nil
	})
	n.Do(t, func() error {
		br, err := netlink.LinkByName("br100")
		if err != nil {
			return err
		}
		// Its removal takes secondaries along unless promoted: both go here.
		return netlink.AddrDel(br, testnet.Address(gatewayIn))
	})
	await(t, "the daemon to give the address back", func() bool {
		return strings.Contains(d.log.String(), "bridge br100 has gateway address 10.0.0.1/24 now")
	})
	await(t, "answers", func() bool {
		m := message(t, known, dhcpv4.MessageTypeDiscover)
		s.Send(t, m, testnet.Envelope{})
		_, err := s.Receive(50*time.Millisecond, answers(m))
		return err == nil
	})
}

// TestEverythingComesLater: the daemon starts on an empty machine, then the data
// directory and the network appear, of which it makes the bridge.
func TestEverythingComesLater(t *testing.T) {
	n, c := newNode(t), testnet.New(t)
	n.Delete(t, "br100")
	d := n.start(t)
	await(t, "the daemon to start", func() bool { return strings.Contains(d.log.String(), "started") })
	n.reserve(t, "cirros", known, reserved)
	d.serving(t, 1)
	n.Port(t, "br100", "tap0", c, known)
	exchange(t, c.Station(t, "eth0"), message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	d.stop(t)
}

// wide makes the subnet a /16.
func wide(r *ipam.Network) {
	r.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/16")
	r.Pool.RangeEnd = netip.MustParseAddr("10.0.255.254")
}

// TestStorm: a thousand clients begin within milliseconds, none has to ask twice.
func TestStorm(t *testing.T) {
	const clients = 1000
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	addrs := map[ipam.MAC]netip.Addr{}
	for i := range clients {
		g := n.reserve(t, fmt.Sprintf("w%d", i), ipam.MAC{}, netip.Addr{}, wide)
		addrs[g.MAC] = g.Addr
	}
	d := n.start(t)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	begin := time.Now()
	for mac := range addrs {
		s.Send(t, message(t, mac, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	}
	sent := time.Since(begin)
	for acked := map[ipam.MAC]bool{}; len(acked) < clients; {
		r, err := s.Receive(patience, nil)
		if err != nil {
			t.Fatalf("%d of %d clients have their address: %v", len(acked), clients, err)
		}
		mac := ipam.MAC(r.ClientHWAddr)
		if y, _ := netip.AddrFromSlice(r.YourIPAddr.To4()); y != addrs[mac] {
			t.Fatalf("%v of %v to %v, want %v", r.MessageType(), y, mac, addrs[mac])
		}
		switch r.MessageType() {
		case dhcpv4.MessageTypeOffer:
			s.Send(t, message(t, mac, dhcpv4.MessageTypeRequest, asking(addrs[mac]), choosing(gateway)), testnet.Envelope{})
		case dhcpv4.MessageTypeAck:
			acked[mac] = true
		}
	}
	t.Logf("%d DISCOVERs sent in %v, all clients served after %v", clients, sent, time.Since(begin))
	d.stop(t)
}
