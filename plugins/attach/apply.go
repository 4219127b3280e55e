package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// Report says what Apply changed.
type Report struct {
	Side      []string `json:"side"`           // what was done to the node's side: not by Apply
	Workloads int      `json:"workloads"`      // living, on the network
	Chains    []string `json:"chains"`         // iptables chains written
	Guard     []string `json:"guard"`          // guard elements changed
	Cut       int      `json:"connectionsCut"` // conntrack entries deleted
}

// Apply puts the stored policy of network in force for the workloads that live: plans
// chains, guard and closed set from the rows, compares with the kernel and applies the
// difference. Where the toggle is off it then deletes the connections that it no
// longer allows. A metadata server that cannot be reached is ErrNoMetadata at the end.
//
// Living are rows whose port is here. ADD makes its port before its rules and DEL
// takes its rules out after its port, so a row without a port is theirs to deal with;
// an ADD reads the record again once it holds the filter lock.
func (n *Node) Apply(ctx context.Context, network string) (Report, error) {
	report, record, rows, err := n.applyRules(ctx, network)
	if err != nil {
		return report, err
	}
	report.Cut, err = cut(ctx, record, rows)
	return report, errors.Join(err, n.settleZone(ctx, record), n.settleMetadata(ctx, record))
}

// applyRules makes guard and chains what the record says. It returns that, and the rows of
// the workloads that live.
func (n *Node) applyRules(ctx context.Context, network string) (report Report, record ipam.Network, rows []ipam.Reservation, err error) {
	var living map[string][]ipam.Reservation
	err = n.underFilterLock(ctx, func() error {
		v, err := n.look(ctx, network)
		if err != nil {
			return err
		}
		living = v.living
		if record = v.network(network); record.Bridge == nil {
			return fmt.Errorf("network %s has no bridge of ours: %w", network, ipam.ErrNoNetwork)
		}
		for _, r := range living[network] {
			port := link.PortName(r.Holder.ContainerID, r.Holder.IfName)
			if err := link.SetPort(ctx, port, record.Bridge.HairpinMode, learns(record)); err != nil {
				return err
			}
		}
		if report.Guard, err = v.applyGuard(ctx); err != nil {
			return err
		}
		rows := func(context.Context) ([]ipam.Reservation, error) { return living[network], nil }
		report.Chains, err = n.Filter.Apply(ctx, given(v.networks), network, rows)
		return err
	})
	report.Workloads = len(living[network])
	return report, record, living[network], err
}

// cut deletes the connections that the toggle, where it is off, no longer allows.
func cut(ctx context.Context, network ipam.Network, rows []ipam.Reservation) (int, error) {
	var closed []netip.Addr
	for _, r := range rows {
		if !network.Open(r) {
			closed = append(closed, r.Addr)
			for _, a := range network.Allowed(r) {
				if a.Addr.IsValid() && !slices.Contains(closed, a.Addr) {
					closed = append(closed, a.Addr)
				}
			}
		}
	}
	if len(closed) == 0 {
		return 0, nil
	}
	own, err := link.Addresses(ctx, network.Bridge.Name)
	if err != nil {
		return 0, err
	}
	return link.FlushConntrackAmong(ctx, closed, network.Pool.Subnet, append(Gateways(network), own...),
		func(c link.Connection) bool { return staysAllowed(network, closed, c) })
}

// staysAllowed says whether a connection between a closed workload and a neighbour is one
// that the chain of whom it reached lets begin, as filter plans it. Where that is no closed
// one of this node, a closed one has begun it, and the other's node judges.
func staysAllowed(network ipam.Network, closed []netip.Addr, c link.Connection) bool {
	if !slices.Contains(closed, c.To) {
		return true
	}
	return c.Redirected && network.Bridge.Published || slices.ContainsFunc(network.Bridge.Ingress, func(r ipam.Rule) bool {
		return r.Allows(c.From, c.Protocol, c.Port)
	})
}

// view is the node as the stores of the data directory and its ports have it.
type view struct {
	networks []ipam.Network                // whose store can be read
	rows     map[string][]ipam.Reservation // by network
	living   map[string][]ipam.Reservation // by network: rows whose port is here
	others   []string                      // ports of networks that are not among networks
}

// look reads stores and ports. A store that cannot be read is an error only if it is
// wanted's: the others' workloads must not wait for it, nor may it cost its own the
// rules that they have.
func (n *Node) look(ctx context.Context, wanted string) (view, error) {
	v := view{rows: map[string][]ipam.Reservation{}, living: map[string][]ipam.Reservation{}}
	ports, err := link.Ports(ctx)
	if err != nil {
		return v, err
	}
	networks, unread := n.Data.Networks(ctx)
	for _, network := range networks {
		snapshot, err := n.Data.Store(network.Name).Snapshot(ctx)
		if err != nil {
			unread = errors.Join(unread, err)
			continue
		}
		v.networks = append(v.networks, snapshot.Network)
		v.rows[network.Name] = snapshot.Rows
		for _, r := range snapshot.Rows {
			if network.Bridge == nil || r.Holder == nil || !r.Holder.Ported {
				continue
			}
			port, here := ports[link.PortName(r.Holder.ContainerID, r.Holder.IfName)]
			if owner, ok := link.AliasNetwork(port.Alias); here && (!ok || owner == network.Name) {
				v.living[network.Name] = append(v.living[network.Name], r)
			}
		}
	}
	if v.network(wanted).Name == "" {
		return v, errors.Join(unread, fmt.Errorf("%w: %s", ipam.ErrNoNetwork, wanted))
	}
	if unread != nil {
		n.Log.Warn("what cannot be read keeps the rules that it has", "error", unread)
	}
	for _, port := range ports {
		if name, ok := link.AliasNetwork(port.Alias); ok && v.network(name).Name == "" {
			v.others = append(v.others, port.Name)
		}
	}
	return v, nil
}

// network returns the record of that name, or the zero value.
func (v view) network(name string) ipam.Network {
	i := slices.IndexFunc(v.networks, func(n ipam.Network) bool { return n.Name == name })
	if i < 0 {
		return ipam.Network{}
	}
	return v.networks[i]
}

// applyGuard makes the guard, which is one table, hold the living ports of all networks
// here, and leaves those of others.
func (v view) applyGuard(ctx context.Context) ([]string, error) {
	var ports []guard.Port
	var segments []guard.Segment
	for _, n := range v.networks {
		if n.Bridge == nil {
			continue
		}
		segment, err := Segment(ctx, n)
		if err != nil {
			return nil, err
		}
		segments = append(segments, segment)
		for _, r := range v.living[n.Name] {
			ports = append(ports, guard.PortFor(n, r, link.PortName(r.Holder.ContainerID, r.Holder.IfName)))
		}
	}
	foreign, err := foreignUplinks(ctx, v.networks)
	if err != nil {
		return nil, err
	}
	return guard.Apply(ctx, segments, ports, append(foreign, v.others...))
}

// Remove takes what network has on this node out of the kernel and deletes its store,
// in this order: killed between the two it can be asked again. It refuses while
// workloads hold addresses. The uplink has back what it had; the bridge stays: it may carry
// others' ports.
func (n *Node) Remove(ctx context.Context, network string) error {
	served, bridge := false, ""
	lock, err := n.Run.Lock(ctx, n.Run.NodeLock())
	if err != nil {
		return err
	}
	err = n.underFilterLock(ctx, func() error {
		v, err := n.look(ctx, network)
		if err != nil {
			return err
		}
		own := v.network(network)
		served = own.ServesMetadata()
		if own.Bridge != nil {
			bridge = own.Bridge.Name
		}
		// Who comes later waits with its rules for the lock, and then the store refuses.
		held := slices.ContainsFunc(v.rows[network], func(r ipam.Reservation) bool { return r.Holder != nil })
		if own.Bridge != nil && !held {
			rest := v
			rest.networks = slices.DeleteFunc(slices.Clone(v.networks), func(o ipam.Network) bool { return o.Name == network })
			if _, err := rest.applyGuard(ctx); err != nil {
				return err
			}
			// Before the guard forgets it: behind it is the whole segment.
			spec, err := sideSpec(own)
			if err != nil {
				return err
			}
			if _, err := n.uplinkOf(own, spec).GiveBack(ctx, false); err != nil {
				return err
			}
			if uplink := own.Bridge.FlatInterface; uplink != "" {
				if err := guard.DetachUplink(ctx, uplink); err != nil {
					return err
				}
			}
			if err := n.Filter.Remove(ctx, given(rest.networks), own); err != nil {
				return err
			}
			if own.SharesGateway() {
				// It has no use but the network's.
				if _, err := link.RemoveLeg(ctx, own.Bridge.Name); err != nil {
					return err
				}
			}
		}
		return n.Data.Remove(ctx, network)
	})
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return err
	}
	n.leaveZone(ctx, bridge)
	if !served {
		return nil
	}
	return n.keepMetadataAddress(ctx)
}

// underFilterLock runs f while no other verb plans, compares or applies rules here.
func (n *Node) underFilterLock(ctx context.Context, f func() error) error {
	lock, err := n.Run.Lock(ctx, n.Run.FilterLock())
	if err != nil {
		return fmt.Errorf("waiting for the filter lock: %w", err)
	}
	return errors.Join(f(), lock.Unlock())
}
