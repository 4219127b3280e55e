package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testdns"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

const patience = 20 * time.Second

// fakeSource is a store whose copy may lag behind it.
type fakeSource struct {
	mu           sync.Mutex
	copy, stored *snapshot.Copy
	looks        int
}

func newSource(n *ipam.Network, rows ...ipam.Reservation) *fakeSource {
	c := snapshot.NewCopy(&ipam.Snapshot{Network: *n, Rows: rows})
	return &fakeSource{copy: c, stored: c}
}

// commit changes what is in the store and not yet in the copy.
func (s *fakeSource) commit(n *ipam.Network, rows ...ipam.Reservation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = snapshot.NewCopy(&ipam.Snapshot{Network: *n, Rows: rows})
}

func (s *fakeSource) Copy() *snapshot.Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copy
}

func (s *fakeSource) Stale(c *snapshot.Copy) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c != s.stored
}

func (s *fakeSource) Fresh(context.Context) (*snapshot.Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	s.copy = s.stored
	return s.copy, true
}

// local is the network whose workloads are this machine's loopback addresses.
func local(n *ipam.Network) {
	n.Pool.Subnet, n.Pool.Gateway = netip.MustParsePrefix("127.0.0.0/8"), netip.MustParseAddr("127.0.0.1")
}

// running is a Server on a free port of 127.0.0.1.
type running struct {
	*Server
	source *fakeSource
	addr   string
	log    *testlog.Buffer
}

func run(t *testing.T, source *fakeSource, servers ...netip.AddrPort) *running {
	t.Helper()
	sockets, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	for range 20 {
		if !errors.As(err, new(*TakenError)) {
			break // a port that is free for UDP need not be for TCP
		}
		sockets, err = Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	}
	if err != nil {
		t.Fatal(err)
	}
	source.copy.Network.Bridge.DNS.Forwarders = servers
	r := &running{source: source, addr: sockets.Addr().String(), log: &testlog.Buffer{}}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	up := upstream.New(servers, filepath.Join(t.TempDir(), "none"), func(netip.AddrPort) bool { return false }, log)
	r.Server = New(source, sockets, loopback, up, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	return r
}

func query(name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	for _, f := range change {
		f(m)
	}
	return m
}

// ask sends m and returns the reply, with what every reply must have checked.
func (r *running) ask(t *testing.T, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: patience, UDPSize: dns.MaxMsgSize}
	reply, _, err := c.Exchange(m, r.addr)
	if err != nil {
		t.Fatalf("%v by %s: %v", m.Question, network, err)
	}
	if reply.Id != m.Id || !reply.Response || reply.Opcode != m.Opcode || reply.RecursionDesired != m.RecursionDesired {
		t.Errorf("%v by %s: reply %s", m.Question, network, reply)
	}
	if (reply.IsEdns0() != nil) != (m.IsEdns0() != nil) {
		t.Errorf("%v by %s: OPT of the reply: %v", m.Question, network, reply.IsEdns0())
	}
	return reply
}

func text(m *dns.Msg) string {
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	if m.Authoritative {
		b.WriteString(" aa")
	}
	if m.Truncated {
		b.WriteString(" tc")
	}
	for _, rr := range m.Answer {
		b.WriteString("; " + strings.Join(strings.Fields(rr.String()), " "))
	}
	for _, rr := range m.Ns {
		fmt.Fprintf(&b, "; authority %s %s", rr.Header().Name, dns.Type(rr.Header().Rrtype))
	}
	return b.String()
}

func edns0(size uint16, do bool) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, do) } }

// TestReplies: what is asked, by UDP and by TCP, and what comes. (BADVERS has TSIG's number,
// by whose name the library calls it.)
func TestReplies(t *testing.T) {
	up := testdns.New(t, "127.0.0.1:0", testdns.Address("192.0.2.1", "60"))
	n := record(local)
	r := run(t, newSource(n, row("127.0.0.2", "web", "shop")), up.Addr)
	for name, tc := range map[string]struct {
		m    *dns.Msg
		want string
	}{
		"own name":            {query("web.novalocal.", dns.TypeA), "NOERROR aa; web.novalocal. 30 IN A 127.0.0.2"},
		"case kept":           {query("WEB.Shop.NovaLocal.", dns.TypeA), "NOERROR aa; WEB.Shop.NovaLocal. 30 IN A 127.0.0.2"},
		"another type":        {query("web.novalocal.", dns.TypeAAAA), "NOERROR aa; authority novalocal. SOA"},
		"no such name":        {query("nobody.novalocal.", dns.TypeA), "NXDOMAIN aa; authority novalocal. SOA"},
		"pointer":             {query("2.0.0.127.in-addr.arpa.", dns.TypePTR), "NOERROR aa; 2.0.0.127.in-addr.arpa. 30 IN PTR web.novalocal."},
		"no such pointer":     {query("9.0.0.127.in-addr.arpa.", dns.TypePTR), "NXDOMAIN aa; authority 127.in-addr.arpa. SOA"},
		"EDNS0":               {query("web.novalocal.", dns.TypeA, edns0(4096, true)), "NOERROR aa; web.novalocal. 30 IN A 127.0.0.2"},
		"no recursion, own":   {query("web.novalocal.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), "NOERROR aa; web.novalocal. 30 IN A 127.0.0.2"},
		"elsewhere":           {query("www.example.org.", dns.TypeA), "NOERROR; www.example.org. 60 IN A 192.0.2.1"},
		"elsewhere, no RD":    {query("www.example.org.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), "REFUSED"},
		"elsewhere, ANY":      {query("www.example.org.", dns.TypeANY, edns0(4096, false)), `NOERROR; www.example.org. 3600 IN HINFO "RFC8482" ""`},
		"a transfer":          {query("novalocal.", dns.TypeAXFR), "REFUSED"},
		"class CHAOS":         {query("version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		"class ANY":           {query("web.novalocal.", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), "REFUSED"},
		"an update":           {query("novalocal.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		"a notification":      {query("novalocal.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), "NOTIMP"},
		"EDNS of version 1":   {query("web.novalocal.", dns.TypeA, edns0(4096, false), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), "BADSIG"},
		"type OPT":            {query("web.novalocal.", dns.TypeOPT), "FORMERR"},
		"type TKEY":           {query("web.novalocal.", dns.TypeTKEY), "NOTIMP"},
		"two OPT records":     {query("web.novalocal.", dns.TypeA, edns0(4096, false), func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), "FORMERR"},
		"an answer within":    {query("web.novalocal.", dns.TypeA, func(m *dns.Msg) { m.Answer = testdns.Reply(m, "web.novalocal. 1 IN A 192.0.2.9").Answer }), "FORMERR"},
		"localhost":           {query("localhost.", dns.TypeA), "NOERROR aa; localhost. 30 IN A 127.0.0.1"},
		"zone's name servers": {query("novalocal.", dns.TypeNS), "NOERROR aa; novalocal. 30 IN NS ns.novalocal."},
	} {
		for _, network := range []string{"udp", "tcp"} {
			got := r.ask(t, network, tc.m)
			if got := text(got); got != tc.want {
				t.Errorf("%s by %s: %s, want %s", name, network, got, tc.want)
			}
			if tc.want == "BADSIG" {
				continue
			}
			if opt := tc.m.IsEdns0(); opt != nil && got.IsEdns0() != nil && got.IsEdns0().Do() != opt.Do() {
				t.Errorf("%s by %s: DO is %v", name, network, !opt.Do())
			}
		}
	}
	// Nobody else has heard of our names.
	for _, q := range up.Asked() {
		if q.Name != "www.example.org." {
			t.Errorf("asked upstream for %s %s", q.Name, dns.Type(q.Type))
		}
	}
	if n := len(up.Asked()); n != 1 {
		t.Errorf("asked upstream %d times", n)
	}
	c := r.Counters
	outcomes := c.Refused.Load() + c.Found.Load() + c.NoData.Load() + c.NoName.Load() + c.Cached.Load() + c.Forwarded.Load()
	if c.Queries.Load() != outcomes || c.TCP.Load() != c.Queries.Load()/2 || c.Forwarded.Load() != 1 || c.Cached.Load() != 1 || r.Upstream.Counters.Hits.Load() != 1 {
		t.Errorf("%d queries, %d by TCP, %d outcomes, %d forwarded, %d cached", c.Queries.Load(), c.TCP.Load(), outcomes, c.Forwarded.Load(), c.Cached.Load())
	}
	for _, line := range []string{
		"query[A] web.novalocal from 127.0.0.1", "DHCP web.novalocal is 127.0.0.2", "DHCP nobody.novalocal is NXDOMAIN", "DHCP web.novalocal is NODATA",
		"query[PTR] 2.0.0.127.in-addr.arpa from 127.0.0.1", "DHCP 2.0.0.127.in-addr.arpa is web.novalocal",
		"query[A] www.example.org from 127.0.0.1", "forwarded www.example.org to 127.0.0.1", "reply www.example.org is 192.0.2.1", "cached www.example.org is 192.0.2.1",
	} {
		if !strings.Contains(r.log.String(), `"`+line+`"`) {
			t.Errorf("not logged: %s", line)
		}
	}
}

// TestLongAnswers: what does not fit comes by TCP, and a client gets no more at once than
// it takes.
func TestLongAnswers(t *testing.T) {
	var records []string
	for i := range 60 { // 60 * 16 bytes and the rest
		records = append(records, fmt.Sprintf("many.example.org. 60 IN A 192.0.2.%d", i))
	}
	var big []string
	for i := range 200 {
		big = append(big, fmt.Sprintf("big.example.org. 60 IN A 198.51.100.%d", i))
	}
	up := testdns.New(t, "127.0.0.1:0", func(q *dns.Msg, tcp bool) *dns.Msg {
		r := testdns.Reply(q, records...)
		if q.Question[0].Name == "big.example.org." {
			r = testdns.Reply(q, big...)
		}
		if !tcp {
			r.Truncate(int(q.IsEdns0().UDPSize()))
		}
		return r
	})
	r := run(t, newSource(record(local)), up.Addr)
	for _, tc := range []struct {
		name    string
		size    uint16 // 0: no EDNS0
		network string
		want    int // records; -1: cut
	}{
		{"many", 0, "udp", -1}, {"many", 100, "udp", -1}, {"many", 512, "udp", -1}, {"many", 1232, "udp", 60}, {"many", 4096, "udp", 60}, {"many", 0, "tcp", 60},
		{"big", 0, "udp", -1}, {"big", 1232, "udp", -1}, {"big", 65535, "udp", -1}, {"big", 0, "tcp", 200}, {"big", 512, "tcp", 200},
	} {
		m := query(tc.name+".example.org.", dns.TypeA)
		if tc.size > 0 {
			m.SetEdns0(tc.size, false)
		}
		got := r.ask(t, tc.network, m)
		if got.Truncated != (tc.want < 0) || tc.want >= 0 && len(got.Answer) != tc.want {
			t.Errorf("%s by %s with %d bytes: %d records, cut %v", tc.name, tc.network, tc.size, len(got.Answer), got.Truncated)
		}
		got.Compress = true // as it came
		if b, err := got.Pack(); tc.network == "udp" && (err != nil || len(b) > max(512, min(int(tc.size), 1232))) {
			t.Errorf("%s with %d bytes: a reply of %d, %v", tc.name, tc.size, len(b), err)
		}
	}
}

// TestNameIsThereAsSoonAsItsReservation: who asks after ADD has returned is never told
// that there is no such name, however late the copy is.
func TestNameIsThereAsSoonAsItsReservation(t *testing.T) {
	n := record(local)
	r := run(t, newSource(n))
	for _, network := range []string{"udp", "tcp"} {
		name := "web-" + network
		if got := text(r.ask(t, network, query(name+".novalocal.", dns.TypeA))); !strings.HasPrefix(got, "NXDOMAIN") {
			t.Fatal(got)
		}
		before := r.source.looks
		if before > 0 && network == "udp" {
			t.Errorf("%d looks at a store that did not change", before)
		}
		r.source.commit(n, row("127.0.0.2", name, ""))
		if got := text(r.ask(t, network, query(name+".novalocal.", dns.TypeA))); !strings.HasSuffix(got, "A 127.0.0.2") {
			t.Error(got)
		}
	}
}

// TestLiveConfiguration: another domain and other servers count from the next copy on.
func TestLiveConfiguration(t *testing.T) {
	a := testdns.New(t, "127.0.0.1:0", testdns.Address("192.0.2.1", "60"))
	b := testdns.New(t, "127.0.0.1:0", testdns.Address("192.0.2.2", "60"))
	r := run(t, newSource(record(local), row("127.0.0.2", "web", "")), a.Addr)
	want := func(name, answer string) {
		t.Helper()
		if got := text(r.ask(t, "udp", query(name, dns.TypeA))); !strings.HasSuffix(got, answer) {
			t.Errorf("%s: %s, want %s", name, got, answer)
		}
	}
	want("web.novalocal.", "127.0.0.2")
	want("www.example.org.", "192.0.2.1")
	r.source.commit(record(local, func(n *ipam.Network) {
		n.Bridge.DNS.Domain, n.Bridge.DNS.Forwarders = "example.net", []netip.AddrPort{b.Addr}
	}), row("127.0.0.2", "web", ""))
	r.source.Fresh(t.Context())
	want("web.example.net.", "127.0.0.2")
	want("www.example.org.", "192.0.2.2")
	want("web.novalocal.", "192.0.2.2") // a name like any, now
}

// TestFloodOfOneClient: questions that wait are bounded, and what needs no waiting is
// answered meanwhile.
func TestFloodOfOneClient(t *testing.T) {
	gate := make(chan struct{})
	up := testdns.New(t, "127.0.0.1:0", func(q *dns.Msg, tcp bool) *dns.Msg {
		<-gate
		return testdns.Reply(q)
	})
	r := run(t, newSource(record(local), row("127.0.0.2", "web", "")), up.Addr)
	c, err := net.Dial("udp4", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// More than may wait; the rest is refused at once.
	const more = 20
	for i := range maxEach + more {
		b, err := query(fmt.Sprintf("n%d.example.org.", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for range more {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil || m.Rcode != dns.RcodeServerFailure {
			t.Fatalf("%v: %s", err, m)
		}
	}
	if got := text(r.ask(t, "udp", query("web.novalocal.", dns.TypeA))); !strings.HasSuffix(got, "127.0.0.2") {
		t.Error(got)
	}
	if got := r.Counters.Busy.Load(); got != more {
		t.Errorf("counted %d, want %d", got, more)
	}
	if n := strings.Count(r.log.String(), "Maximum number of concurrent DNS queries reached"); n != 1 {
		t.Errorf("said %d times in a moment", n)
	}
	// Another client has its own turn.
	other, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("udp4", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	b, _ := query("other.example.org.", dns.TypeA).Pack()
	if _, err := other.Write(b); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if err := other.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := other.Read(buf)
	m := new(dns.Msg)
	if err != nil || m.Unpack(buf[:n]) != nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("%v: %s", err, m)
	}
}

// TestConnectionsAreBounded: one client's connections do not take the others'.
func TestConnectionsAreBounded(t *testing.T) {
	r := run(t, newSource(record(local), row("127.0.0.2", "web", "")))
	dial := func(from byte) *dns.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}).Dial("tcp4", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return &dns.Conn{Conn: c}
	}
	works := func(c *dns.Conn) bool {
		if c.WriteMsg(query("web.novalocal.", dns.TypeA)) != nil {
			return false
		}
		m, err := c.ReadMsg()
		return err == nil && len(m.Answer) == 1
	}
	var open []*dns.Conn
	for i := range maxConnsEach {
		open = append(open, dial(7))
		if !works(open[i]) {
			t.Fatalf("connection %d is not served", i)
		}
	}
	if works(dial(7)) {
		t.Error("one more than a client may have is served")
	}
	if !works(dial(8)) {
		t.Error("another client is not served")
	}
	if !works(open[0]) {
		t.Error("a connection ends with its first query")
	}
	_ = open[0].Close()
	for deadline := time.Now().Add(patience); !works(dial(7)); {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection is never given back")
		}
	}
}

// TestSilence: nothing comes to what is no query, from whoever is no client, and to what
// is too long for one; each has an answered query after it as control.
func TestSilence(t *testing.T) {
	n := record(local)
	n.Pool.Subnet = netip.MustParsePrefix("127.0.0.0/24")
	r := run(t, newSource(n, row("127.0.0.2", "web", "")))
	good, err := query("web.novalocal.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := testdns.Reply(query("web.novalocal.", dns.TypeA)).Pack()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp4", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for _, wire := range [][]byte{{}, good[:11], reply, good} {
		if _, err := c.Write(wire); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:2], good[:2]) || buf[2]&0x80 == 0 {
		t.Errorf("the first answer is %q, %v: not the good query's", buf[:n], err)
	}
	if got := r.Counters.Silent.Load(); got != 3 {
		t.Errorf("counted %d, want 3", got)
	}
	// By TCP, where it must not come by lo either: another subnet.
	outsider, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 9, 9)}}).Dial("tcp4", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outsider.Close() }()
	oc := &dns.Conn{Conn: outsider}
	if err := outsider.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_ = oc.WriteMsg(query("web.novalocal.", dns.TypeA)) // may be closed already
	if m, err := oc.ReadMsg(); err == nil {
		t.Errorf("an outsider got %s", m)
	}
	if got := r.Counters.Outsiders.Load(); got != 1 || !strings.Contains(r.log.String(), "ignoring query from non-local network 127.0.9.9") {
		t.Errorf("counted %d; log %s", got, r.log)
	}
	// A query that promises more than any has.
	long, err := net.Dial("tcp4", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = long.Close() }()
	if err := long.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := long.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if n, err := long.Read(buf); err == nil {
		t.Errorf("got %q", buf[:n])
	}
}

// TestAdmitted: the bridge's clients and the node, by nothing else.
func TestAdmitted(t *testing.T) {
	s := &Server{source: newSource(record()), index: 7, Upstream: upstream.New(nil, "", nil, slog.New(slog.DiscardHandler))}
	for _, tc := range []struct {
		from string
		link int
		want bool
	}{
		{"10.0.0.2", 7, true}, {"10.0.0.1", loopback, true}, {"192.0.2.1", loopback, true},
		{"10.0.0.2", 8, false}, // a spoofed source from outside
		{"10.0.0.2", 0, false}, {"192.0.2.1", 7, false}, {"10.0.1.2", 7, false},
	} {
		if got := s.admitted(netip.MustParseAddr(tc.from), tc.link); got != tc.want {
			t.Errorf("%s by link %d: %v", tc.from, tc.link, got)
		}
	}
}
