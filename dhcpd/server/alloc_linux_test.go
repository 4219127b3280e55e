package server

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// onABridge is a server on a bridge's sockets, with one path, and a known client.
func onABridge(t testing.TB) (*path, *testnet.Station) {
	t.Helper()
	n, c := testnet.New(t), testnet.New(t)
	b := Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}}
	b.Index = n.Bridge(t, "br100", bridgeMAC, netip.MustParsePrefix("10.0.0.1/24"))
	n.Port(t, "br100", "fdp0", c, known)
	var tr Transport
	n.Do(t, func() (err error) { tr, err = Open(b); return err })
	t.Cleanup(func() { _ = tr.Close() })
	record := peered("compute-1", netip.MustParseAddr("10.0.0.128"), netip.MustParseAddr("10.0.0.191"))
	record.Bridge.DHCPOptions = set(t, "42=10.0.0.9", "66=10.0.0.9", "67=pxelinux.0", "121=10.9.0.0/16 via 10.0.0.9")
	row := testRow()
	row.Options = set(t, "224=hex:0a0b", "66=10.0.0.10")
	s := New(&rows{current: copyOf(record, *row)}, tr, b, slog.New(slog.DiscardHandler))
	s.Hook = &listener{}
	return s.newPath(), c.Station(t, "eth0")
}

// TestNoAllocationPerPacket measures all of the receiving goroutine's work, from the
// system call that receives to the one that sends, for each message that a storm has.
func TestNoAllocationPerPacket(t *testing.T) {
	p, s := onABridge(t)
	const runs = 200
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"DISCOVER":                      client(t, dhcpv4.MessageTypeDiscover, raw(61, 1, 2, 3), raw(12, []byte("guest")...), raw(60, []byte("udhcp")...)),
		"SELECTING":                     client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved), raw(55, 1, 3, 6, 12, 15, 26, 28, 42, 66, 67, 119, 121)),
		"RENEWING":                      client(t, dhcpv4.MessageTypeRequest, ciaddr(reserved), raw(55, 1, 3, 6)),
		"INFORM":                        client(t, dhcpv4.MessageTypeInform, ciaddr(reserved)),
		"RELEASE":                       client(t, dhcpv4.MessageTypeRelease, ciaddr(reserved)),
		"BOOTP":                         client(t, 0),
		"DISCOVER of a peer's workload": client(t, dhcpv4.MessageTypeDiscover, from(ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 130})),
		"of a stranger whose MAC names no peer's address": client(t, dhcpv4.MessageTypeDiscover, from(ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 200})),
		"of a stranger, until it waits for the store":     client(t, dhcpv4.MessageTypeDiscover, from(stranger)),
		"garbage": client(t, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.OpCode = 9 }),
	} {
		t.Run(name, func(t *testing.T) {
			for range runs + 1 { // AllocsPerRun has one run more, to warm up
				s.Send(t, m, testnet.Envelope{})
			}
			c := p.source.Copy()
			buf := make([]byte, maxDatagram)
			if n := testing.AllocsPerRun(runs, func() {
				d, err := p.transport.Receive(buf)
				if err != nil || d.Damaged {
					t.Fatal(d, err)
				}
				p.handle(buf, d, c, quick)
			}); n != 0 {
				t.Errorf("%v allocations a message, want none", n)
			}
		})
	}
	if sent := p.Counters.Sent.Load(); sent != 5*(runs+1) {
		t.Errorf("%d replies were sent, want %d: the measurement is of something else", sent, 5*(runs+1))
	}
}

// BenchmarkExchange is a DISCOVER through the sockets of a bridge: what the station costs
// is in it.
func BenchmarkExchange(b *testing.B) {
	p, s := onABridge(b)
	m := client(b, dhcpv4.MessageTypeDiscover)
	c, buf := p.source.Copy(), make([]byte, maxDatagram)
	for b.Loop() {
		s.Send(b, m, testnet.Envelope{})
		d, err := p.transport.Receive(buf)
		if err != nil {
			b.Fatal(err)
		}
		p.handle(buf, d, c, quick)
	}
}

// TestKnownClientsDuringAFlood: a fixed number of messages from strangers, as fast as one
// sender makes them, and in the midst of it 200 known clients that lease in four
// messages each and never have to repeat one.
func TestKnownClientsDuringAFlood(t *testing.T) {
	const strangers, clients = 40000, 200
	n, c, f := testnet.New(t), testnet.New(t), testnet.New(t)
	b := Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}}
	b.Index = n.Bridge(t, "br100", bridgeMAC, netip.MustParsePrefix("10.0.0.1/24"))
	n.Port(t, "br100", "fdp0", c, known)
	n.Port(t, "br100", "fdp1", f, stranger)
	var list []ipam.Reservation
	for i := range clients {
		list = append(list, ipam.Reservation{
			Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)}), MAC: ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, byte(2 + i)}, Hostname: "w",
		})
	}
	var tr Transport
	n.Do(t, func() (err error) { tr, err = Open(b); return err })
	s := served(t, New(&rows{current: copyOf(testNetwork(), list...)}, tr, b, slog.New(slog.DiscardHandler)))
	flooded := make(chan struct{})
	attacker := f.Station(t, "eth0")
	go func() {
		defer close(flooded)
		for i := range strangers {
			mac := ipam.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
			m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac.HardwareAddr()), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
			if err == nil {
				err = attacker.TrySend(m, testnet.Envelope{})
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	station := c.Station(t, "eth0")
	exchange := func(m *dhcpv4.DHCPv4, want dhcpv4.MessageType) {
		t.Helper()
		station.Send(t, m, testnet.Envelope{})
		r, err := station.Receive(patience, func(r *testnet.Received) bool {
			return r.OpCode == dhcpv4.OpcodeBootReply && r.TransactionID == m.TransactionID
		})
		if err != nil || r.MessageType() != want {
			t.Fatalf("client %v: %v, want %v", m.ClientHWAddr, err, want)
		}
	}
	during := 0
	for _, r := range list {
		exchange(client(t, dhcpv4.MessageTypeDiscover, from(r.MAC)), dhcpv4.MessageTypeOffer)
		exchange(client(t, dhcpv4.MessageTypeRequest, from(r.MAC), option4(54, gateway), option4(50, r.Addr)), dhcpv4.MessageTypeAck)
		select {
		case <-flooded:
		default:
			during++
		}
	}
	<-flooded
	if during == 0 {
		t.Error("the flood was over before a client had its lease: nothing is shown")
	}
	await(t, "the flood to be dealt with", func() bool {
		return s.Counters.Received.Load()+s.Counters.Overflow.Load() >= strangers+2*clients
	})
	t.Logf("%d of %d clients leased during the flood; %d messages received, %d lost in the buffer, %d of those that waited for the store",
		during, clients, s.Counters.Received.Load(), s.Counters.Overflow.Load(), s.Counters.LateDrops.Load())
	if heap := heapInUse(); heap > 64<<20 {
		t.Errorf("%d MiB of heap in use after the flood", heap>>20)
	}
}
