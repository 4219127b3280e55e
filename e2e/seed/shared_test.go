package seed

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

var sharedMAC = net.HardwareAddr{0xfa, 0x16, 0x3e, 0, 0, 1}

// crossing is a frame that must not cross compute-1's uplink.
type crossing struct {
	name    string
	from    *lab.Tap
	frame   []byte
	as      lab.Endpoint // of the marker, which takes the same way and crosses
	counter string
}

// Nothing of a shared gateway crosses an uplink, in either direction, whoever sends it;
// without the guard's word for that uplink each of the frames does.
func TestNothingOfASharedGatewayCrossesTheUplink(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	s := newScene(t, sharedGateway, true)
	leg := link.LegName("br100")
	fromLeg, fromBridge, fromVM := s.tap(s.compute1, leg), s.tap(s.compute1, "br100"), s.tap(s.vm1, "eth0")
	// The switch itself stands for a machine of the LAN.
	fromLAN := s.tap(s.lab.Host("flat"), "switch")

	gw := lab.Endpoint{MAC: sharedMAC, Addr: gateway}
	nobody := lab.Endpoint{MAC: make(net.HardwareAddr, 6), Addr: gateway}
	bridge := lab.Endpoint{MAC: fromBridge.MAC(), Addr: s.compute1.own()}
	someone := lab.Endpoint{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x99}, Addr: netip.MustParseAddr("10.0.0.199")}
	datagram := func(src, dst lab.Endpoint) []byte {
		return lab.Ethernet(dst.MAC, src.MAC, 0x0800, lab.UDP(netip.AddrPortFrom(src.Addr, 9), netip.AddrPortFrom(dst.Addr, 9), []byte("shared")))
	}
	everybody := lab.Endpoint{MAC: lab.Broadcast, Addr: netip.MustParseAddr("10.0.0.255")}
	const experimental = 0x88b5

	out := []crossing{
		{"a workload asks for it", fromVM, arpRequest(s.vm1, gateway.String()), s.vm1.endpoint(), "uplink_out_gateway"},
		{"the node asks for it", fromBridge, lab.ARP(lab.Broadcast, bridge.MAC, lab.ARPRequest, bridge, nobody), bridge, "uplink_out_gateway"},
		{"the node announces it by the leg", fromLeg, lab.ARP(lab.Broadcast, sharedMAC, lab.ARPRequest, gw, gw), someone, "uplink_out_gateway"},
		{"the node announces it by the bridge", fromBridge, lab.ARP(lab.Broadcast, bridge.MAC, lab.ARPReply, gw, gw), bridge, "uplink_out_gateway"},
		{"the node answers a workload elsewhere in its name", fromBridge, lab.ARP(s.vm3.mac, bridge.MAC, lab.ARPReply, gw, s.vm3.endpoint()), bridge, "uplink_out_gateway"},
		{"the node broadcasts from its address", fromBridge, datagram(lab.Endpoint{MAC: bridge.MAC, Addr: gateway}, everybody), bridge, "uplink_out_gateway"},
		{"the node sends from its address to a workload elsewhere", fromBridge, datagram(lab.Endpoint{MAC: bridge.MAC, Addr: gateway}, s.vm3.endpoint()), bridge, "uplink_out_gateway"},
		{"the leg sends from its MAC", fromLeg, lab.Ethernet(lab.Broadcast, sharedMAC, experimental, make([]byte, 46)), someone, "uplink_out_gateway"},
		{"the bridge sends from its MAC", fromBridge, lab.Ethernet(lab.Broadcast, sharedMAC, experimental, make([]byte, 46)), bridge, "uplink_out_gateway"},
	}
	in := []crossing{
		{"somebody asks for it", fromLAN, lab.ARP(lab.Broadcast, someone.MAC, lab.ARPRequest, someone, nobody), someone, "uplink_in_gateway"},
		{"somebody claims it", fromLAN, lab.ARP(lab.Broadcast, someone.MAC, lab.ARPReply, lab.Endpoint{MAC: someone.MAC, Addr: gateway}, s.vm1.endpoint()), someone, "uplink_in_arp"},
		{"somebody sends from it", fromLAN, datagram(lab.Endpoint{MAC: someone.MAC, Addr: gateway}, s.vm1.endpoint()), someone, "uplink_in_ipv4"},
		{"somebody broadcasts from it", fromLAN, datagram(lab.Endpoint{MAC: someone.MAC, Addr: gateway}, everybody), someone, "uplink_in_ipv4"},
		{"somebody sends from its MAC", fromLAN, datagram(lab.Endpoint{MAC: sharedMAC, Addr: someone.Addr}, s.vm1.endpoint()), someone, "uplink_in_mac"},
		{"somebody broadcasts from its MAC", fromLAN, datagram(lab.Endpoint{MAC: sharedMAC, Addr: someone.Addr}, everybody), someone, "uplink_in_mac"},
		{"somebody sends to its MAC", fromLAN, datagram(someone, gw), someone, "uplink_in_gateway"},
	}
	beyond := []lab.Point{s.compute1.At("eth2"), s.lab.Host("flat").At("compute-1-eth2"), s.compute2.At("eth2")}
	within := []lab.Point{s.compute1.At("br100"), s.compute1.At(s.vm1.port()), s.compute1.At(leg)}

	for _, d := range []struct {
		direction string
		frames    []crossing
		near, far []lab.Point
	}{
		{"out", out, nil, beyond},
		{"in", in, beyond[:1], within},
	} {
		for _, c := range d.frames {
			t.Run(d.direction+"/"+strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
				s.t = t
				defer func() { s.t = s.whole }()
				counter := s.compute1.guardCounter(c.counter)
				where := func() []string {
					t.Helper()
					capture := s.watch(append(slices.Clone(d.near), d.far...)...)
					marker, is := lab.Marker(c.as, lab.Endpoint{MAC: lab.Broadcast, Addr: netip.MustParseAddr("10.0.0.200")})
					if err := c.from.Send(c.frame, marker); err != nil {
						t.Fatal(err)
					}
					seen, err := capture.Until(s.within(), is)
					if err != nil {
						t.Fatal(err)
					}
					return lab.Where(seen, func(f []byte) bool { return bytes.HasPrefix(f, c.frame) })
				}
				var near []string
				for _, p := range d.near {
					near = append(near, p.Name)
				}
				before := counter.count()
				if got := where(); !slices.Equal(sorted(got), sorted(near)) {
					t.Errorf("seen at %q, want %q", got, near)
				}
				if counter.count() == before {
					t.Errorf("the counter of %s did not move", counter.name)
				}

				shut := s.compute1.openUplink()
				got := where()
				shut()
				if len(got) <= len(near) {
					t.Errorf("the control: without the rule it was seen at %q only", got)
				}
				// What the control taught the workload.
				if _, _, err := s.vm1.Run(s.within(), "ip", "neighbour", "flush", "dev", "eth0"); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// openUplink makes the guard forget the node's uplink, until the function that it returns is
// called.
func (n *node) openUplink() (shut func()) {
	n.s.t.Helper()
	_, members, _ := strings.Cut(n.run("nft", "list", "set", "bridge", "flatdhcp", "uplinks"), "elements = ")
	members, _, ok := strings.Cut(members, "}")
	if !ok {
		n.s.t.Fatalf("the guard of %s knows no uplink", n.Name())
	}
	n.run("nft", "delete", "element", "bridge", "flatdhcp", "uplinks", "{", `"eth2"`, "}")
	return func() { n.run("nft", "add element bridge flatdhcp uplinks "+members+"}") }
}

// Every address has one answer: the shared gateway the nearest host's, and each other the
// one that has it. With the uplinks open the others' gateways answer, too.
func TestEveryAddressOfASharedGatewayHasOneAnswer(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	s := newScene(t, sharedGateway, true)
	answers := func(from *workload, addr netip.Addr) (macs []string) {
		t.Helper()
		capture := s.watch(from.At("eth0"))
		// A workload elsewhere answers a second question after all hosts have the first.
		last := s.vm3
		if from == s.vm3 {
			last = s.vm1
		}
		if err := s.tap(from, "eth0").Send(arpRequest(from, addr.String()), arpRequest(from, last.addr.String())); err != nil {
			t.Fatal(err)
		}
		reply := fmt.Sprintf("ARP, Reply %s is-at %s", last.addr, last.mac)
		seen, err := capture.Until(s.within(), described(reply))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range seen {
			text := lab.Describe(f.Frame)
			if mac, ok := strings.CutPrefix(text, fmt.Sprintf("ARP, Reply %s is-at ", addr)); ok && addr != last.addr {
				macs = append(macs, mac)
			}
		}
		return macs
	}
	bridgeMAC := func(n *node) string { return s.tap(n, "br100").MAC().String() }
	for _, w := range []*workload{s.vm1, s.vm3} {
		for addr, want := range map[netip.Addr]string{
			gateway:            sharedMAC.String(),
			s.controller.own(): bridgeMAC(s.controller),
			s.compute1.own():   bridgeMAC(s.compute1),
			s.compute2.own():   bridgeMAC(s.compute2),
			s.vm2.addr:         s.vm2.mac.String(),
		} {
			if got := answers(w, addr); !slices.Equal(got, []string{want}) {
				t.Errorf("%s, asking for %s, is answered by %q, want %s alone", w.name, addr, got, want)
			}
		}
	}
	for _, n := range s.nodes() {
		n.openUplink()
	}
	if got := answers(s.vm1, gateway); len(got) < 2 {
		t.Errorf("the control: with the uplinks open the gateway is answered for by %q only", got)
	}
}

// A leg that is made beside an uplink is announced to the node's own workloads, once the guard
// knows what is shared: here it has forgotten.
func TestLegIsAnnouncedBehindTheGuard(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	s := newScene(t, sharedGateway, true)
	s.compute1.openUplink()
	capture := s.watch(s.vm1.At("eth0"), s.compute2.At("eth2"))
	s.compute1.run("ip", "link", "del", link.LegPort("br100"))
	late := s.compute1.attach("late", lab.CNIOptions{})
	late.boot()
	marker, is := lab.Marker(late.endpoint(), lab.Endpoint{MAC: lab.Broadcast, Addr: netip.MustParseAddr("10.0.0.200")})
	if err := s.tap(late, "eth0").Send(marker); err != nil {
		t.Fatal(err)
	}
	seen, err := capture.Until(s.within(), is)
	if err != nil {
		t.Fatal(err)
	}
	got := lab.Where(seen, described("ARP, Request who-has 10.0.0.1 tell 10.0.0.1"))
	if want := []string{s.vm1.At("eth0").Name}; !slices.Equal(got, want) {
		t.Errorf("the gateway was announced at %q, want %q", got, want)
	}
	late.checked()
}

// A VM moves to another host with its address and MAC and remembers its gateway's: it goes on
// without a question, by the new host, and reaches its old neighbours.
func TestVMKeepsItsGatewayWhenItMoves(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	s := newScene(t, sharedGateway, true)
	guest, err := s.compute1.Container(s.within(), "guest")
	if err != nil {
		t.Fatal(err)
	}
	inGuest := func(argv ...string) string {
		t.Helper()
		out, _, err := guest.Run(s.within(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	pod := lab.CNIOptions{Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=vm"}
	first := s.compute1.attach("pod", pod)
	inGuest("ip", "link", "add", "eth0", "address", first.mac.String(), "type", "veth", "peer", "name", "tap0")
	plug := func(w *workload, from *lab.Container) {
		t.Helper()
		moveLink(t, from, "tap0", w.Container)
		// As KubeVirt does: the pod's interface gives its MAC away and becomes a bridge's port.
		script := `set -e; ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77; ip link add k6t type bridge
			ip link set eth0 master k6t; ip link set tap0 master k6t; ip link set eth0 up; ip link set tap0 up; ip link set k6t up`
		if _, _, err := w.Run(s.within(), "sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
	plug(first, guest)
	inGuest("ip", "link", "set", "eth0", "up")
	inGuest("ip", "address", "add", first.addr.String()+"/24", "dev", "eth0")
	inGuest("ip", "route", "add", "default", "via", gateway.String())
	seenOutside := func(by *node) {
		t.Helper()
		capture := s.watch(s.outside.At("eth1"))
		if !s.ping(guest, outsideAddr, true) {
			t.Errorf("outside does not answer the VM on %s", by.Name())
		}
		want := "IP " + management[by.Name()].String() + " > " + outsideAddr.String() + ": ICMP echo request"
		if seen := s.sightings(capture); len(lab.Where(seen, described(want))) == 0 {
			t.Errorf("%q was not seen outside: %v", want, seen)
		}
	}
	seenOutside(s.compute1)
	if !s.ping(guest, s.vm2.addr, true) {
		t.Error("the VM does not reach its neighbour")
	}
	remembered := inGuest("ip", "neighbour", "show", gateway.String())
	if !strings.Contains(remembered, sharedMAC.String()) {
		t.Fatalf("the VM has %q for its gateway", remembered)
	}
	// A veth loses its carrier on the way, and with it what the kernel has learned; a VM's card
	// does not.
	inGuest("ip", "neighbour", "replace", gateway.String(), "lladdr", sharedMAC.String(), "dev", "eth0", "nud", "permanent")

	moveLink(t, first.Container, "tap0", guest)
	first.detach()
	// The address is of compute-1's range, so it is the administrator's to give here.
	s.compute2.run("flatctl", "reserve", network, "--workload", "default/vm", "--ip", first.addr.String(), "--mac", first.mac.String())
	second := s.compute2.attach("pod", pod)
	if second.addr != first.addr || second.mac.String() != first.mac.String() {
		t.Fatalf("on compute-2 the VM has %s at %s, not %s at %s", second.addr, second.mac, first.addr, first.mac)
	}
	capture := s.watch(guest.At("eth0"))
	plug(second, guest)
	inGuest("ip", "link", "set", "eth0", "up")
	seenOutside(s.compute2)
	for _, w := range []*workload{s.vm2, s.vm3} {
		if !s.ping(guest, w.addr, true) {
			t.Errorf("the VM does not reach %s from where it is now", w.name)
		}
	}
	if seen := s.sightings(capture); len(lab.Where(seen, described("ARP, Request who-has "+gateway.String()))) > 0 {
		t.Errorf("the VM asked for its gateway again: %v", seen)
	}
	if now := inGuest("ip", "neighbour", "show", gateway.String()); !strings.Contains(now, sharedMAC.String()) {
		t.Errorf("the VM has %q for its gateway", now)
	}
}

// moveLink moves an interface from one namespace to another, whatever hosts they are on.
func moveLink(t *testing.T, from *lab.Container, name string, to *lab.Container) {
	t.Helper()
	target, err := netns.GetFromPath(to.NetNS())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	err = from.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(target))
	})
	if err != nil {
		t.Fatalf("moving %s: %v", name, err)
	}
}
