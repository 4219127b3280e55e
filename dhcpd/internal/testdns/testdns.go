// Package testdns gives tests DNS servers to ask, well-behaved and otherwise.
package testdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Server is a DNS server that records what it was asked.
type Server struct {
	Addr netip.AddrPort

	mu    sync.Mutex
	asked []Question
}

// Question is one query as it came.
type Question struct {
	Name string // as it came, "example.org."
	Type uint16
	ID   uint16
	From netip.AddrPort
	TCP  bool
}

// Handler answers a query; nil = silence.
type Handler func(q *dns.Msg, tcp bool) *dns.Msg

// New starts a server on a free port of addr, UDP and TCP, that lives as long as the
// test. It must be called where its sockets are to be (testnet's Do).
func New(t testing.TB, addr string, handle Handler) *Server {
	t.Helper()
	pc, l, err := listen(t.Context(), addr)
	for range 20 {
		if err == nil {
			break // a port that is free for UDP need not be for TCP
		}
		pc, l, err = listen(t.Context(), addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: netip.MustParseAddrPort(pc.LocalAddr().String())}
	serve := func(tcp bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			s.mu.Lock()
			s.asked = append(s.asked, Question{q.Question[0].Name, q.Question[0].Qtype, q.Id,
				netip.MustParseAddrPort(w.RemoteAddr().String()), tcp})
			s.mu.Unlock()
			if r := handle(q, tcp); r != nil {
				_ = w.WriteMsg(r) // its client may have gone
			}
		}
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: serve(false)}, {Listener: l, Handler: serve(true)}} {
		up, ended := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		go func() {
			defer close(ended)
			_ = srv.ActivateAndServe()
		}()
		<-up
		t.Cleanup(func() {
			_ = srv.Shutdown()
			<-ended
		})
	}
	return s
}

func listen(ctx context.Context, addr string) (net.PacketConn, net.Listener, error) {
	var config net.ListenConfig
	pc, err := config.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return nil, nil, err
	}
	l, err := config.Listen(ctx, "tcp4", pc.LocalAddr().String())
	if err != nil {
		return nil, nil, errors.Join(err, pc.Close())
	}
	return pc, l, nil
}

// Asked returns every query so far.
func (s *Server) Asked() []Question {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Question(nil), s.asked...)
}

// Reply returns an answer to q with records in zone-file form.
func Reply(q *dns.Msg, records ...string) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err) // the test's own text
		}
		r.Answer = append(r.Answer, rr)
	}
	return r
}

// Address answers every question of type A with one address and TTL.
func Address(addr string, ttl string) Handler {
	return func(q *dns.Msg, _ bool) *dns.Msg {
		if q.Question[0].Qtype != dns.TypeA {
			return Reply(q)
		}
		return Reply(q, q.Question[0].Name+" "+ttl+" IN A "+addr)
	}
}
