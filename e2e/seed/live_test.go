package seed

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// echoes serves a TCP port that says back what it is told, until the test ends.
func (s *scene) echoes(in labtest.Place, port uint16) {
	s.t.Helper()
	labtest.Serve(s.t, in, fmt.Sprintf(":%d", port), labtest.Echo)
}

// stream is a connection that says something without a pause, and is answered.
type stream struct {
	name   string
	sender *node // where what the client sends meets FLAT-MIDSTREAM first

	mu       sync.Mutex
	answered int
	last     time.Time
	err      error
}

// streamEvery is how often a stream says something.
const streamEvery = 10 * time.Millisecond

// stream begins one, which goes on until the test ends.
func (s *scene) stream(name string, from labtest.Place, sender *node, to netip.AddrPort) *stream {
	s.t.Helper()
	c, err := dial(s.within(), from, to)
	if err != nil {
		s.t.Fatal(err)
	}
	f := &stream{name: name, sender: sender}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	s.t.Cleanup(func() { cancel(); _ = c.Close(); running.Wait() })
	ended := func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil && ctx.Err() == nil {
			f.err = err
		}
	}
	running.Go(func() {
		tick := time.NewTicker(streamEvery)
		defer tick.Stop()
		for {
			if _, err := c.Write([]byte{'x'}); err != nil {
				ended(err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	running.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				ended(err)
				return
			}
			f.mu.Lock()
			f.answered, f.last = f.answered+n, time.Now()
			f.mu.Unlock()
		}
	})
	return f
}

// state is how much was answered, when last, and what ended the connection.
func (f *stream) state() (answered int, last time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answered, f.last, f.err
}

// goesOn waits until the stream is answered some more.
func (s *scene) goesOn(f *stream) {
	s.t.Helper()
	before, _, _ := f.state()
	s.eventually(f.name+" to be answered", func() bool {
		now, _, err := f.state()
		if err != nil {
			s.t.Fatalf("%s has ended: %v", f.name, err)
		}
		return now >= before+5
	})
}

// replies are the times at which a running ping -D was answered.
func replies(ping *lab.Process) (times []time.Time) {
	for _, line := range ping.Lines() {
		stamp, rest, _ := strings.Cut(strings.TrimPrefix(line, "["), "] ")
		if seconds, err := strconv.ParseFloat(stamp, 64); err == nil && strings.Contains(rest, "bytes from ") {
			times = append(times, time.UnixMicro(int64(seconds*1e6)))
		}
	}
	return times
}

// since is the time of the first reply after a moment; zero = there is none yet.
func since(ping *lab.Process, moment time.Time) time.Time {
	for _, at := range replies(ping) {
		if at.After(moment) {
			return at
		}
	}
	return time.Time{}
}

// change is a way to change the conflist of a network that runs.
type change struct {
	name    string
	confDir bool // the daemon follows the file, nobody calls flatctl
}

// toggleLive changes allowSameNetTraffic on all nodes, vm1's first, and returns when it began.
func (s *scene) toggleLive(c change, open bool) time.Time {
	s.t.Helper()
	began := time.Now()
	for _, n := range []*node{s.compute1, s.compute2, s.controller} {
		if c.confDir {
			n.configure(keys{"allowSameNetTraffic": open})
		} else {
			n.apply(keys{"allowSameNetTraffic": open})
		}
	}
	s.open = open
	return began
}

// followFiles starts the daemons anew, with --conf-dir.
func (s *scene) followFiles() {
	s.t.Helper()
	for _, n := range s.nodes() {
		if err := n.dhcpd.Stop(); err != nil {
			s.t.Fatal(err)
		}
		p, err := n.StartDaemon("--conf-dir", "/etc/cni/net.d")
		if err != nil {
			s.t.Fatal(err)
		}
		n.dhcpd = p
		s.whole.Cleanup(func() {
			if s.whole.Failed() {
				s.whole.Logf("flat-dhcpd on %s:\n%s", n.Name(), strings.Join(p.Lines(), "\n"))
			}
			if err := p.Stop(); err != nil {
				s.whole.Errorf("stopping flat-dhcpd on %s: %v", n.Name(), err)
			}
		})
		n.serving()
	}
}

// TestToggleOnALiveNetwork closes and opens a network on which flows run. Closing cuts those
// between workloads, and what was cut stays cut; those with the gateway go on.
func TestToggleOnALiveNetwork(t *testing.T) {
	labtest.RequireRoot(t)
	byHand, byFile := change{name: "flatctl apply"}, change{name: "--conf-dir", confDir: true}
	for _, c := range []struct {
		shape shape
		by    change
	}{{ownGateways, byHand}, {ownGateways, byFile}, {sharedGateway, byHand}, {singleUplinked(), byHand}} {
		t.Run(c.shape.name+", "+c.by.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, c.shape, true)
			if c.by.confDir {
				s.followFiles()
			}
			s.live(c.by)
		})
	}
	t.Cleanup(func() { t.Logf("\n%s", results.String()) })
}

func (s *scene) live(by change) {
	s.t.Helper()
	s.echoes(s.vm1, 7)
	echo := netip.AddrPortFrom(s.vm1.addr, 7)
	near := s.stream("TCP, same node", s.vm2, s.compute1, echo)
	far := s.stream("TCP, from another node", s.vm3, s.compute1, echo)
	own := s.stream("TCP, from the gateway", s.gatewayNode(), nil, echo)
	flows := []*stream{near, far, own}
	pings := map[string]*lab.Process{}
	for name, w := range map[string]*workload{"ping, same node": s.vm2, "ping, from another node": s.vm3} {
		ping, err := w.Start("ping", "-D", "-n", "-i", "0.02", s.vm1.addr.String())
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = ping.Kill() })
		pings[name] = ping
		s.eventually(name+" to be answered", func() bool { return len(replies(ping)) > 2 })
	}
	for _, f := range flows {
		s.goesOn(f)
	}

	// What counts what is cut: the end of vm1's chain for pings, the common rule for TCP.
	stale := func(f *stream) rule { return f.sender.first("FLAT-MIDSTREAM", "-m conntrack --ctstate NEW -j DROP") }
	counters := []rule{s.vm1.fallback(), stale(near), stale(far)}
	var before []int
	for _, r := range counters {
		before = append(before, r.count())
	}
	closed := s.toggleLive(by, false)
	for i, r := range counters {
		s.eventually(r.name+" to drop", func() bool { return r.count() >= before[i]+3 })
	}
	type cut struct {
		answered int
		after    time.Duration
	}
	cuts := map[*stream]cut{}
	for _, f := range []*stream{near, far} {
		answered, last, _ := f.state()
		cuts[f] = cut{answered, last.Sub(closed)}
	}
	stopped := map[string]time.Duration{}
	for name, ping := range pings {
		all := replies(ping)
		stopped[name] = all[len(all)-1].Sub(closed)
	}
	s.goesOn(own)
	for i, r := range counters {
		s.eventually(r.name+" to drop more", func() bool { return r.count() >= before[i]+4 })
	}
	pingsAfter := map[string]int{}
	for name, ping := range pings {
		pingsAfter[name] = len(replies(ping))
	}
	s.eventually("more pings to be dropped", s.vm1.fallback().counted(10))
	record := func(id, what, expected, observed, decided string, faults ...string) {
		s.t.Helper()
		s.play(testCase{id: id, action: what + ", " + by.name, run: func(*scene) outcome {
			return outcome{expected: expected, observed: observed, decided: decided, faults: faults}
		}})
	}
	late := func(d time.Duration) string {
		return fmt.Sprintf("last answer %d ms after the change began", max(d, 0).Milliseconds())
	}
	for name, ping := range pings {
		observed := word(len(replies(ping)) == pingsAfter[name], "stopped", "answered")
		record("W01", "closing: "+name, "stopped", observed, s.vm1.fallback().name+", "+late(stopped[name]))
	}

	opened := s.toggleLive(by, true)
	for name, ping := range pings {
		s.eventually(name+" to be answered again", func() bool { return !since(ping, opened).IsZero() })
		record("W02", "opening: "+name, "answered", "answered",
			fmt.Sprintf("first answer %d ms after the change began", since(ping, opened).Sub(opened).Milliseconds()))
	}
	for _, f := range []*stream{near, far} {
		// Its client still tries.
		r := stale(f)
		s.eventually(f.name+" to try again", r.counted(1))
		answered, _, err := f.state()
		observed := word(answered == cuts[f].answered, "cut for good", "revived")
		record("W03", "closing and opening: "+f.name, "cut for good", observed, fmt.Sprintf("%s, %s; the client: %v", r.name, late(cuts[f].after), err))
	}
	s.goesOn(own)
	_, _, err := own.state()
	record("W04", "closing and opening: "+own.name, "goes on", word(err == nil, "goes on", fmt.Sprint(err)), s.vm1.established().name)
	for name, w := range map[string]*workload{"same node": s.vm2, "from another node": s.vm3} {
		s.goesOn(s.stream("a new connection, "+name, w, nil, echo))
	}
}
