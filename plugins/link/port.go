package link

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ErrIfNameTaken says that the container already has an interface of the wanted name.
// The specification has ADD fail then.
var ErrIfNameTaken = errors.New("interface name is taken in the container")

// ErrBridgeFull says that a bridge has as many ports as it can have: its kernel numbers
// them in ten bits (BR_PORT_BITS).
var ErrBridgeFull = errors.New("the bridge has 1023 ports, and no kernel gives it more: " +
	"end a workload, or use another network, with a bridge of its own")

// PortSpec is a port to make.
type PortSpec struct {
	Name            string // PortName
	Alias           string // Alias
	Bridge          string // must exist: EnsureBridge
	ContainerNetNS  string // path
	ContainerIfName string
	MAC             ipam.MAC // of the container's side; the host's is MAC.HostSide
	MTU             int      // bytes, both sides; 0 = the kernel's 1500
	Hairpin         bool     // frames may leave by the port they came in by
	// Learning lets the bridge learn MACs from what the port sends. Off, only the
	// workload's own is known there: link-local frames (LLDP) are learned from before
	// any filter sees them, so that with it on a port can steal a LAN host's MAC.
	Learning bool
}

// PortInfo is the host side of a port.
type PortInfo struct {
	Name        string
	Index       int
	Alias       string
	Bridge      string // empty = enslaved to none
	BridgeIndex int
	MAC         ipam.MAC // host side
	MTU         int      // bytes
	Up          bool     // administratively
	Hairpin     bool     // as the bridge has it; see PortSpec
	Learning    bool     // likewise
	Peer        int      // index of the container's side, in its namespace
}

// CreatePort makes a workload's port: a veth pair with both MACs and MTUs given
// (udev rewrites others), one end enslaved to the bridge and DOWN, the other straight
// in the container's namespace, in one request. Then alias, hairpin, no IPv6 on the
// host side, and the container's MAC as a static sticky entry of the bridge.
//
// The caller puts the rules in before PortUp: no frame passes a port that is down.
//
// A port of that name that an interrupted ADD of the same attachment left behind is
// replaced. A living one is ErrIfNameTaken, as is a foreign interface in the
// container; anybody else's port is an error that names its owner. Whatever fails,
// nothing is left.
func CreatePort(ctx context.Context, spec PortSpec) (info PortInfo, err error) {
	if err := spec.check(); err != nil {
		return info, err
	}
	c, err := dial(ctx)
	if err != nil {
		return info, err
	}
	defer c.close()
	bridge, err := c.bridgeDevice(spec.Bridge)
	if err != nil {
		return info, err
	}
	netns, err := ns.GetNS(spec.ContainerNetNS)
	if err != nil {
		return info, fmt.Errorf("opening network namespace %s: %w", spec.ContainerNetNS, err)
	}
	defer func() { err = errors.Join(err, netns.Close()) }()

	err = c.createVeth(spec, bridge.index, int(netns.Fd()))
	if errors.Is(err, unix.EEXIST) {
		if err := c.clearStale(ctx, spec); err != nil {
			return info, err
		}
		err = c.createVeth(spec, bridge.index, int(netns.Fd()))
	}
	if errors.Is(err, unix.EEXIST) {
		return info, spec.taken()
	}
	if errors.Is(err, unix.EXFULL) {
		return info, fmt.Errorf("creating port %s on bridge %s: %w", spec.Name, spec.Bridge, ErrBridgeFull)
	}
	if err != nil {
		return info, fmt.Errorf("creating port %s on bridge %s with %s in namespace %s: %w",
			spec.Name, spec.Bridge, spec.ContainerIfName, spec.ContainerNetNS, err)
	}
	d, err := c.device(spec.Name)
	if err != nil {
		return info, fmt.Errorf("looking up the new port %s: %w", spec.Name, err)
	}
	if err := c.dressPort(d, spec); err != nil {
		if undo := c.deleteLink(d.index); undo != nil {
			err = errors.Join(err, fmt.Errorf("removing port %s again: %w", spec.Name, undo))
		}
		return info, err
	}
	d.alias = spec.Alias
	info = d.port()
	info.Bridge, info.Hairpin, info.Learning = spec.Bridge, spec.Hairpin, spec.Learning
	return info, nil
}

func (s PortSpec) check() error {
	if err := checkPortName(s.Name); err != nil {
		return fmt.Errorf("checking port name: %w", err)
	}
	if err := checkName(s.ContainerIfName); err != nil {
		return fmt.Errorf("checking container interface name: %w", err)
	}
	if s.MAC.IsZero() || s.MAC.IsMulticast() || s.MAC.IsHostSide() {
		return fmt.Errorf("%s is no MAC for the container side of port %s: it must be unicast and not start with fe", s.MAC, s.Name)
	}
	if len(s.Alias) > maxAlias {
		return fmt.Errorf("alias of port %s is %d bytes long: the kernel takes at most %d", s.Name, len(s.Alias), maxAlias)
	}
	return nil
}

func (s PortSpec) taken() error {
	return fmt.Errorf("creating %s in namespace %s: %w", s.ContainerIfName, s.ContainerNetNS, ErrIfNameTaken)
}

// createVeth makes the pair; unix.EEXIST if either name is taken.
func (c *conn) createVeth(spec PortSpec, bridge, netns int) error {
	req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, spec.Name)
	host := spec.MAC.HostSide()
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, host[:]))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(spec.ContainerIfName))
	peer.AddRtAttr(unix.IFLA_ADDRESS, spec.MAC[:])
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netns)))
	if spec.MTU != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(spec.MTU))))
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(spec.MTU)))
	}
	req.AddData(info)
	_, err := c.execute(req, 0)
	return err
}

// dressPort gives a new port what the kernel does not take in the request that
// makes it.
func (c *conn) dressPort(d device, spec PortSpec) error {
	slave := slaveData()
	slave.data.AddRtAttr(nl.IFLA_BRPORT_LEARNING, flag(spec.Learning))
	slave.data.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(spec.Hairpin))
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(spec.Alias)), slave.info}
	if err := c.change(d.index, attrs...); err != nil {
		return fmt.Errorf("setting up port %s: %w", d.name, err)
	}
	if err := disableIPv6(d.name); err != nil {
		return fmt.Errorf("switching IPv6 off on port %s: %w", d.name, err)
	}
	return c.pinMAC(d, spec.MAC)
}

// clearStale looks at why a pair could not be made. It removes a port that the same
// attachment left half made, and says who is in the way otherwise.
func (c *conn) clearStale(ctx context.Context, spec PortSpec) error {
	d, err := c.device(spec.Name)
	if errors.Is(err, unix.ENODEV) {
		return spec.taken() // the host's name is free, so it is the container's
	}
	if err != nil {
		return fmt.Errorf("looking up port %s: %w", spec.Name, err)
	}
	// The name is a hash of the attachment, so without an alias it is ours, killed
	// between the two requests that make it.
	if d.kind != "veth" || (d.alias != spec.Alias && (d.alias != "" || d.up)) {
		return fmt.Errorf("port name %s is taken by a %s with alias %q: if no container uses it, remove it with `ip link del %s`",
			spec.Name, d.typeName(), d.alias, spec.Name)
	}
	if d.up {
		lives, err := livesIn(ctx, d, spec.ContainerNetNS)
		if err != nil {
			return err
		}
		if lives {
			return spec.taken()
		}
	}
	if err := c.deleteLink(d.index); err != nil {
		return fmt.Errorf("removing stale port %s: %w", spec.Name, err)
	}
	return nil
}

// livesIn reports whether the other end of port d is in the namespace at path.
func livesIn(ctx context.Context, d device, path string) (bool, error) {
	c, err := dialAt(ctx, path)
	if err != nil {
		return false, err
	}
	defer c.close()
	peer, err := c.deviceAt(d.peer)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking up the other end of port %s: %w", d.name, err)
	}
	return peer.kind == "veth" && peer.peer == d.index, nil
}

func (d device) port() PortInfo {
	return PortInfo{Name: d.name, Index: d.index, Alias: d.alias, BridgeIndex: d.master, MAC: d.mac, MTU: d.mtu, Up: d.up,
		Hairpin: d.asPort.hairpin, Learning: d.asPort.learning, Peer: d.peer}
}

// PortByName finds a port; false = there is none, which is the evidence that its
// attachment is dead. A device of that name that is no port is an error.
func PortByName(ctx context.Context, name string) (PortInfo, bool, error) {
	if err := checkPortName(name); err != nil {
		return PortInfo{}, false, err
	}
	c, err := dial(ctx)
	if err != nil {
		return PortInfo{}, false, err
	}
	defer c.close()
	d, ok, err := c.port(name)
	if err != nil || !ok {
		return PortInfo{}, false, err
	}
	info := d.port()
	if d.master != 0 {
		switch m, err := c.deviceAt(d.master); {
		case err == nil:
			info.Bridge = m.name
		case !errors.Is(err, unix.ENODEV):
			return PortInfo{}, false, fmt.Errorf("looking up the bridge of port %s: %w", name, err)
		}
	}
	return info, true, nil
}

// port finds a veth of our prefix; false = no such link.
func (c *conn) port(name string) (device, bool, error) {
	d, err := c.device(name)
	if errors.Is(err, unix.ENODEV) {
		return d, false, nil
	}
	if err == nil && d.kind != "veth" {
		err = fmt.Errorf("it is a %s, no port of ours", d.typeName())
	}
	if err != nil {
		return d, false, fmt.Errorf("looking up port %s: %w", name, err)
	}
	return d, true, nil
}

// Ports lists all workload ports of this namespace by name.
func Ports(ctx context.Context) (map[string]PortInfo, error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	veths, err := c.devices(ctx, "veth", 0)
	if err != nil {
		return nil, err
	}
	bridges, err := c.devices(ctx, "bridge", 0)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, b := range bridges {
		names[b.index] = b.name
	}
	found := map[string]PortInfo{}
	for _, d := range veths {
		if strings.HasPrefix(d.name, PortPrefix) {
			info := d.port()
			info.Bridge = names[d.master]
			found[d.name] = info
		}
	}
	return found, nil
}
