package seed

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// way is how an attack comes: who sends, who is to get it, whose guard stops it.
type way struct {
	name     string
	from, to *lab.Tap
	src, dst lab.Endpoint
	guard    *node
	also     []*node             // whose guard would stop it as well
	last     *node               // the receiver's: its guard stops what the others let by
	by       func(attack) string // the reason for which it is stopped on this way
}

// attack is a frame that a protection stops. dst is its destination, of one or of a group.
type attack struct {
	name   string
	port   string // the reason, where a workload sends it to another
	uplink string // where a LAN host does
	out    string // where a workload sends it to the LAN; empty, as the others: nothing stops it
	frame  func(s *scene, w way, dst net.HardwareAddr) []byte
}

// stopDaemons ends the daemons, which would mend what the controls of a test damage. (One
// that is only held might hold a lock.)
func (s *scene) stopDaemons() {
	s.t.Helper()
	for _, n := range s.nodes() {
		if n.dhcpd == nil {
			continue
		}
		if err := n.dhcpd.Stop(); err != nil {
			s.t.Fatal(err)
		}
		n.dhcpd = nil
	}
}

// toBridges is an attack that is to a group or none, toAnother one that is to one.
const (
	toBridges = "a BPDU"
	toAnother = "another's address to the receiver's MAC"

	asGateway         = "the gateway's address"
	answersForGateway = "ARP for the gateway"
)

// attacks are one for each protection of the guard. victim is who the attacker poses as.
// For a gateway that all nodes have nobody asks across the uplink. Where the gateway is
// another node's, who speaks in its name beyond the uplink, or answers DHCP there, may well
// be it: that the LAN is to be trusted with.
func attacks(victim lab.Endpoint, multi, shared bool) []attack {
	data := func(from lab.Endpoint) func(*scene, way, net.HardwareAddr) []byte {
		return func(s *scene, w way, dst net.HardwareAddr) []byte {
			f := s.echo(from, w.dst)
			copy(f, dst)
			return f
		}
	}
	named := func(f func(*scene, way, lab.Endpoint, net.HardwareAddr) []byte, as func(way) lab.Endpoint) func(*scene, way, net.HardwareAddr) []byte {
		return func(s *scene, w way, dst net.HardwareAddr) []byte { return f(s, w, as(w), dst) }
	}
	arp := func(_ *scene, w way, sender lab.Endpoint, dst net.HardwareAddr) []byte {
		return lab.ARP(dst, w.src.MAC, lab.ARPReply, sender, w.dst)
	}
	udp := func(sport, dport uint16) func(*scene, way, net.HardwareAddr) []byte {
		return func(s *scene, w way, dst net.HardwareAddr) []byte {
			s.flows++
			from, to := netip.AddrPortFrom(w.src.Addr, sport), netip.AddrPortFrom(w.dst.Addr, dport)
			return lab.Ethernet(dst, w.src.MAC, 0x0800, lab.UDP(from, to, fmt.Appendf(make([]byte, 240), "flow %d", s.flows)))
		}
	}
	own := func(s *scene, w way, dst net.HardwareAddr) []byte {
		f := s.echo(w.src, w.dst)
		copy(f, dst)
		return f
	}
	// The guard does not let out what a port's chain would not see: it is dispatched by address.
	another := func(s *scene, w way, _ net.HardwareAddr) []byte {
		return s.echo(w.src, lab.Endpoint{MAC: w.dst.MAC, Addr: netip.MustParseAddr("10.0.0.241")})
	}
	tagged := func(tags ...byte) func(*scene, way, net.HardwareAddr) []byte {
		return func(s *scene, w way, dst net.HardwareAddr) []byte { return slices.Insert(own(s, w, dst), 12, tags...) }
	}
	advertisement := func(s *scene, w way, dst net.HardwareAddr) []byte {
		s.flows++
		router := append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, fmt.Appendf(nil, "flow %d", s.flows)...)
		packet := []byte{0x60, 0, 0, 0, 0, byte(len(router)), 58, 255}
		packet = append(packet, netip.MustParseAddr("fe80::1").AsSlice()...)
		packet = append(packet, netip.MustParseAddr("ff02::1").AsSlice()...)
		return lab.Ethernet(dst, w.src.MAC, 0x86dd, append(packet, router...))
	}
	// A client asks all, or one server, for the lease of a MAC.
	clientOf := func(s *scene, w way, dst, chaddr net.HardwareAddr) []byte {
		s.flows++
		message := append(append([]byte{1, 1, 6, 0}, make([]byte, 24)...), chaddr...)
		message = append(message, fmt.Appendf(make([]byte, 206), "flow %d", s.flows)...)
		from, to := netip.AddrPortFrom(w.src.Addr, 68), netip.AddrPortFrom(w.dst.Addr, 67)
		if dst[0]&1 == 1 {
			from, to = netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67")
		}
		return lab.Ethernet(dst, w.src.MAC, 0x0800, lab.UDP(from, to, message))
	}
	client := func(s *scene, w way, dst net.HardwareAddr) []byte { return clientOf(s, w, dst, w.src.MAC) }
	bpdu := func(s *scene, w way, _ net.HardwareAddr) []byte {
		s.flows++
		payload := append([]byte{0x42, 0x42, 3, 0, 0, 0, 0, 0}, fmt.Appendf(nil, "flow %d", s.flows)...)
		return lab.Ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, w.src.MAC, uint16(len(payload)), payload)
	}
	llc := func(header ...byte) func(*scene, way, net.HardwareAddr) []byte {
		return func(s *scene, w way, dst net.HardwareAddr) []byte {
			packet := own(s, w, dst)[14:]
			return lab.Ethernet(dst, w.src.MAC, uint16(len(header)+len(packet)), append(slices.Clone(header), packet...))
		}
	}
	list := []attack{
		{"another's MAC", "in_mac", "uplink_in_mac", "", func(s *scene, w way, dst net.HardwareAddr) []byte {
			return data(lab.Endpoint{MAC: victim.MAC, Addr: w.src.Addr})(s, w, dst)
		}},
		{"another's address", "in_ipv4", "uplink_in_ipv4", "", func(s *scene, w way, dst net.HardwareAddr) []byte {
			return data(lab.Endpoint{MAC: w.src.MAC, Addr: victim.Addr})(s, w, dst)
		}},
		{asGateway, "in_ipv4", "uplink_in_ipv4", "", func(s *scene, w way, dst net.HardwareAddr) []byte {
			return data(lab.Endpoint{MAC: w.src.MAC, Addr: gateway})(s, w, dst)
		}},
		{"ARP for another's address", "in_arp", "uplink_in_arp", "", named(arp, func(w way) lab.Endpoint { return lab.Endpoint{MAC: w.src.MAC, Addr: victim.Addr} })},
		{"ARP for another's MAC", "in_arp", "uplink_in_arp", "", named(arp, func(w way) lab.Endpoint { return lab.Endpoint{MAC: victim.MAC, Addr: w.src.Addr} })},
		{answersForGateway, "in_arp", "uplink_in_arp", "", named(arp, func(w way) lab.Endpoint { return lab.Endpoint{MAC: w.src.MAC, Addr: gateway} })},
		{"a DHCP server's reply", "in_dhcp_server", "uplink_in_dhcp", "", udp(67, 68)},
		{"a DHCP client's request", "", "uplink_in_dhcp", "uplink_out_dhcp", client},
		{"a DHCP client's request in another's name", "in_dhcp_client", "uplink_in_dhcp", "", func(s *scene, w way, dst net.HardwareAddr) []byte {
			return clientOf(s, w, dst, victim.MAC)
		}},
		{"a router advertisement", "in_ethertype", "out_ethertype", "", advertisement},
		{"a VLAN tag", "in_ethertype", "out_ethertype", "", tagged(0x81, 0, 0, 5)},
		{"a priority tag", "in_ethertype", "out_ethertype", "", tagged(0x81, 0, 0, 0)},
		{"two tags", "in_ethertype", "out_ethertype", "", tagged(0x88, 0xa8, 0, 6, 0x81, 0, 0, 5)},
		{"802.3 with LLC", "in_ethertype", "out_ethertype", "", llc(0x42, 0x42, 3)},
		{"802.3 with SNAP", "in_ethertype", "out_ethertype", "", llc(0xaa, 0xaa, 3, 0, 0, 0, 8, 0)},
		{"ARP that is neither request nor reply", "in_arp", "out_arp", "", func(_ *scene, w way, dst net.HardwareAddr) []byte {
			return lab.ARP(dst, w.src.MAC, 25, w.src, w.dst)
		}},
		{toAnother, "out_address", "out_address", "", another},
		{toBridges, "in_bpdu", "", "", bpdu},
	}
	if !multi {
		for i := range list {
			switch a := &list[i]; {
			case a.uplink == "uplink_in_dhcp", a.name == asGateway, a.name == answersForGateway:
				a.uplink, a.out = "", ""
			}
		}
	}
	if shared {
		list = append(list, attack{"a question for the gateway", "", "uplink_in_gateway", "uplink_out_gateway", func(_ *scene, w way, dst net.HardwareAddr) []byte {
			return lab.ARP(dst, w.src.MAC, lab.ARPRequest, w.src, lab.Endpoint{MAC: make(net.HardwareAddr, 6), Addr: gateway})
		}})
	}
	return list
}

// TestAttacks is the guard's matrix: each protection, on the same node, from a node to
// another and across the uplink, from a LAN host and to it, to one and to a group. Each attack is counted
// under its reason where it is stopped, and arrives without the guard.
func TestAttacks(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{singleUplinked(), ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			attackAll(t, sh)
		})
	}
}

func attackAll(t *testing.T, sh shape) {
	const lan = "lan"
	s := newSceneOn(t, sh, true, lab.Seed(2).With(lab.Machine{Name: lan, NICs: []lab.NIC{{Name: "eth2", Switch: "flat"}}}))
	eth2 := s.tap(s.lab.Host(lan), "eth2")
	stranger := lab.Endpoint{MAC: eth2.MAC(), Addr: netip.MustParseAddr("10.0.0.240")}
	vm1, vm2, vm3 := s.tap(s.vm1, "eth0"), s.tap(s.vm2, "eth0"), s.tap(s.vm3, "eth0")
	ways := []way{
		{name: "same node", from: vm1, to: vm2, src: s.vm1.endpoint(), dst: s.vm2.endpoint(), guard: s.compute1, last: s.compute1,
			by: func(a attack) string { return a.port }},
		{name: "node to node", from: vm1, to: vm3, src: s.vm1.endpoint(), dst: s.vm3.endpoint(), guard: s.compute1, also: []*node{s.compute2}, last: s.compute2,
			by: func(a attack) string { return a.port }},
		{name: "from the LAN", from: eth2, to: vm1, src: stranger, dst: s.vm1.endpoint(), guard: s.compute1, last: s.compute1,
			by: func(a attack) string { return a.uplink }},
		{name: "to the LAN", from: vm1, to: eth2, src: s.vm1.endpoint(), dst: stranger, guard: s.compute1,
			by: func(a attack) string { return a.out }},
	}
	// A workload that is neither the attacker nor, on its own node, whom it attacks.
	victim := s.compute1.attach("vm4", lab.CNIOptions{}).endpoint()
	s.stopDaemons()
	n := 0
	for _, a := range attacks(victim, sh.multi, sh.keys["controller"]["gatewayShared"] == true) {
		for _, w := range ways {
			reason := w.by(a)
			for _, dst := range []struct {
				kind string
				mac  net.HardwareAddr
			}{{"unicast", w.dst.MAC}, {"group", lab.Broadcast}} {
				n++ // also for what is not played: a row has the same name in each shape
				if reason == "" || a.name == toBridges && dst.kind != "group" || a.name == toAnother && dst.kind == "group" {
					continue
				}
				id := fmt.Sprintf("P%03d", n)
				t.Run(fmt.Sprintf("%s, %s, %s", a.name, w.name, dst.kind), func(t *testing.T) {
					outer := s.t
					s.t = t
					defer func() { s.t = outer }()
					p := path{s: s, from: w.from, to: w.to, marker: func() []byte {
						m, _ := lab.Marker(w.src, w.dst)
						return m
					}}
					s.play(testCase{id: id, action: a.name + ", " + w.name + ", " + dst.kind, run: func(s *scene) outcome {
						r := w.guard.guardCounter(reason)
						r.also = w.also
						if strings.HasPrefix(reason, "out_") {
							r = w.last.guardCounter(reason)
						}
						return drops(delivered, r, func(bool) bool { return p.passes(a.frame(s, w, dst.mac)) })
					}})
				})
			}
		}
	}
}
