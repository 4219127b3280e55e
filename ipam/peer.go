package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Peer is another node of the network and the addresses that it gives to its own
// workloads. They are never given here. Their MACs name them, so that this node can serve
// workloads of a peer whose rows it does not have.
type Peer struct {
	Node       string     `json:"node"` // a host name
	RangeStart netip.Addr `json:"rangeStart"`
	RangeEnd   netip.Addr `json:"rangeEnd"` // inclusive
}

// Range returns what the peer gives.
func (p Peer) Range() Range { return Range{p.RangeStart, p.RangeEnd} }

func (p Peer) String() string { return p.Node + " " + rangeText(p.Range()) }

// PeerOf returns the peer that gives an address, if one does.
func (p Pool) PeerOf(a netip.Addr) (Peer, bool) {
	i, _ := slices.BinarySearchFunc(p.Peers, a, func(q Peer, a netip.Addr) int { return q.RangeEnd.Compare(a) })
	if i == len(p.Peers) || !p.Peers[i].Range().Contains(a) {
		return Peer{}, false
	}
	return p.Peers[i], true
}

// PeerOfMAC returns the address whose derived MAC is m, and the peer that gives it.
// False: m is not derived from an address of a peer, or from one that nobody is given. It
// costs the same for strangers, and does not allocate.
func (p *Pool) PeerOfMAC(m MAC) (netip.Addr, Peer, bool) {
	if len(p.Peers) == 0 || MACPrefix(m[:3]) != p.MACPrefix || !p.Subnet.Addr().Is4() {
		return netip.Addr{}, Peer{}, false
	}
	b := p.Subnet.Addr().As4()
	copy(b[1:], m[3:])
	a := netip.AddrFrom4(b)
	peer, ok := p.PeerOf(a)
	return a, peer, ok && p.never(a) == ""
}

// PeerLease returns the reservation that a peer's workload without a row here is served
// by: address and MAC of each other, and the name that the address gives.
func PeerLease(peer Peer, a netip.Addr, m MAC) Reservation {
	return Reservation{
		Addr: a, MAC: m, Hostname: DefaultHostname(a),
		Workload: Workload{Kind: KindPeer, Value: peer.Node, IfName: derived},
	}
}

// derived stands for the interface of a workload of which only the peer is known.
const derived = "derived"

// OnPeer returns w as it is called in the stores of other nodes: names are unique on one
// node only.
func (w Workload) OnPeer(node string) Workload {
	return Workload{Namespace: w.Namespace, Kind: KindPeer, Value: node + ":" + w.Kind + ":" + w.Value, IfName: w.IfName}
}

// Peer returns the node that a workload of another node is on; empty = it is this one's.
func (w Workload) Peer() string {
	if w.Kind != KindPeer {
		return ""
	}
	node, _, _ := strings.Cut(w.Value, ":")
	return node
}

// mayNot says why a workload may not have an address, however it asks; empty if it may.
func (p Pool) mayNot(a netip.Addr, w Workload) string {
	if why := p.never(a); why != "" {
		return why
	}
	peer, ok := p.PeerOf(a)
	switch node := w.Peer(); {
	case ok && node == "":
		return fmt.Sprintf("it is peer %s's to give (peers, %s)", peer.Node, rangeText(peer.Range()))
	case ok && node != peer.Node:
		return fmt.Sprintf("it is peer %s's to give (peers, %s), not peer %s's", peer.Node, rangeText(peer.Range()), node)
	case !ok && node != "":
		return fmt.Sprintf("it is outside the range that peer %s gives (peers)", node)
	}
	return ""
}

// validatePeers demands the normal form: by rangeStart.
func (p Pool) validatePeers() error {
	own := Range{p.RangeStart, p.RangeEnd}
	for i, q := range p.Peers {
		bad := func(accepted string) error { return badKey("peers", q, accepted) }
		switch inside := "a range inside subnet " + p.Subnet.String(); {
		case !validHostname(q.Node):
			return bad("a host name as node: letters, digits and inner dashes, dots between them")
		case !p.Subnet.Contains(q.RangeStart), !p.Subnet.Contains(q.RangeEnd):
			return bad(inside)
		case q.RangeEnd.Less(q.RangeStart):
			return bad(inside + " that does not end before it starts")
		case overlap(q.Range(), own):
			return bad(fmt.Sprintf("a range outside this node's own, %s", rangeText(own)))
		}
		for _, a := range []netip.Addr{p.Subnet.Addr(), p.Gateway, lastAddr(p.Subnet)} {
			if q.Range().Contains(a) {
				return bad(fmt.Sprintf("a range without %s: %s", a, p.never(a)))
			}
		}
		for _, o := range p.Peers[:i] {
			if o.Node == q.Node {
				return bad(fmt.Sprintf("one range a node: this node has %s already", rangeText(o.Range())))
			}
			if overlap(o.Range(), q.Range()) {
				return bad(fmt.Sprintf("a range that is no other node's: %s has %s", o.Node, rangeText(o.Range())))
			}
			if q.RangeStart.Less(o.RangeStart) {
				return bad(fmt.Sprintf("an order by rangeStart: %s comes after it", o))
			}
		}
	}
	return nil
}

func overlap(a, b Range) bool { return a.Start.Compare(b.End) <= 0 && b.Start.Compare(a.End) <= 0 }
