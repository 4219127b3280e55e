package filter

import (
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// AllowedRow stands for an address that workloads of a network may have besides their
// own. Since it may be any of several workloads', or move between them, it has a chain of
// its own, which judges as the network says and stays as long as the network lists it.
func AllowedRow(addr netip.Addr) ipam.Reservation {
	return ipam.Reservation{
		Addr:     addr,
		Workload: ipam.Workload{Kind: ipam.KindID, Value: "allowed", IfName: addr.String()},
		// No runtime has such a container.
		Holder: &ipam.Holder{ContainerID: "allowed address", IfName: addr.String()},
	}
}

// withAllowed returns rows, and what stands for n's allowed addresses, by address.
func withAllowed(n ipam.Network, rows []ipam.Reservation) []ipam.Reservation {
	if n.Bridge == nil || len(n.Bridge.AllowedAddresses) == 0 {
		return rows
	}
	all := slices.Clone(rows)
	var addrs []netip.Addr
	for _, a := range n.Bridge.AllowedAddresses {
		if a.Addr.IsValid() && !slices.Contains(addrs, a.Addr) {
			addrs = append(addrs, a.Addr)
			all = append(all, AllowedRow(a.Addr))
		}
	}
	slices.SortFunc(all, func(a, b ipam.Reservation) int { return a.Addr.Compare(b.Addr) })
	return all
}

// allAllowed is withAllowed for rows of several networks.
func allAllowed(rows []Attached) []Attached {
	all := slices.Clone(rows)
	for _, a := range rows {
		for _, r := range withAllowed(a.Network, []ipam.Reservation{a.Row}) {
			known := slices.ContainsFunc(all, func(o Attached) bool { return o.Network.Name == a.Network.Name && o.Row.Addr == r.Addr })
			if !known {
				all = append(all, Attached{Network: a.Network, Row: r})
			}
		}
	}
	return all
}
