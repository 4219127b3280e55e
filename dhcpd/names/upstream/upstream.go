// Package upstream answers DNS questions by asking other servers: those configured, or
// those of the node's resolv.conf as it is at the time.
//
// It remembers which servers do not answer and asks them last, asks one question once
// however many clients wait for it, and keeps answers within a bound in bytes.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	dnsPort = 53
	// tryTimeout is how long one server may take before the next is asked.
	tryTimeout = 1500 * time.Millisecond
	// budget is what all of them together may take: the C library's resolver asks again
	// after five seconds.
	budget = 4500 * time.Millisecond
	// cacheBytes bounds the answers kept for one network.
	cacheBytes = 4 << 20
)

// ErrNone says that there is no server to ask.
var ErrNone = errors.New("no DNS server to ask: dns.forwarders is empty and the node's resolv.conf names none that is not flat-dhcpd itself")

// Counters counts since the Resolver was made. Each is read by itself.
type Counters struct {
	Hits     atomic.Uint64 // questions answered from the cache
	Misses   atomic.Uint64 // questions that were not
	Joined   atomic.Uint64 // of these, those that waited for another's answer
	Asked    atomic.Uint64 // exchanges with a server
	Errors   atomic.Uint64 // of these, those without an answer
	Failures atomic.Uint64 // questions that no server answered
}

// Resolver asks for one network. It is safe for concurrent use.
type Resolver struct {
	// Counters may be replaced before the first question.
	Counters *Counters

	log        *slog.Logger
	self       func(netip.AddrPort) bool
	now        func() time.Time
	tryTimeout time.Duration
	budget     time.Duration
	file       resolvConf
	configured atomic.Pointer[[]netip.AddrPort]
	cache      *cache

	mu      sync.Mutex
	asked   []netip.AddrPort // as last seen: when they change, the cache goes
	health  map[netip.AddrPort]*health
	flights map[key]*flight
}

// flight is a question on its way.
type flight struct {
	done   chan struct{}
	answer *dns.Msg
	err    error
}

// New returns a Resolver that asks servers, or those of the file resolvConfPath if there
// are none. Whatever self holds to be this daemon is never asked.
func New(servers []netip.AddrPort, resolvConfPath string, self func(netip.AddrPort) bool, log *slog.Logger) *Resolver {
	r := &Resolver{
		Counters: new(Counters),
		log:      log, self: self, now: time.Now, tryTimeout: tryTimeout, budget: budget,
		file:  resolvConf{path: resolvConfPath, now: time.Now},
		cache: newCache(cacheBytes), health: map[netip.AddrPort]*health{}, flights: map[key]*flight{},
	}
	r.Configure(servers)
	return r
}

// Configure replaces the configured servers, from the next question on.
func (r *Resolver) Configure(servers []netip.AddrPort) {
	servers = slices.Clone(servers)
	r.configured.Store(&servers)
}

// Servers returns whom the next question would go to, in their order.
func (r *Resolver) Servers() []netip.AddrPort {
	list := *r.configured.Load()
	if len(list) == 0 {
		list = r.file.list()
	}
	var others []netip.AddrPort
	for _, s := range list {
		if !r.self(s) {
			others = append(others, s)
		}
	}
	return others
}

// CacheSize returns the number of answers kept and about how many bytes they take.
func (r *Resolver) CacheSize() (entries, bytes int) { return r.cache.size() }

// Cached returns the answer to a question if it is at hand, else nil; as Resolve does.
func (r *Resolver) Cached(q dns.Question, do, cd bool) *dns.Msg {
	r.current()
	m := r.cache.get(keyOf(q, do, cd), r.now())
	if m != nil {
		r.Counters.Hits.Add(1)
	}
	return m
}

func keyOf(q dns.Question, do, cd bool) key {
	return key{name: strings.ToLower(q.Name), qtype: q.Qtype, do: do, cd: cd}
}

// Resolve answers q. do and cd are the client's bits for DNSSEC. The message is the
// caller's; its ID and OPT record mean nothing. cached says that nobody was asked.
// An error means that no server answered, or ctx is done.
func (r *Resolver) Resolve(ctx context.Context, q dns.Question, do, cd bool) (answer *dns.Msg, cached bool, err error) {
	servers := r.current()
	k := keyOf(q, do, cd)
	if m := r.cache.get(k, r.now()); m != nil {
		r.Counters.Hits.Add(1)
		return m, true, nil
	}
	r.Counters.Misses.Add(1)
	if len(servers) == 0 {
		return nil, false, ErrNone
	}
	r.mu.Lock()
	f, flying := r.flights[k]
	if !flying {
		f = &flight{done: make(chan struct{})}
		r.flights[k] = f
	}
	r.mu.Unlock()
	if flying {
		r.Counters.Joined.Add(1)
	} else {
		// Not in the client's context: others may have joined.
		go r.fly(context.WithoutCancel(ctx), f, k, q, servers)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if f.err != nil {
		return nil, false, f.err
	}
	return f.answer.Copy(), false, nil
}

// current returns the servers, and forgets what others answered if they changed.
func (r *Resolver) current() []netip.AddrPort {
	list := r.Servers()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(list, r.asked) {
		r.asked = list
		r.cache.clear()
		for s := range r.health {
			if !slices.Contains(list, s) {
				delete(r.health, s)
			}
		}
	}
	return list
}

func (r *Resolver) fly(ctx context.Context, f *flight, k key, q dns.Question, servers []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, r.budget)
	defer cancel()
	f.answer, f.err = r.askAll(ctx, q, k, servers)
	if f.err == nil {
		r.cache.put(k, f.answer, r.now())
	} else {
		r.Counters.Failures.Add(1)
		failure := new(dns.Msg)
		failure.Response, failure.Rcode, failure.Question = true, dns.RcodeServerFailure, []dns.Question{q}
		r.cache.put(k, failure, r.now())
	}
	r.mu.Lock()
	delete(r.flights, k)
	r.mu.Unlock()
	close(f.done)
}

// askAll asks one server after the other, those that answered lately first, and all of
// them again while there is time: a datagram may have been lost. A server's refusal or
// failure is the answer only if no other has a better one.
func (r *Resolver) askAll(ctx context.Context, q dns.Question, k key, servers []netip.AddrPort) (*dns.Msg, error) {
	var unable *dns.Msg
	var failed error
	for range 2 {
		for _, s := range r.order(servers) {
			if unable != nil && r.isDown(s) {
				continue // somebody is there, if not of much help
			}
			m, err := r.try(ctx, s, q, k)
			switch {
			case err != nil:
				failed = errors.Join(failed, err)
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				return m, nil
			case unable == nil:
				unable = m
			}
			if ctx.Err() != nil {
				break
			}
		}
		if unable != nil {
			return unable, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("no DNS server answered: %w", failed)
}

// try asks one server and remembers how that went.
func (r *Resolver) try(all context.Context, s netip.AddrPort, q dns.Question, k key) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(all, r.tryTimeout)
	defer cancel()
	r.Counters.Asked.Add(1)
	r.log.Debug(fmt.Sprintf("forwarded %s to %s", strings.TrimSuffix(q.Name, "."), s.Addr()))
	m, err := exchange(ctx, s, q, k.do, k.cd)
	if err != nil {
		r.Counters.Errors.Add(1)
	}
	if err == nil || all.Err() == nil { // the last one may have had less than its time
		r.note(s, err)
	}
	return m, err
}
