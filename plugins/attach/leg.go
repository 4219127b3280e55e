package attach

import (
	"context"
	"fmt"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// legSpec is what network's shared gateway wants on this node; bridge is the MAC that the
// bridge could have. Metadata is asked for where the gateway is: a guest with a route for
// 169.254.0.0/16 looks for it by ARP.
func legSpec(network ipam.Network, bridge ipam.MAC, mtu int) link.LegSpec {
	spec := link.LegSpec{Bridge: network.Bridge.Name, Addr: network.Pool.Gateway, MAC: network.GatewayMAC(), MTU: mtu, BridgeMAC: bridge}
	if network.ServesMetadata() {
		spec.More = append(spec.More, ipam.MetadataAddr)
	}
	return spec
}

// bringUpLeg makes the leg of a shared gateway ready, on a bridge that is; of one that is
// no longer shared it takes it away, once the address is on the bridge.
func (n *Node) bringUpLeg(ctx context.Context, network ipam.Network, bridge ipam.MAC, side *Side) (err error) {
	if !network.SharesGateway() {
		if !side.Bridge.AddedAddress {
			return nil // it has been seen to
		}
		removed, err := link.RemoveLeg(ctx, side.Bridge.Name)
		if removed {
			side.Changes = append(side.Changes, fmt.Sprintf("bridge %s has lost the leg of a shared gateway", side.Bridge.Name))
		}
		return err
	}
	if err := n.guardLeg(ctx, network); err != nil {
		return err
	}
	spec := legSpec(network, bridge, side.Bridge.MTU)
	if side.LegMade, err = link.EnsureLeg(ctx, spec); err != nil {
		return err
	}
	if side.LegMade {
		side.Changes = append(side.Changes, fmt.Sprintf("bridge %s has shared gateway %s at MAC %s now, by leg %s", spec.Bridge, spec.Addr, spec.MAC, link.LegName(spec.Bridge)))
	}
	// Or the first workload's first question would be lost, which costs it a second. One that
	// is not new may have been raised by an ADD that was killed a moment ago.
	if _, err := link.WaitLeg(ctx, spec.Bridge, forwardingWait); err != nil || !side.LegMade {
		return err
	}
	// The uplink keeps it on this node.
	return link.AnnounceHost(ctx, link.LegName(spec.Bridge), spec.MAC, spec.Addr, announcements)
}

// guardLeg lets the guard know what is shared before a leg is made beside an uplink, by
// which it would be announced. (An uplink that comes later is the guard's first.)
func (n *Node) guardLeg(ctx context.Context, network ipam.Network) error {
	b := network.Bridge
	if b.FlatInterface == "" {
		return nil
	}
	for _, port := range []struct {
		name string
		on   bool
	}{{link.LegPort(b.Name), false}, {b.FlatInterface, true}} {
		master, err := link.MasterOf(ctx, port.name)
		if err != nil || (master == b.Name) != port.on {
			return err
		}
	}
	return n.underFilterLock(ctx, func() error {
		segment, err := Segment(ctx, network)
		if err != nil {
			return err
		}
		return guard.AttachUplink(ctx, segment)
	})
}

// addressName says what the bridge's own address is.
func addressName(network ipam.Network) string {
	if network.SharesGateway() {
		return "node address"
	}
	return "gateway address"
}

// leg is CHECK's line about a shared gateway.
func (v *checking) leg(ctx context.Context) error {
	if !v.network.SharesGateway() {
		return nil
	}
	defects, err := link.CheckLeg(ctx, legSpec(v.network, ipam.MAC{}, 0))
	for _, d := range defects {
		v.defect("%s: the next ADD mends it", d)
	}
	return err
}
