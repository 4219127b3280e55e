package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/flock"
	"github.com/flatdhcp/flatdhcp/plugins/firewalld"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// ErrSameNetNS says that the container's network namespace is the node's own.
var ErrSameNetNS = errors.New("container and node share one network namespace")

// forwardingWait is how long ADD waits for a port to forward before it announces the
// address and returns. A port that stays slower only loses what is sent until then.
const forwardingWait = 2 * time.Second

// announcements is how often a gratuitous ARP is sent.
const announcements = 1

// Attached is what ADD made.
type Attached struct {
	Row       ipam.Reservation
	Bridge    link.BridgeInfo
	Port      link.PortInfo
	Container link.ContainerInfo
}

// Add attaches interface req.Holder.IfName of the container whose network namespace
// is at req.Holder.NetNS. All it did is undone when it fails, and a retry succeeds.
//
// Errors: link.ErrIfNameTaken, ErrSameNetNS, ErrCancelled, *LivingHolderError, and what the
// store, link, filter and guard return.
func (n *Node) Add(ctx context.Context, network ipam.Network, req ipam.Request) (a Attached, err error) {
	if same, err := link.SameNetNS(req.Holder.NetNS); err != nil {
		return Attached{}, fmt.Errorf("looking at the container's network namespace: %w", err)
	} else if same {
		return Attached{}, fmt.Errorf("%s: %w", req.Holder.NetNS, ErrSameNetNS)
	}
	attachment := n.Run.Attachment(req.Holder.ContainerID, req.Holder.IfName)
	lock, err := attachment.Lock(ctx)
	if err != nil {
		return Attached{}, err
	}
	defer func() {
		if unlocked := lock.Release(); err == nil && unlocked != nil {
			// The workload is attached, and nothing would undo that: the next verb bears a lock
			// file that stays.
			n.Log.Warn("the attachment's lock could not be released by the book", "error", unlocked)
		} else {
			err = errors.Join(err, unlocked)
		}
	}()

	ctx, end := link.WithSession(ctx)
	defer end()
	req.Holder.Ported = true
	v := &adding{
		node:    n,
		network: network,
		store:   n.Data.Store(network.Name),
		req:     req,
		port:    link.PortName(req.Holder.ContainerID, req.Holder.IfName),

		interrupted: lock.Interrupted,
	}
	err = run(ctx, "ADD", v.steps(), func() error {
		if attachment.Cancelled() {
			return ErrCancelled
		}
		return nil
	})
	return v.made, err
}

// adding is one ADD under way.
type adding struct {
	node    *Node
	network ipam.Network
	store   *ipam.Store
	req     ipam.Request
	port    string
	grant   ipam.Grant
	side    Side
	made    Attached
	zone    firewalld.Change

	unproven    bool        // a foreign host may have the address: the segment is to be asked
	interrupted bool        // the attachment's last verb was killed
	nodeLock    *flock.Lock // held from bridge to port; nil = not held
}

func (v *adding) steps() []step {
	return []step{
		{"validate", v.validate, nil},
		{"reserve", v.reserve, v.unreserve},
		{"half-made", v.removeHalfMade, nil},
		{"zone", v.joinZone, v.leaveZone},
		{"bridge", v.makeBridge, v.removeBridge},
		// The port stays down until its rules are in, and undone it goes before them: as
		// long as it is here, an Apply puts them in.
		{"port", v.makePort, v.removePort},
		{"conflict", v.settleConflict, nil},
		{"rules", v.putRules, nil},
		{"metadata", v.findMetadata, nil}, // by the rules
		{"up", v.raise, v.lower},
		{"address", v.address, nil}, // goes with the port
		{"announce", v.announce, nil},
	}
}

// validate refuses what can be seen to be impossible before anything is touched. An
// interface that a killed ADD of this attachment left is no obstacle.
func (v *adding) validate(ctx context.Context) error {
	// Before a store and the guard's table are made, which would stay.
	if err := lookForNetfilter(ctx, v.network); err != nil {
		return err
	}
	if err := v.node.Filter.Ready(ctx, v.network); err != nil {
		return err
	}
	h := &v.req.Holder
	taken, routed, err := link.Before(ctx, h.NetNS, h.IfName, v.network.Bridge.IsDefaultGateway == nil)
	h.OtherDefaultRoute = routed
	if err != nil || !taken {
		return err
	}
	port, ours, err := link.PortByName(ctx, v.port)
	if err != nil {
		return err
	}
	if ours && (v.interrupted || !port.Up) {
		return nil
	}
	return fmt.Errorf("%w: %s in %s", link.ErrIfNameTaken, h.IfName, h.NetNS)
}

func (v *adding) reserve(ctx context.Context) (err error) {
	v.grant, err = v.node.reserve(ctx, v.store, &v.network, v.req)
	v.made.Row = v.grant.Reservation // beside an error, too: it is to be given back
	v.unproven = v.asks() && (v.grant.Unproven || v.grant.Reused && v.interrupted)
	if err != nil {
		return err
	}
	if w := v.grant.FromRetained; w != nil {
		v.node.Log.Warn("gave away an address that was kept for another workload: no other is free",
			"network", v.network.Name, "address", v.made.Row.Addr, "kept-for", w.String())
	}
	return nil
}

// unreserve leaves a row that stood before this ADD.
func (v *adding) unreserve(ctx context.Context) error {
	if !v.made.Row.Addr.IsValid() || v.grant.Reused {
		return nil
	}
	h := v.req.Holder
	if v.unproven {
		return v.store.Doubt(ctx, h.ContainerID, h.IfName, ipam.MAC{})
	}
	_, _, err := v.store.Release(ctx, h.ContainerID, h.IfName)
	return err
}

// removeHalfMade clears what a killed ADD of this attachment made. (What a dead holder of
// the address left has gone with its row: see Node.reserve.)
func (v *adding) removeHalfMade(ctx context.Context) error {
	if !v.grant.Reused || !v.interrupted {
		return nil
	}
	return link.DeletePort(ctx, v.port)
}

// makeBridge keeps the node's lock until the port is made: an ADD that undoes itself
// removes the bridge it made if that has no ports.
func (v *adding) makeBridge(ctx context.Context) error {
	if err := v.lockNode(ctx); err != nil {
		return err
	}
	side, err := v.node.bringUp(ctx, v.network)
	if !v.side.changed() { // else this is for a port made anew
		v.side = side
	}
	for _, notice := range side.Notices {
		v.node.Log.Warn(notice, "bridge", v.network.Bridge.Name)
	}
	for _, change := range side.Changes {
		v.node.Log.Info(change, "bridge", v.network.Bridge.Name)
	}
	v.made.Bridge = side.Bridge
	if err != nil {
		return err
	}
	return v.refuseForeignMAC(ctx)
}

func (v *adding) removeBridge(ctx context.Context) error {
	if !v.side.changed() {
		return v.unlockNode()
	}
	if err := v.lockNode(ctx); err != nil {
		return err
	}
	return errors.Join(v.node.takeDown(ctx, v.network, v.side), v.unlockNode())
}

func (v *adding) makePort(ctx context.Context) (err error) {
	h := v.req.Holder
	v.made.Port, err = link.CreatePort(ctx, link.PortSpec{
		Name:            v.port,
		Alias:           link.Alias(v.network.Name, h.ContainerID, h.IfName),
		Bridge:          v.network.Bridge.Name,
		ContainerNetNS:  h.NetNS,
		ContainerIfName: h.IfName,
		MAC:             v.made.Row.MAC,
		MTU:             v.made.Bridge.MTU,
		Hairpin:         v.network.Bridge.HairpinMode,
		Learning:        learns(v.network),
	})
	return errors.Join(err, v.unlockNode())
}

func (v *adding) removePort(ctx context.Context) error {
	if err := link.DeletePort(ctx, v.port); err != nil {
		return err
	}
	return v.node.changeRules(ctx, ruleChange{Network: v.network, Row: v.made.Row})
}

func (v *adding) lockNode(ctx context.Context) (err error) {
	if v.nodeLock == nil {
		v.nodeLock, err = v.node.Run.Lock(ctx, v.node.Run.NodeLock())
	}
	return err
}

func (v *adding) unlockNode() error {
	if v.nodeLock == nil {
		return nil
	}
	lock := v.nodeLock
	v.nodeLock = nil
	return lock.Unlock()
}

func (v *adding) putRules(ctx context.Context) error {
	return v.node.changeRules(ctx, ruleChange{In: true, Network: v.network, Row: v.made.Row})
}

func (v *adding) findMetadata(ctx context.Context) error { return findMetadata(ctx, v.network) }

func (v *adding) raise(ctx context.Context) error { return link.PortUp(ctx, v.port) }

func (v *adding) lower(ctx context.Context) error { return link.PortDown(ctx, v.port) }

func (v *adding) address(ctx context.Context) (err error) {
	pool := v.network.Pool
	spec := link.ContainerSpec{
		NetNS:  v.req.Holder.NetNS,
		IfName: v.req.Holder.IfName,
		MTU:    v.made.Bridge.MTU,
	}
	if v.network.Bridge.Addressing == ipam.AddressingStatic {
		spec.Addr = netip.PrefixFrom(v.made.Row.Addr, pool.Subnet.Bits())
		spec.Gateway = pool.Gateway
		spec.Routes = pool.Routes
		// As the row says, by which DHCP goes as well (option 3).
		spec.DefaultRoute = !v.req.Holder.OtherDefaultRoute
		if given := v.network.Bridge.IsDefaultGateway; given != nil {
			spec.DefaultRoute = *given
		}
	}
	v.made.Container, err = link.ConfigureContainer(ctx, spec)
	return err
}

// announce tells the segment whose the address is now, once the bridge forwards what comes
// from the port: the first thing that the container sends must not be lost either, which for
// a DHCP client costs a second or more. Such a client announces itself.
func (v *adding) announce(ctx context.Context) error {
	if _, err := link.WaitForwarding(ctx, v.port, forwardingWait); err != nil {
		return err
	}
	if v.network.Bridge.Addressing != ipam.AddressingStatic {
		return nil
	}
	h, row := v.req.Holder, v.made.Row
	if row.PreviousMAC.IsZero() {
		return link.AnnounceByKernel(ctx, h.NetNS, h.IfName, row.MAC)
	}
	// Somebody may remember the last owner's MAC, and heed only one of the two forms.
	return link.Announce(ctx, h.NetNS, h.IfName, row.MAC, row.Addr, announcements)
}

// learns says whether the bridge may learn MACs from network's ports: where nobody
// checks what MACs they send from.
func learns(network ipam.Network) bool {
	return !network.Bridge.AntiSpoofing && !network.Bridge.MACSpoofCheck
}
