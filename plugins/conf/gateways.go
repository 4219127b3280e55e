package conf

import (
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// maxGateways bounds gatewayAddresses: each is two rules in every workload's chain, or
// three where the toggle is off.
const maxGateways = 64

// readGateways reads which addresses of the subnet, which has been read, are nodes': they
// count as gateways, and no workload is given them.
func (o *object) readGateways(n *ipam.Network) error {
	items, err := o.list("gatewayAddresses", "addresses of the subnet")
	if err != nil {
		return err
	}
	if len(items) > maxGateways {
		return o.invalid("gatewayAddresses", "at most %d are accepted, since each is a rule for every workload", maxGateways)
	}
	for _, item := range items {
		s, err := item.text()
		if err != nil {
			return err
		}
		a, err := asAddr4(item.path, s)
		if err != nil {
			return err
		}
		if err := nodesOwn(n.Pool, item.path, a); err != nil {
			return err
		}
		if slices.Contains(n.Bridge.GatewayAddresses, a) {
			return invalid(item.path, item.raw, "it is listed twice")
		}
		if a != n.Pool.Gateway { // which counts without being listed
			n.Bridge.GatewayAddresses = append(n.Bridge.GatewayAddresses, a)
		}
	}
	slices.SortFunc(n.Bridge.GatewayAddresses, netip.Addr.Compare)
	n.Pool.Nodes = slices.Clone(n.Bridge.GatewayAddresses)
	if len(items) > 0 && !anyLeft(&n.Pool) {
		return o.invalid("gatewayAddresses", "nothing of the range %s to %s is left to give", n.Pool.RangeStart, n.Pool.RangeEnd)
	}
	return o.readShared(n)
}

// readShared reads whether other nodes have the same gateway address, and what address
// this one then has of its own.
func (o *object) readShared(n *ipam.Network) (err error) {
	b := n.Bridge
	if b.GatewayShared, err = o.boolean("gatewayShared", false); err != nil {
		return err
	}
	if b.GatewayShared && !b.IsGateway {
		return o.invalid("gatewayShared", "isGateway is false here, so that this node has no gateway address to share: leave one of the two out")
	}
	a, err := o.addr4("nodeAddress")
	given := a.IsValid()
	switch {
	case err != nil:
		return err
	case given && !b.GatewayShared:
		return o.invalid("nodeAddress", `it is for "gatewayShared": true; this node's address would be the gateway's, or none: leave it out`)
	case !b.GatewayShared:
		return nil
	case !given:
		return invalid("nodeAddress", nil, "gatewayShared needs it: an address of subnet %s that no other node and no workload has", n.Pool.Subnet)
	case a == n.Pool.Gateway:
		return o.invalid("nodeAddress", "it is the shared gateway's: each node needs one of its own beside it")
	}
	if err := nodesOwn(n.Pool, o.at("nodeAddress"), a); err != nil {
		return err
	}
	b.NodeAddress = a
	if !slices.Contains(n.Pool.Nodes, a) {
		n.Pool.Nodes = append(n.Pool.Nodes, a)
		slices.SortFunc(n.Pool.Nodes, netip.Addr.Compare)
	}
	if !anyLeft(&n.Pool) {
		return o.invalid("nodeAddress", "nothing of the range %s to %s is left to give", n.Pool.RangeStart, n.Pool.RangeEnd)
	}
	return nil
}

// nodesOwn refuses an address that can be no node's on the network.
func nodesOwn(p ipam.Pool, path string, a netip.Addr) error {
	switch peer, taken := p.PeerOf(a); {
	case !p.Subnet.Contains(a):
		return invalid(path, quoted(a.String()), "it is outside subnet %s", p.Subnet)
	case a == p.Subnet.Addr(), a == broadcast(p.Subnet):
		return invalid(path, quoted(a.String()), "it is the subnet's network or broadcast address")
	case taken:
		return invalid(path, quoted(a.String()), "node %s gives it to workloads: leave it out of that peer's range, %s to %s", peer.Node, peer.RangeStart, peer.RangeEnd)
	}
	return nil
}
