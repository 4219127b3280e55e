package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// outcome says what handle did with a message.
type outcome uint8

const (
	handled    outcome = iota
	forKnown           // nothing: only a current copy can tell, about a known client
	forUnknown         // nothing: the client may have become known
)

// freshness says what is known of the copy that a message is answered from.
type freshness uint8

const (
	quick   freshness = iota // the one at hand: leave aside what it does not settle
	current                  // everything committed before the message is in it
	unsure                   // the last one: the store cannot be read now
)

// path is one goroutine's working memory from message to reply.
type path struct {
	*Server
	query   Query
	encoder Encoder
	frame   []byte
	at      time.Time // when the message in hand was received
	peers   peerLeases

	// scope was made from these two, which are replaced and never changed.
	scope   *Scope
	made    *snapshot.Copy
	binding *Binding
}

func (s *Server) newPath() *path {
	return &path{Server: s, frame: make([]byte, 0, frameLen+maxReply)}
}

// handle answers one message from copy c, or leaves it alone if how is quick and it
// matters whether c is current.
func (p *path) handle(buf []byte, d Datagram, c *snapshot.Copy, how freshness) outcome {
	q := &p.query
	if err := p.read(buf, d); err != nil {
		p.refuse(err)
		return handled
	}
	q.To, q.From = d.To, d.From
	if !p.prepare(c) {
		return handled
	}
	if d.To != broadcastIP && !p.scope.isLocal(d.To) && d.To != p.scope.broadcast {
		p.refuse(errElsewhere)
		return handled
	}
	row := c.ByMAC(q.MAC())
	if row == nil {
		row = p.peers.of(c, q.MAC())
	}
	q.Held = row != nil && p.holds.held(q.MAC(), p.now())
	r, v := Respond(q, p.scope, row)
	refused := v == Answer && r.Type == Nak
	switch {
	case how == quick && v == Unknown:
		return forUnknown
	case how == quick && v == Answer && (refused || p.source.Stale(c)):
		return forKnown
	case how == unsure && refused:
		// Granting goes on from what was last read, but to take an address from a
		// client needs certainty. It asks again.
		v = Unsure
	case v == Declined:
		p.holds.decline(q.MAC(), p.now())
	}
	if v != Answer {
		p.silent(v, row)
		return handled
	}
	p.answer(&r)
	return handled
}

// Errors of what is no DHCP message for us, beside those of Parse.
var (
	errCut       = fmt.Errorf("longer than %d bytes", maxDatagram)
	errDamaged   = errors.New("its headers or checksums are damaged")
	errElsewhere = errors.New("it is on its way to another server")
)

// read finds the message in what was received.
func (p *path) read(buf []byte, d Datagram) error {
	switch {
	case d.Cut:
		return errCut
	case d.Damaged:
		return errDamaged
	}
	return p.query.Parse(d.message(buf))
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
	scope, err := NewScope(&c.Network, *b)
	if err != nil {
		// The network stopped being served a moment ago; whoever runs us knows.
		return false
	}
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
	p.Counters.countAnswer(r.query.Type(), r.Type)
	p.frame = p.encoder.Append(p.frame[:frameLen], r)
	p.send(r.To)
	if r.Also != (Delivery{}) {
		p.send(r.Also)
	}
	p.Counters.countLatency(time.Since(p.at))
	p.announce(r)
	if codes := p.encoder.Dropped(); len(codes) > 0 {
		p.complain(fmt.Sprintf("no room for options %v in the reply to %s (%d bytes at most)", codes, r.query.MAC(), r.Limit))
	}
}

// announce queues the event that a reply is. An answer to INFORM is none.
func (p *path) announce(r *Reply) {
	switch {
	case r.Type == Offer:
		p.tell(Offered, r.row, r.row.Addr, r.Lease, text{})
	case r.Type == Nak:
		ip, _ := asked(r.query)
		p.tell(Refused, r.row, ip, 0, textOf(r.Reason))
	case r.CIAddr != zeroIP && r.Lease != 0:
		p.tell(Renewed, r.row, r.row.Addr, r.Lease, text{})
	case r.Lease != 0:
		p.tell(Bound, r.row, r.row.Addr, r.Lease, text{})
	}
}

func (p *path) send(to Delivery) {
	putHeaders(p.frame, p.binding.MAC, p.scope.ServerID, to)
	var err error
	if to.Relay {
		err = p.transport.Route(p.frame[ethernetLen:], to.IP)
	} else {
		err = p.transport.Send(p.frame)
	}
	if err != nil {
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
	q, ctx := &p.query, context.Background()
	p.Counters.countSilence(q.Type(), v)
	switch {
	case v == Declined:
		said, _ := q.option(optMessage, 1)
		p.tell(DeclinedNow, row, row.Addr, 0, textOf(said))
	case v == Released && row != nil && q.CIAddr == row.Addr:
		p.tell(ReleasedNow, row, row.Addr, 0, text{})
	}
	level := slog.LevelInfo
	switch v {
	case Declined:
		level = slog.LevelWarn
	case OtherServer, NoRequest, Relayed, OtherLink, BadHardware, OtherType, BOOTP, Malformed:
		// A client of another server on the segment is none of our business.
		level = slog.LevelDebug
	}
	if !p.log.Enabled(ctx, level) {
		return
	}
	limit := &p.news
	if row == nil {
		limit = &p.quiet
	}
	held, ok := limit.allow()
	if !ok {
		return
	}
	suffix := v.String()
	switch v {
	case Unknown:
		if q.Type() == Release {
			suffix = "unknown lease"
		}
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
