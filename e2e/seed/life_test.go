package seed

import (
	"fmt"
	"os"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// lifeCases: workloads that come and go, and programs that are started again.
var lifeCases = []testCase{
	{id: "G1", action: "a workload starts on compute-1", run: func(s *scene) outcome { return s.comesAndGoes(true) }},
	{id: "G2", action: "it stops, neighbours present", run: func(s *scene) outcome { return s.comesAndGoes(false) }},
	{id: "H3", action: "daemon, plugin and flatctl run again beside running workloads", run: (*scene).restart},
}

// states are those of all three hosts. Connections that expire by themselves are forgotten
// first.
func (s *scene) states() map[string]lab.State {
	s.t.Helper()
	all := map[string]lab.State{}
	for _, n := range s.nodes() {
		state, err := n.State(s.within())
		if err != nil {
			s.t.Fatal(err)
		}
		all[n.Name()] = state
	}
	return all
}

// comesAndGoes compares the hosts before, while and after a workload is there.
func (s *scene) comesAndGoes(coming bool) outcome {
	s.t.Helper()
	for _, n := range s.nodes() {
		n.run("conntrack", "-F")
	}
	before := s.states()
	w := s.compute1.attach("guest", lab.CNIOptions{})
	if coming {
		defer w.detach()
		return s.changed(before, "compute-1: port, chain, guard, row; elsewhere nothing")
	}
	w.boot()
	s.ping(w, s.vm2.addr, s.open) // so that there is something to forget
	w.detach()
	return s.changed(before, "nothing is left")
}

// changed says what changed since, and that it is what is expected.
func (s *scene) changed(before map[string]lab.State, expected string) outcome {
	s.t.Helper()
	o := outcome{expected: expected, decided: "the states of all hosts, before and after, line by line"}
	after := s.states()
	var changes []string
	for _, n := range s.nodes() {
		diff := before[n.Name()].Diff(after[n.Name()])
		if diff == "" {
			continue
		}
		own := n == s.compute1 && strings.HasPrefix(expected, n.Name())
		for _, section := range []string{"links", "iptables", "nft", "fdb", "store"} {
			if own && before[n.Name()].Section(section) == after[n.Name()].Section(section) {
				o.fault("nothing changed in section %s", section)
			}
		}
		if !own {
			o.fault("%s:\n%s", n.Name(), diff)
		}
		changes = append(changes, n.Name())
	}
	switch {
	case len(changes) == 0:
		o.observed = "nothing is left"
	case len(changes) == 1 && changes[0] == "compute-1" && len(o.faults) == 0:
		o.observed = "compute-1: port, chain, guard, row; elsewhere nothing"
	default:
		o.observed = "changes on " + strings.Join(changes, ", ")
	}
	return o
}

// restart keeps a ping going that must pass, and one that must not, while programs run.
func (s *scene) restart() outcome {
	s.t.Helper()
	route := s.routeBack()
	defer route()
	fallback := s.vm1.fallback()
	before := fallback.count()
	start := func(h *lab.Host) *lab.Process {
		p, err := h.Start("ping", "-n", "-i", "0.01", s.vm1.addr.String())
		if err != nil {
			s.t.Fatal(err)
		}
		return p
	}
	allowed, forbidden := start(s.gatewayNode().Host), start(s.outside)
	defer func() { _, _ = allowed.Kill(), forbidden.Kill() }()
	if _, _, err := allowed.WaitLine(s.within(), 0, "bytes from"); err != nil {
		s.t.Fatal(err)
	}
	for _, n := range s.nodes() {
		if n.dhcpd != nil {
			if err := n.dhcpd.Stop(); err != nil {
				s.t.Fatal(err)
			}
			n.serve()
			n.serving()
		}
		n.apply(nil)
	}
	s.compute1.attach("guest", lab.CNIOptions{}).detach()
	after := allowed.Mark()
	if _, _, err := allowed.WaitLine(s.within(), after, "bytes from"); err != nil {
		s.t.Fatal(err)
	}
	o := outcome{expected: "no reply lost, none too many"}
	count := func(p *lab.Process) (sent, received int) {
		s.t.Helper()
		if err := p.Signal(os.Interrupt); err != nil {
			s.t.Fatal(err)
		}
		line, _, err := p.WaitLine(s.within(), 0, "packets transmitted")
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &received); err != nil {
			s.t.Fatalf("reading %q: %v", line, err)
		}
		return sent, received
	}
	sent, received := count(allowed)
	tried, answered := count(forbidden)
	// The last request may be under way when the ping is told to end.
	lost := sent-received > 1
	o.observed = word(lost, fmt.Sprintf("%d of %d replies lost", sent-received, sent), "no reply lost") +
		word(answered > 0, fmt.Sprintf(", %d of %d forbidden ones", answered, tried), ", none too many")
	o.decidedBy(fallback, before)
	o.decided += fmt.Sprintf(", all %d from outside; the gateway's %d were answered", tried, received)
	return o
}
