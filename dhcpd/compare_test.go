package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var (
	compareControl = ipam.MAC{0xfa, 0x16, 0x3e, 0, 2, 1}
	compareSender  = ipam.MAC{0xfa, 0x16, 0x3e, 0, 3, 1}
	compareRelay   = netip.MustParseAddr("10.0.0.9")
	compareOther   = netip.MustParseAddr("10.0.0.8") // on the network, and nobody's
)

// compareLease is the lease time of both servers, in seconds.
const compareLease = 120

// compared is the client of one case, with an address and a MAC of its own, so that what a
// server remembers of one case does not matter to the next.
func compared(i int) (ipam.MAC, netip.Addr) {
	return ipam.MAC{0xfa, 0x16, 0x3e, 0, 1, byte(i)}, netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})
}

// asker sends to one server. All addresses that cases use are on its link, so that a
// server that asks for them by ARP is answered.
type asker struct{ station *testnet.Station }

func newAsker(t *testing.T, n *testnet.NS, cases int) asker {
	t.Helper()
	c := testnet.New(t)
	n.Port(t, "br100", "tap0", c, compareSender)
	c.Do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		list := []netip.Addr{compareRelay, compareOther}
		for i := range cases {
			_, a := compared(i)
			list = append(list, a)
		}
		for _, a := range list {
			if err := netlink.AddrAdd(link, testnet.Address(netip.PrefixFrom(a, 24))); err != nil {
				return err
			}
		}
		return nil
	})
	s := c.Station(t, "eth0")
	s.AnyChecksum = true // dnsmasq's are left to hardware that a veth does not have
	return asker{s}
}

// ask sends raw, which is m or made of it, and describes what comes.
func (c asker) ask(t *testing.T, m *dhcpv4.DHCPv4, raw []byte, e testnet.Envelope, own netip.Addr) string {
	t.Helper()
	e.FromMAC = compareSender
	c.station.SendRaw(t, raw, e)
	// A refusal, since that is what takes both servers longest.
	control := message(t, compareControl, dhcpv4.MessageTypeRequest, asking(compareOther))
	c.station.Send(t, control, testnet.Envelope{})
	var list []string
	for {
		r, err := c.station.Receive(patience, func(r *testnet.Received) bool { return answers(m)(r) || answers(control)(r) })
		if err != nil {
			t.Fatalf("the positive control got no answer: %v", err)
		}
		if answers(control)(r) {
			break
		}
		list = append(list, described(r, own))
	}
	if list == nil {
		return "nothing"
	}
	return strings.Join(list, " and ")
}

// described is an answer in one line. A is the client's own address. T1 and T2 are given
// as present only, and options by their numbers in ascending order. dnsmasq names itself
// as the next boot server (siaddr) in every answer, although it is none; that is left out.
func described(r *testnet.Received, own netip.Addr) string {
	addr := func(b []byte) string {
		a, _ := netip.AddrFromSlice(b)
		switch a = a.Unmap(); {
		case a == own:
			return "A"
		case a == testnet.BroadcastIP:
			return "all"
		case a.IsUnspecified():
			return "0"
		default:
			return a.String()
		}
	}
	kind := "BOOTREPLY"
	if r.Options.Has(dhcpv4.OptionDHCPMessageType) {
		kind = r.MessageType().String()
	}
	s := fmt.Sprintf("%s to %s:%d yi=%s ci=%s", kind, addr(r.To.AsSlice()), r.ToPort, addr(r.YourIPAddr.To4()), addr(r.ClientIPAddr.To4()))
	if !r.ServerIPAddr.IsUnspecified() && !r.ServerIPAddr.Equal(gateway.AsSlice()) {
		s += " si=" + addr(r.ServerIPAddr.To4())
	}
	if r.BootFileName != "" {
		s += " file=" + r.BootFileName
	}
	if r.Flags != 0 {
		s += fmt.Sprintf(" flags=%04x", r.Flags)
	}
	if r.HopCount != 0 || r.NumSeconds != 0 {
		s += fmt.Sprintf(" hops=%d secs=%d", r.HopCount, r.NumSeconds)
	}
	var codes []uint8
	for code := range r.Options {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		switch v := r.Options[code]; code {
		case 53:
		case 56: // a text for people
		case 58, 59:
			s += fmt.Sprintf(" %d", code)
		case 51:
			s += fmt.Sprintf(" 51=%d", binary.BigEndian.Uint32(v))
		default:
			s += fmt.Sprintf(" %d=%x", code, v)
		}
	}
	return s
}

// comparedCase is one request, made for a client, and why the answers differ, if they do.
type comparedCase struct {
	name  string
	why   string
	lease bool // the client has leased its address before
	make  func(m *dhcpv4.DHCPv4, own netip.Addr)
	raw   func(b []byte) []byte // changes what goes on the wire
	to    testnet.Envelope      // a From of 0.0.0.0 stands for the client's own address
}

// request is the case's message for a client, and as it goes on the wire.
func (tc comparedCase) request(t *testing.T, mac ipam.MAC, own netip.Addr) (*dhcpv4.DHCPv4, []byte, testnet.Envelope) {
	t.Helper()
	m := message(t, mac, dhcpv4.MessageTypeDiscover)
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionParameterRequestList, []byte{1, 28, 3, 6, 15, 12, 26, 119, 58, 59}))
	tc.make(m, own)
	raw := m.ToBytes()
	if tc.raw != nil {
		raw = tc.raw(raw)
	}
	e := tc.to
	if e.From.IsValid() && e.From.IsUnspecified() {
		e.From = own
	}
	if e.To == gateway {
		e.ToMAC = bridgeMAC
	}
	return m, raw, e
}

// TestComparedWithDnsmasq sends the same requests to flat-dhcpd and to dnsmasq with the same
// reservations and options (static as nova-network's, and authoritative), and writes down
// what each answers. Where they differ the reason is written down too; a difference
// without one, or a reason without a difference, fails.
func TestComparedWithDnsmasq(t *testing.T) {
	cases := comparedCases()
	if len(cases) > 150 {
		t.Fatal("compared has addresses for 150 cases")
	}
	ours, d := comparedOurs(t, cases)
	theirs := comparedTheirs(t, cases)
	both := [2]asker{newAsker(t, ours.NS, len(cases)), newAsker(t, theirs, len(cases))}
	var text strings.Builder
	for i, tc := range cases {
		mac, own := compared(i)
		var got [2]string
		for k, c := range both {
			if tc.lease {
				for _, m := range []*dhcpv4.DHCPv4{
					message(t, mac, dhcpv4.MessageTypeDiscover),
					message(t, mac, dhcpv4.MessageTypeRequest, asking(own), choosing(gateway)),
				} {
					c.ask(t, m, m.ToBytes(), testnet.Envelope{}, own)
				}
			}
			m, raw, e := tc.request(t, mac, own)
			got[k] = strings.ReplaceAll(c.ask(t, m, raw, e, own), fmt.Sprintf("12=%x ", fmt.Sprintf("w%d", i)), "12=NAME ")
		}
		if got[0] == got[1] {
			fmt.Fprintf(&text, "%s\n    both     %s\n", tc.name, got[0])
		} else {
			fmt.Fprintf(&text, "%s\n    ours     %s\n    dnsmasq  %s\n    because  %s\n", tc.name, got[0], got[1], tc.why)
		}
		if (got[0] != got[1]) != (tc.why != "") {
			t.Errorf("%s: the answers are the same: %v; reason given: %q\nours     %s\ndnsmasq  %s", tc.name, got[0] == got[1], tc.why, got[0], got[1])
		}
	}
	path := filepath.Join("testdata", "dnsmasq.txt")
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
	d.stop(t)
}

// comparedOurs is a node whose daemon knows every case's client.
func comparedOurs(t *testing.T, cases []comparedCase) (*node, *daemon) {
	t.Helper()
	n := newNode(t)
	change := func(n *ipam.Network) {
		n.Bridge.LeaseTime = ipam.Duration(compareLease * time.Second)
		n.Bridge.DNS = ipam.DNS{Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.53")}, Search: []string{"novalocal"}}
		n.Bridge.MTU = 1450
		n.Bridge.DHCP = ipam.DHCP{Relays: []netip.Addr{compareRelay}, RapidCommit: true}
	}
	n.reserve(t, "control", compareControl, netip.MustParseAddr("10.0.0.7"), change)
	for i := range cases {
		mac, a := compared(i)
		n.reserve(t, fmt.Sprintf("w%d", i), mac, a, change)
	}
	d := n.start(t)
	d.serving(t, 1)
	return n, d
}

// comparedTheirs is a namespace whose dnsmasq knows every case's client. It keeps nothing
// on the disk and answers no DNS.
func comparedTheirs(t *testing.T, cases []comparedCase) *testnet.NS {
	t.Helper()
	program := testnet.RequireProgram(t, "dnsmasq")
	n, dir := testnet.New(t), t.TempDir()
	n.Bridge(t, "br100", bridgeMAC, gatewayIn)
	var hosts bytes.Buffer
	fmt.Fprintf(&hosts, "%s,control,10.0.0.7\n", compareControl)
	for i := range cases {
		mac, a := compared(i)
		fmt.Fprintf(&hosts, "%s,w%d,%s\n", mac, i, a)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), hosts.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	n.Start(t, exec.Command(program, "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0",
		"--bind-interfaces", "--interface=br100", "--except-interface=lo", "--log-facility="+log,
		"--dhcp-hostsfile="+filepath.Join(dir, "hosts"), "--leasefile-ro", "--dhcp-authoritative", "--dhcp-rapid-commit", "--domain=novalocal",
		fmt.Sprintf("--dhcp-range=10.0.0.0,static,255.255.255.0,%d", compareLease),
		"--dhcp-option=6,10.0.0.53", "--dhcp-option=26,1450", "--dhcp-option=option:domain-search,novalocal"))
	await(t, "dnsmasq to serve", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(b), "DHCP, static leases only")
	})
	return n
}
