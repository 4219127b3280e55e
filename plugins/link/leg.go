package link

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Prefixes of the two ends of a leg: the one with the address, and the bridge's port.
// Bridges and uplinks must not be so named, and no workload port is.
const (
	LegPrefix     = "fgw"
	LegPortPrefix = "fgp"
)

// LegSpec is the leg of a shared gateway: a veth pair, one end a port of the bridge, the
// other with an address and a MAC that other nodes of the segment have as well. What the
// node itself sends into the subnet leaves by the bridge, from the node's own address and
// MAC: with the shared ones on the bridge no host could reach another's workloads, as the
// answers would stay with the other host.
//
// The leg answers ARP. IPv4 that workloads send to its MAC the guard hands to the bridge,
// since what crosses a bridge to a port and is routed behind it meets conntrack twice, and
// the first time, when it is nobody's to translate, decides: it would never be masqueraded.
type LegSpec struct {
	Bridge string       // must exist
	Addr   netip.Addr   // the gateway's; set with length 32, so that nothing is routed by the leg
	More   []netip.Addr // answered for as well, the same
	MAC    ipam.MAC     // the gateway's
	MTU    int          // bytes; 0 = 1500
	// BridgeMAC is what the bridge could have, for who is told to change it.
	BridgeMAC ipam.MAC
}

// addrs are all the leg's addresses, as they are set.
func (s LegSpec) addrs() (all []netip.Prefix) {
	for _, a := range append([]netip.Addr{s.Addr}, s.More...) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// ErrBridgeHasMAC says that a bridge has the MAC of its shared gateway, as one has whose
// gateway was not shared when it was made.
var ErrBridgeHasMAC = errors.New("it is the shared gateway's, which other nodes have as well")

// admit refuses a bridge beside which there cannot be a leg.
func (s LegSpec) admit(bridge device) error {
	if bridge.mac != s.MAC {
		return nil
	}
	return fmt.Errorf("MAC %s of bridge %s: %w: give the bridge another one, such as this node's own (`ip link set %s address %s`)",
		s.MAC, s.Bridge, ErrBridgeHasMAC, s.Bridge, s.BridgeMAC)
}

// LegName returns the end of a bridge's leg that has the address: LegPrefix and 12 hex
// digits of SHA-256(bridge).
func LegName(bridge string) string { return LegPrefix + legHash(bridge) }

// LegPort returns the end of a bridge's leg that is its port, by the same digits.
func LegPort(bridge string) string { return LegPortPrefix + legHash(bridge) }

func legHash(bridge string) string {
	sum := sha256.Sum256([]byte(bridge))
	return hex.EncodeToString(sum[:6])
}

// Reserved reports whether names like this one are those of workload ports or legs.
func Reserved(name string) bool {
	return slices.ContainsFunc([]string{PortPrefix, LegPrefix, LegPortPrefix}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// legAlias says whose a leg is.
func legAlias(bridge string) string { return "flatdhcp-gateway " + bridge }

// ErrNotALeg says that a leg's name is another device's.
var ErrNotALeg = errors.New("no shared gateway's leg of ours: rename it")

// EnsureLeg makes the leg if it is missing and sets everything that it and the bridge need
// for it, also on one that is there; made says that it was missing. One with another MAC
// is made anew.
//
// The bridge answers ARP for its own addresses alone from then on (arp_ignore), and asks
// from none but them (arp_announce): without the second the workload would learn the
// bridge's MAC for the shared address. Whatever fails, a leg made here is gone.
func EnsureLeg(ctx context.Context, spec LegSpec) (made bool, err error) {
	if spec.MAC.IsZero() || spec.MAC.IsMulticast() || spec.MAC.IsHostSide() {
		return false, fmt.Errorf("%s is no MAC for a shared gateway on bridge %s: it must be unicast and not start with fe", spec.MAC, spec.Bridge)
	}
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	bridge, err := c.bridgeDevice(spec.Bridge)
	if err != nil {
		return false, err
	}
	if err := spec.admit(bridge); err != nil {
		return false, err
	}
	legs, err := c.leg(spec.Bridge)
	if err != nil {
		return false, err
	}
	if legs != nil && legs[0].mac != spec.MAC {
		if err := c.deleteLink(legs[0].index); err != nil {
			return false, fmt.Errorf("removing leg %s, which has another MAC than %s: %w", legs[0].name, spec.MAC, err)
		}
		legs = nil
	}
	if made = legs == nil; made {
		err := c.createLeg(spec, bridge.index)
		if err == nil {
			legs, err = c.leg(spec.Bridge)
		}
		if err == nil && legs == nil {
			err = unix.ENODEV // deleted already
		}
		if err != nil {
			return false, errors.Join(fmt.Errorf("making leg %s of bridge %s: %w", LegName(spec.Bridge), spec.Bridge, err),
				c.removeLeg(spec.Bridge))
		}
	}
	if err := c.dressLeg(ctx, spec, bridge, legs[0], legs[1]); err != nil {
		if made {
			err = errors.Join(err, c.removeLeg(spec.Bridge))
		}
		return false, err
	}
	return made, nil
}

// leg finds a bridge's leg, the end with the address first; nil = there is none. Another
// device with one of the names is ErrNotALeg.
func (c *conn) leg(bridge string) (ends []device, err error) {
	for _, name := range []string{LegName(bridge), LegPort(bridge)} {
		d, err := c.device(name)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err == nil && (d.kind != "veth" || d.alias != "" && d.alias != legAlias(bridge)) {
			err = fmt.Errorf("it is a %s with alias %q, %w", d.typeName(), d.alias, ErrNotALeg)
		}
		if err != nil {
			return nil, fmt.Errorf("looking up leg %s of bridge %s: %w", name, bridge, err)
		}
		ends = append(ends, d)
	}
	if len(ends) > 0 && (len(ends) != 2 || ends[0].peer != ends[1].index) {
		return nil, fmt.Errorf("looking up the leg of bridge %s: %s and %s are no pair, %w", bridge, LegName(bridge), LegPort(bridge), ErrNotALeg)
	}
	return ends, nil
}

// createLeg makes the pair, its port enslaved, with everything that the kernel takes in the
// request that makes links.
func (c *conn) createLeg(spec LegSpec, bridge int) error {
	mtu := spec.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, LegPort(spec.Bridge))
	port := spec.MAC.HostSide()
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, port[:]))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	end := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(end, unix.AF_UNSPEC)
	end.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(LegName(spec.Bridge)))
	end.AddRtAttr(unix.IFLA_ADDRESS, spec.MAC[:])
	end.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	req.AddData(info)
	_, err := c.execute(req, 0)
	return err
}

// Of linux/ip.h.
const (
	ipv4DevconfRPFilter    = 8
	ipv4DevconfARPAnnounce = 18
	ipv4DevconfARPIgnore   = 19
)

// inetConf sets IPv4 settings of a link without /proc/sys, which may be read-only.
func inetConf(values map[int]uint32) *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	for key, v := range values {
		conf.AddRtAttr(key, nl.Uint32Attr(v))
	}
	return spec
}

// dressLeg sets what a leg and its bridge need. The address comes last: it is answered
// for at once.
func (c *conn) dressLeg(ctx context.Context, spec LegSpec, bridge, end, port device) error {
	doing := func(what string, err error) error {
		if err != nil {
			err = fmt.Errorf("%s of leg %s of bridge %s: %w", what, end.name, spec.Bridge, err)
		}
		return err
	}
	set := func(index int, attrs ...*nl.RtAttr) error {
		req, _ := linkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK, index, "")
		for _, a := range attrs {
			req.AddData(a)
		}
		_, err := c.execute(req, 0)
		return err
	}
	alias := nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(legAlias(spec.Bridge)))
	if port.master != bridge.index {
		if err := set(port.index, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge.index)))); err != nil {
			return doing("enslaving the port", err)
		}
	}
	// Nothing is flooded to it but broadcasts, which are how it is asked for.
	slave := slaveData()
	for _, a := range []int{nl.IFLA_BRPORT_LEARNING, nl.IFLA_BRPORT_UNICAST_FLOOD, nl.IFLA_BRPORT_MCAST_FLOOD, nl.IFLA_BRPORT_MODE} {
		slave.data.AddRtAttr(a, flag(false))
	}
	if err := c.change(port.index, alias, slave.info); err != nil {
		return doing("setting up the port", err)
	}
	if err := c.change(end.index, alias); err != nil {
		return doing("setting up the end", err)
	}
	if err := errors.Join(disableIPv6(port.name), disableIPv6(end.name)); err != nil {
		return doing("switching IPv6 off", err)
	}
	if err := c.pinMAC(port, spec.MAC); err != nil {
		return doing("making the MAC known", err)
	}
	own := map[int]uint32{ipv4DevconfARPIgnore: 1, ipv4DevconfARPAnnounce: 2}
	if err := set(bridge.index, inetConf(own)); err != nil {
		return doing("keeping the bridge from answering in the place", err)
	}
	// Loose, or the kernel would drop all it hears here: the way back is by the bridge. The
	// larger of this and "all" counts, so that 0 would not do.
	own[ipv4DevconfRPFilter], own[ipv4DevconfSendRedirects] = 2, 0
	if err := set(end.index, inetConf(own)); err != nil {
		return doing("setting rp_filter and ARP", err)
	}
	for _, d := range []device{port, end} {
		if !d.up {
			if err := c.setUp(d.index, "", true); err != nil {
				return doing("setting up "+d.name, err)
			}
		}
	}
	return doing("setting the addresses", c.setLegAddresses(ctx, end, spec.addrs()))
}

// setLegAddresses gives the end these addresses and no others.
func (c *conn) setLegAddresses(ctx context.Context, end device, want []netip.Prefix) error {
	has, err := c.addresses(ctx, end)
	if err != nil {
		return err
	}
	for _, p := range has {
		if slices.Contains(want, p) {
			continue
		}
		if err := c.removeAddress(end.index, end.name, p); err != nil {
			return err
		}
	}
	for _, p := range want {
		if slices.Contains(has, p) {
			continue
		}
		// Of scope link, so that the kernel never takes it for what the node itself sends.
		a := address(p)
		a.Scope = unix.RT_SCOPE_LINK
		err := c.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: end.index}}, a)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding %s: %w", p, err)
		}
	}
	return nil
}
