package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// wired joins a host to the node's bridge by a port that is no workload's: an uplink. The
// host has an address of the subnet.
func (n *node) wired(host *lab.Host, addr netip.Addr) {
	n.t.Helper()
	n.run("ip", "link", "set", "out0", "master", "br100")
	for _, argv := range [][]string{{"ip", "address", "flush", "dev", "in0"}, {"ip", "address", "add", addr.String() + "/24", "dev", "in0"}} {
		if _, _, err := host.Run(n.within(), argv...); err != nil {
			n.t.Fatal(err)
		}
	}
}

// echoes listens on a TCP port until the test ends, and sends back what comes.
func (n *node) echoes(port uint16) {
	n.t.Helper()
	labtest.Serve(n.t, n, fmt.Sprintf(":%d", port), labtest.Echo)
}

// session is a TCP connection on which somebody types without a pause.
type session struct {
	conn net.Conn
	done chan struct{}
	seen chan int // how many round trips, whenever somebody asks
	err  error    // once done
}

func (n *node) session(from labtest.Place, to netip.AddrPort) *session {
	n.t.Helper()
	s := &session{done: make(chan struct{}), seen: make(chan int)}
	err := from.Do(func() (err error) {
		s.conn, err = net.DialTimeout("tcp4", to.String(), patience)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = s.conn.Close(); <-s.done })
	go func() {
		defer close(s.done)
		b := make([]byte, 1)
		for count := 0; ; count++ {
			if _, s.err = s.conn.Write(b); s.err != nil {
				return
			}
			if _, s.err = io.ReadFull(s.conn, b); s.err != nil {
				return
			}
			select {
			case s.seen <- count:
			default:
			}
		}
	}()
	return s
}

// goesOn fails the test unless the session makes some more round trips.
func (s *session) goesOn(t *testing.T, what string) {
	t.Helper()
	deadline := time.After(patience)
	for range 20 {
		select {
		case <-s.seen:
		case <-s.done:
			t.Fatalf("%s: %v", what, s.err)
		case <-deadline:
			t.Fatalf("%s: it hangs", what)
		}
	}
}

// OSSN-0018: workloads reach all that the node listens on. With hostAccess "services" they do
// not, while a host on the LAN behind the uplink goes on as if nothing had happened, in
// every moment: the operator's own session comes that way.
func TestHostAccessSparesTheLAN(t *testing.T) {
	t.Parallel()
	t.Run("in the subnet", func(t *testing.T) {
		t.Parallel()
		n, lan := newNodeWithOutside(t, keys{"metadata": "127.0.0.1:8775"})
		w, addr := n.attach("w", lab.CNIOptions{}), netip.MustParseAddr("10.0.0.250")
		n.wired(lan, addr)
		n.sparesTheLAN(w, lan, addr, gateway)
	})
	t.Run("at the address that the NIC had", func(t *testing.T) {
		t.Parallel()
		n, lan := newNodeWithOutside(t, keys{"metadata": "127.0.0.1:8775", "flatInterface": "out0"})
		n.sparesTheLAN(n.attach("w", lab.CNIOptions{}), lan, outsideAddr, nodeOutside)
	})
}

// sparesTheLAN turns hostAccess to and fro, while a host of the LAN, which has an address,
// talks to the node at one of its own.
func (n *node) sparesTheLAN(w *workload, lan *lab.Host, lanAddr, nodeAddr netip.Addr) {
	n.t.Helper()
	t := n.t
	n.run("ip", "address", "add", "192.0.2.9/32", "dev", "lo") // another address of the node's
	n.echoes(22)
	n.serve(n, 80)
	n.serve(w, 80)
	ssh := n.session(lan, at(nodeAddr, 22))
	ssh.goesOn(t, "the control: a session from the LAN")
	old := n.session(w, at(gateway, 22))
	old.goesOn(t, "the control: a session of a workload's")

	serveMetadata(t, n, "0.0.0.0:8775", map[netip.Addr]string{w.addr: "i-00000009"})
	limit := n.rule("FLAT-INPUT", "-j FLAT-DROP")
	for range 3 {
		n.apply(keys{"hostAccess": "services"})
		ssh.goesOn(t, "with hostAccess services a session from the LAN")
		n.session(lan, at(nodeAddr, 22)).goesOn(t, "with hostAccess services a new session from the LAN")
		n.seenFrom("with hostAccess services a LAN host, at the node,", lan, at(nodeAddr, 80), lanAddr)
		n.stopped("a workload at the gateway", w, at(gateway, 80), limit)
		n.stopped("a workload at another address of the node's", w, at(netip.MustParseAddr("192.0.2.9"), 80), limit)
		n.seenFrom("the node, at a workload,", n, at(w.addr, 80), gateway)
		w.bootsFromMetadata("i-00000009")
		if err := w.exec("ping", "-c", "1", "-W", "10", gateway.String()); err != nil {
			t.Errorf("ping of the gateway: %v", err)
		}
		// Packets of the workload's session are counted, and none comes through.
		before := limit.count()
		n.eventually("the workload's old session to be stopped", func() bool { return limit.count() > before })
		select {
		case <-old.seen: // one that was under way when the rules came
			select {
			case <-old.seen:
				t.Error("with hostAccess services an old session of a workload's goes on")
			default:
			}
		default:
		}
		w.checked()
		n.apply(keys{"hostAccess": "all"})
		ssh.goesOn(t, "with hostAccess all a session from the LAN")
		old.goesOn(t, "with hostAccess all an old session of a workload's")
		n.seenFrom("with hostAccess all a workload, at the node,", w, at(gateway, 80), w.addr)
	}
	if rules := n.run("iptables-save", "-t", "filter"); strings.Contains(rules, "physdev-in") {
		t.Errorf("with hostAccess all there are still rules about ports:\n%s", rules)
	}
}
