package attach

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/uplink"
)

// Side is the node's side of a network as BringUp left it: all that a workload's port needs
// beneath it, and what the node itself carries.
type Side struct {
	Bridge  link.BridgeInfo
	LegMade bool         // the shared gateway's
	Uplink  uplink.Taken // zero = the network has none
	Changes []string     // what was done
	Notices []string     // what there is to say of it; none where nothing was done
}

// BringUp makes the node's side of network ready under the node's lock, as the daemon and
// `flatctl apply` want it without an ADD. Idempotent.
func (n *Node) BringUp(ctx context.Context, network ipam.Network) (side Side, err error) {
	if err := n.joinZoneFirst(ctx, network); err != nil {
		return side, err
	}
	lock, err := n.Run.Lock(ctx, n.Run.NodeLock())
	if err != nil {
		return side, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	side, err = n.bringUp(ctx, network)
	if err != nil && side.changed() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = errors.Join(err, n.takeDown(ctx, network, side))
	}
	return side, err
}

// bringUp is BringUp for who holds the node's lock. What it returns beside an error says
// what takeDown has to undo.
//
// The bridge is complete, and the guard knows what may cross the uplink, before the NIC
// becomes its port: from then on the whole segment is there.
func (n *Node) bringUp(ctx context.Context, network ipam.Network) (side Side, err error) {
	spec, err := sideSpec(network)
	if err != nil {
		return side, err
	}
	u := n.uplinkOf(network, spec)
	if u.NIC == "" {
		if err := n.returnStray(ctx, u); err != nil {
			return side, err
		}
	} else if spec, err = borrow(u, spec); err != nil {
		return side, err
	} else if err := n.askForOwn(ctx, network, u, spec); err != nil {
		return side, err
	}
	info, notices, err := link.EnsureBridge(ctx, spec)
	side.Bridge = info
	switch {
	case info.Created && info.AddedAddress:
		side.Changes = append(side.Changes, fmt.Sprintf("bridge %s is made, with %s %s", info.Name, addressName(network), spec.Gateway))
	case info.Created:
		side.Changes = append(side.Changes, fmt.Sprintf("bridge %s is made", info.Name))
	case info.AddedAddress:
		side.Changes = append(side.Changes, fmt.Sprintf("bridge %s has %s %s now", info.Name, addressName(network), spec.Gateway))
	}
	if info.AddedOnLo {
		side.Changes = append(side.Changes, fmt.Sprintf("lo has metadata address %s now", spec.OnLo))
	}
	if info.AddedAddress && err == nil {
		// For who has known it elsewhere; nova's send_arp_for_ha.
		err = link.AnnounceHost(ctx, info.Name, info.MAC, spec.Gateway.Addr(), announcements)
	}
	if err == nil {
		err = n.bringUpLeg(ctx, network, spec.MAC, &side)
	}
	if side.changed() {
		side.Notices = notices // once, not with every container
	}
	if err == nil && u.NIC != "" {
		err = n.takeUplink(ctx, network, u, &side)
	}
	if err == nil && spec.Gateway.IsValid() && side.Uplink.Joined {
		// There are others to hear it now, and workloads may remember the bridge's own MAC.
		err = link.AnnounceHost(ctx, spec.Name, spec.MAC, spec.Gateway.Addr(), announcements)
	}
	return side, err
}

// takeDown undoes what a bringUp did whose caller holds the node's lock, unless others
// rely on it by now: those have ports on the bridge.
func (n *Node) takeDown(ctx context.Context, network ipam.Network, side Side) error {
	if side.Uplink.Joined {
		others, err := link.HasPorts(ctx, network.Bridge.Name, network.Bridge.FlatInterface)
		if err != nil || others {
			return err
		}
		spec, err := sideSpec(network)
		if err != nil {
			return err
		}
		if err := n.returnUplink(ctx, n.uplinkOf(network, spec), false); err != nil {
			return err
		}
	}
	if side.LegMade {
		// A port of the bridge itself, which would keep it.
		if err := link.RemoveCreatedLeg(ctx, side.Bridge.Name); err != nil {
			return err
		}
	}
	return link.RemoveCreatedBridge(ctx, BridgeSpec(network), side.Bridge)
}

// changed reports whether there is anything for takeDown to undo.
func (s Side) changed() bool {
	return s.Bridge.Created || s.Bridge.AddedAddress || s.Bridge.AddedOnLo || s.LegMade || s.Uplink.Joined
}

// BridgeSpec returns the bridge that network wants on this node, but for what it borrows
// from the machine: see sideSpec.
func BridgeSpec(network ipam.Network) link.BridgeSpec {
	b := network.Bridge
	spec := link.BridgeSpec{
		Name:           b.Name,
		MAC:            ipam.DeriveMAC(network.Pool.MACPrefix, network.Pool.Gateway),
		MTU:            b.MTU,
		NFCallIPTables: network.Filtered(),
		Shared:         network.SharesGateway(),
	}
	if own := network.OwnAddress(); own.IsValid() {
		spec.Gateway = netip.PrefixFrom(own, network.Pool.Subnet.Bits())
	}
	if network.ServesMetadata() {
		spec.OnLo = ipam.MetadataAddr
	}
	return spec
}

// sideSpec is BridgeSpec with the MAC of this machine's bridge. The gateway's is the
// gateway node's alone, and a shared gateway's its leg's: two nodes of one segment must
// not have bridges of the same.
func sideSpec(network ipam.Network) (link.BridgeSpec, error) {
	spec := BridgeSpec(network)
	if network.Bridge.IsGateway && !network.SharesGateway() {
		return spec, nil
	}
	id, err := machineID()
	if err != nil {
		return spec, err
	}
	spec.MAC = machineMAC(id, spec.Name)
	return spec, nil
}

// machineMAC is the MAC of a bridge that has no better one: 02 (locally administered) and
// five bytes that tell machines and their bridges apart.
func machineMAC(machineID, bridge string) (mac ipam.MAC) {
	sum := sha256.Sum256([]byte(machineID + "\x00" + bridge))
	mac[0] = 0x02
	copy(mac[1:], sum[:5])
	return mac
}

// machineID names the machine for ever (machine-id(5)). One that has no such name gets its
// host name for it.
func machineID() (string, error) {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the machine's ID: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("asking for the host name: %w", err)
	}
	return cmp.Or(strings.TrimSpace(string(b)), host), nil
}
