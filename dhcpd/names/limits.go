package names

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// slots bounds how much of something there is at once, in all and for each client. It is
// safe for concurrent use.
type slots struct {
	total, each int

	mu   sync.Mutex
	used int
	by   map[netip.Addr]int
}

func newSlots(total, each int) *slots {
	return &slots{total: total, each: each, by: map[netip.Addr]int{}}
}

func (s *slots) take(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.total || s.by[client] >= s.each {
		return false
	}
	s.used++
	s.by[client]++
	return true
}

func (s *slots) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.by[client]--; s.by[client] == 0 {
		delete(s.by, client)
	}
}

// limiter lets through one event each interval and counts those between. It is safe for
// concurrent use.
type limiter struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time
	held int
}

// allow reports whether the event may pass and, if so, how many before it could not.
func (l *limiter) allow(now time.Time) (held int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		l.held++
		return 0, false
	}
	l.next = now.Add(l.every)
	held, l.held = l.held, 0
	return held, true
}

func more(held int) string {
	if held == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more such lines not logged)", held)
}

// shown is a name as dnsmasq logs it, without its final dot. The library has escaped
// whatever is not printable.
func shown(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}

// replyLine is dnsmasq's line about an answer: "DHCP vm1.novalocal is 10.0.0.2".
func replyLine(source string, r *dns.Msg) string {
	what := "NODATA"
	switch {
	case r.Rcode == dns.RcodeNameError:
		what = "NXDOMAIN"
	case r.Rcode != dns.RcodeSuccess:
		what = dns.RcodeToString[r.Rcode]
	case len(r.Answer) > 0:
		var list []string
		for _, rr := range r.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				list = append(list, rr.A.String())
			case *dns.AAAA:
				list = append(list, rr.AAAA.String())
			case *dns.PTR:
				list = append(list, shown(rr.Ptr))
			case *dns.CNAME:
				list = append(list, "<CNAME>")
			default:
				list = append(list, "<"+dns.Type(rr.Header().Rrtype).String()+">")
			}
		}
		what = strings.Join(list, ", ")
	}
	return source + " " + shown(r.Question[0].Name) + " is " + what
}
