package labtest

import (
	"io"
	"net"
	"testing"
)

// Place is a host or a container: where a socket is opened.
type Place interface{ Do(f func() error) error }

// Listen listens on a TCP address, such as ":80", until the test ends.
func Listen(t testing.TB, in Place, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := in.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp4", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// Serve has each connection to a TCP address handled, and closed thereafter, until the test
// ends. What fails in handle shows at the client.
func Serve(t testing.TB, in Place, addr string, handle func(net.Conn)) {
	t.Helper()
	l := Listen(t, in, addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				handle(c)
				_ = c.Close()
			}()
		}
	}()
}

// Echo is for Serve: it says back what comes, until the client has said all.
func Echo(c net.Conn) { _, _ = io.Copy(c, c) }
