package seed

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// dial opens a TCP connection.
func dial(ctx context.Context, from labtest.Place, to netip.AddrPort) (conn net.Conn, err error) {
	if doErr := from.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
		return nil
	}); doErr != nil {
		return nil, doErr
	}
	return conn, err
}

// ask connects to a server of tells and returns the address from which that saw it come.
func ask(ctx context.Context, from labtest.Place, to netip.AddrPort) (netip.Addr, error) {
	conn, err := dial(ctx, from, to)
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
	return netip.ParseAddr(string(answer))
}

// reaches is the outcome of a connection that r is to let by, and that the server is to see
// come from an address.
func (s *scene) reaches(from labtest.Place, to netip.AddrPort, source netip.Addr, r rule) outcome {
	s.t.Helper()
	before := r.count()
	o := outcome{expected: "reached, seen as " + source.String()}
	got, err := ask(s.within(), from, to)
	if err != nil {
		o.observed = "not reached"
		o.fault("%v", err)
		return o
	}
	o.observed = "reached, seen as " + got.String()
	o.decidedBy(r, before)
	return o
}

// connected attempts a connection. Where it is not expected, it is given up once it is known
// to have been lost: no time decides.
func (s *scene) connected(from labtest.Place, to netip.AddrPort, expected bool, lost func() bool) bool {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.within())
	defer cancel()
	if expected {
		_, err := ask(ctx, from, to)
		return err == nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := ask(ctx, from, to)
		done <- err
	}()
	for {
		select {
		case err := <-done:
			return err == nil
		case <-time.After(20 * time.Millisecond):
		}
		if lost() {
			cancel()
			return <-done == nil
		}
	}
}

// counted tells when r will have counted some more packets than now.
func (r rule) counted(some int) func() bool {
	r.n.s.t.Helper()
	before := r.count()
	return func() bool { return r.count() >= before+some }
}

// refuses is the outcome of a connection that r is to stop, and that is reached without r.
func (s *scene) refuses(from labtest.Place, to netip.AddrPort, r rule) outcome {
	s.t.Helper()
	return drops([2]string{"reached", "dropped"}, r, func(expected bool) bool {
		if expected { // r is out of force, and has no counter
			return s.connected(from, to, true, nil)
		}
		return s.connected(from, to, false, r.counted(1))
	})
}
