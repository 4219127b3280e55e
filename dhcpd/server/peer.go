package server

import (
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// maxPeerLeases bounds how many peers' reservations a peerLeases keeps: anybody on the
// segment can go through all MACs of a peer's range.
const maxPeerLeases = 4096

// peerLeases makes the reservations of peers' workloads, whose rows are in other nodes'
// stores: a MAC that is derived from an address of a peer's range names that address.
// They are kept, so that a client that comes again costs nothing to allocate. It is for one
// goroutine.
type peerLeases struct {
	made map[ipam.MAC]*ipam.Reservation
}

// of returns the reservation that mac has by being derived, nil if it has none. A row of
// our own, by MAC or by address, always counts before; the caller has looked for the MAC.
func (p *peerLeases) of(c *snapshot.Copy, mac ipam.MAC) *ipam.Reservation {
	pool := &c.Network.Pool
	addr, peer, ok := pool.PeerOfMAC(mac)
	if !ok || c.ByAddr(addr) != nil {
		return nil
	}
	if p.made == nil || len(p.made) >= maxPeerLeases {
		p.made = map[ipam.MAC]*ipam.Reservation{}
	}
	// The record may have changed since, and with it whose the address is.
	if r := p.made[mac]; r != nil && r.Addr == addr && r.Workload.Peer() == peer.Node {
		return r
	}
	r := ipam.PeerLease(peer, addr, mac)
	p.made[mac] = &r
	return &r
}
