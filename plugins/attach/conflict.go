package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/uplink"
)

var (
	// ErrAllForeign ends an ADD that found foreign hosts at one address after the other.
	ErrAllForeign = errors.New("foreign hosts beyond the uplink have the addresses that the network gives " +
		"(or one answers for all, as a router with proxy ARP does): exclude theirs, or set detectConflict to false")
	// ErrOwnForeign says that a foreign host has the address that this node is to have.
	ErrOwnForeign = errors.New("a foreign host beyond the uplink has the node's own address")
)

const (
	// probeTime is how long the segment is listened to, for an address of a workload.
	probeTime = 200 * time.Millisecond
	// conflictTries bounds how many foreign hosts' addresses one ADD comes across.
	conflictTries = 5
)

// asks reports whether the segment is asked for addresses that a foreign host may have.
func (v *adding) asks() bool {
	return v.network.Bridge.DetectConflict && v.network.Bridge.FlatInterface != ""
}

// settleConflict asks the segment for an address that was never given, or not for long, and
// takes another one if a foreign host has it. The port, which has the address's MAC, is made
// anew then; none of the old one's rules are in yet.
func (v *adding) settleConflict(ctx context.Context) error {
	h := v.req.Holder
	for try := 1; v.unproven; try++ {
		foreign, err := v.foreignOwner(ctx)
		if err != nil {
			return err
		}
		if foreign.IsZero() {
			v.unproven = false
			return nil
		}
		row := v.made.Row
		v.node.Log.Warn("a foreign host beyond the uplink has the address: it goes to no workload", "network", v.network.Name,
			"address", row.Addr, "mac", foreign.String(), "uplink", v.network.Bridge.FlatInterface)
		if v.req.Addr.IsValid() || row.Admin {
			err = fmt.Errorf("%w: address %s: a foreign host beyond uplink %s has it, with MAC %s: take it from that host, or ask for another",
				ipam.ErrRefused, row.Addr, v.network.Bridge.FlatInterface, foreign)
		} else if try == conflictTries {
			err = fmt.Errorf("address %s, MAC %s, is the last of %d: %w", row.Addr, foreign, try, ErrAllForeign)
		}
		if gone := errors.Join(link.DeletePort(ctx, v.port), v.store.Doubt(ctx, h.ContainerID, h.IfName, foreign)); err != nil || gone != nil {
			return errors.Join(err, gone)
		}
		if err := v.reserve(ctx); err != nil {
			v.made.Row = row // what is to be undone has it
			return err
		}
		if err := v.makeBridge(ctx); err != nil {
			return err
		}
		if err := v.makePort(ctx); err != nil {
			return err
		}
	}
	return nil
}

// foreignOwner returns the MAC of who else has the address; zero = nobody, or nobody can
// be asked.
func (v *adding) foreignOwner(ctx context.Context) (ipam.MAC, error) {
	nic, err := uplink.Look(v.network.Bridge.FlatInterface)
	if err != nil || !nic.Carrier {
		return ipam.MAC{}, err
	}
	return link.Probe(ctx, nic.Name, v.made.Row.Addr, probeTime)
}

// refuseForeignMAC refuses a MAC that was asked for and is a gateway's beyond the uplink, or
// that of a host there which the node itself talks to. Pinned to the port it would cut this
// node's other workloads off from the gateway, or the node from its router. The MACs of
// further hosts are not known here, and a workload that moved here brings its own, which the
// bridge may have learned at the uplink.
func (v *adding) refuseForeignMAC(ctx context.Context) error {
	row, b := v.made.Row, v.network.Bridge
	if !row.MACRequested || b.FlatInterface == "" {
		return nil
	}
	neighbours, err := link.NeighboursAt(ctx, b.Name, row.MAC)
	if err != nil {
		return err
	}
	for _, a := range neighbours {
		// Else it may be the workload itself, elsewhere until now.
		moves := slices.ContainsFunc(b.AllowedAddresses, func(o ipam.AllowedAddress) bool { return o.Addr == a })
		if !moves && !v.network.Pool.MayGive(a) {
			return foreignMACError(row.MAC, a, b.FlatInterface)
		}
	}
	nic, err := uplink.Look(b.FlatInterface)
	if err != nil || !nic.Carrier {
		return err
	}
	for _, a := range Gateways(v.network) {
		if here, err := link.HasAddress(ctx, a); err != nil || here {
			if err != nil {
				return err
			}
			continue
		}
		foreign, err := link.Probe(ctx, nic.Name, a, probeTime)
		if err != nil {
			return err
		}
		if foreign == row.MAC {
			return foreignMACError(row.MAC, a, b.FlatInterface)
		}
	}
	return nil
}

func foreignMACError(mac ipam.MAC, addr netip.Addr, nic string) error {
	return fmt.Errorf("%w: MAC %s: %s beyond uplink %s has it: ask for another", ipam.ErrRefused, mac, addr, nic)
}

// askForOwn refuses to have an address on the bridge that a foreign host has. One that the
// bridge has, or brings along from the NIC, was asked for before, or is older than we are.
func (n *Node) askForOwn(ctx context.Context, network ipam.Network, u uplink.Uplink, spec link.BridgeSpec) error {
	if !spec.Gateway.IsValid() || !network.Bridge.DetectConflict {
		return nil
	}
	own := spec.Gateway.Addr()
	for _, name := range []string{spec.Name, u.NIC} {
		addrs, err := link.Addresses(ctx, name)
		if err != nil || slices.Contains(addrs, own) {
			return err
		}
	}
	carrier, sleep, err := u.Wake(ctx)
	if err != nil || !carrier {
		return errors.Join(err, sleep())
	}
	foreign, err := link.Probe(ctx, u.NIC, own, probeTime)
	if err == nil && !foreign.IsZero() {
		err = fmt.Errorf("%s %s, MAC %s: %w: give one of the two another address, or set isGateway to false", addressName(network), own, foreign, ErrOwnForeign)
	}
	if err != nil {
		return errors.Join(err, sleep())
	}
	return nil
}
