package server

import (
	"context"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// eventQueue is how many events may wait for a Hook. More are lost and counted: a
// slow reader must cost neither packets nor memory.
const eventQueue = 4096

// EventKind says what happened to a lease.
type EventKind uint8

// Kinds of events. A Server makes all but Reserved, which is the store's to tell.
const (
	Reserved    EventKind = iota + 1 // a row came into the store
	Offered                          // an OFFER was sent
	Bound                            // an ACK was sent to a client that had no address
	Renewed                          // an ACK was sent to a client that kept its address
	ReleasedNow                      // the client gave its address up; the row stays
	DeclinedNow                      // the client found its address in use by another
	Refused                          // a NAK was sent
)

// String returns the word that streams of events use.
func (k EventKind) String() string {
	switch k {
	case Reserved:
		return "reserved"
	case Offered:
		return "offered"
	case Bound:
		return "bound"
	case Renewed:
		return "renewed"
	case ReleasedNow:
		return "released"
	case DeclinedNow:
		return "declined"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Event is something that happened to the lease of a known client. Strangers make
// none: anybody can pretend to be one.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Network string
	Bridge  string
	MAC     ipam.MAC
	// IP is the address it is about: the reserved one, but for Refused the one that
	// the client asked for.
	IP netip.Addr
	// Row is the client's reservation as it was then. It must not be changed.
	Row *ipam.Reservation
	// Lease is how long an Offered, Bound or Renewed lease is good for; 0 = for ever.
	Lease time.Duration
	// Hostname and VendorClass are what the client says of itself (options 12 and
	// 60), cleaned and cut to 64 bytes; empty if it says nothing.
	Hostname    string
	VendorClass string
	// Reason is why it was Refused, or what the client said when it Declined.
	Reason string
}

// Hook is told of leases. Its calls come from one goroutine of the Server, in the
// order of the events, and never hold up a packet: what comes faster than the Hook
// takes it waits in a queue of bounded length and is then lost, which
// Counters.EventDrops counts. After the Server's context is done nothing comes any more.
type Hook interface {
	LeaseEvent(Event)
}

// textSize is how much of a client's text an event keeps, in bytes.
const textSize = 64

// text is a short string that can be copied without allocating.
type text struct {
	n uint8
	b [textSize]byte
}

func textOf[S string | []byte](s S) (t text) {
	t.n = uint8(copy(t.b[:], s))
	return t
}

func (t *text) String() string { return clean(string(t.b[:t.n])) }

// event is an Event on its way through the queue.
type event struct {
	kind                     EventKind
	at                       time.Time
	scope                    *Scope
	mac                      ipam.MAC
	ip                       netip.Addr
	row                      *ipam.Reservation
	lease                    uint32
	hostname, vendor, reason text
}

// tell queues an event about the message in hand.
func (p *path) tell(kind EventKind, row *ipam.Reservation, ip netip.Addr, lease uint32, reason text) {
	if p.Hook == nil {
		return
	}
	q := &p.query
	e := event{kind: kind, at: time.Now(), scope: p.scope, mac: q.MAC(), ip: ip, row: row, lease: lease, reason: reason}
	if v, ok := q.option(optHostname, 1); ok {
		e.hostname = textOf(v)
	}
	if v, ok := q.option(optVendorClass, 1); ok {
		e.vendor = textOf(v)
	}
	select {
	case p.events <- e:
	default:
		p.Counters.EventDrops.Add(1)
	}
}

// serveEvents hands events to the Hook until ctx is done.
func (s *Server) serveEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.events:
			s.Hook.LeaseEvent(e.event())
		}
	}
}

func (e *event) event() Event {
	lease := time.Duration(e.lease) * time.Second
	if e.lease == infinite {
		lease = 0
	}
	return Event{
		Kind: e.kind, Time: e.at, Network: e.scope.Network, Bridge: e.scope.Bridge, MAC: e.mac, IP: e.ip, Row: e.row,
		Lease: lease, Hostname: e.hostname.String(), VendorClass: e.vendor.String(), Reason: e.reason.String(),
	}
}
