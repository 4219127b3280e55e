package attach

import (
	"context"
	"errors"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// Delete detaches interface ifName of a container. It needs no namespace, may come
// twice, late, or while its ADD runs (which then gives up), and changes nothing that
// another attachment holds.
func (n *Node) Delete(ctx context.Context, network, containerID, ifName string) (err error) {
	attachment := n.Run.Attachment(containerID, ifName)
	mark, err := attachment.Mark()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mark.Remove()) }()
	lock, err := attachment.Lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()

	return n.delete(ctx, "DEL", network, containerID, ifName)
}

// DeleteDead is Delete for the holder of row, which was found dead: under the lock of
// its attachment that is asked again, for its ADD may have gone on meanwhile. Then, and
// if a verb runs for it, the error is *LivingHolderError.
func (n *Node) DeleteDead(ctx context.Context, network string, row ipam.Reservation) (err error) {
	lock, err := n.lockIdle(row)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := n.provenDead(ctx, row); err != nil {
		return err
	}
	if err := n.delete(ctx, "DEL", network, row.Holder.ContainerID, row.Holder.IfName); err != nil {
		return err
	}
	lock.Settled()
	return nil
}

// delete does the steps of DEL on behalf of verb, which has locked the attachment.
func (n *Node) delete(ctx context.Context, verb, network, containerID, ifName string) error {
	ctx, end := link.WithSession(ctx)
	defer end()
	v := &deleting{
		node:        n,
		store:       n.Data.Store(network),
		network:     ipam.Network{Name: network},
		containerID: containerID,
		ifName:      ifName,
		port:        link.PortName(containerID, ifName),
	}
	// Nothing is undone: what is off stays off, and a DEL that comes again goes on.
	return run(ctx, verb, v.steps(), never)
}

// deleting is one DEL under way.
type deleting struct {
	node                *Node
	store               *ipam.Store
	network             ipam.Network
	containerID, ifName string
	port                string
	row                 ipam.Reservation
	held                bool // row is this attachment's
	elsewhere           bool // the port of that name is on another network by now
}

func (v *deleting) steps() []step {
	return []step{
		{"find", v.find, nil},
		{"down", v.down, nil},
		{"link", v.link, nil},
		{"rules", v.rules, nil},
		{"flush", v.flush, nil},
		{"release", v.release, nil},
	}
}

// find looks up what the attachment holds. A network or row that is gone is no error:
// the port and its guard elements are found by the attachment alone. A late DEL must
// not touch them if the container was connected to another network meanwhile, with an
// interface of the same name.
func (v *deleting) find(ctx context.Context) error {
	port, exists, err := link.PortByName(ctx, v.port)
	if err != nil {
		return err
	}
	if name, ok := link.AliasNetwork(port.Alias); exists && ok {
		v.elsewhere = name != v.network.Name
	}
	err = v.store.View(ctx, func(view *ipam.View) (err error) {
		if v.network, err = view.Network(); err != nil {
			return err
		}
		v.row, err = view.ByHolder(v.containerID, v.ifName)
		v.held = err == nil
		return err
	})
	if errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrNoNetwork) {
		return nil
	}
	return err
}

func (v *deleting) down(ctx context.Context) error {
	if v.elsewhere {
		return nil
	}
	return link.PortDown(ctx, v.port)
}

func (v *deleting) link(ctx context.Context) error {
	if v.elsewhere {
		return nil
	}
	return link.DeletePort(ctx, v.port)
}

func (v *deleting) rules(ctx context.Context) error {
	if v.held {
		return v.node.changeRules(ctx, ruleChange{Network: v.network, Row: v.row, KeepGuard: v.elsewhere})
	}
	if v.elsewhere {
		return nil
	}
	return guard.Detach(ctx, v.port)
}

func (v *deleting) flush(ctx context.Context) error {
	if !v.held {
		return nil
	}
	return v.node.forget(ctx, v.network, v.row)
}

func (v *deleting) release(ctx context.Context) error {
	if !v.held {
		return nil
	}
	_, _, err := v.store.Release(ctx, v.containerID, v.ifName)
	return err
}

// forget flushes what the node remembers of the address: connections, which would
// be ESTABLISHED for its next owner, and the neighbour entry.
func (n *Node) forget(ctx context.Context, network ipam.Network, row ipam.Reservation) error {
	if err := link.FlushConntrack(ctx, row.Addr); err != nil {
		return err
	}
	if network.Bridge == nil {
		return nil
	}
	return link.FlushNeighbour(ctx, network.Bridge.Name, row.Addr)
}
