package upstream

import (
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testdns"
)

// FuzzAnswer has a server say anything: what is taken for an answer is one to the question,
// and what is kept of it comes back as it was, with no longer TTLs, within the cache's
// bound.
func FuzzAnswer(f *testing.F) {
	ask := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	ask.Id = 0x1234
	nodata := testdns.Reply(ask)
	soa, err := dns.NewRR("example.org. 60 IN SOA ns. host. 1 2 3 4 5")
	if err != nil {
		f.Fatal(err)
	}
	nodata.Ns = []dns.RR{soa}
	nodata.SetEdns0(1232, true)
	for _, m := range []*dns.Msg{ask, nodata, testdns.Reply(ask, "www.example.org. 60 IN CNAME x.", "x. 30 IN A 192.0.2.1")} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-2])
	}
	c, now := newCache(64<<10), time.Now()
	k := key{name: "www.example.org.", qtype: dns.TypeA}
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil || !answered(ask, m) {
			return
		}
		if len(m.Question) == 1 && !strings.EqualFold(m.Question[0].Name, "www.example.org.") {
			t.Fatalf("taken for an answer: %s", m)
		}
		c.clear()
		c.put(k, m, now)
		kept := c.get(k, now.Add(time.Second/2))
		if kept == nil {
			return
		}
		if kept.Rcode != m.Rcode || len(kept.Answer) != len(m.Answer) || len(kept.Ns) != len(m.Ns) || len(kept.Extra) != len(m.Extra) {
			t.Fatalf("kept %s, was %s", kept, m)
		}
		for i, rr := range kept.Answer {
			if ttl := rr.Header().Ttl; rr.Header().Rrtype != dns.TypeOPT && (ttl > m.Answer[i].Header().Ttl || ttl > 3600) {
				t.Fatalf("a TTL of %d came of %s", ttl, m)
			}
		}
		if n, bytes := c.size(); n != 1 || bytes > 64<<10 {
			t.Fatalf("%d answers in %d bytes", n, bytes)
		}
	})
}
