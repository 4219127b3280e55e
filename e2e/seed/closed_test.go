package seed

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// singleUplinked is single-host over eth2.
func singleUplinked() shape {
	sh := shape{name: "single-host, eth2", keys: map[string]keys{}}
	for name, k := range shapes[0].keys {
		sh.keys[name] = with(k, keys{"flatInterface": "eth2"})
	}
	return sh
}

// try is something that a workload sends to another, or to all, on its own initiative.
type try struct {
	name string
	// frames are what is sent; each that is to arrive ends with tag.
	frames func(w *closedWay, tag string) [][]byte
	// by is what stops it where the receiver's toggle is off. Nil: nothing does, which
	// docs/filter.md says.
	by func(w *closedWay) rule
	// opened is what stops it with the toggle on, too; the control is without that. Nil, or
	// without a rule: nothing does.
	opened func(w *closedWay) rule
}

// closedWay is who sends to whom.
type closedWay struct {
	s        *scene
	name     string
	from, to *workload
	path     path
	hop      net.HardwareAddr // the sender's gateway
	// lan: the sender is a host of the LAN beyond the uplink, who asks no gateway of ours. Its
	// node stands for the receiver's, which is the first that it meets.
	lan bool
}

// unicast is a packet to the receiver, sent there directly.
func (w *closedWay) unicast(packets ...[]byte) [][]byte { return w.frames(w.to.mac, packets...) }

func (w *closedWay) frames(dst net.HardwareAddr, packets ...[]byte) (frames [][]byte) {
	for _, p := range packets {
		frames = append(frames, lab.Ethernet(dst, w.from.mac, 0x0800, p))
	}
	return frames
}

// port is of a flow that nobody had before.
func (w *closedWay) port() uint16 {
	w.s.flows++
	return 20000 + w.s.flows
}

func (w *closedWay) udp(sport, dport uint16, to netip.Addr, tag string) []byte {
	return lab.UDP(netip.AddrPortFrom(w.from.addr, sport), netip.AddrPortFrom(to, dport), []byte(tag))
}

func (w *closedWay) tcp(flags byte, tag string) []byte {
	return lab.TCP(netip.AddrPortFrom(w.from.addr, w.port()), netip.AddrPortFrom(w.to.addr, 80), flags, []byte(tag))
}

// quoting lets the receiver send a datagram to its gateway, and then quotes that, so that
// conntrack calls the error RELATED.
func (w *closedWay) quoting(tag string) [][]byte {
	w.s.t.Helper()
	flow := lab.UDP(netip.AddrPortFrom(w.to.addr, w.port()), netip.AddrPortFrom(gateway, 7), []byte("asked"))
	tap := w.path.to
	if err := tap.Send(lab.Ethernet(w.to.hop(), w.to.mac, 0x0800, flow)); err != nil {
		w.s.t.Fatal(err)
	}
	// The gateway's own error comes when the flow is known everywhere on the way.
	if _, err := tap.Until(w.s.within(), described("IP "+gateway.String()+" > "+w.to.addr.String()+": ICMP unreachable")); err != nil {
		w.s.t.Fatal(err)
	}
	return w.unicast(lab.Unreachable(w.from.addr, w.to.addr, append(flow, tag...)))
}

// hop is the MAC of the workload's gateway.
func (w *workload) hop() net.HardwareAddr {
	w.n.s.t.Helper()
	gw := w.n.keys["ipam.gateway"].(string)
	if !w.n.s.ping(w, netip.MustParseAddr(gw), true) {
		w.n.s.t.Fatalf("%s does not reach its gateway", w.name)
	}
	out, _, err := w.Run(w.n.s.within(), "ip", "neighbour", "show", gw, "dev", "eth0")
	if err != nil {
		w.n.s.t.Fatal(err)
	}
	_, after, _ := strings.Cut(out, "lladdr ")
	mac, err := net.ParseMAC(strings.Fields(after + " -")[0])
	if err != nil {
		w.n.s.t.Fatalf("%s: the neighbours are %q: %v", w.name, out, err)
	}
	return mac
}

// arrives sends frames. Expected: it waits for the tag. Else it waits until r has counted,
// which proves that they were handled, and for what comes behind them.
func (w *closedWay) arrives(frames [][]byte, tag string, expected bool, counted func() bool) bool {
	s := w.s
	s.t.Helper()
	if err := w.path.from.Send(frames...); err != nil {
		s.t.Fatal(err)
	}
	tagged := func(f []byte) bool { return bytes.Contains(f, []byte(tag)) }
	ctx, cancel := context.WithTimeout(s.within(), 20*time.Second)
	defer cancel()
	if expected {
		_, err := w.path.to.Until(ctx, tagged)
		return err == nil
	}
	for ctx.Err() == nil && !counted() {
		time.Sleep(5 * time.Millisecond)
	}
	marker := w.path.marker()
	if err := w.path.from.Send(marker); err != nil {
		s.t.Fatal(err)
	}
	seen, err := w.path.to.Until(s.within(), func(f []byte) bool { return bytes.HasPrefix(f, marker) })
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.ContainsFunc(seen, tagged)
}

// play is the outcome of a try, with the toggle as it is.
func (tr try) play(w *closedWay) outcome {
	s := w.s
	s.t.Helper()
	tag := func() string { s.flows++; return fmt.Sprintf("<try %d>", s.flows) }
	send := func(expected bool, counted func() bool) bool {
		id := tag()
		return w.arrives(tr.frames(w, id), id, expected, counted)
	}
	attempt := func(r rule) func(bool) bool {
		return func(expected bool) bool {
			if expected {
				return send(true, nil)
			}
			// The frames first: making them may move the counter.
			id := tag()
			frames := tr.frames(w, id)
			return w.arrives(frames, id, false, r.counted(1))
		}
	}
	if s.open && tr.opened != nil {
		if r := tr.opened(w); r.n != nil {
			return drops(delivered, r, attempt(r))
		}
	}
	if s.open || tr.by == nil {
		o := outcome{expected: "delivered", observed: word(send(true, nil), "delivered", "dropped")}
		o.decided = word(tr.by == nil, "nothing stops it: docs/filter.md", "the control: toggle on")
		return o
	}
	r := tr.by(w)
	before := r.count()
	o := outcome{expected: "dropped", observed: word(attempt(r)(false), "delivered", "dropped")}
	o.decidedBy(r, before)
	return o
}

// TestClosedWorkloads is the toggle's matrix: what a workload sends on its own, to one of the
// same node and to one of another, and what a host of the LAN sends that has an address of the
// subnet; with the toggle off, and on for the control.
func TestClosedWorkloads(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{singleUplinked(), ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			const lan = "lan"
			s := newSceneOn(t, sh, false, lab.Seed(2).With(lab.Machine{Name: lan, NICs: []lab.NIC{{Name: "eth2", Switch: "flat"}}}))
			// The daemons would mend what the controls damage.
			s.stopDaemons()
			eth2 := s.tap(s.lab.Host(lan), "eth2")
			stranger := &workload{n: s.compute1, name: lan, addr: netip.MustParseAddr("10.0.0.240"), mac: eth2.MAC()}
			fromLAN := path{s: s, from: eth2, to: s.tap(s.vm1, "eth0"), marker: func() []byte {
				m, _ := lab.Marker(stranger.endpoint(), s.vm1.endpoint())
				return m
			}}
			ways := []*closedWay{
				{name: "same node", from: s.vm2, to: s.vm1, path: s.pathTo(s.vm2, s.vm1)},
				{name: "node to node", from: s.vm3, to: s.vm1, path: s.pathTo(s.vm3, s.vm1)},
			}
			for _, w := range ways {
				w.s, w.hop = s, w.from.hop()
			}
			ways = append(ways, &closedWay{s: s, name: "from the LAN", from: stranger, to: s.vm1, path: fromLAN, lan: true})
			for _, open := range []bool{false, true} {
				s.toggle(open)
				for i, tr := range tries {
					for _, w := range ways {
						if w.lan && tr.name == byGateway {
							continue
						}
						t.Run(fmt.Sprintf("sameNet=%t/%s/%s", open, tr.name, w.name), func(t *testing.T) {
							outer := s.t
							s.t = t
							defer func() { s.t = outer }()
							s.play(testCase{id: fmt.Sprintf("T%02d", i+1), action: tr.name + ", " + w.name,
								run: func(*scene) outcome { return tr.play(w) }})
						})
					}
				}
			}
		})
	}
	t.Cleanup(func() { t.Logf("\n%s", results.String()) })
}

// toggle changes allowSameNetTraffic on all nodes.
func (s *scene) toggle(open bool) {
	s.t.Helper()
	s.open = open
	for _, n := range s.nodes() {
		n.apply(keys{"allowSameNetTraffic": open})
	}
}
