package main

import (
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/hook"
	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

// seen is what the daemon knows of clients and tells others: lease state, the stream of
// events, the hook, and what the servers count. It outlives the servers, so that a bridge
// that is made again loses nothing. It is safe for concurrent use.
type seen struct {
	book   *lease.Book
	stream report.Stream
	hook   *hook.Hook // nil = none
	now    func() time.Time

	mu       sync.Mutex
	counters map[netKey]*server.Counters
}

// netKey names a network: names are unique in a data directory only.
type netKey struct{ dataDir, name string }

func keyOf(n *snapshot.Network) netKey { return netKey{n.Dir(), n.Name()} }

// countersOf returns the counters of a network's servers.
func (s *seen) countersOf(k netKey) *server.Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.counters[k]
	if !ok {
		if s.counters == nil {
			s.counters = map[netKey]*server.Counters{}
		}
		c = new(server.Counters)
		s.counters[k] = c
	}
	return c
}

// note tells everybody of an event. Whoever is slow loses some and holds up nobody.
func (s *seen) note(e lease.Event) {
	s.book.Note(e)
	s.stream.Send(e)
	if s.hook != nil {
		s.hook.Note(e)
	}
}

// replaced tells of the rows that came into a store: not of those that the first look
// finds, which came while nobody looked.
func (s *seen) replaced(n *snapshot.Network, old, current *snapshot.Copy) {
	s.book.Open(n.Dir(), n.Name())
	if old == nil {
		return
	}
	bridge := ""
	if b := current.Network.Bridge; b != nil {
		bridge = b.Name
	}
	for _, row := range current.Since(old) {
		s.note(lease.Event{
			Kind: lease.Reserved, Time: s.now(), DataDir: n.Dir(), Network: n.Name(), Bridge: bridge,
			MAC: row.MAC, IP: row.Addr, Hostname: row.Hostname, Workload: row.Workload, Node: row.Workload.Peer(),
		})
	}
}

// gone forgets a network whose store was removed.
func (s *seen) gone(dir, name string) {
	s.book.Forget(dir, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.counters, netKey{dir, name})
}

// listener is a server's Hook: it adds the data directory, which a server does not know.
type listener struct {
	seen    *seen
	dataDir string
}

var kinds = map[server.EventKind]lease.Kind{
	server.Reserved: lease.Reserved, server.Offered: lease.Offered, server.Bound: lease.Bound, server.Renewed: lease.Renewed,
	server.ReleasedNow: lease.Released, server.DeclinedNow: lease.Declined, server.Refused: lease.Refused,
}

// LeaseEvent implements server.Hook.
func (l listener) LeaseEvent(e server.Event) {
	l.seen.note(lease.Event{
		Kind: kinds[e.Kind], Time: e.Time, DataDir: l.dataDir, Network: e.Network, Bridge: e.Bridge, MAC: e.MAC, IP: e.IP,
		Hostname: e.Row.Hostname, Workload: e.Row.Workload, Node: e.Row.Workload.Peer(), Seconds: int64(e.Lease / time.Second),
		ClientHostname: e.Hostname, VendorClass: e.VendorClass, Reason: e.Reason,
	})
}
