package seed

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// TestWhatAClosedWorkloadGets plays what the toggle leaves: what the operator allows, answers,
// and what docs/filter.md names as possible all the same.
func TestWhatAClosedWorkloadGets(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{singleUplinked(), ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sh, false)
			for _, w := range []*workload{s.vm1, s.vm3} {
				s.tells(w)
			}
			near := &closedWay{s: s, name: "same node", from: s.vm2, to: s.vm1, path: s.pathTo(s.vm2, s.vm1)}
			far := &closedWay{s: s, name: "node to node", from: s.vm3, to: s.vm1, path: s.pathTo(s.vm3, s.vm1)}
			for _, c := range []testCase{
				{id: "V01", action: "ping of a neighbour, ingress for icmp", run: func(*scene) outcome { return near.ingress() }},
				{id: "V02", action: "ping of another node's workload, ingress for icmp", run: func(*scene) outcome { return far.ingress() }},
				{id: "V03", action: "answer of another node's workload, whose ingress allows it", run: (*scene).answer},
				{id: "V07", action: "a connection that ingress allows, flatctl apply on all nodes", run: (*scene).kept},
				{id: "V04", action: "UDP answer to what it sent to a closed neighbour", run: func(*scene) outcome { return near.datagramBack() }},
				{id: "V05", action: "UDP answer to what it sent to another node's closed workload", run: func(*scene) outcome { return far.datagramBack() }},
				{id: "V06", action: "a neighbour by a proxy on the gateway's host", run: (*scene).proxy},
			} {
				t.Run(c.id, func(t *testing.T) {
					outer := s.t
					s.t = t
					defer func() { s.t = outer }()
					s.play(c)
				})
			}
		})
	}
	t.Cleanup(func() { t.Logf("\n%s", results.String()) })
}

// ingress allows pings of the subnet and nothing else.
func (w *closedWay) ingress() outcome {
	s := w.s
	s.t.Helper()
	ping := func(expected bool) bool { return s.ping(w.from, w.to.addr, expected) }
	before := w.to.fallback().count()
	if ping(false) {
		return outcome{expected: "dropped without it", observed: "answered without it"}
	}
	without := outcome{}
	without.decidedBy(w.to.fallback(), before)
	w.to.n.apply(keys{"ingress": []keys{{"protocol": "icmp", "from": []string{"10.0.0.0/24"}}}})
	defer w.to.n.apply(keys{"ingress": nil})
	o := accepts(answered, w.to.chainRule("-s 10.0.0.0/24 -p icmp -j ACCEPT"), ping)
	o.faults = append(o.faults, without.faults...)
	o.decided += "; dropped without it"
	return o
}

// answer: a closed workload gets the answers to what it begins.
func (s *scene) answer() outcome {
	s.t.Helper()
	s.compute2.apply(keys{"ingress": []keys{{"protocol": "tcp", "ports": "80", "from": []string{"10.0.0.0/24"}}}})
	defer s.compute2.apply(keys{"ingress": nil})
	return s.reaches(s.vm1, netip.AddrPortFrom(s.vm3.addr, 80), s.vm1.addr, s.vm1.established())
}

// kept: rules are put in force anew, which cuts what the toggle forbids and nothing else.
func (s *scene) kept() outcome {
	s.t.Helper()
	const port = 7
	s.echoes(s.vm1, port)
	s.compute1.apply(keys{"ingress": []keys{{"protocol": "tcp", "ports": "7", "from": []string{"10.0.0.0/24"}}}})
	defer s.compute1.apply(keys{"ingress": nil})
	echo := netip.AddrPortFrom(s.vm1.addr, port)
	streams := []*stream{s.stream("TCP, same node", s.vm2, nil, echo), s.stream("TCP, from another node", s.vm3, nil, echo)}
	for _, f := range streams {
		s.goesOn(f)
	}
	for _, n := range s.nodes() {
		n.run("flatctl", "apply", lab.ConflistPath(network))
	}
	for _, f := range streams {
		s.goesOn(f)
	}
	return outcome{expected: "goes on", observed: "goes on", decided: "conntrack entries of what ingress allows stay"}
}

// datagramBack: the receiver first sends a datagram to the sender, whose toggle is off, too.
// On one node that drops it, and conntrack forgets it. Between nodes it has left the
// receiver's node by then, which so takes for an answer what comes back.
func (w *closedWay) datagramBack() outcome {
	s := w.s
	s.t.Helper()
	sport, dport := w.port(), w.port()
	dropped := w.from.fallback()
	counted := dropped.counted(1)
	first := lab.UDP(netip.AddrPortFrom(w.to.addr, sport), netip.AddrPortFrom(w.from.addr, dport), []byte("asked"))
	if err := w.path.to.Send(lab.Ethernet(w.from.mac, w.to.mac, 0x0800, first)); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the sender's chain to drop the first datagram", counted)
	tag := fmt.Sprintf("<back %d>", dport)
	frames := w.unicast(w.udp(dport, sport, w.to.addr, tag))
	if w.to.n == w.from.n {
		return drops(delivered, w.to.fallback(), func(expected bool) bool {
			return w.arrives(frames, tag, expected, lazily(expected, w.to.fallback()))
		})
	}
	r := w.to.established()
	before := r.count()
	o := outcome{expected: "delivered", observed: word(w.arrives(frames, tag, true, nil), "delivered", "dropped")}
	o.decidedBy(r, before)
	return o
}

// lazily is counted(1) where a rule is in force.
func lazily(absent bool, r rule) func() bool {
	if absent {
		return nil
	}
	return r.counted(1)
}

// proxy: a program on the gateway's host hands connections on. To the workload they are the
// gateway's, which the toggle does not concern.
func (s *scene) proxy() outcome {
	s.t.Helper()
	g := s.gatewayNode()
	var l net.Listener
	if err := g.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":8081")
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx := s.within()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			handOn(ctx, g, in, netip.AddrPortFrom(s.vm1.addr, 80))
		}
	}()
	as := g.own()
	return s.reaches(s.vm2, netip.AddrPortFrom(gateway, 8081), as, s.vm1.fromNode(as))
}

// handOn copies what a server says to a client.
func handOn(ctx context.Context, from labtest.Place, client net.Conn, to netip.AddrPort) {
	defer func() { _ = client.Close() }()
	server, err := dial(ctx, from, to)
	if err != nil {
		return // the client sees that nothing comes
	}
	defer func() { _ = server.Close() }()
	_, _ = io.Copy(client, server) // the same
}

// fromNode lets by what comes from a node: its gateway address, or its own on the bridge.
func (w *workload) fromNode(addr netip.Addr) rule {
	if addr == gateway {
		return w.gatewayRule()
	}
	return w.chainRule("-o br100 -m physdev ! --physdev-is-bridged -m addrtype --src-type LOCAL --limit-iface-out -j ACCEPT")
}

// eventually waits for a condition.
func (s *scene) eventually(what string, is func() bool) {
	s.t.Helper()
	ctx := s.within()
	for !is() {
		if ctx.Err() != nil {
			s.t.Fatalf("waiting for %s: %v", what, ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
