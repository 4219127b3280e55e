package upstream

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxTTL and maxNegativeTTL bound what is kept whatever a server says, so that a
	// mistake made elsewhere does not stay here for a day.
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
	// failureTTL is how long it is remembered that nobody could answer (RFC 9520 wants at
	// least a second, and no more than five minutes).
	failureTTL = time.Second
	// maxEntry is the longest answer that is kept, in bytes.
	maxEntry = 8 << 10
	// entryCost is what an entry takes beside its name and answer, in bytes, about.
	entryCost = 256
)

// key is a question, with what changes the answer: a client that validates wants more.
type key struct {
	name   string // lower case
	qtype  uint16
	do, cd bool
}

// cache holds answers in their wire form, which is what bounds it in bytes. What was not
// asked for longest goes first. It is safe for concurrent use.
type cache struct {
	limit int // bytes

	mu    sync.Mutex
	used  int
	byKey map[key]*list.Element
	order *list.List // of *entry, the one asked for last in front
}

type entry struct {
	key    key
	packed []byte
	stored time.Time
	until  time.Time
}

func (e *entry) cost() int { return len(e.key.name) + len(e.packed) + entryCost }

func newCache(limit int) *cache {
	return &cache{limit: limit, byKey: map[key]*list.Element{}, order: list.New()}
}

// get returns the answer to k, with the TTLs that are left of it; nil if there is none.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	c.mu.Lock()
	el, ok := c.byKey[k]
	if !ok {
		c.mu.Unlock()
		return nil
	}
	e := el.Value.(*entry)
	if !now.Before(e.until) {
		c.remove(el)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(el)
	c.mu.Unlock()
	m := new(dns.Msg)
	if m.Unpack(e.packed) != nil { // never: it was packed by us
		return nil
	}
	age, left := uint32(now.Sub(e.stored)/time.Second), uint32((e.until.Sub(now)+time.Second-1)/time.Second)
	records(m, func(h *dns.RR_Header) {
		h.Ttl = min(h.Ttl-min(h.Ttl, age), left)
	})
	return m
}

// put keeps m as the answer to k if it may be kept.
func (c *cache) put(k key, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	packed, err := m.Pack()
	if err != nil || len(packed) > maxEntry {
		return
	}
	e := &entry{key: k, packed: packed, stored: now, until: now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[k]; ok {
		c.remove(el)
	}
	c.byKey[k] = c.order.PushFront(e)
	c.used += e.cost()
	for c.used > c.limit {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := el.Value.(*entry)
	c.order.Remove(el)
	delete(c.byKey, e.key)
	c.used -= e.cost()
}

// clear forgets everything: other servers may answer otherwise.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byKey)
	c.order.Init()
	c.used = 0
}

// size returns the number of answers and the bytes that they take.
func (c *cache) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byKey), c.used
}

// lifetime says how long m may be kept; 0 = not at all. Of a negative answer RFC 2308
// section 5 says: as long as its SOA record allows, and not at all without one.
func lifetime(m *dns.Msg) time.Duration {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeServerFailure:
		return failureTTL
	default:
		return 0
	}
	if m.Truncated {
		return 0
	}
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 || !answers(m) {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				ttl := time.Duration(min(soa.Minttl, soa.Hdr.Ttl)) * time.Second
				for _, rr := range m.Answer { // the CNAMEs that lead to nothing
					ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
				}
				return min(ttl, maxNegativeTTL)
			}
		}
		return 0
	}
	ttl := maxTTL
	records(m, func(h *dns.RR_Header) { ttl = min(ttl, time.Duration(h.Ttl)*time.Second) })
	return ttl
}

// answers reports whether m has a record of the type that was asked for.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if t := m.Question[0].Qtype; t == dns.TypeANY || rr.Header().Rrtype == t {
			return true
		}
	}
	return false
}

// records calls f for the header of every record but OPT, whose TTL is none.
func records(m *dns.Msg, f func(*dns.RR_Header)) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				f(h)
			}
		}
	}
}
