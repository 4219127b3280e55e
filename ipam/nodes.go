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
