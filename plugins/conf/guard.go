package conf

import "github.com/flatdhcp/flatdhcp/ipam"

// readUplinkDHCP reads whether DHCP crosses the uplink. Where it is served here it does
// not, lest two servers answer one client, unless peers' workloads are served as well,
// who are beyond the uplink.
func (o *object) readUplinkDHCP(n ipam.Network) (err error) {
	absent := ipam.UplinkDHCPPass
	if n.Bridge.IsGateway && len(n.Pool.Peers) == 0 {
		absent = ipam.UplinkDHCPBlock
	}
	n.Bridge.UplinkDHCP, err = o.word("uplinkDHCP", absent, ipam.UplinkDHCPBlock, ipam.UplinkDHCPPass)
	return err
}
