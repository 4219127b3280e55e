package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testdns"
)

func asked(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	return q.SetQuestion(name, qtype)
}

// TestLifetime: how long which answer is kept.
func TestLifetime(t *testing.T) {
	soa := func(ttl, minimum int) string {
		return fmt.Sprintf("example.org. %d IN SOA ns. host. 1 2 3 4 %d", ttl, minimum)
	}
	for name, tc := range map[string]struct {
		qtype     uint16
		rcode     int
		answer    []string
		authority string
		cut       bool
		want      time.Duration
	}{
		"an address":              {dns.TypeA, 0, []string{"w. 60 IN A 192.0.2.1"}, "", false, time.Minute},
		"the shortest of several": {dns.TypeA, 0, []string{"w. 60 IN CNAME v.", "v. 20 IN A 192.0.2.1"}, "", false, 20 * time.Second},
		"a day":                   {dns.TypeA, 0, []string{"w. 86400 IN A 192.0.2.1"}, "", false, time.Hour},
		"not at all":              {dns.TypeA, 0, []string{"w. 0 IN A 192.0.2.1"}, "", false, 0},
		"cut off":                 {dns.TypeA, 0, []string{"w. 60 IN A 192.0.2.1"}, "", true, 0},
		"NXDOMAIN":                {dns.TypeA, dns.RcodeNameError, nil, soa(900, 30), false, 30 * time.Second},
		"NXDOMAIN, SOA for less":  {dns.TypeA, dns.RcodeNameError, nil, soa(10, 30), false, 10 * time.Second},
		"NXDOMAIN for long":       {dns.TypeA, dns.RcodeNameError, nil, soa(86400, 86400), false, 5 * time.Minute},
		"NXDOMAIN without SOA":    {dns.TypeA, dns.RcodeNameError, nil, "", false, 0},
		"NODATA":                  {dns.TypeAAAA, 0, nil, soa(60, 60), false, time.Minute},
		"NODATA behind a CNAME":   {dns.TypeAAAA, 0, []string{"w. 7 IN CNAME v."}, soa(60, 60), false, 7 * time.Second},
		"NODATA without SOA":      {dns.TypeAAAA, 0, []string{"w. 7 IN CNAME v."}, "", false, 0},
		"SERVFAIL":                {dns.TypeA, dns.RcodeServerFailure, nil, "", false, time.Second},
		"REFUSED":                 {dns.TypeA, dns.RcodeRefused, nil, "", false, 0},
	} {
		m := testdns.Reply(asked("w.", tc.qtype), tc.answer...)
		m.Rcode, m.Truncated = tc.rcode, tc.cut
		if tc.authority != "" {
			rr, err := dns.NewRR(tc.authority)
			if err != nil {
				t.Fatal(err)
			}
			m.Ns = append(m.Ns, rr)
		}
		m.SetEdns0(1232, false) // its TTL field is none
		if got := lifetime(m); got != tc.want {
			t.Errorf("%s: kept for %v, want %v", name, got, tc.want)
		}
	}
}

func TestCacheTellsWhatIsLeft(t *testing.T) {
	c, now := newCache(1<<20), time.Now()
	k := key{name: "w.", qtype: dns.TypeA}
	c.put(k, testdns.Reply(asked("w.", dns.TypeA), "w. 60 IN A 192.0.2.1", "w. 7200 IN A 192.0.2.2"), now)
	for _, tc := range []struct {
		after time.Duration
		want  string
	}{{0, "[60 60]"}, {999 * time.Millisecond, "[60 60]"}, {20 * time.Second, "[40 40]"}, {59500 * time.Millisecond, "[1 1]"}, {time.Minute, "none"}} {
		got := "none"
		if m := c.get(k, now.Add(tc.after)); m != nil {
			var ttls []uint32
			for _, rr := range m.Answer {
				ttls = append(ttls, rr.Header().Ttl)
			}
			got = fmt.Sprint(ttls)
		}
		if got != tc.want {
			t.Errorf("after %v: TTLs %s, want %s", tc.after, got, tc.want)
		}
	}
	if n, bytes := c.size(); n != 0 || bytes != 0 {
		t.Errorf("%d answers and %d bytes are left of what has expired", n, bytes)
	}
}

// TestCacheIsBounded by bytes, not by good behaviour: long answers, long names, and more
// questions than anybody asks.
func TestCacheIsBounded(t *testing.T) {
	const limit = 256 << 10
	c, now := newCache(limit), time.Now()
	text := "w. 60 IN TXT " + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 10)
	for i := range 2000 {
		k := key{name: fmt.Sprintf("%d.%s.", i, strings.Repeat("n", 60)), qtype: dns.TypeTXT}
		c.put(k, testdns.Reply(asked("w.", dns.TypeTXT), text), now)
		n, bytes := c.size()
		if bytes > limit || bytes < n*2500 {
			t.Fatalf("after %d: %d answers in %d bytes", i, n, bytes)
		}
		if c.get(k, now) == nil {
			t.Fatal("the newest is not there")
		}
		// The first is asked for all the time, and so stays.
		if first := (key{name: "0." + strings.Repeat("n", 60) + ".", qtype: dns.TypeTXT}); c.get(first, now) == nil {
			t.Fatalf("after %d: what is asked for all the time is gone", i)
		}
	}
	if n, _ := c.size(); n < 50 || n > 100 {
		t.Errorf("%d answers are kept", n)
	}
	// One that is too long for its own good.
	before, _ := c.size()
	c.put(key{name: "long.", qtype: dns.TypeTXT}, testdns.Reply(asked("w.", dns.TypeTXT), text, text, text, text), now)
	if n, _ := c.size(); n != before {
		t.Error("an answer of 10 KiB is kept")
	}
	if len(c.byKey) != c.order.Len() {
		t.Errorf("%d by key, %d in order", len(c.byKey), c.order.Len())
	}
}
