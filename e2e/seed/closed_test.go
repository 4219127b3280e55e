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

// otherNode is the receiver's, unless it is the sender's.
func (w *closedWay) otherNode() []*node {
	if w.to.n == w.from.n {
		return nil
	}
	return []*node{w.to.n}
}

var (
	fallback  = func(w *closedWay) rule { return w.to.fallback() }
	toClosed  = func(w *closedWay) rule { return w.to.n.guardCounter("out_closed") }
	midstream = func(w *closedWay) rule {
		r := w.from.n.first("FLAT-MIDSTREAM", "-m conntrack --ctstate NEW -j DROP")
		only := r.remove
		r.remove = func() {
			only()
			if w.to.n != w.from.n {
				w.to.n.first("FLAT-MIDSTREAM", "-m conntrack --ctstate NEW -j DROP").remove()
			}
		}
		r.also = w.otherNode()
		return r
	}
	invalid = func(w *closedWay) rule { return w.to.n.first(w.to.chain(), "-m conntrack --ctstate INVALID -j DROP") }
	related = func(w *closedWay) rule {
		return w.to.chainRule("-s 10.0.0.0/24 -m conntrack --ctstate RELATED -j DROP")
	}
)

// first is a chain's first rule, which carries its comment.
func (n *node) first(chain, text string) rule {
	return rule{n: n, counter: chain + " " + text, name: n.Name() + ", " + chain + ": " + text,
		remove: func() { n.run("iptables", "-D", chain, "1") }}
}

var group = net.HardwareAddr{1, 0, 0x5e, 0, 0, 0xfb}

// tries are those of the toggle: nothing of them reaches a workload whose toggle is off.
var tries = []try{
	{name: "ICMP echo request", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.Echo(w.from.addr, w.to.addr, w.port(), 1, []byte(tag)))
	}},
	{name: "UDP datagram", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "TCP SYN", by: fallback, frames: func(w *closedWay, tag string) [][]byte { return w.unicast(w.tcp(lab.TCPSyn, tag)) }},
	{name: "unknown IP protocol", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.IPv4(w.from.addr, w.to.addr, 253, fmt.Appendf(nil, "%d%s", w.port(), tag)))
	}},
	{name: "UDP datagram in fragments", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		packet := lab.UDP(netip.AddrPortFrom(w.from.addr, w.port()), netip.AddrPortFrom(w.to.addr, 9), append(make([]byte, 48), tag...))
		two := lab.Fragments(packet, 32, w.s.flows)
		return w.unicast(two[0], two[1])
	}},
	{name: "the same, the second fragment first", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		packet := lab.UDP(netip.AddrPortFrom(w.from.addr, w.port()), netip.AddrPortFrom(w.to.addr, 9), append(make([]byte, 48), tag...))
		two := lab.Fragments(packet, 32, w.s.flows)
		return w.unicast(two[1], two[0])
	}},
	{name: "by way of the gateway's MAC (hairpin)", by: fallback, opened: returned, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(w.hop, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "forged UDP answer, from port 53", by: fallback, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.udp(53, w.port(), w.to.addr, tag))
	}},
	{name: "forged TCP ACK", by: midstream, opened: midstream, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.tcp(lab.TCPAck, tag))
	}},
	{name: "forged TCP SYN, ACK", by: invalid, opened: invalid, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(w.tcp(lab.TCPSyn|lab.TCPAck, tag))
	}},
	{name: "forged ICMP echo reply", by: invalid, opened: invalid, frames: func(w *closedWay, tag string) [][]byte {
		return w.unicast(lab.EchoReply(w.from.addr, w.to.addr, w.port(), 1, []byte(tag)))
	}},
	{name: "ICMP error quoting a flow of the receiver's", by: related, frames: (*closedWay).quoting},
	{name: "broadcast 255.255.255.255", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, netip.MustParseAddr("255.255.255.255"), tag))
	}},
	{name: "broadcast of the subnet", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, netip.MustParseAddr("10.0.0.255"), tag))
	}},
	{name: "multicast", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(group, w.udp(w.port(), 5353, netip.MustParseAddr("224.0.0.251"), tag))
	}},
	{name: "the receiver's address in a broadcast frame", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(lab.Broadcast, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "the receiver's address in a multicast frame", by: toClosed, frames: func(w *closedWay, tag string) [][]byte {
		return w.frames(group, w.udp(w.port(), 9, w.to.addr, tag))
	}},
	{name: "IPv6, to all nodes", by: noIPv6, opened: noIPv6, frames: func(w *closedWay, tag string) [][]byte {
		return [][]byte{ipv6(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, w.from.mac, "ff02::1", tag)}
	}},
	{name: "IPv6, to a link-local address", by: noIPv6, opened: noIPv6, frames: func(w *closedWay, tag string) [][]byte {
		return [][]byte{ipv6(w.to.mac, w.from.mac, "fe80::2", tag)}
	}},
	{name: "ARP request (stays possible)", frames: func(w *closedWay, tag string) [][]byte {
		// The tag is where Ethernet pads short frames.
		return [][]byte{append(arpRequest(w.from, w.to.addr.String()), tag...)}
	}},
}

// returned is what the controller sends back to the node that it came from.
func returned(w *closedWay) rule {
	if w.s.shape.multi || w.from.n != w.to.n {
		return rule{}
	}
	return w.to.n.guardCounter("uplink_in_ipv4")
}

func noIPv6(w *closedWay) rule {
	r := w.from.n.guardCounter("in_ethertype")
	r.also = w.otherNode()
	return r
}

// ipv6 is a packet of no next header, which nobody answers.
func ipv6(dst, src net.HardwareAddr, to, tag string) []byte {
	p := []byte{0x60, 0, 0, 0, 0, byte(len(tag)), 59, 255}
	p = append(p, netip.MustParseAddr("fe80::1").AsSlice()...)
	p = append(p, netip.MustParseAddr(to).AsSlice()...)
	return lab.Ethernet(dst, src, 0x86dd, append(p, tag...))
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
// same node and to one of another, with the toggle off, and on for the control.
func TestClosedWorkloads(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{singleUplinked(), ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sh, false)
			// The daemons would mend what the controls damage.
			for _, n := range s.nodes() {
				if n.dhcpd != nil {
					if err := n.dhcpd.Stop(); err != nil {
						t.Fatal(err)
					}
					n.dhcpd = nil
				}
			}
			ways := []*closedWay{
				{name: "same node", from: s.vm2, to: s.vm1, path: s.pathTo(s.vm2, s.vm1)},
				{name: "node to node", from: s.vm3, to: s.vm1, path: s.pathTo(s.vm3, s.vm1)},
			}
			for _, w := range ways {
				w.s, w.hop = s, w.from.hop()
			}
			for _, open := range []bool{false, true} {
				s.toggle(open)
				for i, tr := range tries {
					for _, w := range ways {
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
