package seed

import (
	"net/netip"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// neighbourCases: what workloads send to one another.
var neighbourCases = []testCase{
	{id: "D1", action: "vm2 to vm1, same host", run: func(s *scene) outcome { return s.neighbour(s.vm2, s.vm1) }},
	{id: "D2", action: "vm3 to vm1, from another host", run: func(s *scene) outcome { return s.neighbour(s.vm3, s.vm1) }},
	{id: "D3", action: "D1 where bridged frames do not meet iptables", toggle: off, run: (*scene).withoutNetfilter},
	{id: "D4", action: "vm2 poses as a DHCP server, to everybody", run: (*scene).rogueServer},
	{id: "J3", action: "vm1 pings vm3, on another host", run: func(s *scene) outcome {
		ping := func(expected bool) bool { return s.ping(s.vm1, s.vm3.addr, expected) }
		if s.open {
			return accepts(answered, s.vm3.subnetRule(), ping)
		}
		return drops(answered, s.vm3.fallback(), ping)
	}},
}

// neighbour sends an echo request: subnet decides, or the end of the receiver's chain.
func (s *scene) neighbour(from, to *workload) outcome {
	s.t.Helper()
	p := s.pathTo(from, to)
	attempt := func(bool) bool { return p.passes(s.echo(from.endpoint(), to.endpoint())) }
	if s.open {
		return accepts(delivered, to.subnetRule(), attempt)
	}
	return drops(delivered, to.fallback(), attempt)
}

// withoutNetfilter takes away the bridge's flag, by which frames meet iptables. That closed
// ports are open then is the danger; CHECK says so, and the next ADD puts the flag back.
func (s *scene) withoutNetfilter() outcome {
	s.t.Helper()
	o := outcome{expected: "CHECK refuses, ADD repairs"}
	defer s.compute1.paused()() // it would repair it before CHECK sees it
	p := s.pathTo(s.vm2, s.vm1)
	passes := func() bool { return p.passes(s.echo(s.vm2.endpoint(), s.vm1.endpoint())) }
	s.compute1.run("ip", "link", "set", "br100", "type", "bridge", "nf_call_iptables", "0")
	if !passes() {
		o.fault("the control: with the flag off vm2 does not reach vm1")
	}
	_, err := s.compute1.CNI(s.within(), "check", network, s.vm1.Container, lab.CNIOptions{})
	refused := err != nil && strings.Contains(err.Error(), "br100") && strings.Contains(err.Error(), "nf_call_iptables")
	o.observed = word(refused, "CHECK refuses", "CHECK says "+word(err == nil, "nothing", "something else"))
	if err != nil && !refused {
		o.fault("CHECK: %v", err)
	}
	before := s.vm1.fallback().count()
	s.compute1.attach("repair", lab.CNIOptions{}).detach()
	o.observed += word(passes(), ", ADD does not", ", ADD repairs")
	o.decidedBy(s.vm1.fallback(), before)
	return o
}

// rogueServer sends an offer by broadcast, which meets no workload's chain, to a neighbour
// on the same host and to one on another. The guard stops it at the port of who sends it.
func (s *scene) rogueServer() outcome {
	s.t.Helper()
	offer := lab.Ethernet(lab.Broadcast, s.vm2.mac, 0x0800, lab.UDP(
		netip.AddrPortFrom(s.vm2.addr, 67), netip.MustParseAddrPort("255.255.255.255:68"), make([]byte, 300)))
	near, far := s.pathTo(s.vm2, s.vm1), s.pathTo(s.vm2, s.vm3)
	r := s.compute1.guardCounter("in_dhcp_server")
	// The receivers' own hosts have a second line of defence behind closed ports.
	r.also = []*node{s.compute2}
	return drops(delivered, r, func(expected bool) bool {
		a, b := near.passes(offer), far.passes(offer)
		if expected {
			return a && b
		}
		return a || b
	})
}
