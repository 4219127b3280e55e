package server

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// listener is a Hook that keeps what it hears, and waits for gate if there is one.
type listener struct {
	mu   sync.Mutex
	list []Event
	gate chan struct{}
}

func (l *listener) LeaseEvent(e Event) {
	if l.gate != nil {
		<-l.gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *listener) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, e := range l.list {
		list = append(list, fmt.Sprintf("%v %s %s %s %s row=%s lease=%v host=%s vendor=%s reason=%s",
			e.Kind, e.Network, e.Bridge, e.MAC, e.IP, e.Row.Hostname, e.Lease, e.Hostname, e.VendorClass, e.Reason))
	}
	return list
}

func TestLeaseEvents(t *testing.T) {
	l := &listener{}
	_, w, _ := running(t, &rows{current: copyOf(testNetwork(), *testRow())}, func(s *Server) { s.Hook = l })
	self := []dhcpv4.Modifier{raw(12, []byte("guest\x1b[2J")...), raw(60, []byte("udhcp 1.35")...)}
	for _, m := range []*dhcpv4.DHCPv4{
		client(t, dhcpv4.MessageTypeDiscover, self...),
		client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved)),
		client(t, dhcpv4.MessageTypeRequest, ciaddr(reserved)),
		client(t, dhcpv4.MessageTypeInform, ciaddr(reserved)), // an answer, but no event
		client(t, dhcpv4.MessageTypeRequest, option4(50, taken)),
	} {
		w.send(m)
		w.next(t)
	}
	// A NAK is the second goroutine's, which tells of it when it has been sent.
	await(t, "the refusal", func() bool { return len(l.heard()) == 4 })
	w.send(client(t, dhcpv4.MessageTypeDiscover, from(stranger)))
	w.send(client(t, dhcpv4.MessageTypeRelease, ciaddr(taken)))
	w.send(client(t, dhcpv4.MessageTypeRelease, ciaddr(reserved)))
	w.send(client(t, dhcpv4.MessageTypeDecline, option4(54, gateway), option4(50, reserved), raw(56, []byte("in use")...)))
	const tail = " row=cirros lease=0s host= vendor= reason="
	want := []string{
		"offered flat br100 fa:16:3e:00:00:02 10.0.0.2 row=cirros lease=2m0s host=guest?[2J vendor=udhcp 1.35 reason=",
		"bound flat br100 fa:16:3e:00:00:02 10.0.0.2 row=cirros lease=2m0s host= vendor= reason=",
		"renewed flat br100 fa:16:3e:00:00:02 10.0.0.2 row=cirros lease=2m0s host= vendor= reason=",
		"refused flat br100 fa:16:3e:00:00:02 10.0.0.7" + tail + "wrong address",
		"released flat br100 fa:16:3e:00:00:02 10.0.0.2" + tail,
		"declined flat br100 fa:16:3e:00:00:02 10.0.0.2" + tail + "in use",
	}
	await(t, "all events", func() bool { return len(l.heard()) >= len(want) })
	if diff := cmp.Diff(want, l.heard()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A hook that never returns costs events and no answers.
func TestASlowHookHoldsUpNoPacket(t *testing.T) {
	l := &listener{gate: make(chan struct{})}
	s, w, _ := running(t, &rows{current: copyOf(testNetwork(), *testRow())}, func(s *Server) { s.Hook = l })
	const lost = 100
	for range eventQueue + lost + 1 { // one is in the hook's hands
		w.send(client(t, dhcpv4.MessageTypeDiscover))
		w.next(t)
	}
	await(t, "lost events to be counted", func() bool { return s.Counters.EventDrops.Load() >= lost })
	close(l.gate)
	await(t, "the queue to be read", func() bool { return len(l.heard()) >= eventQueue })
}

func TestCountersByTypeAndOutcome(t *testing.T) {
	s, w, _ := running(t, &rows{current: copyOf(testNetwork(), *testRow())})
	answered := []*dhcpv4.DHCPv4{
		client(t, dhcpv4.MessageTypeDiscover),
		client(t, dhcpv4.MessageTypeRequest, option4(50, reserved)),
		client(t, dhcpv4.MessageTypeRequest, ciaddr(reserved)),
		client(t, dhcpv4.MessageTypeRequest, option4(50, taken)),
		client(t, dhcpv4.MessageTypeInform, ciaddr(reserved)),
	}
	for _, m := range answered {
		w.send(m)
		w.next(t)
	}
	silent := []*dhcpv4.DHCPv4{
		client(t, dhcpv4.MessageTypeDiscover, from(stranger)),
		client(t, dhcpv4.MessageTypeRequest),
		client(t, dhcpv4.MessageType(77)),
		client(t, dhcpv4.MessageTypeDiscover, giaddr(netip.MustParseAddr("10.0.0.9"))),
	}
	for _, m := range silent {
		w.send(m)
	}
	await(t, "all messages to be counted", func() bool { return s.Counters.Silent.Load() == uint64(len(silent)) })
	var got []string
	labels := map[string]bool{}
	for c := range s.Counters.Messages() {
		labels[c.Outcome] = true
		if c.N > 0 {
			got = append(got, fmt.Sprintf("%v %s %d", c.Type, c.Outcome, c.N))
		}
	}
	want := []string{
		"DHCPDISCOVER unknown_client 1", "DHCPDISCOVER relayed 1", "DHCPDISCOVER offer 1",
		"DHCPREQUEST names_no_address 1", "DHCPREQUEST ack 2", "DHCPREQUEST nak 1",
		"DHCPINFORM ack 1", "DHCP message of another type other_type 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if len(labels) != outcomes-1 || labels["answered"] || labels["ignored"] {
		t.Errorf("%d labels for %d outcomes: %v", len(labels), outcomes-1, labels)
	}
	var n uint64
	var sum time.Duration
	await(t, "all answers to be timed", func() bool {
		var buckets [len(LatencyBounds) + 1]uint64
		buckets, sum = s.Counters.Latency()
		n = 0
		for _, b := range buckets {
			n += b
		}
		return n == uint64(len(answered))
	})
	if sum <= 0 {
		t.Errorf("the answers took %v altogether", sum)
	}
}

func TestOptionSixIsWhatTheBindingSays(t *testing.T) {
	n := testNetwork()
	b := Binding{Bridge: "br100", Addrs: []netip.Addr{gateway}, Nameservers: []netip.Addr{gateway}}
	s, err := NewScope(n, b)
	if err != nil {
		t.Fatal(err)
	}
	r, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), s, testRow())
	if v != Answer {
		t.Fatal(v)
	}
	m := decode(t, new(Encoder).Append(nil, &r))
	if got := m.DNS(); len(got) != 1 || !got[0].Equal(gateway.AsSlice()) {
		t.Errorf("option 6 is %v, want %v", got, gateway)
	}
}

func TestEventKindsHaveWords(t *testing.T) {
	seen := map[string]bool{}
	for k := Reserved; k <= Refused; k++ {
		seen[k.String()] = true
	}
	if len(seen) != int(Refused) || seen["unknown"] {
		t.Errorf("words: %v", seen)
	}
	if long := textOf(strings.Repeat("x", 300)); len(long.String()) != textSize {
		t.Errorf("a text of %d bytes, want %d", len(long.String()), textSize)
	}
}
