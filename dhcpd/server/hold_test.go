package server

import (
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// TestDeclineHoldsDown: an address that its client declined is not given again for 30
// seconds, to that client alone; forged DECLINEs do not keep it from anybody.
func TestDeclineHoldsDown(t *testing.T) {
	c, l := &clock{at: time.Unix(1000, 0)}, &listener{}
	neighbour := ipam.Reservation{Addr: taken, MAC: ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 7}, Hostname: "neighbour"}
	s, w, _ := running(t, &rows{current: copyOf(testNetwork(), *testRow(), neighbour)}, func(s *Server) { s.now, s.Hook = c.now, l })
	count := func(outcome string) (n uint64) {
		for c := range s.Counters.Messages() {
			if c.Outcome == outcome {
				n += c.N
			}
		}
		return n
	}
	discover := client(t, dhcpv4.MessageTypeDiscover)
	selecting := client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved))
	decline := client(t, dhcpv4.MessageTypeDecline, option4(54, gateway), option4(50, reserved))
	control := client(t, dhcpv4.MessageTypeDiscover, from(neighbour.MAC))
	answered := func(when string, m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) {
		t.Helper()
		w.send(m)
		if got := w.next(t); got.MessageType() != kind || got.ClientHWAddr.String() != m.ClientHWAddr.String() {
			t.Fatalf("%s: %v, want %v", when, got.Summary(), kind)
		}
	}
	// The next client's message is handled after it, and gets the next answer.
	silent := func(when string, m *dhcpv4.DHCPv4) {
		t.Helper()
		w.send(m)
		answered(when, control, dhcpv4.MessageTypeOffer)
	}

	w.in <- incoming{b: decline.ToBytes(), d: Datagram{To: broadcastIP, From: neighbour.MAC}}
	answered("a DECLINE that a neighbour forged", discover, dhcpv4.MessageTypeOffer)
	if n := count("forged"); n != 1 {
		t.Errorf("forged counts %d, want 1", n)
	}
	answered("the lease", selecting, dhcpv4.MessageTypeAck)
	c.move(5 * time.Second)
	silent("the DECLINE", decline)
	silent("a DISCOVER right after it", discover)
	silent("a REQUEST right after it", selecting)
	silent("another DECLINE, which does not start the time anew", decline)
	c.move(holdDown - time.Second)
	silent("a DISCOVER after 29 seconds", discover)
	c.move(time.Second)
	answered("a DISCOVER after 30 seconds", discover, dhcpv4.MessageTypeOffer)
	answered("and the lease again", selecting, dhcpv4.MessageTypeAck)
	if d, h := count("declined"), count("held_down"); d != 2 || h != 3 {
		t.Errorf("declined %d, held down %d, want 2 and 3", d, h)
	}
	declined := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, e := range l.list {
			if e.Kind == DeclinedNow && e.Row.Hostname == "cirros" {
				n++
			}
		}
		return n
	}
	await(t, "the events", func() bool { return declined() == 2 })
}

func TestHoldsStayBounded(t *testing.T) {
	h, now := newHolds(), time.Unix(1000, 0)
	for i := range 100000 {
		now = now.Add(time.Second)
		h.decline(ipam.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, now)
	}
	if len(h.declined) > int(holdDown/time.Second) {
		t.Errorf("%d entries after a long time", len(h.declined))
	}
}
