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
	"github.com/flatdhcp/flatdhcp/ipam"
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
	// Stale reports whether the store is known to have changed since.
	Stale() bool
	// Fresh returns a copy with everything committed before the call.
	Fresh(ctx context.Context) *snapshot.Copy
}

// Counters counts since the Server was made. Each is read by itself.
type Counters struct {
	Received  atomic.Uint64 // datagrams
	Refused   atomic.Uint64 // datagrams that are no DHCP message
	Silent    atomic.Uint64 // messages met with silence
	Sent      atomic.Uint64 // frames
	SendFails atomic.Uint64
	Overflow  atomic.Uint64 // datagrams lost in the kernel's receive buffer
	LateDrops atomic.Uint64 // messages lost because too many waited for the store
}

// Server serves one network on one bridge.
//
// The receiving goroutine never waits for anything but the network. A message whose
// client is not in the copy, that would be refused by it, or that would be granted by
// a copy known to be old, goes to a second goroutine that first makes sure the copy
// is current. So neither a flood of strangers nor a busy store keeps known clients
// waiting, and no address is confirmed that is the client's no more.
type Server struct {
	source    Source
	transport Transport
	log       *slog.Logger
	binding   atomic.Pointer[Binding]
	Counters  Counters

	known, unknown chan *lateQuery

	free   sync.Pool
	quiet  limiter // lines about silence: anybody can cause them
	broken limiter // lines about errors
}

// lateQuery is a message that waits for a current copy.
type lateQuery struct {
	buf [maxDatagram]byte
	d   Datagram
}

// New returns a Server that uses transport, which is opened on b. Run closes it.
func New(source Source, transport Transport, b Binding, log *slog.Logger) *Server {
	s := &Server{
		source: source, transport: transport, log: log,
		known: make(chan *lateQuery, lateQueue), unknown: make(chan *lateQuery, lateQueue),
		quiet:  limiter{interval: time.Second / 5, burst: 20, now: time.Now},
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
		switch p.handle(buf, d, s.source.Copy(), false) {
		case forKnown:
			s.postpone(s.known, buf, d)
		case forUnknown:
			s.postpone(s.unknown, buf, d)
		}
	}
}

// postpone hands a message to the second goroutine. Known clients have a queue of
// their own, which strangers cannot fill.
func (s *Server) postpone(queue chan<- *lateQuery, buf []byte, d Datagram) {
	l := s.free.Get().(*lateQuery)
	copy(l.buf[:], buf[:d.Len])
	l.d = d
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
		c := s.source.Fresh(ctx)
		for _, l := range batch {
			p.handle(l.buf[:], l.d, c, true)
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

// outcome says what handle did with a message.
type outcome uint8

const (
	handled    outcome = iota
	forKnown           // nothing: only a current copy can tell, about a known client
	forUnknown         // nothing: the client may have become known
)

// path is one goroutine's working memory from message to reply.
type path struct {
	*Server
	query   Query
	encoder Encoder
	frame   []byte

	// scope was made from these two, which are replaced and never changed.
	scope   *Scope
	made    *snapshot.Copy
	binding *Binding
}

func (s *Server) newPath() *path {
	return &path{Server: s, frame: make([]byte, 0, frameLen+maxReply)}
}

// handle answers one message from copy c. Unless c is current, it leaves those alone
// for which that matters.
func (p *path) handle(buf []byte, d Datagram, c *snapshot.Copy, current bool) outcome {
	q := &p.query
	if d.Cut {
		p.refuse(fmt.Errorf("longer than %d bytes", maxDatagram))
		return handled
	}
	if err := q.Parse(buf[:d.Len]); err != nil {
		p.refuse(err)
		return handled
	}
	q.To = d.To
	if !p.prepare(c) {
		return handled
	}
	row := c.ByMAC(q.MAC())
	r, v := Respond(q, p.scope, row)
	if !current {
		switch {
		case v == Unknown:
			return forUnknown
		case v == Answer && (r.Type == Nak || r.Type == Ack && p.source.Stale()):
			// An OFFER may be old: the client's REQUEST will meet a newer copy.
			return forKnown
		}
	}
	if v != Answer {
		p.silent(v, row)
		return handled
	}
	p.answer(&r)
	return handled
}

// prepare makes the scope for copy c if the last one was made for another.
func (p *path) prepare(c *snapshot.Copy) bool {
	b := p.Server.binding.Load()
	if c == nil {
		return false
	}
	if p.scope != nil && p.made == c && p.binding == b {
		return true
	}
	scope, err := NewScope(&c.Network, b.Addrs)
	if err != nil {
		// The network stopped being served a moment ago; whoever runs us knows.
		return false
	}
	scope.Bridge = b.Bridge
	p.scope, p.made, p.binding = scope, c, b
	return true
}

// answer logs the exchange and sends the reply.
func (p *path) answer(r *Reply) {
	ctx := context.Background()
	if p.log.Enabled(ctx, slog.LevelInfo) {
		q := r.query
		ip, _ := asked(q)
		mac := q.MAC()
		p.log.LogAttrs(ctx, slog.LevelInfo, queryLine(p.scope.Bridge, q, ""), attrs(q.Type(), p.scope, ip, mac))
		if r.Type == Nak {
			p.log.LogAttrs(ctx, slog.LevelInfo, replyLine(r), attrs(Nak, p.scope, ip, mac, "reason", r.Reason))
		} else {
			p.log.LogAttrs(ctx, slog.LevelInfo, replyLine(r), attrs(r.Type, p.scope, r.row.Addr, mac, "hostname", hostname(r.row)))
		}
	}
	p.frame = p.encoder.Append(p.frame[:frameLen], r)
	p.send(r.To)
	if r.Also != (Delivery{}) {
		p.send(r.Also)
	}
	if codes := p.encoder.Dropped(); len(codes) > 0 {
		p.complain(fmt.Sprintf("no room for options %v in the reply to %s (%d bytes at most)", codes, r.query.MAC(), r.Limit))
	}
}

func (p *path) send(to Delivery) {
	putHeaders(p.frame, p.binding.MAC, p.scope.ServerID, to)
	if err := p.transport.Send(p.frame); err != nil {
		p.Counters.SendFails.Add(1)
		if !errors.Is(err, net.ErrClosed) {
			p.complain(fmt.Sprintf("sending on %s: %v", p.scope.Bridge, err))
		}
		return
	}
	p.Counters.Sent.Add(1)
}

// silent logs a message that gets no answer. Those of known clients that mean
// something to people are logged as news, the rest within a rate.
func (p *path) silent(v Verdict, row *ipam.Reservation) {
	p.Counters.Silent.Add(1)
	q, ctx := &p.query, context.Background()
	level := slog.LevelInfo
	switch v {
	case Declined:
		level = slog.LevelWarn
	case OtherServer, NoRequest, Relayed, BadHardware, OtherType, BOOTP, Malformed:
		// A client of another server on the segment is none of our business.
		level = slog.LevelDebug
	}
	if !p.log.Enabled(ctx, level) {
		return
	}
	held, ok := p.quiet.allow()
	if !ok {
		return
	}
	suffix := v.String()
	switch v {
	case Declined:
		suffix = "address in use by another station on the bridge"
		if text, ok := q.option(optMessage, 1); ok {
			suffix = clean(string(text))
		}
	case Released:
		suffix = ""
		if row == nil || q.CIAddr != row.Addr {
			suffix = "unknown lease"
		}
	}
	ip, _ := asked(q)
	at := []any{"verdict", v.String()}
	if held > 0 {
		at = append(at, "suppressed", held)
		suffix = fmt.Sprintf("%s (and %d more messages not logged)", suffix, held)
	}
	p.log.LogAttrs(ctx, level, queryLine(p.scope.Bridge, q, suffix), attrs(q.Type(), p.scope, ip, q.MAC(), at...))
}

// refuse counts what is no DHCP message at all.
func (p *path) refuse(why error) {
	p.Counters.Refused.Add(1)
	if !p.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	if _, ok := p.quiet.allow(); ok {
		p.log.Debug(fmt.Sprintf("datagram on %s refused: %v", p.Server.binding.Load().Bridge, why))
	}
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
