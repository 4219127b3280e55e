package main

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
)

// rawClient is RFC 2131's client, message by message: what it sends in each state is a
// call, and what it must get is checked from the bytes on the wire.
type rawClient struct {
	*testnet.Station
	t    *testing.T
	addr netip.Addr // its lease's
}

func newRawClient(t *testing.T) (*node, *rawClient, *daemon) {
	t.Helper()
	n, _, s, d := servedNode(t)
	return n, &rawClient{Station: s, t: t}, d
}

// gets sends a message and checks type, address and lease of the answer.
func (c *rawClient) gets(want dhcpv4.MessageType, addr netip.Addr, e testnet.Envelope, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *testnet.Received {
	c.t.Helper()
	r := exchange(c.t, c.Station, message(c.t, known, kind, mods...), e)
	if r.MessageType() != want {
		c.t.Fatalf("%v, want %v", r.MessageType(), want)
	}
	if want == dhcpv4.MessageTypeNak {
		if !r.YourIPAddr.IsUnspecified() || r.To != testnet.BroadcastIP {
			c.t.Errorf("the NAK has yiaddr %s and goes to %s", r.YourIPAddr, r.To)
		}
		return r
	}
	lease, t1, t2 := r.IPAddressLeaseTime(0), r.IPAddressRenewalTime(0), r.IPAddressRebindingTime(0)
	if !r.YourIPAddr.Equal(addr.AsSlice()) || lease != 2*time.Minute || t1 <= 0 || t2 <= t1 || lease <= t2 {
		c.t.Errorf("%v of %s for %s, T1 %s, T2 %s; want %s for 2m", r.MessageType(), r.YourIPAddr, lease, t1, t2, addr)
	}
	if r.ToMAC != known || r.To != addr || r.ToPort != 68 {
		c.t.Errorf("%v goes to %s %s:%d", r.MessageType(), r.ToMAC, r.To, r.ToPort)
	}
	return r
}

// selects leases anew.
func (c *rawClient) selects(addr netip.Addr) {
	c.t.Helper()
	offer := c.gets(dhcpv4.MessageTypeOffer, addr, testnet.Envelope{}, dhcpv4.MessageTypeDiscover)
	server, _ := netip.AddrFromSlice(offer.ServerIdentifier())
	c.gets(dhcpv4.MessageTypeAck, addr, testnet.Envelope{}, dhcpv4.MessageTypeRequest, asking(addr), choosing(server.Unmap()))
	c.addr = addr
}

// renews asks the server, rebinds everybody, and reboots says what it had.
func (c *rawClient) renews(want dhcpv4.MessageType) {
	c.t.Helper()
	c.gets(want, c.addr, testnet.Envelope{From: c.addr, To: gateway, ToMAC: bridgeMAC}, dhcpv4.MessageTypeRequest, having(c.addr))
}

func (c *rawClient) rebinds(want dhcpv4.MessageType) {
	c.t.Helper()
	c.gets(want, c.addr, testnet.Envelope{From: c.addr}, dhcpv4.MessageTypeRequest, having(c.addr))
}

func (c *rawClient) reboots(want dhcpv4.MessageType) {
	c.t.Helper()
	c.gets(want, c.addr, testnet.Envelope{}, dhcpv4.MessageTypeRequest, asking(c.addr))
}

// TestRawClient is the scripted client of the matrix that TestUdhcpc, TestDhclient,
// TestDhcpcd and TestNetworkd make up.
func TestRawClient(t *testing.T) {
	t.Parallel()
	const ack, nak = dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	moved := netip.MustParseAddr("10.0.0.44")
	for name, script := range map[string]func(t *testing.T, n *node, c *rawClient, d *daemon){
		"first lease": func(*testing.T, *node, *rawClient, *daemon) {},
		"renewal": func(_ *testing.T, _ *node, c *rawClient, _ *daemon) {
			c.renews(ack)
			c.renews(ack)
		},
		"rebinding": func(_ *testing.T, _ *node, c *rawClient, _ *daemon) { c.rebinds(ack) },
		"server restarted": func(t *testing.T, n *node, c *rawClient, d *daemon) {
			for _, next := range []func(dhcpv4.MessageType){c.renews, c.rebinds, c.reboots} {
				d.stop(t)
				d = n.start(t)
				d.serving(t, 1)
				next(ack)
			}
		},
		"wrong address": func(t *testing.T, n *node, c *rawClient, _ *daemon) {
			for _, next := range []func(dhcpv4.MessageType){c.renews, c.rebinds, c.reboots} {
				n.release(t, "cirros")
				n.reserve(t, "moved", known, moved)
				next(nak)
				c.selects(moved)
				n.release(t, "moved")
				n.reserve(t, "cirros", known, reserved)
				next(nak)
				c.selects(reserved)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, c, d := newRawClient(t)
			c.selects(reserved)
			script(t, n, c, d)
		})
	}
}

// TestNodeRebootLosesNothing: nothing is left of a node but its data directory. What a
// client sends next, whatever its state, is answered as before.
func TestNodeRebootLosesNothing(t *testing.T) {
	t.Parallel()
	before, c, d := newRawClient(t)
	c.selects(reserved)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.done
	n := &node{NS: testnet.New(t), data: before.data, run: filepath.Join(t.TempDir(), "run")}
	d = n.start(t)
	d.serving(t, 1) // by a bridge that it made from the record
	ns := testnet.New(t)
	n.Port(t, "br100", "tap0", ns, known)
	c.Station = ns.Station(t, "eth0")
	c.renews(dhcpv4.MessageTypeAck)
	c.rebinds(dhcpv4.MessageTypeAck)
	c.reboots(dhcpv4.MessageTypeAck)
	d.stop(t)
}
