package main

import (
	"sync"
	"sync/atomic"

	"github.com/flatdhcp/flatdhcp/dhcpd/names"
	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

// tally is what is counted of one network's DNS. It outlives the servers, so that a bridge
// that is made again loses nothing.
type tally struct {
	server   names.Counters
	upstream upstream.Counters
	served   atomic.Bool
	cache    atomic.Pointer[upstream.Resolver]
}

// tallies has one for each network. It is safe for concurrent use.
type tallies struct {
	mu sync.Mutex
	by map[netKey]*tally
}

func (t *tallies) of(k netKey) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[netKey]*tally{}
	}
	if t.by[k] == nil {
		t.by[k] = new(tally)
	}
	return t.by[k]
}

// metrics adds what the networks' DNS servers count.
func (r *resolvers) metrics(networks func() []*snapshot.Network) report.Source {
	return func(m *report.Metrics) {
		for _, n := range networks() {
			if c := n.Copy(); c != nil && c.Network.ServesDNS() {
				r.tallies.of(keyOf(n)).add(m, "network", n.Name())
			}
		}
	}
}

func (t *tally) add(m *report.Metrics, name ...string) {
	with := func(more ...string) []string { return append(name[:len(name):len(name)], more...) }
	s, u := &t.server, &t.upstream
	for _, o := range []struct {
		outcome string
		n       *atomic.Uint64
	}{
		{"found", &s.Found}, {"nodata", &s.NoData}, {"nxdomain", &s.NoName}, {"cached", &s.Cached}, {"forwarded", &s.Forwarded},
		{"failed", &s.Failed}, {"busy", &s.Busy}, {"refused", &s.Refused}, {"outsider", &s.Outsiders}, {"silent", &s.Silent},
	} {
		m.Counter("flatdhcp_dns_queries_total", "DNS messages that came, by what they got.", o.n.Load(), with("outcome", o.outcome)...)
	}
	m.Counter("flatdhcp_dns_tcp_queries_total", "DNS messages that came by TCP.", s.TCP.Load(), name...)
	const cache = "Questions for other servers: answered from the cache, not in it, and of these those that waited for another's answer."
	m.Counter("flatdhcp_dns_cache_total", cache, u.Hits.Load(), with("result", "hit")...)
	m.Counter("flatdhcp_dns_cache_total", cache, u.Misses.Load(), with("result", "miss")...)
	m.Counter("flatdhcp_dns_cache_total", cache, u.Joined.Load(), with("result", "joined")...)
	const forwards = "Exchanges with other servers."
	failed, asked := u.Errors.Load(), u.Asked.Load() // in this order: never less than none is ok
	m.Counter("flatdhcp_dns_forwards_total", forwards, asked-min(failed, asked), with("result", "ok")...)
	m.Counter("flatdhcp_dns_forwards_total", forwards, failed, with("result", "error")...)
	up, entries, bytes := 0.0, 0, 0
	if t.served.Load() {
		up = 1
	}
	if c := t.cache.Load(); c != nil {
		entries, bytes = c.CacheSize()
	}
	m.Gauge("flatdhcp_dns_served", "1 where DNS is served, 0 where its port could not be had.", up, name...)
	m.Gauge("flatdhcp_dns_cache_entries", "Other servers' answers that are kept.", float64(entries), name...)
	m.Gauge("flatdhcp_dns_cache_bytes", "About what they take.", float64(bytes), name...)
}
