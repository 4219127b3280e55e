package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

const patience = 20 * time.Second

var bridgeMAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 1}

// wire is a Transport in memory.
type wire struct {
	in     chan incoming
	out    chan []byte
	closed chan struct{}
	once   sync.Once
	refuse atomic.Bool // Send fails
}

type incoming struct {
	b   []byte
	d   Datagram
	err error
}

func newWire() *wire {
	return &wire{in: make(chan incoming, 10000), out: make(chan []byte, 10000), closed: make(chan struct{})}
}

func (w *wire) Receive(b []byte) (Datagram, error) {
	select {
	case <-w.closed:
		return Datagram{}, net.ErrClosed
	case m := <-w.in:
		m.d.Len = copy(b, m.b)
		m.d.Cut = len(m.b) > len(b)
		return m.d, m.err
	}
}

func (w *wire) Send(frame []byte) error {
	if w.refuse.Load() {
		return errors.New("no buffer space available")
	}
	w.out <- bytes.Clone(frame)
	return nil
}

func (w *wire) Route(packet []byte, _ netip.Addr) error {
	return w.Send(append(make([]byte, ethernetLen), packet...))
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// send hands the server a message that came by broadcast.
func (w *wire) send(m *dhcpv4.DHCPv4) {
	w.in <- incoming{b: m.ToBytes(), d: Datagram{To: broadcastIP}}
}

// next returns the next frame's message.
func (w *wire) next(t testing.TB) *dhcpv4.DHCPv4 {
	t.Helper()
	select {
	case f := <-w.out:
		checkFrame(t, f)
		return decode(t, f[frameLen:])
	case <-time.After(patience):
		t.Fatal("no answer")
		return nil
	}
}

// rows is a Source in memory.
type rows struct {
	mu      sync.Mutex
	current *snapshot.Copy
	next    *snapshot.Copy // what Fresh will find
	stale   bool
	broken  bool // the store cannot be read
	fresh   int
	gate    chan struct{} // if set, Fresh waits for a token
}

func copyOf(n *ipam.Network, list ...ipam.Reservation) *snapshot.Copy {
	return snapshot.NewCopy(&ipam.Snapshot{Network: *n, Rows: list})
}

func (r *rows) Copy() *snapshot.Copy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *rows) Stale(*snapshot.Copy) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stale
}

func (r *rows) Fresh(ctx context.Context) (*snapshot.Copy, bool) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh++
	r.stale = false
	if r.next != nil {
		r.current, r.next = r.next, nil
	}
	return r.current, !r.broken
}

// running starts a server that ends with the test.
func running(t testing.TB, r *rows, change ...func(*Server)) (*Server, *wire, *testlog.Buffer) {
	t.Helper()
	w, log := newWire(), &testlog.Buffer{}
	s := New(r, w, Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}}, slog.New(slog.NewTextHandler(log, nil)))
	for _, f := range change {
		f(s)
	}
	t.Cleanup(func() {
		select {
		case <-w.closed:
		default:
			t.Error("the transport is still open")
		}
	})
	served(t, s) // its clean-up comes first
	return s, w, log
}

// served runs s until the test ends.
func served(t testing.TB, s *Server) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	return s
}

// heapInUse returns how many bytes are reachable.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestKnownClientsDoNotWaitForTheStore(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow()), gate: make(chan struct{})} // the store never answers
	s, w, _ := running(t, r)
	for i := range 5 * lateQueue {
		w.send(client(t, dhcpv4.MessageTypeDiscover, from(ipam.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)})))
	}
	for range 100 {
		w.send(client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved)))
		if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeAck || ipam.MAC(m.ClientHWAddr) != known {
			t.Fatalf("got %v", m.Summary())
		}
	}
	// The flood had its queue and one batch in hand, and no more.
	if n := s.Counters.LateDrops.Load(); n < 3*lateQueue {
		t.Errorf("%d messages dropped, want at least %d: memory is not bounded", n, 3*lateQueue)
	}
	// And it does not crowd out known clients that need the store too.
	w.send(client(t, dhcpv4.MessageTypeRequest, option4(50, taken)))
	await(t, "the message to be taken", func() bool { return len(w.in) == 0 })
	close(r.gate)
	if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("got %v, want a NAK", m.MessageType())
	}
}

func TestStoreIsAskedBefore(t *testing.T) {
	moved := *testRow()
	moved.Addr = taken
	other := ipam.Reservation{Addr: netip.MustParseAddr("10.0.0.99"), MAC: stranger, Hostname: "new"}
	selecting := func(ip netip.Addr) []dhcpv4.Modifier {
		return []dhcpv4.Modifier{option4(54, gateway), option4(50, ip)}
	}
	for _, tc := range []struct {
		name  string
		next  *snapshot.Copy
		stale bool
		m     *dhcpv4.DHCPv4
		want  dhcpv4.MessageType
		ip    netip.Addr
		fresh int
	}{
		{"a MAC is called unknown", copyOf(testNetwork(), *testRow(), other), false,
			client(t, dhcpv4.MessageTypeDiscover, from(stranger)), dhcpv4.MessageTypeOffer, other.Addr, 1},
		{"a known client is refused", copyOf(testNetwork(), moved), false,
			client(t, dhcpv4.MessageTypeRequest, selecting(taken)...), dhcpv4.MessageTypeAck, taken, 1},
		{"an address is confirmed by a copy known to be old", copyOf(testNetwork(), moved), true,
			client(t, dhcpv4.MessageTypeRequest, selecting(reserved)...), dhcpv4.MessageTypeNak, zeroIP, 1},
		{"one is offered by such a copy", copyOf(testNetwork(), moved), true,
			client(t, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, taken, 1},
		{"but not before a known client is served", nil, false,
			client(t, dhcpv4.MessageTypeRequest, selecting(reserved)...), dhcpv4.MessageTypeAck, reserved, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &rows{current: copyOf(testNetwork(), *testRow()), next: tc.next, stale: tc.stale}
			_, w, _ := running(t, r)
			w.send(tc.m)
			m := w.next(t)
			if m.MessageType() != tc.want || !m.YourIPAddr.Equal(tc.ip.AsSlice()) {
				t.Errorf("got %v of %v, want %v of %v", m.MessageType(), m.YourIPAddr, tc.want, tc.ip)
			}
			if r.fresh != tc.fresh {
				t.Errorf("%d looks at the store, want %d", r.fresh, tc.fresh)
			}
		})
	}
}

// TestStoreThatCannotBeRead: what was last read is still granted, but nobody is refused
// by it.
func TestStoreThatCannotBeRead(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow()), broken: true, stale: true}
	_, w, log := running(t, r)
	w.send(client(t, dhcpv4.MessageTypeRequest, option4(50, taken)))
	w.send(client(t, dhcpv4.MessageTypeDiscover, from(stranger)))
	w.send(client(t, dhcpv4.MessageTypeRequest, option4(50, reserved)))
	if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("got %v, want an ACK only", m.MessageType())
	}
	for _, want := range []string{
		"DHCPREQUEST(br100) 10.0.0.7 fa:16:3e:00:00:02 ignored: not what was reserved when the store could last be read",
		"DHCPDISCOVER(br100) fa:16:3e:00:00:63 no address available",
	} {
		await(t, want, func() bool { return strings.Contains(log.String(), want) })
	}
	if len(w.out) > 0 {
		t.Errorf("also sent: %v", w.next(t).Summary())
	}
}

func TestOneLookForAllThatWait(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow()), gate: make(chan struct{})}
	_, w, _ := running(t, r)
	w.send(client(t, dhcpv4.MessageTypeDiscover, from(ipam.MAC{2, 0, 0, 0, 0, 1})))
	await(t, "the first message to be taken", func() bool { return len(w.in) == 0 })
	const waiting = 500
	list := []ipam.Reservation{*testRow()}
	for i := range waiting {
		mac := ipam.MAC{2, 0, 0, 0, 1 + byte(i>>8), byte(i)}
		list = append(list, ipam.Reservation{MAC: mac, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(3 + i%200)})})
		w.send(client(t, dhcpv4.MessageTypeDiscover, from(mac)))
	}
	await(t, "all messages to wait", func() bool { return len(w.in) == 0 })
	r.mu.Lock()
	r.next = copyOf(testNetwork(), list...)
	r.mu.Unlock()
	close(r.gate)
	for range waiting {
		w.next(t)
	}
	if r.mu.Lock(); r.fresh > 4 {
		t.Errorf("%d looks at the store for %d messages", r.fresh, waiting)
	}
	r.mu.Unlock()
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func TestNetworkAndBridgeChangeUnderAServer(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow())}
	s, w, _ := running(t, r)
	lease := func() (d time.Duration, mac ipam.MAC) {
		w.send(client(t, dhcpv4.MessageTypeDiscover))
		f := <-w.out
		return decode(t, f[frameLen:]).IPAddressLeaseTime(0), ipam.MAC(f[6:12])
	}
	if d, mac := lease(); d != 2*time.Minute || mac != bridgeMAC {
		t.Fatal(d, mac)
	}
	other := ipam.MAC{2, 9, 9, 9, 9, 9}
	s.SetBinding(Binding{Bridge: "br100", MAC: other, Addrs: []netip.Addr{gateway, second}})
	if d, mac := lease(); d != 2*time.Minute || mac != other {
		t.Errorf("lease time %v from %v after the bridge alone has changed", d, mac)
	}
	n := testNetwork()
	n.Bridge.LeaseTime = ipam.Duration(time.Hour)
	r.mu.Lock()
	r.current = copyOf(n, *testRow())
	r.mu.Unlock()
	if d, mac := lease(); d != time.Hour || mac != other {
		t.Errorf("lease time %v from %v after the change", d, mac)
	}
	w.send(client(t, dhcpv4.MessageTypeRequest, option4(54, second), option4(50, reserved)))
	if m := w.next(t); m.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("by the new address: %v", m.MessageType())
	}
	// A network that stops being served is silent at once and comes back as well.
	n = testNetwork()
	n.Bridge.IsGateway = false
	r.mu.Lock()
	r.current = copyOf(n, *testRow())
	r.mu.Unlock()
	w.send(client(t, dhcpv4.MessageTypeDiscover))
	await(t, "the message to be taken", func() bool { return len(w.in) == 0 })
	r.mu.Lock()
	r.current = copyOf(testNetwork(), *testRow())
	r.mu.Unlock()
}

func TestLogLines(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow())}
	_, w, log := running(t, r)
	evil := raw(56, []byte("\x1b[2Jmsg=\"forged\"\nDHCPACK(br100)")...)
	for _, m := range []*dhcpv4.DHCPv4{
		client(t, dhcpv4.MessageTypeDiscover, option4(50, taken)),
		client(t, dhcpv4.MessageTypeDecline, option4(54, gateway), option4(50, reserved), evil),
		client(t, dhcpv4.MessageTypeDecline, option4(54, gateway), option4(50, reserved)),
		client(t, dhcpv4.MessageTypeRelease, ciaddr(reserved)),
		client(t, dhcpv4.MessageTypeRelease, ciaddr(taken)),
		client(t, dhcpv4.MessageTypeInform, ciaddr(reserved)),
		client(t, dhcpv4.MessageTypeRequest, option4(50, taken)),
	} {
		w.send(m)
	}
	for _, want := range []string{
		`msg="DHCPDISCOVER(br100) 10.0.0.7 fa:16:3e:00:00:02" dhcp.type=DHCPDISCOVER dhcp.network=flat dhcp.bridge=br100 dhcp.mac=fa:16:3e:00:00:02 dhcp.ip=10.0.0.7`,
		`msg="DHCPOFFER(br100) 10.0.0.2 fa:16:3e:00:00:02" dhcp.type=DHCPOFFER dhcp.network=flat dhcp.bridge=br100 dhcp.mac=fa:16:3e:00:00:02 dhcp.ip=10.0.0.2 dhcp.hostname=cirros`,
		`level=WARN msg="DHCPDECLINE(br100) 10.0.0.2 fa:16:3e:00:00:02 ?[2Jmsg=\"forged\"?DHCPACK(br100)"`,
		`msg="DHCPDECLINE(br100) 10.0.0.2 fa:16:3e:00:00:02 address in use by another station on the bridge"`,
		`msg="DHCPRELEASE(br100) 10.0.0.2 fa:16:3e:00:00:02"`,
		`msg="DHCPRELEASE(br100) 10.0.0.7 fa:16:3e:00:00:02 unknown lease"`,
		`msg="DHCPINFORM(br100) 10.0.0.2 fa:16:3e:00:00:02"`,
		`msg="DHCPACK(br100) 10.0.0.2 fa:16:3e:00:00:02 cirros"`,
		`msg="DHCPNAK(br100) 10.0.0.7 fa:16:3e:00:00:02 wrong address"`,
	} {
		await(t, want, func() bool { return strings.Contains(log.String(), want) })
	}
}

func TestStrangersCannotFloodTheLog(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow())}
	s, w, log := running(t, r)
	const flood = 900 // fewer than may wait
	for i := range flood {
		w.send(client(t, dhcpv4.MessageTypeDiscover, from(ipam.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)})))
	}
	await(t, "the flood to be dealt with", func() bool { return s.Counters.Silent.Load() == flood })
	if n := strings.Count(log.String(), "no address available"); n == 0 || n > 100 {
		t.Errorf("%d lines about %d messages", n, flood)
	}
	await(t, "a line that says how many were held back", func() bool {
		w.send(client(t, dhcpv4.MessageTypeDiscover, from(stranger)))
		return strings.Contains(log.String(), "more messages not logged)")
	})
}

func TestTroubleIsCountedAndSurvived(t *testing.T) {
	r := &rows{current: copyOf(testNetwork(), *testRow())}
	s, w, log := running(t, r)
	w.in <- incoming{err: errors.New("network is down")}
	w.in <- incoming{b: make([]byte, 9000)}
	w.in <- incoming{b: []byte{1, 2, 3}}
	w.in <- incoming{b: client(t, dhcpv4.MessageTypeDiscover).ToBytes(), d: Datagram{To: broadcastIP, Drops: 7}}
	w.next(t)
	w.in <- incoming{b: client(t, dhcpv4.MessageTypeDiscover).ToBytes(), d: Datagram{To: broadcastIP, Drops: 9}}
	w.next(t)
	w.refuse.Store(true)
	w.send(client(t, dhcpv4.MessageTypeDiscover))
	await(t, "the failed reply to be counted", func() bool { return s.Counters.SendFails.Load() == 1 })
	w.refuse.Store(false)
	w.send(client(t, dhcpv4.MessageTypeDiscover))
	w.next(t)
	c := s.Counters
	await(t, "the last reply to be counted", func() bool { return c.Sent.Load() == 3 })
	if c.Overflow.Load() != 9 || c.Refused.Load() != 2 || c.Sent.Load() != 3 || c.Received.Load() != 6 {
		t.Errorf("overflow %d, refused %d, sent %d, received %d; want 9, 2, 3, 6", c.Overflow.Load(), c.Refused.Load(), c.Sent.Load(), c.Received.Load())
	}
	for _, want := range []string{
		"receiving on br100: network is down",
		"the receive buffer on br100 overflowed: 7 messages lost",
		"the receive buffer on br100 overflowed: 2 messages lost",
		"sending on br100: no buffer space available",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no line %q in:\n%s", want, log)
		}
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	l := limiter{interval: time.Second, burst: 3, now: func() time.Time { return now }}
	count := func(tries int) (passed, held int) {
		for range tries {
			if h, ok := l.allow(); ok {
				passed, held = passed+1, held+h
			}
		}
		return passed, held
	}
	for _, step := range []struct {
		wait         time.Duration
		tries        int
		passed, held int
	}{
		{0, 10, 3, 0},
		{500 * time.Millisecond, 5, 0, 0},
		{500 * time.Millisecond, 5, 1, 12},
		{2 * time.Second, 5, 2, 4},
		{time.Hour, 10, 3, 3},
		{-time.Hour, 5, 0, 0}, // a clock that jumps back stops nothing but log lines
		{time.Hour + time.Second, 1, 1, 12},
	} {
		now = now.Add(step.wait)
		if p, h := count(step.tries); p != step.passed || h != step.held {
			t.Errorf("after %v: %d passed and %d held back, want %d and %d", step.wait, p, h, step.passed, step.held)
		}
	}
}

// BenchmarkServer is the whole path less the kernel, without log lines.
func BenchmarkServer(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			list := []ipam.Reservation{*testRow()}
			for i := range n {
				list = append(list, ipam.Reservation{MAC: ipam.MAC{2, 0, 0, 1, byte(i >> 8), byte(i)}, Addr: reserved})
			}
			s := New(&rows{current: copyOf(testNetwork(), list...)}, discard{}, Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}},
				slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})))
			m := client(b, dhcpv4.MessageTypeDiscover).ToBytes()
			p, d := s.newPath(), Datagram{Len: len(m), To: broadcastIP}
			b.ReportAllocs()
			for b.Loop() {
				if p.handle(m, d, s.source.Copy(), quick) != handled {
					b.Fatal("not handled")
				}
			}
		})
	}
}

type discard struct{}

func (discard) Receive([]byte) (Datagram, error) { return Datagram{}, net.ErrClosed }
func (discard) Route([]byte, netip.Addr) error   { return nil }
func (discard) Send([]byte) error                { return nil }
func (discard) Close() error                     { return nil }
