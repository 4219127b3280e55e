package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// ID names an attachment.
type ID struct{ ContainerID, IfName string }

func (id ID) port() string { return link.PortName(id.ContainerID, id.IfName) }

func (id ID) String() string {
	return fmt.Sprintf("container %s, interface %s", id.ContainerID, id.IfName)
}

// GC deletes, as DEL does, every attachment of network that is not among valid, and
// then what none has: guard elements without a port, chains of the network without a
// living row, and locks and tickets that killed verbs left. It goes on after an error
// and returns them all. An attachment that a verb is running for is kept; so are rows
// whose holder has no port of ours, which flat-ipam has given under another plugin.
// A network without a store is no error.
//
// It returns the attachments that it deleted.
func (n *Node) GC(ctx context.Context, network string, valid []ID) (deleted []ID, err error) {
	stale, errs := n.stale(ctx, network, valid)
	for _, id := range stale {
		gone, err := n.collect(ctx, network, id)
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting %s: %w", id, err))
		}
		if gone {
			deleted = append(deleted, id)
		}
	}
	for _, sweep := range []func(context.Context, string) error{n.sweepGuard, n.sweepChains, n.sweepRunDir} {
		errs = append(errs, sweep(ctx, network))
	}
	return deleted, errors.Join(errs...)
}

// stale returns, by container, the attachments of network that are not valid: those
// with a row, and those with a port only.
func (n *Node) stale(ctx context.Context, network string, valid []ID) (stale []ID, errs []error) {
	keep := map[string]bool{} // by port
	for _, id := range valid {
		keep[id.port()] = true
	}
	found := map[string]ID{}
	snapshot, err := n.Data.Store(network).Snapshot(ctx)
	if err != nil && !errors.Is(err, ipam.ErrNoNetwork) {
		return nil, []error{err} // DEL needs it, too
	}
	if err == nil {
		for _, r := range snapshot.Rows {
			if r.Holder != nil && r.Holder.Ported {
				id := ID{r.Holder.ContainerID, r.Holder.IfName}
				found[id.port()] = id
			}
		}
	}
	ports, err := link.Ports(ctx)
	if err != nil {
		return nil, []error{err}
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		owner, containerID, ifName, ok := link.ParseAlias(ports[name].Alias)
		if _, known := found[name]; known || keep[name] || !ok || owner != network {
			continue
		}
		id := ID{containerID, ifName}
		if id.port() != name {
			// A long container ID is cut in the alias: without it no lock can be taken.
			errs = append(errs, fmt.Errorf("port %s has alias %q, which does not say whose it is: if no container uses it, remove it with `ip link del %s`",
				name, ports[name].Alias, name))
			continue
		}
		found[name] = id
	}
	for name, id := range found {
		if !keep[name] {
			stale = append(stale, id)
		}
	}
	slices.SortFunc(stale, func(a, b ID) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	return stale, errs
}

// collect deletes one stale attachment unless a verb is running for it.
func (n *Node) collect(ctx context.Context, network string, id ID) (gone bool, err error) {
	lock, free, err := n.Run.Attachment(id.ContainerID, id.IfName).TryLock()
	if err != nil {
		return false, err
	}
	if !free {
		n.Log.Info("GC keeps an attachment that a verb is running for", "network", network, "container", id.ContainerID, "interface", id.IfName)
		return false, nil
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := n.delete(ctx, "GC", network, id.ContainerID, id.IfName); err != nil {
		return false, err
	}
	lock.Settled()
	n.Log.Info("GC deleted an attachment", "network", network, "container", id.ContainerID, "interface", id.IfName)
	return true, nil
}

// sweepGuard takes the elements of ports that are gone out of the guard, whosever they
// were. Under the filter lock that is right at any moment: an ADD makes its port before
// its elements, and what a DEL still has to take out may be gone by then.
func (n *Node) sweepGuard(ctx context.Context, _ string) error {
	return n.underFilterLock(ctx, func() error {
		names, err := guard.Ports(ctx)
		if err != nil || len(names) == 0 {
			return err
		}
		ports, err := link.Ports(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range names {
			if _, here := ports[name]; here {
				continue
			}
			errs = append(errs, guard.Detach(ctx, name))
			n.Log.Info("GC took elements of a port that is gone out of the guard", "port", name)
		}
		return errors.Join(errs...)
	})
}

// sweepChains takes out the chains of network that no living row has. (Rows without a
// port are ADDs' and DELs' under way: see Apply.)
func (n *Node) sweepChains(ctx context.Context, network string) error {
	return n.underFilterLock(ctx, func() error {
		err := n.Data.Store(network).View(ctx, func(*ipam.View) error { return nil })
		if errors.Is(err, ipam.ErrNoNetwork) {
			return n.sweepUnknown(ctx, network)
		}
		v, err := n.look(ctx, network)
		if err != nil || v.network(network).Bridge == nil {
			return err
		}
		changed, err := n.Filter.Apply(ctx, given(v.networks), network, func(context.Context) ([]ipam.Reservation, error) {
			return v.living[network], nil
		})
		for _, line := range changed {
			n.Log.Info("GC changed the rules of a network", "network", network, "change", line)
		}
		return err
	})
}

// sweepUnknown takes out the rules of a network that has no store, unless it has a port
// still: that must not stay without them.
func (n *Node) sweepUnknown(ctx context.Context, network string) error {
	ports, err := link.Ports(ctx)
	if err != nil {
		return err
	}
	for _, port := range ports {
		if owner, ok := link.AliasNetwork(port.Alias); !ok || owner == network {
			return nil
		}
	}
	networks, err := n.Data.Networks(ctx)
	if err != nil {
		return err
	}
	return n.Filter.Remove(ctx, given(networks), ipam.Network{Name: network})
}

// sweepRunDir removes what killed verbs left in the run directory: the locks of
// attachments without a port, of which nothing can be half made, and tickets whose
// verb is dead.
func (n *Node) sweepRunDir(ctx context.Context, _ string) error {
	ports, err := link.Ports(ctx)
	if err != nil {
		return err
	}
	var living []rundir.Attachment
	for name, port := range ports {
		_, containerID, ifName, ok := link.ParseAlias(port.Alias)
		if !ok || (ID{containerID, ifName}).port() != name {
			return nil // whose lock is its is unknown: then none goes
		}
		living = append(living, n.Run.Attachment(containerID, ifName))
	}
	return errors.Join(n.Run.Sweep(living), n.sweepTickets())
}
