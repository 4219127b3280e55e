package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// prober sends without a pause what must never arrive: from a neighbour to the address and
// the MAC of a closed workload, and from inside that workload in another's name. It does so
// whether or not the workload is attached.
type prober struct {
	n        *node
	inside   *lab.Tap // all interfaces of the workload's container
	kinds    []probe
	stop     chan struct{}
	running  sync.WaitGroup
	sequence atomic.Uint64 // of the round that is being sent

	mu      sync.Mutex
	arrived map[string][]uint64 // by kind, the rounds
	phases  []phase             // in order
}

// probe is one kind of frame.
type probe struct {
	name  string
	send  func(frame []byte) error
	frame func(payload []byte) []byte
}

// phase is what went on from some round on.
type phase struct {
	name    string
	from    uint64
	allowed bool // what arrives is no fault but the control
}

const probeMark = "flatdhcp probe/"

// probeEvery is how often a round is sent.
const probeEvery = 2 * time.Millisecond

// newProber starts probing container c, whose workload is to have the address and MAC,
// from its neighbour.
func newProber(n *node, c *lab.Container, addr netip.Addr, mac net.HardwareAddr, from *workload) *prober {
	n.t.Helper()
	p := &prober{n: n, stop: make(chan struct{}), arrived: map[string][]uint64{}}
	open := func(t *lab.Tap, err error) *lab.Tap {
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = t.Close() })
		return t
	}
	p.inside = open(c.TapAll())
	outside, bridge := from.tap(), open(n.Tap("br100"))

	attack := func(frame []byte) error { return outside.SendBy("eth0", frame) }
	spoof := func(frame []byte) error { return p.inside.SendBy("eth0", frame) }
	udp := func(src, dst netip.Addr, payload []byte) []byte {
		return lab.UDP(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, 9), payload)
	}
	everybody, foreign := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("192.0.2.9")
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	p.kinds = []probe{
		{"unicast", attack, func(b []byte) []byte { return lab.Ethernet(mac, from.mac, 0x0800, udp(from.addr, addr, b)) }},
		{"foreign destination", attack, func(b []byte) []byte { return lab.Ethernet(mac, from.mac, 0x0800, udp(from.addr, foreign, b)) }},
		{"broadcast", attack, func(b []byte) []byte {
			return lab.Ethernet(lab.Broadcast, from.mac, 0x0800, udp(from.addr, everybody, b))
		}},
		{"spoofed MAC", spoof, func(b []byte) []byte { return lab.Ethernet(lab.Broadcast, stranger, 0x0800, udp(addr, everybody, b)) }},
		{"spoofed address", spoof, func(b []byte) []byte { return lab.Ethernet(lab.Broadcast, mac, 0x0800, udp(from.addr, everybody, b)) }},
		{"spoofed ARP", spoof, func(b []byte) []byte {
			// The payload is where Ethernet pads short frames.
			return append(lab.ARP(lab.Broadcast, mac, lab.ARPReply, lab.Endpoint{MAC: mac, Addr: gateway}, from.endpoint()), b...)
		}},
	}
	for _, tap := range []*lab.Tap{p.inside, bridge} {
		go p.receive(tap)
	}
	p.running.Go(p.send)
	n.t.Cleanup(func() { close(p.stop); p.running.Wait() })
	return p
}

func (p *prober) send() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		round := p.sequence.Add(1)
		for _, k := range p.kinds {
			// Most of the time the workload has no interface, or one that is down.
			_ = k.send(k.frame(fmt.Appendf(nil, "%s%s/%d/", probeMark, k.name, round)))
		}
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
	}
}

// receive notes what arrives at a tap until that is closed.
func (p *prober) receive(tap *lab.Tap) {
	for {
		frame, err := tap.Receive(p.n.t.Context())
		if err != nil {
			return
		}
		_, mark, ok := strings.Cut(string(frame), probeMark)
		part := strings.Split(mark, "/")
		if !ok || len(part) < 3 {
			continue
		}
		// The bridge hears the neighbour's broadcasts by right.
		inside := tap == p.inside
		if fromInside := strings.HasPrefix(part[0], "spoofed"); inside == fromInside {
			continue
		}
		round, err := strconv.ParseUint(part[1], 10, 64)
		if err != nil {
			continue
		}
		p.mu.Lock()
		p.arrived[part[0]] = append(p.arrived[part[0]], round)
		p.mu.Unlock()
	}
}

// during says what goes on from now on.
func (p *prober) during(name string, allowed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What of the round under way is sent already belongs to what was before.
	p.phases = append(p.phases, phase{name: name, from: p.sequence.Load() + 1, allowed: allowed})
}

// rounds waits until some more rounds have been sent.
func (p *prober) rounds(some uint64) {
	p.n.t.Helper()
	end := p.sequence.Load() + some + 1
	p.n.eventually("probes to be sent", func() bool { return p.sequence.Load() >= end })
}

// silent fails the test if anything arrived that was sent in a phase that does not allow it.
// Then it takes the obstacles away, one kind of frame after the other arrives, and so does
// whatever came before it: that is the control.
//
// The workload must be attached.
func (p *prober) silent() {
	p.n.t.Helper()
	p.during("the control", true)
	p.n.apply(keys{"allowSameNetTraffic": true})
	p.n.run("nft", "delete", "table", "bridge", "flatdhcp")
	p.n.eventually("every kind of probe to arrive without the guard, with the toggle on", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		from := p.phases[len(p.phases)-1].from
		for _, k := range p.kinds {
			if rounds := p.arrived[k.name]; len(rounds) == 0 || rounds[len(rounds)-1] < from {
				return false
			}
		}
		return true
	})
	p.n.apply(keys{"allowSameNetTraffic": false})
	p.mu.Lock()
	defer p.mu.Unlock()
	for kind, rounds := range p.arrived {
		faults := map[string]int{}
		for _, r := range rounds {
			at := slices.IndexFunc(p.phases, func(ph phase) bool { return ph.from > r }) - 1
			if at == -2 {
				at = len(p.phases) - 1
			}
			if at < 0 || !p.phases[at].allowed {
				faults[p.phases[max(at, 0)].name]++
			}
		}
		for during, count := range faults {
			p.n.t.Errorf("%d %s probes arrive while %s", count, kind, during)
		}
	}
}
