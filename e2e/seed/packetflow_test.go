package seed

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// TestPacketFlow: docs/packet-flow.md says of each scenario of the seed which frame was seen
// where and which rules decided, as it is seen here.
func TestPacketFlow(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := openPage(t, "packet-flow.md")
	f := newFlow(t, shapes[0])
	f.serveMetadata()
	f.tutorial(p)
	for _, n := range f.nodes() {
		n.apply(keys{"allowSameNetTraffic": false})
	}
	f.closed(p)
	f.possible(p)

	m := newFlow(t, ownGateways)
	p.set("multi-dhcp", m.seen(m.endAt(m.vm1), func() { m.vm1.boot() }, about("DHCP")))
	p.set("multi-two-hosts", m.seen(m.endAt(m.vm3), m.pings(m.vm3, m.vm1.addr, true), everything))
	p.set("multi-outside", m.seen(m.endAt(m.vm1), m.pings(m.vm1, outsideAddr, true), everything))
	p.set("multi-from-other", m.seen(m.endAt(m.vm3), m.pings(m.compute2, m.vm1.addr, true), everything))

	g := newFlow(t, sharedGateway)
	p.set("shared-gateway", g.seen(g.endAt(g.vm1), g.pings(g.vm1, gateway, true), everything))
	p.close()
}

// tutorial plays the tutorial's scenarios, with the toggle on.
func (f *flow) tutorial(p *page) {
	s, t := f.scene, f.t
	t.Helper()
	p.set("dhcp", f.seen(f.endAt(s.vm1), func() { s.vm1.boot() }, about("DHCP")))
	p.set("from-controller", f.seen(f.endAtController(), f.pings(s.controller, s.vm1.addr, true), everything))
	p.set("from-compute", f.seen(f.endAt(s.vm1), func() {
		if err := s.compute1.send(netip.Addr{}, s.vm1.addr, "from its host"); !errors.Is(err, unix.EPERM) {
			t.Errorf("sendto: %v, want %v", err, unix.EPERM)
		}
	}, everything))
	p.set("from-other-compute", f.seen(f.endAt(s.vm1), func() {
		if err := s.compute2.send(netip.Addr{}, s.vm1.addr, "from another host"); err != nil {
			t.Errorf("sendto: %v", err)
		}
	}, about("192.168.56.203")))
	p.set("same-host", f.seen(f.endAt(s.vm2), f.pings(s.vm2, s.vm1.addr, true), everything))
	p.set("two-hosts", f.seen(f.endAt(s.vm3), f.pings(s.vm3, s.vm1.addr, true), everything))
	p.set("outside", f.seen(f.endAt(s.vm1), f.pings(s.vm1, outsideAddr, true), everything))
	p.set("metadata", f.seen(f.endAt(s.vm1), func() {
		s.inside(s.vm1, "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/latest/meta-data/instance-id")
	}, about("TCP [S]", "TCP [S.]", "ARP")))
}

// closed plays scenarios with the toggle off.
func (f *flow) closed(p *page) {
	s, t := f.scene, f.t
	t.Helper()
	p.set("closed-from-controller", f.seen(f.endAtController(), f.pings(s.controller, s.vm1.addr, true), everything))
	p.set("closed-same-host", f.seen(f.endAt(s.vm2), f.pings(s.vm2, s.vm1.addr, false), everything))
	p.set("closed-two-hosts", f.seen(f.endAt(s.vm3), f.pings(s.vm3, s.vm1.addr, false), everything))
	p.set("closed-broadcast", f.seen(f.endAt(s.vm2), func() {
		datagram := lab.UDP(netip.AddrPortFrom(s.vm2.addr, 5000), netip.MustParseAddrPort("10.0.0.255:6000"), []byte("to all"))
		if err := s.tap(s.vm2, "eth0").Send(lab.Ethernet(lab.Broadcast, s.vm2.mac, 0x0800, datagram)); err != nil {
			t.Fatal(err)
		}
	}, everything))
	p.set("closed-dhcp", f.seen(f.endAt(s.vm1), func() { s.vm1.boot() }, about("DHCP")))
}

// possible plays what a toggle that is off does not stop.
func (f *flow) possible(p *page) {
	s, t := f.scene, f.t
	t.Helper()
	send := func(from, to *workload, source, destination uint16) {
		t.Helper()
		datagram := lab.UDP(netip.AddrPortFrom(from.addr, source), netip.AddrPortFrom(to.addr, destination), []byte("datagram"))
		if err := s.tap(from, "eth0").Send(lab.Ethernet(to.mac, from.mac, 0x0800, datagram)); err != nil {
			t.Fatal(err)
		}
	}
	p.set("exception-udp", f.seen(f.endAt(s.vm3), func() {
		arrives := s.watch(s.compute2.At("eth2"))
		wait := func(text string) {
			t.Helper()
			if _, err := arrives.Until(s.within(), described("IP "+s.vm1.addr.String()+text)); err != nil {
				t.Fatal(err)
			}
		}
		// One after the other: the answer is none before compute-1 has seen the question off.
		send(s.vm1, s.vm3, 5000, 6000)
		wait(".5000 > ")
		send(s.vm3, s.vm1, 6000, 5000)
		wait(" > " + s.vm3.addr.String() + ": ICMP unreachable") // nobody listens in vm1
		send(s.vm3, s.vm1, 6001, 5000)
	}, about("UDP", "ICMP")))
	p.set("exception-udp-same-host", f.seen(f.endAt(s.vm2), func() {
		asks := s.watch(s.compute1.At(s.vm1.port()))
		send(s.vm1, s.vm2, 5000, 6000)
		if _, err := asks.Until(s.within(), described("IP "+s.vm1.addr.String()+".5000 > ")); err != nil {
			t.Fatal(err)
		}
		send(s.vm2, s.vm1, 6000, 5000)
	}, about("UDP", "ICMP")))
	s.tells(s.vm1)
	relay := netip.AddrPortFrom(gateway, 8080)
	s.relays(s.controller, relay, netip.AddrPortFrom(s.vm1.addr, 80))
	p.set("exception-service", f.seen(f.endAt(s.vm3), func() {
		if as := s.seenAs(s.vm3, relay, true); as != gateway {
			t.Errorf("vm1 was reached by %s, want %s", as, gateway)
		}
	}, about("TCP [S]", "TCP [S.]")))
	p.set("exception-service-control", f.seen(f.endAt(s.vm3), func() {
		if as := s.seenAs(s.vm3, netip.AddrPortFrom(s.vm1.addr, 80), false); as.IsValid() {
			t.Errorf("vm3 has reached vm1 directly, as %s", as)
		}
	}, about("TCP [S]", "TCP [S.]")))
}

// newFlow brings a network up in a shape, with nothing on it but what a scenario sends.
func newFlow(t *testing.T, sh shape) *flow {
	t.Helper()
	s := newHosts(t, sh, true, lab.Seed(2))
	for _, h := range append([]*lab.Host{s.outside}, s.controller.Host, s.compute1.Host, s.compute2.Host) {
		// The hosts' own IPv6 is no part of it, and would be seen now and then.
		s.run(h, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	s.vm1 = s.compute1.attach("vm1", lab.CNIOptions{})
	s.vm2 = s.compute1.attach("vm2", lab.CNIOptions{})
	s.vm3 = s.compute2.attach("vm3", lab.CNIOptions{})
	f := &flow{scene: s, names: map[string]string{}}
	for _, w := range []*workload{s.vm1, s.vm2, s.vm3} {
		f.names[w.chain()] = "FLAT-WL-(" + w.name + ")"
		w.boot()
	}
	return f
}

// pings is a ping that is answered, or is not.
func (f *flow) pings(from place, to netip.Addr, answered bool) func() {
	return func() {
		f.t.Helper()
		if got := f.ping(from, to, answered); got != answered {
			f.t.Errorf("a ping to %s: answered %t, want %t", to, got, answered)
		}
	}
}

func everything(string) bool { return true }

// relays has a node take connections and pass on what another address says.
func (s *scene) relays(on *node, at, to netip.AddrPort) {
	s.t.Helper()
	labtest.Serve(s.t, on, at.String(), func(c net.Conn) {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		handOn(ctx, on, c, to)
	})
}
