package filter

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A neighbour's connection to the workload is cut as closing the toggle cuts it: chain
// first, then its entry. The workload goes on sending. Without the rule its next segment
// makes the connection its own, and the neighbour is back.
func TestCutConnectionsStayCut(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100")
			r := row(workloadIP)
			const ofMidstream = "--ctstate NEW"
			// How long is waited for what must not come; that it was dropped, the counter says.
			const withheld = 300 * time.Millisecond

			l.attach(l.table, networksOf(n), n, r)
			inside, outer := l.connect()
			l.cut()
			n.Bridge.AllowSameNetTraffic = false
			l.attach(l.table, networksOf(n), n, r)
			for _, way := range []struct {
				name     string
				from, to net.Conn
			}{{"the workload", inside, outer}, {"the neighbour", outer, inside}} {
				before, _ := l.counter(chainMidstream, ofMidstream)
				if l.says(way.from, way.to, withheld) {
					t.Errorf("a connection that was cut came back when %s sent:\n%s", way.name, l.save())
				}
				if after, _ := l.counter(chainMidstream, ofMidstream); after == before {
					t.Errorf("it was not FLAT-MIDSTREAM that stopped %s", way.name)
				}
			}

			// The control: the same, and the rule is not there.
			n.Bridge.AllowSameNetTraffic = true
			l.attach(l.table, networksOf(n), n, r)
			inside, outer = l.connect()
			l.cut()
			n.Bridge.AllowSameNetTraffic = false
			l.attach(l.table, networksOf(n), n, r)
			l.ipt("-F " + chainMidstream)
			if !l.says(inside, outer, arrived) || !l.says(outer, inside, arrived) {
				t.Error("without the rule it stays cut as well, so that this test shows nothing")
			}
		})
	}
}

// connect returns both ends of a connection that the neighbour makes to the workload: the
// workload's first.
func (l *packetLab) connect() (inside, outer net.Conn) {
	l.t.Helper()
	accepted := make(chan net.Conn, 1)
	var listener net.Listener
	err := l.workload.do(func() (err error) {
		listener, err = net.Listen("tcp4", workloadIP+":0")
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		if c, err := listener.Accept(); err == nil {
			accepted <- c
		}
	}()
	err = l.neighbour.do(func() (err error) {
		outer, err = net.DialTimeout("tcp4", listener.Addr().String(), testDeadline)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	select {
	case inside = <-accepted:
	case <-time.After(testDeadline):
		l.t.Fatal("the connection was not accepted")
	}
	l.t.Cleanup(func() { _ = errors.Join(inside.Close(), outer.Close()) })
	return inside, outer
}

// cut deletes all connection entries of the node.
func (l *packetLab) cut() {
	l.t.Helper()
	if err := l.ns.do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		l.t.Fatal(err)
	}
}

// says sends a byte and reports whether the other end hears it within wait.
func (l *packetLab) says(from, to net.Conn, wait time.Duration) bool {
	l.t.Helper()
	if _, err := from.Write([]byte("x")); err != nil {
		l.t.Fatal(err)
	}
	if err := to.SetReadDeadline(time.Now().Add(wait)); err != nil {
		l.t.Fatal(err)
	}
	_, err := to.Read(make([]byte, 1))
	return err == nil
}
