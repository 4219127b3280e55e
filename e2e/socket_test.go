package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// serve listens on a TCP port until the test ends, and tells each client the address from
// which it came.
func (n *node) serve(in labtest.Place, port uint16) {
	n.t.Helper()
	labtest.Serve(n.t, in, fmt.Sprintf(":%d", port), func(c net.Conn) { _, _ = io.WriteString(c, c.RemoteAddr().String()) })
}

// ask connects to a server of serve and returns the address from which that was seen to
// come.
func ask(ctx context.Context, from labtest.Place, to netip.AddrPort) (netip.Addr, error) {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return netip.Addr{}, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reading the answer of %s: %w", to, err)
	}
	seen, err := netip.ParseAddrPort(string(answer))
	return seen.Addr(), err
}

// seenFrom fails the test unless to is reached, and sees want as the source.
func (n *node) seenFrom(what string, from labtest.Place, to netip.AddrPort, want netip.Addr) {
	n.t.Helper()
	got, err := ask(n.within(), from, to)
	if err != nil {
		n.t.Errorf("%s: %v", what, err)
	} else if got != want {
		n.t.Errorf("%s is seen to come from %s, want %s", what, got, want)
	}
}

// stopped fails the test unless a connection is not made, and c counted what was sent.
func (n *node) stopped(what string, from labtest.Place, to netip.AddrPort, c cause) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.within())
	defer cancel()
	before := c.count()
	done := make(chan error, 1)
	go func() {
		_, err := ask(ctx, from, to)
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err == nil {
				n.t.Errorf("%s is connected", what)
			} else if c.count() == before {
				n.t.Errorf("%s: %v, but %q counted nothing", what, err, c.name)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
		if c.count() > before {
			cancel()
			if err := <-done; err == nil {
				n.t.Errorf("%s is connected although %q counted it", what, c.name)
			}
			return
		}
	}
}

// rule is a rule of a chain of table filter, which is to count.
func (n *node) rule(chain, text string) cause {
	return cause{name: chain + " " + text, count: func() int { return n.ruleCount(chain, text) }}
}
