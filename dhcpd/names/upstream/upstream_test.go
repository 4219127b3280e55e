package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testdns"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
)

const loopback = "127.0.0.1:0"

func nobody(netip.AddrPort) bool { return false }

// resolver returns one with less patience than usual, so that no test waits long for a
// server that is silent on purpose, and a budget that a busy machine does not use up.
func resolver(t *testing.T, servers ...netip.AddrPort) (*Resolver, *testlog.Buffer) {
	t.Helper()
	log := &testlog.Buffer{}
	r := New(servers, filepath.Join(t.TempDir(), "resolv.conf"), nobody, slog.New(slog.NewTextHandler(log, nil)))
	r.tryTimeout, r.budget = time.Second, 30*time.Second
	return r, log
}

func question(name string) dns.Question {
	return dns.Question{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET}
}

// resolve returns the answer's records as text, or the error's.
func resolve(t *testing.T, r *Resolver, name string) string {
	t.Helper()
	m, _, err := r.Resolve(t.Context(), question(name), false, false)
	if err != nil {
		return "error: " + err.Error()
	}
	if m.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[m.Rcode]
	}
	var list []string
	for _, rr := range m.Answer {
		list = append(list, strings.Join(strings.Fields(rr.String()), " "))
	}
	return strings.Join(list, "; ")
}

const answer = "www.example.org. 60 IN A 192.0.2.1"

// dead returns an address where nobody listens.
func dead(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func silent(*dns.Msg, bool) *dns.Msg { return nil }

// TestServers: whatever is wrong with a server, its client gets the right answer from
// the next, or the truth.
func TestServers(t *testing.T) {
	good := testdns.Address("192.0.2.1", "60")
	long := func(q *dns.Msg, tcp bool) *dns.Msg {
		if !tcp {
			r := testdns.Reply(q)
			r.Truncated = true
			return r
		}
		return testdns.Reply(q, answer)
	}
	code := func(rcode int) testdns.Handler {
		return func(q *dns.Msg, _ bool) *dns.Msg { r := testdns.Reply(q); r.Rcode = rcode; return r }
	}
	for name, tc := range map[string]struct {
		first testdns.Handler // nil: nobody listens there
		alone string          // with no other server
	}{
		"good":       {good, answer},
		"truncating": {long, answer},
		"slow": {func(q *dns.Msg, tcp bool) *dns.Msg {
			<-time.After(50 * time.Millisecond) // of the second that it has
			return testdns.Reply(q, answer)
		}, answer},
		"too slow": {func(q *dns.Msg, tcp bool) *dns.Msg {
			<-time.After(3 * time.Second) // its answer comes to a socket that is closed
			return testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
		}, "error: no DNS server answered"},
		"dead":   {nil, "error: no DNS server answered"},
		"silent": {silent, "error: no DNS server answered"},
		"wrong ID": {func(q *dns.Msg, tcp bool) *dns.Msg {
			r := testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
			r.Id++
			return r
		}, "error: no DNS server answered"},
		"another question": {func(q *dns.Msg, tcp bool) *dns.Msg {
			r := testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
			r.Question[0].Name = "www.example.com."
			return r
		}, "error: no DNS server answered"},
		"another type": {func(q *dns.Msg, tcp bool) *dns.Msg {
			r := testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
			r.Question[0].Qtype = dns.TypeMX
			return r
		}, "error: no DNS server answered"},
		"a query as answer": {func(q *dns.Msg, tcp bool) *dns.Msg {
			r := testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
			r.Response = false
			return r
		}, "error: no DNS server answered"},
		"failing":  {code(dns.RcodeServerFailure), "SERVFAIL"},
		"refusing": {code(dns.RcodeRefused), "REFUSED"},
		"without EDNS0": {func(q *dns.Msg, tcp bool) *dns.Msg {
			if q.IsEdns0() != nil {
				return code(dns.RcodeFormatError)(q, tcp)
			}
			return testdns.Reply(q, answer)
		}, answer},
		"NXDOMAIN": {code(dns.RcodeNameError), "NXDOMAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := dead(t)
			if tc.first != nil {
				first = testdns.New(t, loopback, tc.first).Addr
			}
			r, _ := resolver(t, first)
			if got := resolve(t, r, "www.example.org."); !strings.HasPrefix(got, tc.alone) {
				t.Errorf("alone: %s, want %s", got, tc.alone)
			}
			second := testdns.New(t, loopback, good)
			r, _ = resolver(t, first, second.Addr)
			want := answer
			if name == "NXDOMAIN" { // that is an answer, not a failure
				want = "NXDOMAIN"
			}
			if got := resolve(t, r, "www.example.org."); got != want {
				t.Errorf("with another server behind it: %s, want %s", got, want)
			}
		})
	}
}

// TestAnswerAmongLies: what is not the answer does not keep the answer from being heard.
func TestAnswerAmongLies(t *testing.T) {
	pc, err := net.ListenPacket("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				return
			}
			lie := testdns.Reply(q, "www.example.org. 60 IN A 203.0.113.66")
			lie.Id ^= 1
			for _, m := range []*dns.Msg{lie, testdns.Reply(q, answer)} {
				b, _ := m.Pack()
				for _, wire := range [][]byte{b[:7], []byte("no DNS message at all"), b} {
					_, _ = pc.WriteTo(wire, from)
				}
			}
		}
	}()
	r, _ := resolver(t, netip.MustParseAddrPort(pc.LocalAddr().String()))
	if got := resolve(t, r, "www.example.org."); got != answer {
		t.Errorf("got %s", got)
	}
}

func TestIDsAndPortsAreRandom(t *testing.T) {
	s := testdns.New(t, loopback, testdns.Address("192.0.2.1", "60"))
	r, _ := resolver(t, s.Addr)
	for i := range 50 {
		resolve(t, r, fmt.Sprintf("n%d.example.org.", i))
	}
	ids, ports, steps := map[uint16]bool{}, map[uint16]bool{}, map[uint16]bool{}
	last := uint16(0)
	for _, q := range s.Asked() {
		ids[q.ID], ports[q.From.Port()], steps[q.ID-last] = true, true, true
		last = q.ID
	}
	if len(ids) < 45 || len(ports) < 20 || len(steps) < 45 {
		t.Errorf("50 queries had %d IDs in %d steps and came from %d ports", len(ids), len(steps), len(ports))
	}
}

// TestHealthIsRemembered: after one failure nobody waits for the silent server again,
// and once it answers it is the first one again.
func TestHealthIsRemembered(t *testing.T) {
	var mu sync.Mutex
	quiet := true
	first := testdns.New(t, loopback, func(q *dns.Msg, tcp bool) *dns.Msg {
		mu.Lock()
		defer mu.Unlock()
		if quiet {
			return nil
		}
		return testdns.Reply(q, q.Question[0].Name+" 60 IN A 192.0.2.1")
	})
	second := testdns.New(t, loopback, testdns.Address("192.0.2.2", "60"))
	r, log := resolver(t, first.Addr, second.Addr)
	now := time.Now()
	var clock sync.Mutex
	r.now = func() time.Time { clock.Lock(); defer clock.Unlock(); return now }
	for i := range 20 {
		if got := resolve(t, r, fmt.Sprintf("n%d.example.org.", i)); !strings.HasSuffix(got, "192.0.2.2") {
			t.Fatalf("query %d: %s", i, got)
		}
	}
	if n := len(first.Asked()); n != 1 {
		t.Errorf("the silent server was asked %d times, want once", n)
	}
	if !strings.Contains(log.String(), first.Addr.String()+" does not answer") {
		t.Errorf("nobody was told: %s", log)
	}
	mu.Lock()
	quiet = false
	mu.Unlock()
	clock.Lock()
	now = now.Add(2 * firstPenalty)
	clock.Unlock()
	// This one finds the penalty over: the server is probed, by the root's name.
	resolve(t, r, "probing.example.org.")
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; ; i++ {
		if got := resolve(t, r, fmt.Sprintf("back%d.example.org.", i)); strings.HasSuffix(got, "192.0.2.1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server that answers again is never asked first")
		}
	}
	if !strings.Contains(log.String(), first.Addr.String()+" answers again") {
		t.Errorf("nobody was told: %s", log)
	}
	for _, q := range first.Asked()[1:] {
		if q.Name != "." && !strings.HasPrefix(q.Name, "back") {
			t.Errorf("a client's question %s was used as probe", q.Name)
		}
	}
}

// TestOneQuestionIsAskedOnce, however many wait for the answer.
func TestOneQuestionIsAskedOnce(t *testing.T) {
	const clients = 50
	gate := make(chan struct{})
	s := testdns.New(t, loopback, func(q *dns.Msg, tcp bool) *dns.Msg {
		<-gate
		return testdns.Reply(q, answer)
	})
	r, _ := resolver(t, s.Addr)
	r.tryTimeout = 20 * time.Second
	r.budget = 20 * time.Second
	var wg sync.WaitGroup
	for i := range clients {
		name := "www.example.org."
		if i%2 == 1 {
			name = "WWW.Example.ORG."
		}
		wg.Go(func() {
			if got := resolve(t, r, name); got != answer {
				t.Error(got)
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); r.Counters.Joined.Load() < clients-1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they do not join")
		}
	}
	close(gate)
	wg.Wait()
	if n := len(s.Asked()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestClientThatGivesUpDoesNotTakeTheAnswerAlong.
func TestClientThatGivesUpDoesNotTakeTheAnswerAlong(t *testing.T) {
	gate := make(chan struct{})
	s := testdns.New(t, loopback, func(q *dns.Msg, tcp bool) *dns.Msg {
		<-gate
		return testdns.Reply(q, answer)
	})
	r, _ := resolver(t, s.Addr)
	r.tryTimeout, r.budget = 20*time.Second, 20*time.Second
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, _, err := r.Resolve(ctx, question("www.example.org."), false, false)
		gone <- err
	}()
	for len(s.Asked()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gone; err == nil {
		t.Error("answered before the server did")
	}
	close(gate)
	if got := resolve(t, r, "www.example.org."); got != answer {
		t.Error(got)
	}
	if n := len(s.Asked()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Now()
	own := netip.MustParseAddrPort("10.0.0.1:53")
	r := New(nil, path, func(a netip.AddrPort) bool { return a == own }, slog.New(slog.DiscardHandler))
	r.file.now = func() time.Time { return now }
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	want := func(servers string) {
		t.Helper()
		now = now.Add(lookEvery)
		if got := fmt.Sprint(r.Servers()); got != servers {
			t.Errorf("servers %s, want %s", got, servers)
		}
	}
	want("[]")
	if _, _, err := r.Resolve(t.Context(), question("www.example.org."), false, false); err == nil || !strings.Contains(err.Error(), "dns.forwarders is empty") {
		t.Errorf("without servers: %v", err)
	}
	write("# made by hand\nsearch example.org\nnameserver 192.0.2.53\nnameserver nonsense\nnameserver fe80::1%eth0\noptions ndots:5\n")
	want("[192.0.2.53:53 [fe80::1%eth0]:53]")
	write("nameserver 192.0.2.54\n")
	if got := fmt.Sprint(r.Servers()); got != "[192.0.2.53:53 [fe80::1%eth0]:53]" {
		t.Errorf("looked at again within %v: %s", lookEvery, got)
	}
	want("[192.0.2.54:53]")
	write("nameserver 10.0.0.1\nnameserver 192.0.2.55\n") // the node asks us: we must not
	want("[192.0.2.55:53]")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("[]")
	r.Configure([]netip.AddrPort{own, netip.MustParseAddrPort("192.0.2.99:5353")})
	want("[192.0.2.99:5353]")
}

// TestOtherServersOtherAnswers: what the old servers said is not what the new ones say.
func TestOtherServersOtherAnswers(t *testing.T) {
	a := testdns.New(t, loopback, testdns.Address("192.0.2.1", "600"))
	b := testdns.New(t, loopback, testdns.Address("192.0.2.2", "600"))
	r, _ := resolver(t, a.Addr)
	for range 2 {
		if got := resolve(t, r, "www.example.org."); !strings.HasSuffix(got, "192.0.2.1") {
			t.Error(got)
		}
	}
	r.Configure([]netip.AddrPort{b.Addr})
	if got := resolve(t, r, "www.example.org."); !strings.HasSuffix(got, "192.0.2.2") {
		t.Error(got)
	}
	if n := len(a.Asked()); n != 1 {
		t.Errorf("the first server was asked %d times", n)
	}
}

// TestLoopByWayOfAnother: a server that we ask and that asks us finds its question on its
// way already, so it goes round once.
func TestLoopByWayOfAnother(t *testing.T) {
	r, _ := resolver(t)
	other := testdns.New(t, loopback, func(q *dns.Msg, tcp bool) *dns.Msg {
		m, _, err := r.Resolve(context.Background(), question(q.Question[0].Name), false, false)
		if err != nil {
			m = testdns.Reply(q)
			m.Rcode = dns.RcodeServerFailure
		}
		m.Id = q.Id
		return m
	})
	r.Configure([]netip.AddrPort{other.Addr})
	if got := resolve(t, r, "www.example.org."); !strings.HasPrefix(got, "error: no DNS server answered") {
		t.Error(got)
	}
	// Asked twice, as a datagram may be lost, and each time it joined.
	if n, joined := len(other.Asked()), r.Counters.Joined.Load(); n != 2 || joined != 2 {
		t.Errorf("the question went out %d times and came back %d times", n, joined)
	}
}
