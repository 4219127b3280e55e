package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

const (
	// maxDatagram bounds what is read of one message, in bytes; longer is refused.
	maxDatagram = 4096
	// lateQueue is how many messages of known clients, and as many of unknown ones, may
	// wait for a look at the store. It bounds the memory a flood can take, to
	// 2 * lateQueue * maxDatagram.
	lateQueue = 1024
)

// Source is the copy of a network's store that a Server answers from.
type Source interface {
	// Copy never waits and is never nil for a network that is served.
	Copy() *snapshot.Copy
	// Stale reports whether the store has changed since copy c was made sure of.
	Stale(c *snapshot.Copy) bool
	// Fresh returns a copy with everything committed before the call; false: the store
	// cannot be read now, and the copy is the last one.
	Fresh(ctx context.Context) (c *snapshot.Copy, ok bool)
}

// Server serves one network on one bridge.
//
// The receiving goroutine never waits for anything but the network. A message whose
// client is not in the copy, that would be refused by it, or that would be answered
// from a copy that the store has left behind, goes to a second goroutine that first
// makes sure the copy is current. So neither a flood of strangers nor a busy store
// keeps known clients waiting, and no address is given that is the client's no more.
type Server struct {
	source    Source
	transport Transport
	log       *slog.Logger
	binding   atomic.Pointer[Binding]

	// Counters may be replaced before Run, by one that outlives the Server. Hook may be
	// set before Run; nil = nobody wants to know.
	Counters *Counters
	Hook     Hook

	known, unknown chan *lateQuery
	events         chan event
	holds          *holds
	now            func() time.Time // of holds

	free   sync.Pool
	quiet  limiter // lines about silence for strangers: anybody can cause them
	news   limiter // lines about silence for known clients
	broken limiter // lines about errors
}

// lateQuery is a message that waits for a current copy.
type lateQuery struct {
	buf [maxDatagram]byte
	d   Datagram
	at  time.Time // of receipt
}

// New returns a Server that uses transport, which is opened on b. Run closes it.
func New(source Source, transport Transport, b Binding, log *slog.Logger) *Server {
	s := &Server{
		source: source, transport: transport, log: log, Counters: new(Counters), events: make(chan event, eventQueue), holds: newHolds(), now: time.Now,
		known: make(chan *lateQuery, lateQueue), unknown: make(chan *lateQuery, lateQueue),
		quiet:  limiter{interval: time.Second / 5, burst: 20, now: time.Now},
		news:   limiter{interval: time.Second / 5, burst: 20, now: time.Now},
		broken: limiter{interval: time.Second, burst: 5, now: time.Now},
	}
	s.free.New = func() any { return new(lateQuery) }
	s.binding.Store(&b)
	return s
}

// SetBinding tells the server that its bridge has other addresses or another MAC
// now. Another Index needs another Server: its transport is deaf.
func (s *Server) SetBinding(b Binding) { s.binding.Store(&b) }

// Run serves until ctx is done and then closes the transport.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.transport.Close() })
	defer func() {
		if stop() {
			_ = s.transport.Close()
		}
	}()
	wg.Go(func() { s.serveLate(ctx) })
	if s.Hook != nil {
		wg.Go(func() { s.serveEvents(ctx) })
	}

	p := s.newPath()
	buf := make([]byte, maxDatagram)
	var drops uint32
	for {
		d, err := s.transport.Receive(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.complain(fmt.Sprintf("receiving on %s: %v", s.binding.Load().Bridge, err))
			if !pause(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		if lost := d.Drops - drops; int32(lost) > 0 { // a counter that wraps
			drops = d.Drops
			s.Counters.Overflow.Add(uint64(lost))
			s.complain(fmt.Sprintf("the receive buffer on %s overflowed: %d messages lost", s.binding.Load().Bridge, lost))
		}
		s.Counters.Received.Add(1)
		p.at = time.Now()
		switch p.handle(buf, d, s.source.Copy(), quick) {
		case forKnown:
			s.postpone(s.known, buf, d, p.at)
		case forUnknown:
			s.postpone(s.unknown, buf, d, p.at)
		}
	}
}

// postpone hands a message to the second goroutine. Known clients have a queue of
// their own, which strangers cannot fill.
func (s *Server) postpone(queue chan<- *lateQuery, buf []byte, d Datagram, at time.Time) {
	l := s.free.Get().(*lateQuery)
	copy(l.buf[:], d.message(buf))
	l.d, l.at = d, at
	l.d.Off = 0
	select {
	case queue <- l:
	default:
		s.free.Put(l)
		s.Counters.LateDrops.Add(1)
	}
}

// serveLate answers what needs a current copy, as many messages as wait with one
// look at the store: that look comes after all of them did.
func (s *Server) serveLate(ctx context.Context) {
	p := s.newPath()
	batch := make([]*lateQuery, 0, lateQueue)
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-s.known:
			batch = append(batch[:0], l)
		case l := <-s.unknown:
			batch = append(batch[:0], l)
		}
		batch = drain(drain(batch, s.known), s.unknown)
		c, ok := s.source.Fresh(ctx)
		how := current
		if !ok {
			how = unsure
		}
		for _, l := range batch {
			p.at = l.at
			p.handle(l.buf[:], l.d, c, how)
			s.free.Put(l)
		}
	}
}

// drain appends what waits in queue, as far as there is room.
func drain(batch []*lateQuery, queue <-chan *lateQuery) []*lateQuery {
	for len(batch) < cap(batch) {
		select {
		case l := <-queue:
			batch = append(batch, l)
		default:
			return batch
		}
	}
	return batch
}

// complain logs trouble within a rate.
func (s *Server) complain(text string) {
	if held, ok := s.broken.allow(); ok {
		if held > 0 {
			text = fmt.Sprintf("%s (and %d more such lines not logged)", text, held)
		}
		s.log.Warn(text)
	}
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
