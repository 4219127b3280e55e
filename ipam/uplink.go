package ipam

import "net/netip"

// UplinkDHCP says whether DHCP crosses a network's uplink.
const (
	UplinkDHCPBlock = "block"
	UplinkDHCPPass  = "pass"
)

// BlocksDHCP reports whether n's DHCP stays on this node: by default where the node
// serves it.
func (n Network) BlocksDHCP() bool {
	b := n.Bridge
	return b != nil && (b.UplinkDHCP == UplinkDHCPBlock || b.UplinkDHCP == "" && b.IsGateway)
}

// MayGive reports whether a workload could be given a: the node itself must not have it.
func (p Pool) MayGive(a netip.Addr) bool { return p.never(a) == "" }

// uplinkName is empty for a network without an uplink.
func (n Network) uplinkName() string {
	if n.Bridge == nil {
		return ""
	}
	return n.Bridge.FlatInterface
}
