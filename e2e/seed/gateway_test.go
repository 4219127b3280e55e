package seed

import (
	"slices"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// gatewayCases: the gateway reaches a workload whatever the toggle says, which is our
// documented choice (nova drops B2), and the workload reaches it.
var gatewayCases = []testCase{
	{id: "B1", action: "the gateway pings vm1", toggle: on, run: (*scene).pingFromGateway},
	{id: "B2", action: "the gateway pings vm1 (nova drops it)", toggle: off, run: (*scene).pingFromGateway},
	{id: "B3", action: "vm1 pings the gateway", run: func(s *scene) outcome {
		return accepts(answered, s.vm1.established(), func(expected bool) bool { return s.ping(s.vm1, gateway, expected) })
	}},
}

// pingFromGateway looks at the frames as well: ARP passes by no chain and is flooded to
// everybody, what it finds out is told to nobody else.
func (s *scene) pingFromGateway() outcome {
	s.t.Helper()
	g := s.gatewayNode()
	g.run("ip", "neighbour", "flush", "dev", "br100")
	points := []lab.Point{g.At("br100"), s.compute1.At(s.vm1.port()), s.compute2.At("eth2")}
	capture := s.watch(points...)
	allowed := s.vm1.gatewayRule()
	if s.shared() {
		allowed = s.vm1.nodeRule() // what the node sends, it sends from its own address
	}
	from := g.speaksAs().String()
	o := accepts(answered, allowed, func(expected bool) bool { return s.ping(g, s.vm1.addr, expected) })

	// What is flooded after it ends the proof of its absence elsewhere.
	bridge := s.tap(g, "br100")
	marker, is := lab.Marker(lab.Endpoint{MAC: bridge.MAC(), Addr: g.speaksAs()}, lab.Endpoint{MAC: lab.Broadcast, Addr: s.vm1.addr})
	if err := bridge.Send(marker); err != nil {
		s.t.Fatal(err)
	}
	seen, err := capture.Until(s.within(), is)
	if err != nil {
		s.t.Fatal(err)
	}
	all := []string{points[0].Name, points[1].Name, points[2].Name}
	for _, frame := range []struct {
		text string
		at   []string
	}{
		{"ARP, Request who-has " + s.vm1.addr.String() + " tell " + from, all},
		{"IP " + from + " > " + s.vm1.addr.String() + ": ICMP echo request", all[:2]},
	} {
		got := slices.Sorted(slices.Values(lab.Where(seen, described(frame.text))))
		want := slices.Sorted(slices.Values(frame.at))
		if !slices.Equal(got, want) {
			o.fault("%q was seen at %q, want %q", frame.text, got, want)
		}
	}
	return o
}
