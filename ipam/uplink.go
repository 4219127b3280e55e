package ipam

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
