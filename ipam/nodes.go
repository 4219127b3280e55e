package ipam

import "net/netip"

// Gateways returns who counts as a gateway of n: its own first, then those that
// gatewayAddresses names, ascending. Each is an address of the subnet that no workload is
// ever given.
func (n Network) Gateways() []netip.Addr {
	all := []netip.Addr{n.Pool.Gateway}
	if n.Bridge != nil {
		all = append(all, n.Bridge.GatewayAddresses...)
	}
	return all
}

// SharesGateway reports whether this node carries a gateway address that others carry, too.
func (n Network) SharesGateway() bool {
	return n.Bridge != nil && n.Bridge.IsGateway && n.Bridge.GatewayShared
}

// GatewayMAC is what workloads know the gateway by where its bridge is made here, or where
// it is shared: it can be read off the address, and so is the same on all nodes.
func (n Network) GatewayMAC() MAC { return n.Pool.gatewayMAC() }

// OwnAddress returns what this node's bridge has of the subnet: the gateway's or, where
// that is shared, the node's; zero where the gateway is elsewhere.
func (n Network) OwnAddress() netip.Addr {
	switch {
	case n.Bridge == nil || !n.Bridge.IsGateway:
		return netip.Addr{}
	case n.Bridge.GatewayShared:
		return n.Bridge.NodeAddress
	}
	return n.Pool.Gateway
}

// validateNodes holds the nodes' own addresses against the subnet. Rules that name one
// outside it would match nobody, or somebody else.
func (p Pool) validateNodes() error {
	for _, a := range p.Nodes {
		if !p.Subnet.Contains(a) || a == p.Subnet.Addr() || a == lastAddr(p.Subnet) {
			return badKey("nodes", a, "an address inside subnet "+p.Subnet.String()+" that is neither the network's own nor the broadcast address")
		}
	}
	return nil
}
