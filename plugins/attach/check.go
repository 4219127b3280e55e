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

// Claim is an attachment as its runtime knows it.
type Claim struct {
	ContainerID, IfName string
	NetNS               string       // path
	Addrs               []netip.Addr // that the result names
}

// Check compares what network has for an attachment, from row to rules, with what ADD
// made of the record as it is now, and returns a line for each defect: what is wrong,
// where, and what to do. It changes nothing and takes no lock.
//
// It looks at what is ours alone. Routes and MTU, and further addresses, are for those
// chained behind us to change. err is for a store that cannot be read; what else
// cannot be looked at is a defect.
func (n *Node) Check(ctx context.Context, network string, claim Claim) (defects []string, err error) {
	v := &checking{node: n, claim: claim, portName: link.PortName(claim.ContainerID, claim.IfName)}
	err = n.Data.Store(network).View(ctx, func(view *ipam.View) (err error) {
		if v.network, err = view.Network(); err != nil {
			return err
		}
		v.row, err = view.ByHolder(claim.ContainerID, claim.IfName)
		return err
	})
	if errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrNoNetwork) {
		// Without a row nothing says what the rest should be.
		return []string{fmt.Sprintf("container %s, interface %s holds no address of network %s: delete the container and create it again",
			claim.ContainerID, claim.IfName, network)}, nil
	}
	if err != nil {
		return nil, err
	}
	if v.network.Bridge == nil || !v.row.Holder.Ported {
		return []string{fmt.Sprintf("address %s of network %s was not given by flat-bridge", v.row.Addr, network)}, nil
	}
	for _, c := range v.checks() {
		if err := c.do(ctx); err != nil {
			v.defect("%s could not be looked at: %v", c.name, err)
		}
	}
	return v.defects, nil
}

// checking is one CHECK under way.
type checking struct {
	node     *Node
	claim    Claim
	network  ipam.Network
	row      ipam.Reservation
	portName string
	port     link.PortInfo // zero = missing
	defects  []string
}

// check is one line of CHECK's table. An error is that it could not look.
type check struct {
	name string
	do   func(context.Context) error
}

func (v *checking) checks() []check {
	return []check{
		{"the result", v.result},
		{"bridge " + v.network.Bridge.Name, v.bridge},
		{"the shared gateway", v.leg},
		{"the uplink", v.uplink},
		{"port " + v.portName, v.hostSide},
		{"interface " + v.claim.IfName, v.inside},
		{"the guard", v.guard},
		{"the chains", v.chains},
	}
}

func (v *checking) defect(format string, args ...any) {
	v.defects = append(v.defects, fmt.Sprintf(format, args...))
}

// unless adds a defect if something is not as it should be.
func (v *checking) unless(ok bool, format string, args ...any) {
	if !ok {
		v.defect(format, args...)
	}
}

func (v *checking) result(context.Context) error {
	v.unless(slices.Contains(v.claim.Addrs, v.row.Addr),
		"the result names %v, but the reservation is %s: delete the container and create it again", v.claim.Addrs, v.row.Addr)
	return nil
}

func (v *checking) bridge(ctx context.Context) error {
	spec := BridgeSpec(v.network)
	b, exists, err := link.BridgeByName(ctx, spec.Name)
	switch {
	case errors.Is(err, link.ErrNotABridge):
		v.defect("%v", err)
		return nil
	case err != nil:
		return err
	case !exists:
		v.defect("bridge %s is missing: the next ADD makes it, but this container must be created again", spec.Name)
		return nil
	}
	v.unless(b.Up, "bridge %s is down: `ip link set %s up`", spec.Name, spec.Name)
	if spec.Gateway.IsValid() {
		v.unless(slices.Contains(b.Addrs, spec.Gateway),
			"bridge %s lacks the %s %s: the next ADD adds it", spec.Name, addressName(v.network), spec.Gateway)
	}
	if spec.OnLo.IsValid() {
		has, err := link.HasAddress(ctx, spec.OnLo)
		if err != nil {
			return err
		}
		v.unless(has, "no link has the metadata address %s, which is to be on lo: the next ADD and `flatctl apply` add it", spec.OnLo)
	}
	if !spec.NFCallIPTables {
		return nil
	}
	set, global, err := link.NFCallIPTables(ctx, spec.Name)
	switch {
	case errors.Is(err, link.ErrNoBridgeNetfilter):
		v.defect("chains see no frame of bridge %s: %v", spec.Name, link.ErrNoBridgeNetfilter)
	case err != nil:
		return err
	case !set && global:
		v.defect("bridge %s has lost its flag nf_call_iptables, and only the sysctl net.bridge.bridge-nf-call-iptables still shows its frames to chains: "+
			"the next ADD sets it; find out what cleared it", spec.Name)
	case !set:
		v.defect("bridge %s has lost its flag nf_call_iptables, so that chains do not see what workloads send each other: "+
			"the next ADD sets it; find out what cleared it", spec.Name)
	}
	return nil
}

func (v *checking) hostSide(ctx context.Context) (err error) {
	var exists bool
	if v.port, exists, err = link.PortByName(ctx, v.portName); err != nil {
		return err
	}
	if !exists {
		v.defect("port %s is missing: delete the container and create it again", v.portName)
		return nil
	}
	alias := link.Alias(v.network.Name, v.claim.ContainerID, v.claim.IfName)
	if v.port.Alias != alias {
		v.defect("port %s has alias %q, not %q: it may be another's", v.portName, v.port.Alias, alias)
		return nil
	}
	v.unless(v.port.Up, "port %s is down: `ip link set %s up`, or create the container again", v.portName, v.portName)
	v.unless(v.port.MAC == v.row.MAC.HostSide(), "port %s has MAC %s, not %s: somebody changed it (udev?)", v.portName, v.port.MAC, v.row.MAC.HostSide())
	bridge := v.network.Bridge.Name
	if v.port.Bridge != bridge {
		v.defect("port %s is on bridge %q, not %q: create the container again", v.portName, v.port.Bridge, bridge)
		return nil
	}
	v.unless(v.port.Hairpin == v.network.Bridge.HairpinMode, "port %s has hairpin mode %t, not %t: `flatctl apply` sets it",
		v.portName, v.port.Hairpin, v.network.Bridge.HairpinMode)
	v.unless(v.port.Learning == learns(v.network), "port %s has learning %t, not %t: `flatctl apply` sets it", v.portName, v.port.Learning, learns(v.network))
	pinned, err := link.Pinned(ctx, v.portName, v.row.MAC)
	v.unless(pinned || err != nil, "bridge %s has no static sticky entry of MAC %s for port %s, so that another port could take its frames: create the container again",
		bridge, v.row.MAC, v.portName)
	return err
}

func (v *checking) inside(ctx context.Context) error {
	in, exists, err := link.Inside(ctx, v.claim.NetNS, v.claim.IfName)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("interface %s in %s", v.claim.IfName, v.claim.NetNS)
	if !exists {
		v.defect("%s is missing: create the container again", where)
		return nil
	}
	if v.port.Index != 0 && (in.Port != v.port.Index || in.Index != v.port.Peer) {
		v.defect("%s is not the other end of port %s: somebody replaced it", where, v.portName)
		return nil
	}
	v.unless(in.MAC == v.row.MAC || learns(v.network),
		"%s has MAC %s, and the guard lets only %s pass: give the MAC to flat-bridge (capability mac) instead of changing it", where, in.MAC, v.row.MAC)
	if v.network.Bridge.Addressing == ipam.AddressingStatic {
		// Who brings a VM its address may well take the interface down to bridge it.
		v.unless(in.Up, "%s is down: `ip link set %s up` in the container, whose routes then are to be set again, or create it again", where, v.claim.IfName)
		want := netip.PrefixFrom(v.row.Addr, v.network.Pool.Subnet.Bits())
		v.unless(slices.Contains(in.Addrs, want), "%s lacks its address %s", where, want)
	}
	return nil
}

func (v *checking) guard(ctx context.Context) error {
	return v.rules(ctx, func() ([]string, error) {
		segment, err := Segment(ctx, v.network)
		if err != nil {
			return nil, err
		}
		return guard.Check(ctx, segment, guard.PortFor(v.network, v.row, v.portName))
	})
}

func (v *checking) chains(ctx context.Context) error {
	// A neighbour that cannot be read is no reason to find fault with this one.
	networks, err := v.node.Data.Networks(ctx)
	if _, known := recordOf(networks, v.network.Name); err != nil && !known {
		return err
	}
	return v.rules(ctx, func() ([]string, error) { return v.node.Filter.Check(ctx, given(networks), v.network, v.row) })
}

// rules looks at rules. Only if something seems wrong it waits for whoever is changing
// them, and looks again: hundreds of CHECKs must not hold up as many ADDs.
func (v *checking) rules(ctx context.Context, look func() ([]string, error)) error {
	defects, err := look()
	if err != nil || len(defects) > 0 {
		err = v.node.underFilterLock(ctx, func() (err error) {
			defects, err = look()
			return err
		})
	}
	for _, d := range defects {
		v.defect("%s; `flatctl apply` mends it", d)
	}
	return err
}
