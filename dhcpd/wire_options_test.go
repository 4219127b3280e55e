package main

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// TestRelayOnTheWire: a relay agent that is allowed gets its answers on port 67, with
// checksums that its kernel accepts; one that is not gets none.
func TestRelayOnTheWire(t *testing.T) {
	relay, other := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.8")
	relayMAC := ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 9}
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, relayMAC)
	n.reserve(t, "cirros", known, reserved, func(n *ipam.Network) { n.Bridge.DHCP.Relays = []netip.Addr{relay} })
	d := n.start(t)
	d.serving(t, 1)
	var port *net.UDPConn
	c.Do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{relay, other} {
			if err := netlink.AddrAdd(link, testnet.Address(netip.PrefixFrom(a, 24))); err != nil {
				return err
			}
		}
		port, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
		return err
	})
	defer func() { _ = port.Close() }()
	s := c.Station(t, "eth0")
	by := func(gi netip.Addr) dhcpv4.Modifier {
		return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr, m.HopCount = gi.AsSlice(), 1 }
	}
	e := testnet.Envelope{FromMAC: relayMAC, ToMAC: bridgeMAC, From: relay, To: gateway, Port: 67}
	agent := dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 'p', '1'})
	for _, tc := range []struct {
		m    *dhcpv4.DHCPv4
		want dhcpv4.MessageType
	}{
		{message(t, known, dhcpv4.MessageTypeDiscover, by(relay), agent), dhcpv4.MessageTypeOffer},
		{message(t, known, dhcpv4.MessageTypeRequest, by(relay), agent, asking(reserved), choosing(gateway)), dhcpv4.MessageTypeAck},
		{message(t, known, dhcpv4.MessageTypeRequest, by(relay), agent, asking(netip.MustParseAddr("10.0.0.77"))), dhcpv4.MessageTypeNak},
	} {
		r := exchange(t, s, tc.m, e)
		if r.MessageType() != tc.want || r.ToMAC != relayMAC || r.From != gateway || r.To != relay || r.FromPort != 67 || r.ToPort != 67 {
			t.Errorf("%v from %v:%d to %v %v:%d, want %v to the relay's port 67", r.MessageType(), r.From, r.FromPort, r.ToMAC, r.To, r.ToPort, tc.want)
		}
		if r.IsBroadcast() != (tc.want == dhcpv4.MessageTypeNak) || r.RelayAgentInfo() == nil {
			t.Errorf("%v: flags %x, option 82 %v", tc.want, r.Flags, r.RelayAgentInfo())
		}
		buf := make([]byte, 2000)
		size, err := port.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := dhcpv4.FromBytes(buf[:size]); err != nil || m.MessageType() != tc.want {
			t.Errorf("the relay's socket got %v, %v", m, err)
		}
	}
	silent(t, s, message(t, known, dhcpv4.MessageTypeDiscover, by(other)), e)
}

// TestOptionsOnTheWire: rapid commit, options by number, those of one client alone, and
// BOOTP, which gets nothing.
func TestOptionsOnTheWire(t *testing.T) {
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved, func(n *ipam.Network) {
		n.Bridge.DHCP.RapidCommit = true
		n.Bridge.Metadata = netip.MustParseAddrPort("127.0.0.1:8775")
		for _, text := range []string{"42=10.0.0.9", "224=hex:0a0b", "66=10.0.0.9", "67=pxelinux.0"} {
			o, err := dhcpoption.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			n.Bridge.DHCPOptions = n.Bridge.DHCPOptions.With(o)
		}
	})
	d := n.start(t)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	list := dhcpv4.WithGeneric(dhcpv4.OptionParameterRequestList, []byte{224, 42, 121})
	r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, list, dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil)), testnet.Envelope{})
	if r.MessageType() != dhcpv4.MessageTypeAck || !r.Options.Has(dhcpv4.OptionRapidCommit) {
		t.Errorf("rapid commit: %v", r.Summary())
	}
	value := func(code uint8) string { return fmt.Sprintf("%x", r.Options.Get(dhcpv4.GenericOptionCode(code))) }
	// The way to metadata, and since who takes this option ignores the router's, the default one.
	if want := "20a9fea9fe0a000001" + "000a000001"; value(121) != want {
		t.Errorf("option 121 is %s, want %s", value(121), want)
	}
	if value(42) != "0a000009" || value(224) != "0a0b" || !r.ServerIPAddr.Equal(net.IPv4(10, 0, 0, 9)) || r.BootFileName != "pxelinux.0" {
		t.Errorf("options: %v", r.Summary())
	}
	if r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, list), testnet.Envelope{}); r.MessageType() != dhcpv4.MessageTypeOffer {
		t.Errorf("without option 80: %v", r.MessageType())
	}
	id := dhcpv4.WithGeneric(dhcpv4.OptionClientIdentifier, []byte{0xff, 1, 2, 3})
	agent := dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 'p', '1'})
	r = exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, id, agent), testnet.Envelope{})
	if value(61) != "ff010203" || value(82) != "01027031" {
		t.Errorf("options 61 and 82 come back as %s and %s", value(61), value(82))
	}
	bootp := message(t, known, dhcpv4.MessageTypeDiscover)
	bootp.Options = dhcpv4.Options{}
	silent(t, s, bootp, testnet.Envelope{})
	silent(t, s, message(t, known, dhcpv4.MessageTypeInform), testnet.Envelope{})
	silent(t, s, message(t, known, dhcpv4.MessageType(9)), testnet.Envelope{})
	silent(t, s, message(t, known, dhcpv4.MessageTypeDecline, asking(reserved), choosing(netip.MustParseAddr("10.0.0.200"))), testnet.Envelope{})
}
