package upstream

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// A server that does not answer is asked last for firstPenalty, twice as long after
	// each further failure and at most for maxPenalty.
	firstPenalty = time.Second
	maxPenalty   = 30 * time.Second
)

// health is what is known of a server.
type health struct {
	failures int
	until    time.Time // asked last before that
	probing  bool
}

// note remembers how an exchange with s went.
func (r *Resolver) note(s netip.AddrPort, err error) {
	r.mu.Lock()
	h := r.health[s]
	if h == nil {
		if err == nil || !slices.Contains(r.asked, s) {
			r.mu.Unlock()
			return
		}
		h = &health{}
		r.health[s] = h
	}
	before := h.failures
	if err == nil {
		delete(r.health, s)
	} else {
		h.until = r.now().Add(min(firstPenalty<<min(h.failures, 10), maxPenalty))
		h.failures++
	}
	r.mu.Unlock()
	switch {
	case err == nil:
		r.log.Info(fmt.Sprintf("DNS server %s answers again", s))
	case before == 0:
		r.log.Warn(fmt.Sprintf("DNS server %s does not answer: %v; others are asked first", s, err))
	}
}

func (r *Resolver) isDown(s netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health[s] != nil
}

// order returns servers with those that answer first, each part in the given order. A
// server whose penalty is over is tried beside the others and not before them, so that
// no client waits to find out whether it is back.
func (r *Resolver) order(servers []netip.AddrPort) []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	var good, bad []netip.AddrPort
	for _, s := range servers {
		if r.health[s] == nil {
			good = append(good, s)
		} else {
			bad = append(bad, s)
		}
	}
	if len(good) > 0 {
		for _, s := range bad {
			if h := r.health[s]; !h.probing && !r.now().Before(h.until) {
				h.probing = true
				go r.probe(s, h)
			}
		}
	}
	// Of those that failed the one whose penalty ends first.
	slices.SortStableFunc(bad, func(a, b netip.AddrPort) int { return r.health[a].until.Compare(r.health[b].until) })
	return append(good, bad...)
}

// probe asks s whether it is there. The root's name servers are what every resolver
// knows, and nobody's secret.
func (r *Resolver) probe(s netip.AddrPort, h *health) {
	ctx, cancel := context.WithTimeout(context.Background(), r.tryTimeout)
	defer cancel()
	_, err := exchange(ctx, s, dns.Question{Name: ".", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, false, false)
	r.mu.Lock()
	h.probing = false
	r.mu.Unlock()
	r.note(s, err)
}
