package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
)

// TestNodeRulesLoseNothing: a node whose INPUT policy drops everything and whose
// reverse-path filter is strict is heard as any other. That both would have lost the
// messages shows in the counter of the policy and in a UDP socket that hears nothing.
func TestNodeRulesLoseNothing(t *testing.T) {
	nft := testnet.RequireProgram(t, "nft")
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved)
	n.Do(t, func() error {
		for _, name := range []string{"all", "br100"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("1"), 0o644); err != nil {
				return err
			}
		}
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(`table ip firewall {
			chain input { type filter hook input priority 0; policy accept; udp dport 67 counter drop; counter drop; }
			chain output { type filter hook output priority 0; policy accept; udp sport 67 counter drop; }
		}`)
		return cmd.Run()
	})
	d := n.start(t)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	foreign := netip.MustParseAddr("192.168.9.9")
	for _, tc := range []struct {
		name string
		m    *dhcpv4.DHCPv4
		e    testnet.Envelope
		want dhcpv4.MessageType
	}{
		{"discover", message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{}, dhcpv4.MessageTypeOffer},
		{"renewing", message(t, known, dhcpv4.MessageTypeRequest, having(reserved)),
			testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC}, dhcpv4.MessageTypeAck},
		{"rebinding an address of another subnet", message(t, known, dhcpv4.MessageTypeRequest, having(foreign)),
			testnet.Envelope{From: foreign}, dhcpv4.MessageTypeNak},
	} {
		if r := exchange(t, s, tc.m, tc.e); r.MessageType() != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, r.MessageType(), tc.want)
		}
	}
	var rules []byte
	n.Do(t, func() (err error) {
		rules, err = exec.Command(nft, "list", "chain", "ip", "firewall", "input").Output()
		return err
	})
	// Two of the three: the third was the reverse-path filter's to drop, before INPUT.
	if got := regexp.MustCompile(`dport 67 counter packets (\d+)`).FindSubmatch(rules); got == nil || string(got[1]) != "2" {
		t.Errorf("positive control: the policy dropped %s, want 2 messages:\n%s", got, rules)
	}
	d.stop(t)
}

// TestRoutedMessagesAreNotOurs: a unicast to another server's port 67 that this node only
// routes is not answered, however well its client is known.
func TestRoutedMessagesAreNotOurs(t *testing.T) {
	_, _, s, d := servedNode(t)
	elsewhere := netip.MustParseAddr("192.0.2.67")
	silent(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), testnet.Envelope{From: reserved, To: elsewhere, ToMAC: bridgeMAC})
	silent(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{ToMAC: stranger}) // flooded by the bridge
	// The same by the ways in which they would be ours.
	exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC})
	exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{To: netip.MustParseAddr("10.0.0.255")})
	d.stop(t)
}

// TestRenewalByTheKernelsSocket: a client's own UDP socket, which renews by unicast,
// gets no "port unreachable" although no UDP socket of ours reads what it sends; and its
// checksums, which its kernel leaves to hardware, do not matter.
func TestRenewalByTheKernelsSocket(t *testing.T) {
	_, c, _, d := servedNode(t)
	m := message(t, known, dhcpv4.MessageTypeRequest, having(reserved))
	c.Do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, testnet.Address(netip.PrefixFrom(reserved, 24))); err != nil {
			return err
		}
		conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: 68}, &net.UDPAddr{IP: gateway.AsSlice(), Port: 67})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		for range 3 { // an ICMP error to one shows at the next
			if _, err := conn.Write(m.ToBytes()); err != nil {
				return err
			}
			buf := make([]byte, 2000)
			size, err := conn.Read(buf)
			if err != nil {
				return err
			}
			if r, err := dhcpv4.FromBytes(buf[:size]); err != nil || r.MessageType() != dhcpv4.MessageTypeAck {
				t.Errorf("answer: %v, %v", r, err)
			}
		}
		return nil
	})
	d.stop(t)
}

// TestPriorityTagAndForgedSource: a frame with VLAN tag 0, as some switches send, is
// answered, one of another VLAN is not; a DECLINE that another station sends in a client's
// name is not believed.
func TestPriorityTagAndForgedSource(t *testing.T) {
	_, _, s, d := servedNode(t)
	tagged := func(id byte) (*dhcpv4.DHCPv4, func()) {
		m := message(t, known, dhcpv4.MessageTypeDiscover)
		return m, func() { s.SendTagged(t, m, id) }
	}
	m, send := tagged(0)
	send()
	if _, err := s.Receive(patience, answers(m)); err != nil {
		t.Errorf("priority tag: %v", err)
	}
	m, send = tagged(7)
	send()
	control := message(t, known, dhcpv4.MessageTypeDiscover)
	s.Send(t, control, testnet.Envelope{})
	if r, err := s.Receive(patience, func(r *testnet.Received) bool { return answers(m)(r) || answers(control)(r) }); err != nil || answers(m)(r) {
		t.Errorf("a frame of VLAN 7 was answered, or the control was not: %v", err)
	}
	silent(t, s, message(t, known, dhcpv4.MessageTypeDecline, asking(reserved), choosing(gateway)), testnet.Envelope{FromMAC: stranger})
	exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	d.stop(t)
}
