package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// tick is how often clients that wait are looked at.
const tick = 5 * time.Millisecond

// load is one run of DHCP clients against one server. All of it is done by the goroutine
// that calls run: a client costs less than the switch to a goroutine of its own would.
type load struct {
	link *link
	mode mode
	// clients are the numbers of the hosts that take part; window of them at most are
	// in the middle of an exchange at any time.
	clients []int
	window  int
	// every is how long after each other they begin; 0 = as soon as the window allows.
	every time.Duration
	// last says when to begin no more; 0 = once each client had one exchange.
	last time.Duration
	// patience is the time for a whole run, after which who waits counts as unserved.
	patience time.Duration
	// wait returns how long a client waits for an answer to its nth message, from 0.
	wait func(n int) time.Duration
}

// outcome is what a run came to.
type outcome struct {
	exchanges int // ended by an ACK before last, if there is one
	all       int // ended by an ACK at any time: what the server worked for
	elapsed   time.Duration
	latencies []time.Duration // from DISCOVER to ACK, sorted
	repeats   int             // messages sent again since no answer came in time
	unserved  int             // clients that still had no lease when patience ended
}

// quantile returns the latency that the part q of all exchanges does not exceed.
func (o *outcome) quantile(q float64) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	return o.latencies[min(int(q*float64(len(o.latencies))), len(o.latencies)-1)]
}

// station is one client.
type station struct {
	addr     netip.Addr
	mac      ipam.MAC
	serverID netip.Addr
	xid      uint32
	waits    byte // for offer or ack; 0 = idle
	sent     int  // messages of the same kind so far
	begun    time.Duration
	deadline time.Duration
}

// backOff is RFC 2131 section 4.1: four seconds, doubled each time, plus or minus one.
func backOff(n int) time.Duration {
	return 4*time.Second<<min(n, 4) + time.Duration(rand.Int64N(int64(2*time.Second))) - time.Second
}

// constant waits the same for every message.
func constant(d time.Duration) func(int) time.Duration {
	return func(int) time.Duration { return d }
}

// run is the state of a load that runs.
type run struct {
	*load
	start    time.Time
	now      time.Duration
	stations []station
	byMAC    map[ipam.MAC]*station
	busy     int
	began    int
	frame    []byte
	out      outcome
}

// run runs the load. A wrong answer, an error of the link and a NAK end it.
func (l *load) run() (outcome, error) {
	r := &run{
		load: l, stations: make([]station, len(l.clients)), byMAC: make(map[ipam.MAC]*station, len(l.clients)),
		frame: make([]byte, 0, 1024),
	}
	for i, n := range l.clients {
		s := &r.stations[i]
		s.addr, s.mac = host(n)
		s.xid = rand.Uint32()
		r.byMAC[s.mac] = s
	}
	if err := l.link.drain(); err != nil {
		return outcome{}, err
	}
	r.start = time.Now()
	if err := r.loop(); err != nil {
		return outcome{}, err
	}
	if r.out.elapsed == 0 {
		r.out.elapsed = r.now
	}
	slices.Sort(r.out.latencies)
	return r.out, nil
}

func (r *run) loop() error {
	buf := make([]byte, 2048)
	nextTick := tick
	for {
		r.now = time.Since(r.start)
		closing := r.last > 0 && r.now >= r.last
		if closing && r.out.elapsed == 0 {
			r.out.elapsed = r.now
		}
		for !closing && r.due() {
			if err := r.begin(&r.stations[r.began%len(r.stations)]); err != nil {
				return err
			}
		}
		if over := closing || r.last == 0 && r.began == len(r.stations); over && r.busy == 0 {
			return nil
		}
		if r.now > r.patience {
			r.out.unserved = r.busy
			return nil
		}
		n, err := r.link.receive(buf, nextTick-r.now)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := r.heard(buf[:n]); err != nil {
				return err
			}
			continue
		}
		// Only now: were we kept from the CPU, the answers were there all the time.
		if r.now = time.Since(r.start); r.now >= nextTick {
			nextTick = r.now + tick
			if err := r.repeat(); err != nil {
				return err
			}
		}
	}
}

// due reports whether the next client may begin.
func (r *run) due() bool {
	if r.busy >= r.window || r.last == 0 && r.began == len(r.stations) {
		return false
	}
	// Round and round, past no client that is still in its exchange.
	return r.now >= time.Duration(r.began)*r.every && r.stations[r.began%len(r.stations)].waits == 0
}

func (r *run) begin(s *station) error {
	r.began++
	r.busy++
	s.xid++
	s.waits, s.sent, s.begun = offer, 0, r.now
	return r.say(s)
}

// say sends what brings the client on.
func (r *run) say(s *station) error {
	q := query{kind: discover, xid: s.xid, mac: s.mac}
	if s.waits == ack {
		q.kind, q.asked, q.serverID = request, s.addr, s.serverID
	}
	switch r.mode {
	case broadcast:
		q.flags = 0x8000
	case relayed:
		q.relay, q.relayMAC, q.server, q.serverMAC = relay, relayMAC, gateway, bridgeMAC
	}
	s.deadline = r.now + r.wait(s.sent)
	s.sent++
	return r.link.send(q.put(r.frame))
}

// repeat lets clients speak again that waited for long enough.
func (r *run) repeat() error {
	for i := range r.stations {
		s := &r.stations[i]
		if s.waits == 0 || r.now < s.deadline {
			continue
		}
		r.out.repeats++
		if err := r.say(s); err != nil {
			return err
		}
	}
	return nil
}

// heard handles a frame.
func (r *run) heard(f []byte) error {
	a, err := parseAnswer(f)
	if errors.Is(err, errNoAnswer) {
		return nil
	}
	s := r.byMAC[a.mac]
	if s == nil || a.xid != s.xid || s.waits == 0 {
		return nil // a late second answer
	}
	r.now = time.Since(r.start)
	switch {
	case a.kind == nak:
		return fmt.Errorf("%s has refused %s to %s", a.serverID, s.addr, s.mac)
	case a.kind != s.waits:
		return nil
	case a.yiaddr != s.addr:
		return fmt.Errorf("%s gives %s to %s, whose address is %s", a.serverID, a.yiaddr, s.mac, s.addr)
	case a.kind == offer:
		s.waits, s.sent, s.serverID = ack, 0, a.serverID
		return r.say(s)
	}
	s.waits = 0
	r.busy--
	r.out.all++
	if r.last == 0 || r.now < r.last {
		r.out.exchanges++
	}
	r.out.latencies = append(r.out.latencies, r.now-s.begun)
	return nil
}

// flood sends DISCOVERs of strangers, each from a MAC of its own, until there were n of
// them or done is closed, at a rate a second. It returns how many it sent.
func flood(l *link, n int, rate float64, done <-chan struct{}) (int, time.Duration, error) {
	start := time.Now()
	frame := make([]byte, 0, 1024)
	for sent := 0; sent < n; {
		select {
		case <-done:
			return sent, time.Since(start), nil
		default:
		}
		due := min(int(time.Since(start).Seconds()*rate)+1, n)
		for ; sent < due; sent++ {
			mac := ipam.MAC{0x06, 0xbd, 0, 0, byte(sent >> 8), byte(sent)}
			q := query{kind: discover, xid: uint32(sent), mac: mac}
			if err := l.send(q.put(frame)); err != nil {
				return sent, time.Since(start), err
			}
		}
		if err := unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return sent, time.Since(start), err
		}
	}
	return n, time.Since(start), nil
}
