package server

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// LogGroup is the slog group with a DHCP line's parts. The line itself repeats
// them, so a handler for people leaves the group out.
const LogGroup = "dhcp"

// queryLine is dnsmasq's line about a message that came:
// "DHCPREQUEST(br100) 10.0.0.2 fa:16:3e:00:00:02", the address being the one asked
// for; suffix says why there is silence.
func queryLine(bridge string, q *Query, suffix string) string {
	ip, _ := asked(q)
	return line(q.Type(), bridge, ip, q.MAC(), suffix)
}

// replyLine is dnsmasq's line about a reply: an ACK ends with the host's name, a
// NAK with its reason.
func replyLine(r *Reply) string {
	switch r.Type {
	case Nak:
		ip, _ := asked(r.query)
		return line(Nak, r.scope.Bridge, ip, r.query.MAC(), r.Reason)
	case Ack:
		return line(Ack, r.scope.Bridge, r.row.Addr, r.query.MAC(), hostname(r.row))
	default:
		return line(r.Type, r.scope.Bridge, r.row.Addr, r.query.MAC(), "")
	}
}

// asked returns the address a message is about: option 50, else ciaddr.
func asked(q *Query) (netip.Addr, bool) {
	if ip, ok := q.RequestedIP(); ok {
		return ip, true
	}
	return q.CIAddr, q.CIAddr.IsValid() && q.CIAddr != zeroIP
}

func line(t MessageType, bridge string, ip netip.Addr, mac ipam.MAC, suffix string) string {
	b := make([]byte, 0, 96)
	b = append(append(append(append(b, t.String()...), '('), bridge...), ") "...)
	if ip.IsValid() && ip != zeroIP {
		b = append(ip.AppendTo(b), ' ')
	}
	b = appendMAC(b, mac)
	if suffix != "" {
		b = append(append(b, ' '), clean(suffix)...)
	}
	return string(b)
}

func appendMAC(b []byte, mac ipam.MAC) []byte {
	const digits = "0123456789abcdef"
	for i, o := range mac {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[o>>4], digits[o&15])
	}
	return b
}

// attrs are the parts of a line for programs.
func attrs(t MessageType, s *Scope, ip netip.Addr, mac ipam.MAC, more ...any) slog.Attr {
	list := append(make([]any, 0, 16), "type", t.String(), "network", s.Network, "bridge", s.Bridge, "mac", mac.String())
	if ip.IsValid() && ip != zeroIP {
		list = append(list, "ip", ip.String())
	}
	return slog.Group(LogGroup, append(list, more...)...)
}

// cleanLimit bounds what of a client's text goes into the log, in bytes.
const cleanLimit = 128

// clean makes text that may come from a client harmless to logs and terminals.
func clean(s string) string {
	b := []byte(s[:min(len(s), cleanLimit)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// limiter lets through burst events at once and then one each interval, and counts
// what it held back. It is safe for concurrent use.
type limiter struct {
	interval time.Duration
	burst    int
	now      func() time.Time

	mu     sync.Mutex
	tokens int
	last   time.Time
	held   int
}

// allow reports whether the event may pass and, if so, how many before it could not.
func (l *limiter) allow() (held int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.last.IsZero() {
		l.tokens, l.last = l.burst, now
	}
	if n := int(now.Sub(l.last) / l.interval); n > 0 {
		l.tokens = min(l.burst, l.tokens+n)
		l.last = l.last.Add(time.Duration(n) * l.interval)
	}
	if l.tokens == 0 {
		l.held++
		return 0, false
	}
	l.tokens--
	held, l.held = l.held, 0
	return held, true
}
