package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// Report says what Apply changed.
type Report struct {
	Workloads int      `json:"workloads"`      // living, on the network
	Chains    []string `json:"chains"`         // iptables chains written
	Guard     []string `json:"guard"`          // guard elements changed
	Cut       int      `json:"connectionsCut"` // conntrack entries deleted
}

// Apply puts the stored policy of network in force for the workloads that live: plans
// chains, guard and closed set from the rows, compares with the kernel and applies the
// difference. Where the toggle is off it then deletes the connections that it no
// longer allows.
//
// Living are rows whose port is here. ADD makes its port before its rules and DEL
// takes its rules out after its port, so a row without a port is theirs to deal with;
// an ADD reads the record again once it holds the filter lock.
func (n *Node) Apply(ctx context.Context, network string) (Report, error) {
	var report Report
	var living map[string][]ipam.Reservation
	var record ipam.Network
	err := n.underFilterLock(ctx, func() error {
		networks, err := n.Data.Networks(ctx)
		if err != nil {
			return err
		}
		if living, err = n.living(ctx, networks); err != nil {
			return err
		}
		for _, other := range networks {
			if other.Name == network {
				record = other
			}
		}
		if record.Bridge == nil {
			return fmt.Errorf("network %s has no bridge of ours: %w", network, ipam.ErrNoNetwork)
		}
		for _, r := range living[network] {
			port := link.PortName(r.Holder.ContainerID, r.Holder.IfName)
			if err := link.SetLearning(ctx, port, !record.Bridge.AntiSpoofing); err != nil {
				return err
			}
		}
		if report.Guard, err = applyGuard(ctx, networks, living); err != nil {
			return err
		}
		rows := func(context.Context) ([]ipam.Reservation, error) { return living[network], nil }
		report.Chains, err = n.Filter.Apply(ctx, given(networks), network, rows)
		return err
	})
	report.Workloads = len(living[network])
	if err != nil {
		return report, err
	}
	var closed []netip.Addr
	for _, r := range living[network] {
		if !record.Open(r) {
			closed = append(closed, r.Addr)
		}
	}
	if len(closed) == 0 {
		return report, nil
	}
	own, err := link.Addresses(ctx, record.Bridge.Name)
	if err != nil {
		return report, err
	}
	report.Cut, err = link.FlushConntrackAmong(ctx, closed, record.Pool.Subnet, append(Gateways(record), own...))
	return report, err
}

// applyGuard makes the guard hold the living ports of all networks: it is one table.
func applyGuard(ctx context.Context, networks []ipam.Network, living map[string][]ipam.Reservation) ([]string, error) {
	var ports []guard.Port
	var gateways []netip.Addr
	for _, n := range networks {
		if n.Bridge == nil {
			continue
		}
		gateways = append(gateways, Gateways(n)...)
		for _, r := range living[n.Name] {
			ports = append(ports, guard.PortFor(n, r, link.PortName(r.Holder.ContainerID, r.Holder.IfName)))
		}
	}
	return guard.Apply(ctx, gateways, ports)
}

// living returns, by network, the rows whose port is on this node.
func (n *Node) living(ctx context.Context, networks []ipam.Network) (map[string][]ipam.Reservation, error) {
	ports, err := link.Ports(ctx)
	if err != nil {
		return nil, err
	}
	living := map[string][]ipam.Reservation{}
	for _, network := range networks {
		if network.Bridge == nil {
			continue
		}
		snapshot, err := n.Data.Store(network.Name).Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range snapshot.Rows {
			if r.Holder == nil || !r.Holder.Ported {
				continue
			}
			if _, here := ports[link.PortName(r.Holder.ContainerID, r.Holder.IfName)]; here {
				living[network.Name] = append(living[network.Name], r)
			}
		}
	}
	return living, nil
}

// Remove takes what network has on this node out of the kernel and deletes its store.
// It refuses while workloads hold addresses. The bridge stays: it may carry others'
// ports or the node's own traffic.
func (n *Node) Remove(ctx context.Context, network string) error {
	return n.underFilterLock(ctx, func() error {
		networks, err := n.Data.Networks(ctx)
		if err != nil {
			return err
		}
		var own ipam.Network
		var remaining []ipam.Network
		for _, other := range networks {
			if other.Name == network {
				own = other
			} else {
				remaining = append(remaining, other)
			}
		}
		if err := n.Data.Remove(ctx, network); err != nil {
			return err
		}
		if own.Bridge == nil {
			return nil
		}
		living, err := n.living(ctx, remaining)
		if err != nil {
			return err
		}
		if _, err := applyGuard(ctx, remaining, living); err != nil {
			return err
		}
		return n.Filter.Remove(ctx, given(remaining), own)
	})
}

// underFilterLock runs f while no other verb plans, compares or applies rules here.
func (n *Node) underFilterLock(ctx context.Context, f func() error) error {
	lock, err := n.Run.Lock(ctx, n.Run.FilterLock())
	if err != nil {
		return fmt.Errorf("waiting for the filter lock: %w", err)
	}
	return errors.Join(f(), lock.Unlock())
}
