package seed

import (
	"fmt"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// bridgeCases: MACs of bridges and ports, and who answers for the gateway's address.
var bridgeCases = []testCase{
	{id: "I1", action: "a port with a MAC lower than the uplink's joins br100", run: (*scene).lowerMAC},
	{id: "I2", action: "the host's end of vm1's port has a MAC of its own", run: (*scene).portMAC},
	{id: "J1", action: "vm1 and vm3 ask for their gateway by ARP", run: (*scene).askForGateway},
	{id: "J2", action: "vm1 boots: is its DISCOVER seen on compute-2?", multi: true, run: (*scene).discoverElsewhere},
}

func (n *node) mac(ifName string) string {
	n.s.t.Helper()
	return strings.TrimSpace(n.run("cat", "/sys/class/net/"+ifName+"/address"))
}

// lowerMAC: a bridge whose MAC was never set takes its lowest port's; ours was.
func (s *scene) lowerMAC() outcome {
	s.t.Helper()
	const low = "02:00:00:00:00:01"
	join := func(bridge string) (before, after string) {
		s.t.Helper()
		before = s.compute1.mac(bridge)
		s.compute1.run("ip", "link", "add", "low0", "address", low, "type", "veth", "peer", "name", "low1")
		s.compute1.run("ip", "link", "set", "low0", "master", bridge, "up")
		after = s.compute1.mac(bridge)
		s.compute1.run("ip", "link", "del", "low0")
		return before, after
	}
	before, after := join("br100")
	if uplink := s.compute1.mac("eth2"); before != uplink {
		s.t.Errorf("br100 has the MAC %s, its uplink %s", before, uplink)
	}
	o := outcome{expected: "unchanged", observed: word(before == after, "unchanged", before+" became "+after)}
	s.compute1.run("ip", "link", "add", "plain", "type", "bridge")
	if _, after := join("plain"); after != low {
		o.fault("the control: a bridge without a MAC of its own has %s", after)
	}
	s.compute1.run("ip", "link", "del", "plain")
	o.decided = "br100's MAC is set, to its uplink's (" + before + "); a bridge without takes " + low
	return o
}

// portMAC: peers reach vm1 although the host's end has another MAC, which the bridge's
// table keeps apart.
func (s *scene) portMAC() outcome {
	s.t.Helper()
	o := outcome{expected: "answered"}
	port := s.compute1.mac(s.vm1.port())
	if port == s.vm1.mac.String() {
		o.fault("both ends have the MAC %s", port)
	}
	o.observed = word(s.ping(s.gatewayNode(), s.vm1.addr, true), "answered", "dropped")
	fdb := s.compute1.run("bridge", "fdb", "show", "dev", s.vm1.port())
	for _, want := range []string{port + " ", s.vm1.mac.String() + " "} {
		if !strings.Contains(fdb, want) {
			o.fault("the bridge's table is without %s:\n%s", want, fdb)
		}
	}
	o.decided = fmt.Sprintf("bridge table: %s is the host's end, %s is behind it", port, s.vm1.mac)
	return o
}

// askForGateway counts the answers. Each host answers for an address of its own after it has
// answered, or not, for the gateway's: so none is still under way.
func (s *scene) askForGateway() outcome {
	s.t.Helper()
	o := outcome{expected: "one answer each, of its own gateway"}
	answersTo := func(w *workload, addr string) (got []string) {
		s.t.Helper()
		tap := s.tap(w, "eth0")
		answers := described("ARP, Reply " + addr + " is-at ")
		if err := tap.Send(arpRequest(w, addr)); err != nil {
			s.t.Fatal(err)
		}
		for _, n := range s.nodes() {
			last := management[n.Name()].String() // which a host without an address on br100 answers for
			if s.shape.multi {
				last = n.speaksAs().String()
			}
			if last == addr {
				continue
			}
			if err := tap.Send(arpRequest(w, last)); err != nil {
				s.t.Fatal(err)
			}
			frames, err := tap.Until(s.within(), described("ARP, Reply "+last+" is-at "))
			if err != nil {
				s.t.Fatalf("%s does not answer: %v", n.Name(), err)
			}
			for _, f := range frames {
				if answers(f) {
					got = append(got, lab.Describe(f))
				}
			}
		}
		return got
	}
	ask := func(w *workload, addr, mac string) {
		s.t.Helper()
		got, want := answersTo(w, addr), "ARP, Reply "+addr+" is-at "+mac
		if len(got) != 1 || got[0] != want {
			o.fault("%s got %q, want %q", w.name, got, want)
		}
	}
	o.decided = "one host has the address"
	switch {
	case s.shared():
		const mac = "fa:16:3e:00:00:01"
		in, out := s.compute2.guardCounter("uplink_in_gateway"), s.compute1.guardCounter("uplink_out_gateway")
		entered, left := in.count(), out.count()
		ask(s.vm1, gateway.String(), mac)
		ask(s.vm3, gateway.String(), mac)
		o.decided = ""
		o.decidedBy(out, left)
		if in.count() != entered {
			o.fault("a request for the gateway crossed the flat switch")
		}
		for _, n := range s.nodes() {
			n.guardCounter("").remove()
		}
		if got := answersTo(s.vm1, gateway.String()); len(got) < 2 {
			o.fault("the control: without the guard vm1 got %q, want answers of several hosts", got)
		} else {
			o.decided += fmt.Sprintf(", %d answers without it", len(got))
		}
		for _, n := range s.nodes() {
			n.guardCounter("").restore()
		}
	case s.shape.multi:
		ask(s.vm1, gateway.String(), s.compute1.mac("br100"))
		ask(s.vm3, s.compute2.speaksAs().String(), s.compute2.mac("br100"))
	default:
		ask(s.vm1, gateway.String(), s.controller.mac("br100"))
		ask(s.vm3, gateway.String(), s.controller.mac("br100"))
	}
	o.observed = word(len(o.faults) == 0, o.expected, "other answers")
	return o
}

// discoverElsewhere: DHCP stays on the host that serves it. Without that each host would
// hear every client.
func (s *scene) discoverElsewhere() outcome {
	s.t.Helper()
	return drops([2]string{"seen", "not seen"}, s.compute1.guardCounter("uplink_out_dhcp"), func(bool) bool {
		capture := s.watch(s.compute2.At("eth2"))
		s.vm1.boot()
		// What is flooded after it ends the proof of its absence.
		tap := s.tap(s.vm1, "eth0")
		marker, is := lab.Marker(s.vm1.endpoint(), lab.Endpoint{MAC: lab.Broadcast, Addr: s.vm3.addr})
		if err := tap.Send(marker); err != nil {
			s.t.Fatal(err)
		}
		seen, err := capture.Until(s.within(), is)
		if err != nil {
			s.t.Fatal(err)
		}
		return len(lab.Where(seen, described("IP 0.0.0.0.68 > 255.255.255.255.67: DHCP DISCOVER"))) > 0
	})
}
