package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// idleTimeout is how long a TCP connection may say nothing, and transferTimeout how
	// long one message may take (RFC 7766 section 6.2.3: a few seconds).
	idleTimeout     = 10 * time.Second
	transferTimeout = 5 * time.Second
	// answerTimeout bounds one query in all: the store's two seconds and what package
	// upstream allows.
	answerTimeout = 8 * time.Second
)

// Run serves until ctx is done and then closes the sockets and every connection.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.sockets.Close() })
	defer func() {
		if stop() {
			_ = s.sockets.Close()
		}
	}()
	wg.Go(func() { s.serveTCP(ctx, &wg) })
	s.serveUDP(ctx, &wg)
}

func (s *Server) serveUDP(ctx context.Context, wg *sync.WaitGroup) {
	buf, control := make([]byte, dns.MaxMsgSize), make([]byte, controlSize)
	out := make([]byte, maxUDP)
	for {
		n, c, _, from, err := s.sockets.udp.ReadMsgUDPAddrPort(buf, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !s.trouble(ctx, "receiving DNS queries", err) {
				return
			}
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		s.Counters.Queries.Add(1)
		if link := arrival(control[:c]); !s.admitted(from.Addr(), link) {
			s.outsider(from.Addr())
			continue
		}
		q, reply, wait := s.begin(buf[:n], from, false)
		if wait && !s.waiting.take(from.Addr()) {
			reply, wait = s.overload(q), false
		}
		if wait {
			wg.Go(func() {
				defer s.waiting.give(q.from.Addr())
				ctx, cancel := context.WithTimeout(ctx, answerTimeout)
				defer cancel()
				s.send(s.pack(q, s.finish(ctx, q), nil), q.from)
			})
		} else if reply != nil {
			s.send(s.pack(q, reply, out), from)
		}
	}
}

// send ignores errors: a client that is gone asks no more, and one that is not, again.
func (s *Server) send(b []byte, to netip.AddrPort) {
	if len(b) > 0 {
		_, _ = s.sockets.udp.WriteToUDPAddrPort(b, to)
	}
}

func (s *Server) serveTCP(ctx context.Context, wg *sync.WaitGroup) {
	for {
		c, err := s.sockets.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !s.trouble(ctx, "accepting DNS connections", err) {
				return
			}
			continue
		}
		remote, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		from := netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
		// By whichever link it came: its handshake was answered by the bridge.
		if !s.zone().Subnet.Contains(from.Addr()) {
			s.Counters.Queries.Add(1)
			s.outsider(from.Addr())
			_ = c.Close()
			continue
		}
		if !s.conns.take(from.Addr()) {
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer s.conns.give(from.Addr())
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			s.converse(ctx, c, from)
			_ = c.Close()
		})
	}
}

// converse answers the queries of one connection in their order, until it says nothing
// for a while.
func (s *Server) converse(ctx context.Context, c net.Conn, from netip.AddrPort) {
	for {
		wire, err := readMessage(c)
		if err != nil {
			return
		}
		s.Counters.Queries.Add(1)
		s.Counters.TCP.Add(1)
		q, reply, wait := s.begin(wire, from, true)
		if wait {
			// A connection's own goroutine waits, so this takes no other's place.
			actx, cancel := context.WithTimeout(ctx, answerTimeout)
			reply = s.finish(actx, q)
			cancel()
		}
		if reply == nil {
			return
		}
		b := s.pack(q, reply, nil)
		if b == nil || c.SetWriteDeadline(time.Now().Add(transferTimeout)) != nil {
			return
		}
		b = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// readMessage reads one message with its length before it (RFC 1035 section 4.2.2).
func readMessage(c net.Conn) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:1]); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(transferTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, size[1:]); err != nil {
		return nil, err
	}
	// No query needs more than what is taken by UDP: a client cannot have 64 KiB of
	// memory for each of its connections.
	n := binary.BigEndian.Uint16(size[:])
	if n > 4096 {
		return nil, fmt.Errorf("a query of %d bytes", n)
	}
	wire := make([]byte, n)
	_, err := io.ReadFull(c, wire)
	return wire, err
}

// outsider counts and logs a query from elsewhere, in dnsmasq's words.
func (s *Server) outsider(from netip.Addr) {
	s.Counters.Outsiders.Add(1)
	if held, ok := s.outsiders.allow(time.Now()); ok {
		s.log.Warn(fmt.Sprintf("ignoring query from non-local network %s%s", from, more(held)))
	}
}

// trouble logs an error of the sockets, waits a little and reports whether to go on.
func (s *Server) trouble(ctx context.Context, doing string, err error) bool {
	if held, ok := s.busy.allow(time.Now()); ok {
		s.log.Warn(fmt.Sprintf("%s: %v%s", doing, err, more(held)))
	}
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
