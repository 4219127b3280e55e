package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is what a server is told that it may send in one datagram (DNS Flag Day 2020:
// what fits into no fragment on any common path); the rest comes by TCP.
const udpSize = 1232

// exchange asks one server once: by UDP, and by TCP what does not fit. Every query has a
// random ID and, as every socket is its own, a random port. A datagram that is not the
// answer to this very question is passed over until the deadline, as others may send too.
func exchange(ctx context.Context, server netip.AddrPort, q dns.Question, do, cd bool) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired, m.CheckingDisabled = true, cd
	m.Question = []dns.Question{q}
	m.SetEdns0(udpSize, do)
	r, err := ask(ctx, "udp", server, m)
	if err == nil && plain(r) {
		// RFC 6891 section 7: a server from before EDNS0.
		m.Extra = nil
		m.Id = dns.Id()
		r, err = ask(ctx, "udp", server, m)
	}
	if err == nil && r.Truncated {
		m.Id = dns.Id()
		r, err = ask(ctx, "tcp", server, m)
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", server, err)
	}
	return r, nil
}

// plain reports whether r says that its server does not know EDNS0.
func plain(r *dns.Msg) bool {
	return r.IsEdns0() == nil && (r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented)
}

func ask(ctx context.Context, network string, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		r, err := conn.ReadMsg()
		var broken net.Error
		switch {
		case err == nil && answered(m, r):
			return r, nil
		case network == "tcp" && err == nil:
			return nil, errors.New("the answer is to another question")
		case network == "tcp", errors.As(err, &broken), errors.Is(err, net.ErrClosed):
			return nil, err
		}
	}
}

// answered reports whether r answers m. An error may come without the question.
func answered(m, r *dns.Msg) bool {
	if r.Id != m.Id || !r.Response || r.Opcode != m.Opcode {
		return false
	}
	if len(r.Question) == 0 {
		return r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError
	}
	a, b := r.Question[0], m.Question[0]
	return len(r.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
