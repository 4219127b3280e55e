// Package snapshot keeps the daemon's in-memory copy of the stores in one or more
// data directories.
//
// Nobody holds a store's file open for long, since its lock would stop every ADD;
// the daemon therefore answers from a copy. The copy is renewed when inotify says
// that a file changed, and [Network.Fresh] renews it on demand: a reservation that
// was committed before a packet arrived is never missed, however the notification
// and the packet race, and nothing is remembered about what was not found.
package snapshot

import (
	"context"
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Dir is what a Follower needs of a data directory; Of makes one from the real one.
type Dir interface {
	Path() string
	// Names lists the networks that have a store; a missing directory has none.
	Names(ctx context.Context) ([]string, error)
	Store(network string) Store
}

// Store is what a Follower needs of one network's store.
type Store interface {
	Snapshot(ctx context.Context) (*ipam.Snapshot, error)
	// Ident is cheap and takes no lock.
	Ident() (ipam.Ident, error)
}

// Of returns d as a Follower takes it.
func Of(d *ipam.Dir) Dir { return dir{d} }

type dir struct{ *ipam.Dir }

func (d dir) Store(network string) Store { return d.Dir.Store(network) }

// Copy is one network at one moment. It is immutable, so any number of goroutines
// may read it.
type Copy struct {
	Network ipam.Network
	Ident   ipam.Ident // of the file it was read from
	rows    []ipam.Reservation
	byMAC   map[ipam.MAC]*ipam.Reservation
}

// NewCopy indexes s, which must not be changed afterwards.
func NewCopy(s *ipam.Snapshot) *Copy {
	c := &Copy{Network: s.Network, Ident: s.Ident, rows: s.Rows, byMAC: make(map[ipam.MAC]*ipam.Reservation, len(s.Rows))}
	for i := range s.Rows {
		c.byMAC[s.Rows[i].MAC] = &s.Rows[i]
	}
	return c
}

// ByMAC returns the reservation of mac, nil if it has none. It must not be changed.
func (c *Copy) ByMAC(mac ipam.MAC) *ipam.Reservation { return c.byMAC[mac] }

// ByAddr returns the reservation of an address, nil if it has none. It must not be changed.
func (c *Copy) ByAddr(addr netip.Addr) *ipam.Reservation {
	i, ok := slices.BinarySearchFunc(c.rows, addr, func(r ipam.Reservation, a netip.Addr) int { return r.Addr.Compare(a) })
	if !ok {
		return nil
	}
	return &c.rows[i]
}

// Rows returns every reservation, in the order of addresses. They must not be changed.
func (c *Copy) Rows() []ipam.Reservation { return c.rows }

// Since returns the reservations of c that old does not have, or has with another MAC or
// address; all of them if old is nil. They must not be changed.
func (c *Copy) Since(old *Copy) []*ipam.Reservation {
	var list []*ipam.Reservation
	for i := range c.rows {
		row := &c.rows[i]
		if old == nil || old.byMAC[row.MAC] == nil || old.byMAC[row.MAC].Addr != row.Addr {
			list = append(list, row)
		}
	}
	return list
}

// Len returns the number of reservations.
func (c *Copy) Len() int { return len(c.byMAC) }
