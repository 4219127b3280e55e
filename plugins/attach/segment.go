package attach

import (
	"context"
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// Gateways returns who counts as a gateway of network.
func Gateways(network ipam.Network) []netip.Addr { return network.Gateways() }

// Segment returns what the guard must know of network beside its ports: who its
// gateways are and what its uplink may carry, for which it looks up the MACs that the
// node has on the segment.
//
// Whoever makes an interface a port of the bridge gives this to guard.AttachUplink
// before.
func Segment(ctx context.Context, network ipam.Network) (guard.Segment, error) {
	s := guard.Segment{Gateways: Gateways(network)}
	b := network.Bridge
	if b.FlatInterface == "" {
		return s, nil
	}
	macs, err := link.MACs(ctx, b.Name, b.FlatInterface)
	if err != nil {
		return s, err
	}
	s.Uplink = guard.Uplink{Name: b.FlatInterface, MACs: macs, BlockDHCP: network.BlocksDHCP(), Relays: b.DHCP.Relays}
	if own := network.OwnAddress(); own.IsValid() {
		s.Uplink.Addrs = []netip.Addr{own}
	}
	if network.SharesGateway() {
		s.Uplink.Shared, s.Uplink.SharedMACs = []netip.Addr{network.Pool.Gateway}, []ipam.MAC{network.GatewayMAC()}
		if network.ServesMetadata() {
			s.Uplink.Shared = append(s.Uplink.Shared, ipam.MetadataAddr)
		}
	}
	if network.ServesMetadata() && network.BlocksDHCP() {
		// Every node that serves its own workloads has the address: each answers its own.
		s.Uplink.Shared = append(s.Uplink.Shared, ipam.MetadataAddr)
	}
	return s, nil
}

// foreignUplinks returns the uplinks that the guard knows and that lead to no bridge of
// networks: another data directory's, which are not this one's to judge.
func foreignUplinks(ctx context.Context, networks []ipam.Network) ([]string, error) {
	known, err := guard.Uplinks(ctx)
	if err != nil {
		return nil, err
	}
	var foreign []string
	for _, name := range known {
		master, err := link.MasterOf(ctx, name)
		if err != nil {
			return nil, err
		}
		ours := slices.ContainsFunc(networks, func(n ipam.Network) bool {
			return n.Bridge != nil && (n.Bridge.Name == master || n.Bridge.FlatInterface == name)
		})
		if master != "" && !ours {
			foreign = append(foreign, name)
		}
	}
	return foreign, nil
}
