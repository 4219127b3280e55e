package guard

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The uplinks of the lab: a gateway node's, and on a bridge of its own one with a
// gateway that other nodes have, too. Behind each is a LAN host.
const (
	uplink       = "eth1"
	sharedUplink = "eth2"
	sharedBridge = "br2"
	sharedVictim = "fdpshared"
)

var (
	relay         = addr(200)
	sharedGateway = netip.MustParseAddr("10.9.0.1")
	sharedMAC     = mac(0x90)
	nodeMAC       = mac(1)
	sharedNodeMAC = mac(0x91)
)

func newUplinkLab(t *testing.T, learning bool) *lab {
	l := newLab(t, learning)
	l.plug(attacker, 2)
	l.plug(victim, 3)
	l.plug(unchecked, 5)
	l.plug(uplink, 50)
	l.mustDo("making the second bridge", func() error { return addBridge(sharedBridge, learning) })
	for port, n := range map[string]byte{sharedVictim: 13, sharedUplink: 60} {
		s := l.plugInto(sharedBridge, port, n)
		s.addr = netip.AddrFrom4([4]byte{10, 9, 0, n})
		l.stations[port] = s
	}
	return l
}

func (l *lab) uplinkPlan() ([]Segment, []Port) {
	port := func(name, uplink string, check bool) Port {
		s := l.stations[name]
		return Port{Name: name, MAC: s.mac, Addrs: addrs(s), CheckSource: check, Uplink: uplink}
	}
	first := segment()
	first.Uplink = Uplink{Name: uplink, MACs: []ipam.MAC{nodeMAC}, Addrs: first.Gateways, BlockDHCP: true, Relays: []netip.Addr{relay}}
	second := Segment{Gateways: []netip.Addr{sharedGateway}, Uplink: Uplink{Name: sharedUplink, MACs: []ipam.MAC{sharedNodeMAC},
		Shared: []netip.Addr{sharedGateway}, SharedMACs: []ipam.MAC{sharedMAC}}}
	return []Segment{first, second}, []Port{port(attacker, uplink, true), port(victim, uplink, true), port(unchecked, uplink, false),
		port(sharedVictim, sharedUplink, true)}
}

func (l *lab) guardUplinks() {
	l.t.Helper()
	segments, ports := l.uplinkPlan()
	l.mustDo("applying", func() error {
		_, err := Apply(l.t.Context(), segments, ports, nil)
		return err
	})
}

// uplinkAttacks is every uplink rule's frame that it stops, and what is next to it
// that it must not.
func uplinkAttacks() []attack {
	data := func(dst func(parts) ipam.MAC, src ipam.MAC, from netip.Addr) func(parts) []byte {
		return func(p parts) []byte {
			m, a := src, from
			if m.IsZero() {
				m = p.from.mac
			}
			if !a.IsValid() {
				a = p.from.addr
			}
			return ethernet(dst(p), m, etherTypeIPv4, p.data(a, p.to.addr))
		}
	}
	toOne := func(p parts) ipam.MAC { return p.to.mac }
	toAll := func(parts) ipam.MAC { return broadcast }
	own, ownAddr := ipam.MAC{}, netip.Addr{}
	arpOf := func(dst func(parts) ipam.MAC, change func(*arpPacket)) func(parts) []byte {
		return func(p parts) []byte { return ethernet(dst(p), p.from.mac, etherTypeARP, p.arp(change)) }
	}
	tagged := func(frame func(parts) []byte, tpid, vid uint16) func(parts) []byte {
		return func(p parts) []byte { return vlanTag(frame(p), tpid, vid) }
	}
	nested := func(frame func(parts) []byte, outer, vid uint16) func(parts) []byte {
		return func(p parts) []byte { return vlanTag(vlanTag(frame(p), 0x8100, 0), outer, vid) }
	}
	dhcp := func(dst func(parts) ipam.MAC, src, to netip.Addr, sport, dport uint16, chaddr ipam.MAC) func(parts) []byte {
		return func(p parts) []byte {
			from := src
			if !from.IsValid() {
				from = p.from.addr
			}
			return ethernet(dst(p), p.from.mac, etherTypeIPv4, udpPacket(from, to, sport, dport, dhcpMessage(chaddr, p.tag)))
		}
	}
	sender := func(a netip.Addr) func(*arpPacket) { return func(p *arpPacket) { p.sender, p.op = a, 2 } }
	target := func(a netip.Addr) func(*arpPacket) { return func(p *arpPacket) { p.target = a } }
	gw := netip.MustParseAddr(gateway)
	remote := mac(77)

	return []attack{
		{"datagram of a LAN host", uplink, victim, data(toOne, own, ownAddr), ""},
		{"datagram of a LAN host to the node", uplink, node, data(toOne, own, ownAddr), ""},
		{"datagram of a workload elsewhere", uplink, victim, data(toOne, remote, addr(77)), ""},
		{"broadcast of a LAN host", uplink, victim, data(toAll, own, ownAddr), ""},
		{"ARP of a LAN host", uplink, victim, arpOf(toAll, nil), ""},
		{"ARP reply of a LAN host", uplink, victim, arpOf(toOne, sender(addr(50))), ""},
		{"ARP probe of a LAN host", uplink, victim, arpOf(toAll, sender(unspecified)), ""},
		{"datagram to a LAN host", victim, uplink, data(toOne, own, ownAddr), ""},
		{"datagram of the node to a LAN host", node, uplink, data(toOne, own, ownAddr), ""},
		{"ARP to a LAN host", victim, uplink, arpOf(toAll, nil), ""},

		{"MAC of a workload", uplink, victim, data(toOne, mac(2), ownAddr), uplinkInMAC},
		{"MAC of the receiver", uplink, victim, data(toOne, mac(3), ownAddr), uplinkInMAC},
		{"MAC of a workload, to all", uplink, victim, data(toAll, mac(2), ownAddr), uplinkInMAC},
		{"MAC of a workload without MAC check", uplink, victim, data(toOne, mac(5), ownAddr), uplinkInMAC},
		{"MAC of a workload, to the node", uplink, node, data(toOne, mac(2), ownAddr), uplinkInMAC},
		{"MAC of a workload in a VLAN", uplink, node, tagged(data(toOne, mac(2), ownAddr), 0x8100, 5), uplinkInMAC},
		{"MAC of the node", uplink, victim, data(toOne, nodeMAC, ownAddr), uplinkInMAC},
		{"MAC of the node, to all", uplink, victim, data(toAll, nodeMAC, ownAddr), uplinkInMAC},
		{"MAC of another segment's workload", uplink, victim, data(toOne, mac(13), ownAddr), ""},
		{"MAC of a workload on another segment", sharedUplink, sharedVictim, data(toOne, mac(3), ownAddr), ""},

		{"address of a workload", uplink, victim, data(toOne, own, addr(2)), uplinkInIPv4},
		{"address of a workload, to all", uplink, victim, data(toAll, own, addr(2)), uplinkInIPv4},
		{"address of a workload without check", uplink, victim, data(toOne, own, addr(5)), uplinkInIPv4},
		{"address of the gateway", uplink, victim, data(toOne, own, gw), uplinkInIPv4},
		{"address of the gateway, to all", uplink, victim, data(toAll, own, gw), uplinkInIPv4},
		{"address of a workload, to the node", uplink, node, data(toOne, own, addr(2)), uplinkInIPv4},
		{"address of a workload in a priority tag", uplink, node, tagged(data(toOne, own, addr(2)), 0x8100, 0), uplinkInIPv4},
		{"address of a workload in a service tag", uplink, node, tagged(data(toOne, own, addr(2)), 0x88a8, 0), uplinkInIPv4},
		{"address of a workload in two tags", uplink, node, nested(data(toOne, own, addr(2)), 0x8100, 0), uplinkInTags},
		{"address of a workload in two service tags", uplink, node, nested(data(toOne, own, addr(2)), 0x88a8, 0), uplinkInTags},
		{"priority tag of a LAN host", uplink, node, tagged(data(toOne, own, ownAddr), 0x8100, 0), ""},
		{"two tags of a VLAN", uplink, node, nested(data(toOne, own, ownAddr), 0x8100, 5), ""},
		{"address of a workload on another segment", sharedUplink, sharedVictim, data(toOne, own, addr(2)), ""},

		{"ARP sender address of a workload", uplink, victim, arpOf(toOne, sender(addr(2))), uplinkInARP},
		{"ARP sender address of a workload, to all", uplink, victim, arpOf(toAll, sender(addr(2))), uplinkInARP},
		{"ARP sender address of the gateway", uplink, victim, arpOf(toOne, sender(gw)), uplinkInARP},
		{"ARP sender address of the gateway, to all", uplink, victim, arpOf(toAll, sender(gw)), uplinkInARP},
		{"ARP sender address of a workload, to the node", uplink, node, arpOf(toAll, sender(addr(2))), uplinkInARP},
		{"ARP sender address of a workload in a priority tag", uplink, node, tagged(arpOf(toAll, sender(addr(2))), 0x8100, 0), uplinkInARP},
		{"ARP sender MAC of a workload", uplink, victim, arpOf(toOne, func(a *arpPacket) { a.senderMAC = mac(2) }), uplinkInARP},
		{"ARP sender MAC of the node, to all", uplink, victim, arpOf(toAll, func(a *arpPacket) { a.senderMAC = nodeMAC }), uplinkInARP},
		{"ARP for the gateway", uplink, node, arpOf(toAll, target(gw)), ""},

		{"DHCP offer of the LAN to one", uplink, victim, dhcp(toOne, ownAddr, addr(3), 67, 68, mac(3)), uplinkInDHCP},
		{"DHCP offer of the LAN to all", uplink, victim, dhcp(toAll, ownAddr, all, 67, 68, mac(3)), uplinkInDHCP},
		{"DHCP offer of the LAN from another port", uplink, victim, dhcp(toAll, ownAddr, all, 1067, 68, mac(3)), uplinkInDHCP},
		{"DHCP discover of the LAN", uplink, node, dhcp(toAll, unspecified, all, 68, 67, mac(50)), uplinkInDHCP},
		{"DHCP renewal of the LAN", uplink, node, dhcp(toOne, ownAddr, gw, 68, 67, mac(50)), uplinkInDHCP},
		{"DHCP discover of the LAN in a priority tag", uplink, node, tagged(dhcp(toAll, unspecified, all, 68, 67, mac(50)), 0x8100, 0), uplinkInDHCP},
		{"DHCP request by a relay", uplink, node, dhcp(toOne, relay, gw, 67, 67, mac(50)), ""},
		{"DHCP offer for the node", uplink, node, dhcp(toAll, ownAddr, all, 67, 68, nodeMAC), ""},
		{"DHCP discover to the LAN", victim, uplink, dhcp(toAll, unspecified, all, 68, 67, mac(3)), uplinkOutDHCP},
		{"DHCP discover to the gateway", victim, node, dhcp(toAll, unspecified, all, 68, 67, mac(3)), ""},
		{"DHCP renewal to the LAN", victim, uplink, dhcp(toOne, ownAddr, addr(50), 68, 67, mac(3)), uplinkOutDHCP},
		{"DHCP offer of the gateway to the LAN", node, uplink, dhcp(toAll, gw, all, 67, 68, mac(3)), uplinkOutDHCP},
		{"DHCP offer of the gateway to its workload", node, victim, dhcp(toAll, gw, all, 67, 68, mac(3)), ""},
		{"DHCP reply of the gateway to a relay", node, uplink, dhcp(toOne, gw, relay, 67, 67, mac(50)), ""},
		{"DHCP discover of the node", node, uplink, dhcp(toAll, unspecified, all, 68, 67, nodeMAC), ""},
		{"DHCP offer of the LAN, passed", sharedUplink, sharedVictim, dhcp(toAll, ownAddr, all, 67, 68, mac(13)), ""},
		{"DHCP discover to the LAN, passed", sharedVictim, sharedUplink, dhcp(toAll, unspecified, all, 68, 67, mac(13)), ""},

		{"MAC of the shared gateway", sharedUplink, sharedVictim, data(toOne, sharedMAC, ownAddr), uplinkInMAC},
		{"MAC of the shared gateway, to all", sharedUplink, sharedVictim, data(toAll, sharedMAC, ownAddr), uplinkInMAC},
		{"address of the shared gateway", sharedUplink, sharedVictim, data(toOne, own, sharedGateway), uplinkInIPv4},
		{"address of the shared gateway, to all", sharedUplink, sharedVictim, data(toAll, own, sharedGateway), uplinkInIPv4},
		{"frame to the shared gateway", sharedUplink, sharedVictim, data(func(parts) ipam.MAC { return sharedMAC }, own, ownAddr), uplinkInGateway},
		{"ARP for the shared gateway", sharedUplink, sharedVictim, arpOf(toAll, target(sharedGateway)), uplinkInGateway},
		{"ARP for the shared gateway in a priority tag", sharedUplink, sharedVictim, tagged(arpOf(toAll, target(sharedGateway)), 0x8100, 0), uplinkInGateway},
		{"ARP of the shared gateway", sharedUplink, sharedVictim, arpOf(toAll, sender(sharedGateway)), uplinkInARP},
		{"ARP for the shared gateway to the LAN", sharedVictim, sharedUplink, arpOf(toAll, target(sharedGateway)), uplinkOutGateway},
		{"frame to the shared gateway to the LAN", sharedVictim, sharedUplink, data(func(parts) ipam.MAC { return sharedMAC }, own, ownAddr), uplinkOutGateway},
		{"ARP between nodes", sharedUplink, sharedVictim, arpOf(toAll, nil), ""},
	}
}

// TestUplinkAttacks is TestAttacks for what crosses an uplink.
func TestUplinkAttacks(t *testing.T) {
	l := newUplinkLab(t, false)
	l.checkUnguarded(t, uplinkAttacks())
	l.guardUplinks()
	l.checkGuarded(t, uplinkAttacks())
}

// TestSharedGatewayStaysOnItsNode: what the node itself sends in the shared gateway's
// name reaches its workloads and not the LAN.
func TestSharedGatewayStaysOnItsNode(t *testing.T) {
	l := newUplinkLab(t, false)
	var host station
	l.mustDo("opening the second bridge", func() error {
		fd, err := packetSocket(sharedBridge)
		host = station{port: sharedBridge, mac: sharedMAC, addr: sharedGateway, fd: fd}
		return err
	})
	l.closeAtEnd(&host)
	l.stations[sharedBridge] = &host
	datagram := func(src ipam.MAC, from, to netip.Addr, dst ipam.MAC) func(parts) []byte {
		return func(p parts) []byte { return ethernet(dst, src, etherTypeIPv4, udpPacket(from, to, 5000, 9, p.tag)) }
	}
	announcement := func(p parts) []byte {
		a := arpPacket{op: 1, senderMAC: sharedMAC, sender: sharedGateway, target: sharedGateway}
		return ethernet(broadcast, sharedNodeMAC, etherTypeARP, a.packet(p.tag))
	}
	cases := []attack{
		{"broadcast from its address", sharedBridge, sharedUplink, datagram(sharedNodeMAC, sharedGateway, all, broadcast), uplinkOutGateway},
		{"broadcast from its address to a workload", sharedBridge, sharedVictim, datagram(sharedNodeMAC, sharedGateway, all, broadcast), ""},
		{"datagram from its address", sharedBridge, sharedUplink, datagram(sharedNodeMAC, sharedGateway, netip.MustParseAddr("10.9.0.60"), mac(60)), uplinkOutGateway},
		{"broadcast from its MAC", sharedBridge, sharedUplink, datagram(sharedMAC, netip.MustParseAddr("10.9.0.251"), all, broadcast), uplinkOutGateway},
		{"announcement", sharedBridge, sharedUplink, announcement, uplinkOutGateway},
		{"announcement to a workload", sharedBridge, sharedVictim, announcement, ""},
		{"broadcast of the node itself", sharedBridge, sharedUplink, datagram(sharedNodeMAC, netip.MustParseAddr("10.9.0.251"), all, broadcast), ""},
	}
	l.checkUnguarded(t, cases)
	l.guardUplinks()
	l.checkGuarded(t, cases)
}

// TestNoMACIsStolenThroughAnUplink: the bridge learns nothing from a LAN host that
// poses as a workload.
func TestNoMACIsStolenThroughAnUplink(t *testing.T) {
	for name, dst := range map[string]ipam.MAC{"by broadcast": broadcast, "by unicast": mac(2)} {
		t.Run(name, func(t *testing.T) {
			for _, guarded := range []bool{false, true} {
				l := newUplinkLab(t, true)
				if guarded {
					l.guardUplinks()
				}
				a, v, thief := l.stations[attacker], l.stations[victim], l.stations[uplink]
				say := func(from *station, to ipam.MAC, src, dst netip.Addr, as ipam.MAC) map[string]bool {
					tag := l.tag()
					return l.arrivals(from, ethernet(to, as, etherTypeIPv4, udpPacket(src, dst, 5000, 9, tag)), tag)
				}
				say(v, a.mac, v.addr, a.addr, v.mac) // the bridge knows where the victim is
				say(thief, dst, thief.addr, a.addr, v.mac)
				at := say(a, v.mac, a.addr, v.addr, a.mac)
				if at[victim] != guarded || at[uplink] == guarded {
					t.Errorf("guarded: %t, but the victim's frames arrive at %v", guarded, at)
				}
			}
		})
	}
}

// TestUplinkElementsComeAndGo: with its ports and without, in any order.
func TestUplinkElementsComeAndGo(t *testing.T) {
	l := newTable(t)
	segments, ports := someUplinks(), uplinkPorts()
	check := func(what string, segments []Segment, ports []Port) {
		t.Helper()
		plan, err := NewPlan(segments, ports)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(canonical(plan.String()), l.listing()); diff != "" {
			t.Errorf("%s: the kernel's table differs (-planned +nft):\n%s", what, diff)
		}
	}
	gatewaysOf := func(s Segment) Segment { return Segment{Gateways: s.Gateways} }
	attachUplink := func(s Segment) { l.mustDo("attaching", func() error { return AttachUplink(t.Context(), s) }) }
	attach := func(s Segment, p Port) { l.mustDo("attaching", func() error { return Attach(t.Context(), s, p) }) }
	detachUplink := func(name string) { l.mustDo("detaching", func() error { return DetachUplink(t.Context(), name) }) }

	detachUplink("eth1") // without a table
	attachUplink(segments[0])
	attachUplink(segments[0])
	check("an uplink before its ports", segments[:1], nil)
	attach(segments[0], ports[0])
	attach(segments[1], ports[1])
	check("ports", segments, ports)
	l.load("flush table bridge flatdhcp")
	attach(segments[0], ports[0])
	check("the base mended", segments, ports)

	changed := slices.Clone(segments)
	changed[0].Uplink.BlockDHCP, changed[0].Uplink.MACs = false, []ipam.MAC{mac(0x55)}
	attachUplink(changed[0])
	check("changed", changed, ports)

	// The same MAC and address under another port's name: a DEL that comes late takes
	// nothing of its successor's.
	late, next := ports[0], ports[0]
	next.Name = "fdpnext"
	attach(changed[0], next)
	l.detach(late.Name)
	check("a late DEL", changed, []Port{next, ports[1]})

	l.detach(next.Name)
	l.detach(ports[1].Name)
	check("without ports", changed, nil)
	detachUplink("eth1")
	detachUplink("eth1")
	check("without the first uplink", []Segment{gatewaysOf(segments[0]), changed[1]}, nil)
	l.load("flush set bridge flatdhcp uplinks")
	l.mustDo("listing", func() error {
		names, err := Uplinks(t.Context())
		if len(names) > 0 {
			t.Errorf("uplinks without an element: %v", names)
		}
		return err
	})
	detachUplink("eth2") // what no record names
	check("without uplinks", []Segment{gatewaysOf(segments[0]), gatewaysOf(segments[1])}, nil)
}

// TestApplyLeavesOthersUplinks: those named others are not the caller's to judge.
func TestApplyLeavesOthersUplinks(t *testing.T) {
	l := newTable(t)
	segments, ports := someUplinks(), uplinkPorts()
	for _, s := range segments {
		l.mustDo("attaching", func() error { return AttachUplink(t.Context(), s) })
	}
	apply := func(others ...string) []string {
		var changed []string
		l.mustDo("applying", func() (err error) {
			changed, err = Apply(t.Context(), segments[:1], ports[:1], others)
			return err
		})
		return changed
	}
	apply("eth2")
	plan, err := NewPlan(segments, ports[:1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(canonical(plan.String()), l.listing()); diff != "" {
		t.Errorf("the kernel's table differs (-planned +nft):\n%s", diff)
	}
	if changed := apply(); len(changed) == 0 { // the control
		t.Error("nobody's uplink stays")
	}
}

// TestCheckFindsUplinkDefects names what an uplink lacks and what it has too much.
func TestCheckFindsUplinkDefects(t *testing.T) {
	segments, ports := someUplinks(), uplinkPorts()
	for damage, want := range map[string][]string{
		"": nil,
		`delete element bridge flatdhcp uplinks { "eth1" }`: {
			`the guard lacks element of set uplinks: "eth1" comment "nodhcp fa:16:3e:00:00:01 10.0.0.1 relays 10.0.0.200"`},
		`delete element bridge flatdhcp uplink_macs { "eth1" . fa:16:3e:00:00:0c }`: {
			`the guard lacks element of set uplink_macs: "eth1" . fa:16:3e:00:00:0c comment "fdpone"`},
		`delete element bridge flatdhcp uplink_sources { "eth1" . 10.0.0.1 }`:       {`the guard lacks element of set uplink_sources: "eth1" . 10.0.0.1`},
		`add element bridge flatdhcp uplink_relays { "eth1" . 10.0.0.7 }`:           {`the guard has a foreign element of set uplink_relays: "eth1" . 10.0.0.7`},
		`delete element bridge flatdhcp uplink_dhcp { "eth1" }`:                     {`the guard lacks element of set uplink_dhcp: "eth1"`},
		`delete element bridge flatdhcp uplink_macs { "eth2" . fa:16:3e:00:00:0d }`: nil, // another's
	} {
		t.Run(damage, func(t *testing.T) {
			l := newTable(t)
			for i, p := range ports {
				l.mustDo("attaching", func() error { return Attach(t.Context(), segments[i], p) })
			}
			if damage != "" {
				l.load(damage)
			}
			var got []string
			l.mustDo("checking", func() (err error) {
				got, err = Check(t.Context(), segments[0], ports[0])
				return err
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("defects (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzUplinkRecord: whatever a comment is, reading it yields no uplink that could not
// have been attached.
func FuzzUplinkRecord(f *testing.F) {
	for _, s := range someUplinks() {
		f.Add(s.Uplink.record())
	}
	f.Add("shared shared relays fa:16:3e:00:00:01")
	f.Fuzz(func(t *testing.T, comment string) {
		e := setUplinks.element(nameBytes("eth1"))
		e.comment = comment
		u, ok := e.uplink()
		if !ok {
			return
		}
		if err := u.validate(); err != nil {
			t.Errorf("%q yields %+v: %v", comment, u, err)
		}
		again := u.elements()[0]
		if again.comment == "" {
			return // too long to be written, or nothing in it
		}
		if v, ok := again.uplink(); !ok || v.record() != again.comment {
			t.Errorf("%q yields %q, and that %q", comment, again.comment, v.record())
		}
	})
}
