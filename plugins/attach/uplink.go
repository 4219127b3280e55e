package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/uplink"
)

var (
	// ErrUplink says that the network's flatInterface cannot be its uplink as things are.
	ErrUplink = errors.New("the uplink cannot be used")
	// ErrUplinkReturned says that somebody has asked for the NIC back.
	ErrUplinkReturned = uplink.ErrReturned
)

// uplinkOf returns network's uplink, whose NIC is "" if there is none. spec is what the
// bridge is without it.
func (n *Node) uplinkOf(network ipam.Network, spec link.BridgeSpec) uplink.Uplink {
	b := network.Bridge
	u := uplink.Uplink{
		NIC: b.FlatInterface, Bridge: b.Name, Path: n.Run.Uplink(b.Name), BootID: n.BootID,
		MoveAddresses: b.MoveAddresses, PlainMAC: spec.MAC,
		Admit: func(addrs []netip.Prefix) error { return admitOnBridge(network, addrs) },
		Fault: func(change string, past bool) error {
			change = strings.ReplaceAll(change, "/", "-") // which ends a word of a fault point
			if past {
				return fault("UPLINK", change, after)
			}
			return fault("UPLINK", change, before)
		},
	}
	if spec.Gateway.IsValid() {
		u.Own = []netip.Prefix{spec.Gateway}
	}
	return u
}

// admitOnBridge refuses addresses of a NIC that would come into a workload's way on the
// bridge, or make another gateway of it.
func admitOnBridge(network ipam.Network, addrs []netip.Prefix) error {
	pool, own := network.Pool, network.OwnAddress()
	key := "ipam.gateway"
	if network.SharesGateway() {
		key = "nodeAddress"
	}
	for _, p := range addrs {
		if !p.Overlaps(pool.Subnet) || p.Addr() == own && p.Bits() == pool.Subnet.Bits() {
			continue
		}
		where := fmt.Sprintf("its address %s is in the network's subnet %s", p, pool.Subnet)
		switch {
		case own.IsValid():
			return fmt.Errorf("%w: %s, where this node is %s: set %s to %s, or isGateway to false", ErrUplink, where, own, key, p.Addr())
		case p.Addr() == pool.Gateway:
			return fmt.Errorf("%w: %s, as the gateway, which this node is not: set isGateway to true, or ipam.gateway to the gateway's address", ErrUplink, where)
		case pool.Subnet.Contains(p.Addr()) && pool.MayGive(p.Addr()):
			return fmt.Errorf(`%w: %s and might be given to a workload: put it into ipam.exclude: ["%s"]`, ErrUplink, where, p.Addr())
		}
	}
	return nil
}

// borrow returns spec with what a bridge has from its uplink: MAC and MTU.
func borrow(u uplink.Uplink, spec link.BridgeSpec) (link.BridgeSpec, error) {
	nic, err := u.Ready()
	if err != nil {
		return spec, uplinkError(err)
	}
	if spec.MTU > nic.MTU {
		return spec, fmt.Errorf("%w: mtu is %d, but uplink %s takes frames of %d bytes only: set mtu to that at most, or the card's (`ip link set %s mtu %d`)",
			ErrUplink, spec.MTU, nic.Name, nic.MTU, nic.Name, spec.MTU)
	}
	spec.MAC, spec.MTU = nic.MAC, cmp.Or(spec.MTU, nic.MTU)
	return spec, nil
}

// uplinkError marks what the conflist, or the node's administrator, must mend.
func uplinkError(err error) error {
	for _, cause := range []error{uplink.ErrMissing, uplink.ErrUnfit, uplink.ErrCarries, uplink.ErrNextHop} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", ErrUplink, err)
		}
	}
	return err
}

// takeUplink makes the NIC a port of the bridge and notes in side what was done.
func (n *Node) takeUplink(ctx context.Context, network ipam.Network, u uplink.Uplink, side *Side) (err error) {
	if on, err := link.MasterOf(ctx, u.NIC); err != nil {
		return err
	} else if on != u.Bridge {
		if err := n.underFilterLock(ctx, func() error { return n.guardUplink(ctx, network) }); err != nil {
			return err
		}
	}
	side.Uplink, err = u.Take(ctx)
	taken := side.Uplink
	if err != nil {
		if on, lookErr := link.MasterOf(ctx, u.NIC); lookErr == nil && on == "" {
			err = errors.Join(err, n.forgetUplink(ctx, u.NIC))
		}
		return uplinkError(err)
	}
	side.Bridge.MTU = min(side.Bridge.MTU, taken.MTU)
	if !taken.Joined {
		return nil
	}
	side.Bridge.MAC = taken.MAC
	change := fmt.Sprintf("uplink %s is a port of bridge %s now", u.NIC, u.Bridge)
	if len(taken.Moved) > 0 {
		change += ", which has taken over " + strings.Join(taken.Moved, ", ")
	}
	side.Changes = append(side.Changes, change)
	notices, err := uplink.Managed(taken.Device, u.Bridge)
	if err != nil {
		notices = []string{err.Error()} // whoever manages it, it works now
	}
	if taken.Promiscuity == 0 {
		notices = append(notices, fmt.Sprintf("uplink %s does not receive all frames, although it is a port of bridge %s: workloads hear nothing from beyond (does it filter VLANs?)", u.NIC, u.Bridge))
	}
	if len(taken.Leased) > 0 {
		notices = append(notices, fmt.Sprintf("%s of uplink %s last for a time only: who renews them (a DHCP client?) must do that on %s now", strings.Join(taken.Leased, ", "), u.NIC, u.Bridge))
	}
	side.Notices = append(side.Notices, notices...)
	return nil
}

// guardUplink lets the guard know what may cross the uplink, and in whose name nothing may
// enter: workloads that were attached without it are now to be guarded there as well.
func (n *Node) guardUplink(ctx context.Context, network ipam.Network) error {
	segment, err := Segment(ctx, network)
	if err != nil {
		return err
	}
	if err := guard.AttachUplink(ctx, segment); err != nil {
		return err
	}
	v, err := n.look(ctx, network.Name)
	if err != nil || len(v.living[network.Name]) == 0 || v.network(network.Name).Bridge.FlatInterface != network.Bridge.FlatInterface {
		return err
	}
	_, err = v.applyGuard(ctx)
	return err
}

// returnUplink gives a NIC back all that it had.
func (n *Node) returnUplink(ctx context.Context, u uplink.Uplink, asked bool) error {
	nic, err := u.GiveBack(ctx, asked)
	if err != nil || nic == "" {
		return err
	}
	return n.forgetUplink(ctx, nic)
}

// returnStray gives back the NIC that was the bridge's uplink before the network had none.
func (n *Node) returnStray(ctx context.Context, u uplink.Uplink) error {
	nic, err := u.GiveBack(ctx, false)
	if err != nil || nic == "" {
		return err
	}
	n.Log.Info("the network has no uplink any more: the network card has back what it had", "bridge", u.Bridge, "interface", nic)
	return n.forgetUplink(ctx, nic)
}

// forgetUplink takes what the guard has for a NIC that is no port any more.
func (n *Node) forgetUplink(ctx context.Context, nic string) error {
	return n.underFilterLock(ctx, func() error { return guard.DetachUplink(ctx, nic) })
}

// RestoreUplink gives the NIC of network's uplink everything back, and keeps every ADD from
// taking it again until `flatctl apply` is asked to. It returns the NIC's name; "" = there
// was nothing to give back.
func (n *Node) RestoreUplink(ctx context.Context, network ipam.Network) (nic string, err error) {
	lock, err := n.Run.Lock(ctx, n.Run.NodeLock())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	spec, err := sideSpec(network)
	if err != nil {
		return "", err
	}
	u := n.uplinkOf(network, spec)
	if nic, err = u.GiveBack(ctx, true); err != nil || nic == "" {
		return nic, err
	}
	if err := n.forgetUplink(ctx, nic); err != nil || !spec.Gateway.IsValid() {
		return nic, err
	}
	// Workloads remember the NIC's MAC for the gateway.
	b, here, err := link.BridgeByName(ctx, spec.Name)
	if err != nil || !here {
		return nic, err
	}
	return nic, link.AnnounceHost(ctx, spec.Name, b.MAC, spec.Gateway.Addr(), announcements)
}

// Renew makes the node's side of network what it is to be by now, where there is one:
// before its first ADD a node that is not the gateway is left alone. An uplink that somebody
// asked for back is taken again.
func (n *Node) Renew(ctx context.Context, network ipam.Network) (Side, error) {
	u := n.uplinkOf(network, BridgeSpec(network))
	forgotten, err := u.Forget()
	if err != nil {
		return Side{}, err
	}
	_, here, err := link.BridgeByName(ctx, network.Bridge.Name)
	if err != nil || !here && !forgotten {
		return Side{}, err
	}
	return n.BringUp(ctx, network)
}

// lookForUplink asks whether the uplink is the bridge's port, or can become it.
func (n *Node) lookForUplink(_ context.Context, network ipam.Network) error {
	if network.Bridge.FlatInterface == "" {
		return nil
	}
	_, err := borrow(n.uplinkOf(network, BridgeSpec(network)), BridgeSpec(network))
	return err
}

// uplink looks at the bridge's way to the other nodes. That it has no carrier is no defect
// of this node's, and nothing to be done about here.
func (v *checking) uplink(context.Context) error {
	if v.network.Bridge.FlatInterface == "" {
		return nil
	}
	u := v.node.uplinkOf(v.network, BridgeSpec(v.network))
	nic, err := uplink.Look(u.NIC)
	if errors.Is(err, uplink.ErrMissing) {
		v.defect("uplink %s is gone, and with it the way to other nodes: put it back, or take flatInterface out of the conflist", u.NIC)
		return nil
	}
	if err != nil {
		return err
	}
	v.unless(nic.Up, "uplink %s is down: the next ADD sets it up", u.NIC)
	if nic.MasterName != u.Bridge {
		v.defect("uplink %s is no port of bridge %s (it belongs to %q): the next ADD makes it one", u.NIC, u.Bridge, nic.MasterName)
		return nil
	}
	v.unless(nic.Promiscuity > 0, "uplink %s does not receive all frames, so that workloads hear nothing from beyond", u.NIC)
	carried, err := u.Carried()
	if err != nil {
		return err
	}
	v.unless(len(carried) == 0, "uplink %s has %s, which do not work there: move them to %s and find out who put them on (a DHCP client, a network manager?)",
		u.NIC, strings.Join(carried, ", "), u.Bridge)
	return nil
}
