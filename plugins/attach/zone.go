package attach

import (
	"context"
	"errors"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/firewalld"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// joinZone lets firewalld, where it runs, pass what network's bridge carries. What cannot
// be found out is a warning: a bus that hangs must not keep workloads from coming up, and
// nothing is less protected for it. What firewalld refuses is an error: a workload without
// a network is worse than none.
//
// A reload of firewalld's may have taken rules of ours away, so those of all networks are
// put in force again.
func (n *Node) joinZone(ctx context.Context, network ipam.Network) (change firewalld.Change, err error) {
	b := network.Bridge
	m := firewalld.Member{Bridge: b.Name, Uplink: b.FlatInterface, DNS: network.ServesDNS()}
	if network.ServesMetadata() {
		here, err := link.HasAddress(ctx, b.Metadata.Addr())
		if err != nil {
			return change, err
		}
		if here || b.Metadata.Addr() == network.Pool.Gateway {
			m.Ports = []uint16{b.Metadata.Port()}
		}
	}
	change, err = firewalld.Join(ctx, firewalld.SystemBus, m, func(ctx context.Context) (func() error, error) {
		lock, err := n.Run.Lock(ctx, n.Run.FirewalldLock())
		if err != nil {
			return nil, err
		}
		return lock.Unlock, nil
	})
	for _, did := range change.Did {
		n.Log.Info(did, "network", network.Name)
	}
	for _, notice := range change.Notices {
		n.Log.Warn(notice, "network", network.Name)
	}
	if errors.Is(err, firewalld.ErrUnanswered) {
		n.Log.Warn(err.Error()+"; if it runs it may drop what the bridge carries", "network", network.Name)
		return change, nil
	}
	if err != nil || !change.Reloaded {
		return change, err
	}
	networks, err := n.Data.Networks(ctx)
	for _, o := range networks {
		if o.Bridge != nil {
			_, _, _, applied := n.applyRules(ctx, o.Name)
			err = errors.Join(err, applied)
		}
	}
	return change, err
}

// settleZone is joinZone for a network whose bridge may not be here.
func (n *Node) settleZone(ctx context.Context, network ipam.Network) error {
	_, here, err := link.BridgeByName(ctx, network.Bridge.Name)
	if err == nil && here {
		_, err = n.joinZone(ctx, network)
	}
	return err
}

// joinZoneFirst is joinZone for who is about to make the bridge or to put the uplink into
// it: what comes in by that must not meet another zone meanwhile.
func (n *Node) joinZoneFirst(ctx context.Context, network ipam.Network) error {
	_, here, err := link.BridgeByName(ctx, network.Bridge.Name)
	if uplink := network.Bridge.FlatInterface; err == nil && here && uplink != "" {
		var master string
		master, err = link.MasterOf(ctx, uplink)
		here = master == network.Bridge.Name
	}
	if err == nil && !here {
		_, err = n.joinZone(ctx, network)
	}
	return err
}

// leaveZone takes the bridge of a network that is gone out of our zone. The network is gone
// whether or not that succeeds.
func (n *Node) leaveZone(ctx context.Context, bridge string) {
	if bridge == "" {
		return
	}
	if err := firewalld.Leave(ctx, firewalld.SystemBus, bridge); err != nil {
		n.Log.Warn(err.Error())
	}
}

// joinZone is a step of its own, before the bridge's and without the node's lock, since it
// may take seconds.
func (v *adding) joinZone(ctx context.Context) (err error) {
	v.zone, err = v.node.joinZone(ctx, v.network)
	return err
}

// leaveZone undoes it if the bridge is gone, so that nobody relies on it.
func (v *adding) leaveZone(ctx context.Context) error {
	if !v.zone.Joined {
		return nil
	}
	if _, here, err := link.BridgeByName(ctx, v.network.Bridge.Name); err != nil || here {
		return err
	}
	return firewalld.Leave(ctx, firewalld.SystemBus, v.network.Bridge.Name)
}
