package conf

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var peerKeys = []key{
	{name: "node", accepted: `a node's name such as "compute-1"`},
	{name: "rangeStart", accepted: "an address of the subnet"},
	{name: "rangeEnd", accepted: "an address of the subnet"},
}

// readPeers reads which other node gives which addresses. The record has them by address,
// however they were written.
func (o *object) readPeers(p *ipam.Pool) error {
	items, err := o.list("peers", "nodes with their ranges")
	if err != nil {
		return err
	}
	for _, item := range items {
		sub, err := asObject(item.path, item.raw)
		if err != nil {
			return err
		}
		if err := sub.checkKeys(peerKeys); err != nil {
			return err
		}
		peer, err := sub.readPeer(p)
		if err != nil {
			return err
		}
		for _, q := range p.Peers {
			switch {
			case q.Node == peer.Node:
				return sub.invalid("node", "this node has the range %s to %s already: one range a node", q.RangeStart, q.RangeEnd)
			case q.RangeStart.Compare(peer.RangeEnd) <= 0 && peer.RangeStart.Compare(q.RangeEnd) <= 0:
				return invalid(item.path, item.raw, "it overlaps the range of node %s, %s to %s", q.Node, q.RangeStart, q.RangeEnd)
			}
		}
		p.Peers = append(p.Peers, peer)
	}
	slices.SortFunc(p.Peers, func(a, b ipam.Peer) int { return a.RangeStart.Compare(b.RangeStart) })
	return nil
}

// readPeer reads one, and holds it against what it must not have of the subnet.
func (o *object) readPeer(p *ipam.Pool) (peer ipam.Peer, err error) {
	if peer.Node, err = o.text("node", ""); err != nil {
		return peer, err
	}
	if !isDomain(peer.Node) || strings.ContainsAny(peer.Node, "_") || strings.HasSuffix(peer.Node, ".") {
		return peer, o.invalid("node", "a node's host name is wanted, such as \"compute-1\"")
	}
	for _, bound := range []struct {
		key string
		to  *netip.Addr
	}{{"rangeStart", &peer.RangeStart}, {"rangeEnd", &peer.RangeEnd}} {
		if *bound.to, err = o.inSubnet(bound.key, p.Subnet, netip.Addr{}); err != nil {
			return peer, err
		}
		if !bound.to.IsValid() {
			return peer, invalid(o.at(bound.key), nil, "it is required, an address of subnet %s", p.Subnet)
		}
	}
	if peer.RangeEnd.Less(peer.RangeStart) {
		return peer, o.invalid("rangeEnd", "the range ends before it starts, at %s", peer.RangeStart)
	}
	if p.RangeStart.Compare(peer.RangeEnd) <= 0 && peer.RangeStart.Compare(p.RangeEnd) <= 0 {
		return peer, o.invalid("rangeStart", "%s to %s overlaps this node's own range, %s to %s: set ipam.rangeStart and ipam.rangeEnd so that they do not",
			peer.RangeStart, peer.RangeEnd, p.RangeStart, p.RangeEnd)
	}
	for _, never := range []struct {
		addr netip.Addr
		what string
	}{{p.Subnet.Addr(), "the network's own address"}, {p.Gateway, "the gateway"}, {broadcast(p.Subnet), "the broadcast address"}} {
		if peer.RangeStart.Compare(never.addr) <= 0 && never.addr.Compare(peer.RangeEnd) <= 0 {
			return peer, o.invalid("rangeStart", "%s to %s holds %s, %s, which is no workload's", peer.RangeStart, peer.RangeEnd, never.what, never.addr)
		}
	}
	return peer, nil
}
