package names

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

const (
	// maxWaiting is how many questions may wait for others' answers at once, and maxEach
	// how many of one client: a workload that floods does not take the others' turn.
	maxWaiting, maxEach = 512, 64
	// maxConns and maxConnsEach are the same for TCP connections.
	maxConns, maxConnsEach = 128, 16
	// loopback is the kernel's index of lo, in every namespace (LOOPBACK_IFINDEX).
	loopback   = 1
	headerSize = 12
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

// Counters counts since the Server was made. Each is read by itself. Every query is in
// Queries and in one of the outcomes below.
type Counters struct {
	Queries atomic.Uint64 // messages, by UDP and TCP
	TCP     atomic.Uint64 // of these, by TCP

	Outsiders atomic.Uint64 // met with silence: not from the network's workloads or this node
	Silent    atomic.Uint64 // met with silence: no query at all
	Refused   atomic.Uint64 // FORMERR, NOTIMP, BADVERS, REFUSED, and ANY cut short
	Found     atomic.Uint64 // answered from the zone
	NoData    atomic.Uint64 // the zone has the name, not the type
	NoName    atomic.Uint64 // NXDOMAIN from the zone
	Cached    atomic.Uint64 // another server's answer, kept
	Forwarded atomic.Uint64 // another server's answer
	Failed    atomic.Uint64 // SERVFAIL: no server answered
	Busy      atomic.Uint64 // SERVFAIL: too many questions wait already
}

// Server answers for one network at its gateway address.
//
// What the zone or the cache settles is answered by the goroutine that received it;
// what has to wait, for the store or for another server, gets a goroutine of its own,
// of which there is a bounded number.
type Server struct {
	// Counters may be replaced before Run, by those of an earlier Server that this one
	// goes on with.
	Counters *Counters
	Upstream *upstream.Resolver

	source  Source
	sockets *Sockets
	index   int // of the bridge
	log     *slog.Logger
	debug   bool

	built    atomic.Pointer[built]
	building sync.Mutex

	waiting, conns *slots
	outsiders      limiter
	busy           limiter
}

type built struct {
	from *snapshot.Copy
	zone *Zone
}

// New returns a Server on sockets, for the bridge with the given link index. Run closes
// them.
func New(source Source, sockets *Sockets, index int, up *upstream.Resolver, log *slog.Logger) *Server {
	return &Server{
		Counters: new(Counters), Upstream: up,
		source: source, sockets: sockets, index: index, log: log,
		debug:     log.Enabled(context.Background(), slog.LevelDebug),
		waiting:   newSlots(maxWaiting, maxEach),
		conns:     newSlots(maxConns, maxConnsEach),
		outsiders: limiter{every: 10 * time.Second}, busy: limiter{every: 10 * time.Second},
	}
}

// zone returns the zone of the copy as it is, which the first to ask for it makes.
func (s *Server) zone() *Zone {
	if b := s.built.Load(); b != nil && b.from == s.source.Copy() {
		return b.zone
	}
	s.building.Lock()
	defer s.building.Unlock()
	c := s.source.Copy()
	if b := s.built.Load(); b != nil && b.from == c {
		return b.zone
	}
	z := NewZone(&c.Network, c.Rows(), uint32(c.Ident.TxID))
	if c.Network.Bridge != nil {
		s.Upstream.Configure(c.Network.Bridge.DNS.Forwarders)
	}
	s.built.Store(&built{c, z})
	return z
}

// admitted reports whether a client is one: an address of the subnet that came by the
// bridge, or the node itself. Anybody else could use a resolver to hide behind, or to
// hit others with what it answers.
func (s *Server) admitted(from netip.Addr, link int) bool {
	return link == loopback || link == s.index && s.zone().Subnet.Contains(from)
}

// asking is one message and what is known of it.
type asking struct {
	from netip.AddrPort
	tcp  bool
	req  *dns.Msg
}

// begin answers what can be answered at once. A nil reply means silence, unless wait:
// then finish answers.
func (s *Server) begin(wire []byte, from netip.AddrPort, tcp bool) (q *asking, reply *dns.Msg, wait bool) {
	// What is no query meets silence: two servers that answer each other's answers would
	// never end.
	if len(wire) < headerSize || wire[2]&0x80 != 0 || from.Port() == 0 {
		s.Counters.Silent.Add(1)
		return nil, nil, false
	}
	q = &asking{from: from, tcp: tcp, req: new(dns.Msg)}
	if err := q.req.Unpack(wire); err != nil {
		s.Counters.Refused.Add(1)
		broken := &dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(wire), Opcode: int(wire[2]>>3) & 0xf}}
		return q, failed(broken, dns.RcodeFormatError), false
	}
	if r := refusal(q.req); r != nil {
		s.Counters.Refused.Add(1)
		return q, r, false
	}
	ask := q.req.Question[0]
	if s.debug {
		s.log.Debug(fmt.Sprintf("query[%s] %s from %s", dns.Type(ask.Qtype), shown(ask.Name), from.Addr()))
	}
	r, finding := s.zone().own(q.req)
	switch {
	case finding == Found || finding != Elsewhere && !s.source.Stale(s.source.Copy()):
		return q, s.local(r, finding), false
	case finding != Elsewhere:
		return q, nil, true // its reservation may just have been made
	case !q.req.RecursionDesired:
		// What the cache has is nobody's business who does not want it resolved.
		s.Counters.Refused.Add(1)
		return q, failed(q.req, dns.RcodeRefused), false
	case ask.Qtype == dns.TypeANY:
		s.Counters.Refused.Add(1)
		return q, minimal(q.req), false
	}
	if m := s.Upstream.Cached(ask, wantsDNSSEC(q.req), q.req.CheckingDisabled); m != nil {
		return q, s.remote(q, m, true), false
	}
	return q, nil, true
}

// finish answers what begin left, after a look at the store or at other servers.
func (s *Server) finish(ctx context.Context, q *asking) *dns.Msg {
	ask := q.req.Question[0]
	if _, finding := s.zone().own(q.req); finding != Elsewhere {
		s.source.Fresh(ctx) // if that fails: an old copy is better than none
		if r, finding := s.zone().own(q.req); finding != Elsewhere {
			return s.local(r, finding)
		}
	}
	m, cached, err := s.Upstream.Resolve(ctx, ask, wantsDNSSEC(q.req), q.req.CheckingDisabled)
	if err != nil {
		if s.debug {
			s.log.Debug(fmt.Sprintf("reply %s is SERVFAIL: %v", shown(ask.Name), err))
		}
		s.Counters.Failed.Add(1)
		return failed(q.req, dns.RcodeServerFailure)
	}
	return s.remote(q, m, cached)
}

// local counts and logs a reply from the zone.
func (s *Server) local(r *dns.Msg, f Finding) *dns.Msg {
	switch f {
	case Found:
		s.Counters.Found.Add(1)
	case NoData:
		s.Counters.NoData.Add(1)
	default:
		s.Counters.NoName.Add(1)
	}
	if s.debug {
		s.log.Debug(replyLine("DHCP", r))
	}
	return r
}

// remote counts, logs and makes a reply of another server's answer.
func (s *Server) remote(q *asking, m *dns.Msg, cached bool) *dns.Msg {
	word := "reply"
	switch {
	case m.Rcode == dns.RcodeServerFailure:
		s.Counters.Failed.Add(1)
	case cached:
		s.Counters.Cached.Add(1)
		word = "cached"
	default:
		s.Counters.Forwarded.Add(1)
	}
	r := relayed(q.req, m)
	if s.debug {
		s.log.Debug(replyLine(word, r))
	}
	return r
}

// overload answers a query for which there is no goroutine.
func (s *Server) overload(q *asking) *dns.Msg {
	s.Counters.Busy.Add(1)
	if held, ok := s.busy.allow(time.Now()); ok {
		s.log.Warn(fmt.Sprintf("Maximum number of concurrent DNS queries reached (max: %d, of one client %d), last by %s%s",
			maxWaiting, maxEach, q.from.Addr(), more(held)))
	}
	return failed(q.req, dns.RcodeServerFailure)
}

func wantsDNSSEC(req *dns.Msg) bool {
	opt := req.IsEdns0()
	return opt != nil && opt.Do()
}

// pack makes a reply ready for the wire, cut to what its client takes; nil if that
// cannot be done, which no reply that was unpacked or made here should cause.
func (s *Server) pack(q *asking, r *dns.Msg, buf []byte) []byte {
	if q.tcp {
		r.Truncate(dns.MaxMsgSize)
	} else {
		r.Truncate(limit(q.req))
	}
	b, err := r.PackBuffer(buf)
	if err == nil {
		return b
	}
	if b, err = failed(q.req, dns.RcodeServerFailure).PackBuffer(buf); err != nil {
		return nil
	}
	return b
}
