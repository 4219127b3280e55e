package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// BridgeSpec is the bridge a network wants.
type BridgeSpec struct {
	Name           string
	MAC            ipam.MAC     // of a bridge made here; an adopted one keeps its own
	MTU            int          // bytes, of a bridge made here; 0 = 1500
	Gateway        netip.Prefix // the gateway address with the subnet's length; zero = none
	Shared         bool         // the gateway is shared and has a leg (EnsureLeg): Gateway is nodeAddress
	OnLo           netip.Addr   // a further address of the gateway's, kept on lo; zero = none
	NFCallIPTables bool         // bridged IPv4 frames meet iptables, by the bridge's own flag
}

// BridgeInfo is the bridge as EnsureBridge left it.
type BridgeInfo struct {
	Name         string
	Index        int
	MAC          ipam.MAC
	MTU          int  // bytes
	STP          bool // ports take seconds to forward
	Created      bool // by this call
	AddedAddress bool // the gateway address came by this call
	AddedOnLo    bool // so did the one on lo
}

// EnsureBridge makes the bridge if it is missing, and otherwise adopts it as it is:
// MAC, MTU and spanning tree of an adopted bridge are somebody's decision. Either
// way it ends up, with its own nf_call_iptables flag if wanted (never the sysctl)
// and with the gateway address, for which the namespace is made to route; last comes what
// is kept on lo. The order is nova-network's ensure_bridge.
//
// A bridge made here has its MAC in the request that makes it: a bridge without one
// follows its lowest port, and udev rewrites MACs that were not asked for. The
// MTU is explicit too, or it would follow the smallest port. Spanning tree is off
// and the forward delay 0, so that ports forward at once. One that an interrupted
// call left half made (down, with the wanted MAC) is finished.
//
// Without br_netfilter a wanted flag is ErrNoBridgeNetfilter, before anything is made:
// no chain would ever see a frame. One that the kernel takes and does not keep is too.
//
// Refused are a device of that name that is no bridge, the name of a workload port,
// and an address of the gateway's subnet on the bridge that is not the gateway's.
// The notices are for the log. Callers may run in parallel, but whoever undoes with
// RemoveCreatedBridge must keep others from relying on the bridge meanwhile.
func EnsureBridge(ctx context.Context, spec BridgeSpec) (info BridgeInfo, notices []string, err error) {
	if err := spec.check(); err != nil {
		return info, nil, err
	}
	if spec.NFCallIPTables {
		if err := BridgeNetfilter(); err != nil {
			return info, nil, fmt.Errorf("making bridge %s ready: %w", spec.Name, err)
		}
	}
	c, err := dial(ctx)
	if err != nil {
		return info, nil, err
	}
	defer c.close()

	d, created, err := c.findOrCreateBridge(ctx, spec)
	if err != nil {
		return info, nil, err
	}
	info = BridgeInfo{Name: d.name, Index: d.index, MAC: d.mac, MTU: d.mtu, STP: d.bridge.stp, Created: created}
	defer func() {
		if err != nil && created {
			// Nobody else can have a port on it yet: it has been there for microseconds.
			err = errors.Join(err, c.removeEmptyBridge(context.WithoutCancel(ctx), info))
			info = BridgeInfo{}
		}
	}()
	if created || (!d.up && d.mac == spec.MAC) {
		if notices, err = c.finishBridge(d, spec); err != nil {
			return info, nil, err
		}
		info.MTU = spec.mtu()
	} else {
		notices = adoptionNotices(d, spec)
	}
	if spec.NFCallIPTables && !d.bridge.nfCall {
		if err := c.setNFCall(d.index); err != nil {
			return info, nil, fmt.Errorf("setting nf_call_iptables on bridge %s: %w", d.name, err)
		}
	}
	if !d.up {
		if err := c.setUp(d.index, "", true); err != nil {
			return info, nil, fmt.Errorf("setting bridge %s up: %w", d.name, err)
		}
	}
	if spec.Gateway.IsValid() {
		if err := enableForwarding(); err != nil {
			return info, nil, fmt.Errorf("making bridge %s the gateway: %w", d.name, err)
		}
		if info.AddedAddress, err = c.ensureAddress(ctx, d, spec); err != nil {
			return info, nil, err
		}
	}
	if spec.OnLo.IsValid() {
		if info.AddedOnLo, err = c.ensureOnLo(ctx, spec.OnLo); err != nil {
			return info, nil, err
		}
	}
	return info, notices, nil
}

func (s BridgeSpec) check() error {
	if err := checkName(s.Name); err != nil {
		return fmt.Errorf("checking bridge name: %w", err)
	}
	if Reserved(s.Name) {
		return fmt.Errorf("bridge name %q starts with %q, which is kept for ports of ours: choose another", s.Name, s.Name[:len(PortPrefix)])
	}
	if s.MAC.IsZero() || s.MAC.IsMulticast() {
		return fmt.Errorf("%s is no MAC for bridge %s", s.MAC, s.Name)
	}
	return nil
}

// bridgeDevice finds a bridge and refuses other devices of that name.
func (c *conn) bridgeDevice(name string) (device, error) {
	d, err := c.device(name)
	if err != nil {
		return d, fmt.Errorf("looking up bridge %s: %w", name, err)
	}
	if d.kind != "bridge" {
		return d, fmt.Errorf("%s is a %s, %w", name, d.typeName(), ErrNotABridge)
	}
	return d, nil
}

func (c *conn) findOrCreateBridge(ctx context.Context, spec BridgeSpec) (d device, created bool, err error) {
	d, err = c.bridgeDevice(spec.Name)
	if !errors.Is(err, unix.ENODEV) {
		return d, false, err
	}
	made := c.createBridge(spec)
	if made == nil || errors.Is(made, unix.EEXIST) { // which says that another caller was faster
		if d, err = c.bridgeDevice(spec.Name); err == nil || made != nil {
			return d, made == nil, err
		}
	} else {
		err = fmt.Errorf("creating bridge %s: %w", spec.Name, made)
	}
	return d, false, errors.Join(err, c.removeUnseenBridge(ctx, spec))
}

// removeUnseenBridge removes the bridge that a request may have made although its answer
// was an error or did not come. Only one made here just now is down with the wanted MAC.
func (c *conn) removeUnseenBridge(ctx context.Context, spec BridgeSpec) error {
	d, err := c.bridgeDevice(spec.Name)
	if errors.Is(err, unix.ENODEV) || err == nil && (d.up || d.mac != spec.MAC) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the bridge again, if there is one: %w", err)
	}
	return c.removeEmptyBridge(context.WithoutCancel(ctx), BridgeInfo{Name: d.name, Index: d.index})
}

func (s BridgeSpec) mtu() int {
	if s.MTU == 0 {
		return defaultMTU
	}
	return s.MTU
}

// createBridge makes the bridge, down, with everything the kernel takes in the
// request that makes a link.
func (c *conn) createBridge(spec BridgeSpec) error {
	req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, spec.Name)
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, spec.MAC[:]))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	if spec.NFCallIPTables {
		data.AddRtAttr(nl.IFLA_BR_NF_CALL_IPTABLES, nl.Uint8Attr(1))
	}
	req.AddData(info)
	_, err := c.execute(req, 0)
	return err
}

const (
	defaultMTU = 1500 // Ethernet's
	// ipv4DevconfSendRedirects is IPV4_DEVCONF_SEND_REDIRECTS of linux/ip.h.
	ipv4DevconfSendRedirects = 6
)

// finishBridge gives a new bridge, before it is up, what the kernel does not take in
// the request that makes it: an MTU of its own, no IPv6 (networks are IPv4 here), and
// no redirects, which tell workloads that send through the gateway to go direct.
func (c *conn) finishBridge(d device, spec BridgeSpec) (notices []string, err error) {
	// The bridge stops following its ports when its MTU changes by request; setting
	// the value that it has does not count, nor does the one it was made with.
	for _, mtu := range []int{spec.mtu() - 1, spec.mtu()} {
		req, _ := linkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK, d.index, "")
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
		if _, err := c.execute(req, 0); err != nil {
			return nil, fmt.Errorf("setting the MTU of bridge %s to %d: %w", d.name, mtu, err)
		}
	}
	quiet := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := quiet.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(ipv4DevconfSendRedirects, nl.Uint32Attr(0))
	req, _ := linkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK, d.index, "")
	req.AddData(quiet)
	if _, err := c.execute(req, 0); err != nil {
		return nil, fmt.Errorf("switching redirects off on bridge %s: %w", d.name, err)
	}
	if err := c.change(d.index); err != nil {
		return nil, fmt.Errorf("switching IPv6 addresses off on bridge %s: %w", d.name, err)
	}
	if err := disableIPv6(d.name); err != nil {
		return nil, fmt.Errorf("switching IPv6 off on bridge %s: %w", d.name, err)
	}
	// The kernel sends redirects if either the link or "all" allows it; "all" is not ours.
	if v, err := sysctl("ipv4/conf/all/send_redirects"); err == nil && v == "1" {
		notices = append(notices, fmt.Sprintf("net.ipv4.conf.all.send_redirects is 1, so the kernel may send ICMP redirects on bridge %s although its own setting is 0", d.name))
	}
	return notices, nil
}

// adoptionNotices says where an existing bridge differs from one made here, as far
// as workloads will notice.
func adoptionNotices(d device, spec BridgeSpec) (notices []string) {
	if d.bridge.stp {
		notices = append(notices, fmt.Sprintf("bridge %s runs spanning tree: a new port forwards only after twice its forward delay of %.0f s",
			d.name, float64(d.bridge.forwardDelay)/100))
	}
	if spec.MTU != 0 && d.mtu != spec.MTU {
		notices = append(notices, fmt.Sprintf("bridge %s has MTU %d and keeps it, although %d is configured", d.name, d.mtu, spec.MTU))
	}
	return notices
}

// RemoveCreatedBridge undoes what EnsureBridge reported: a bridge it created goes,
// an address it added to another bridge, or to lo, goes. With a port on the bridge, whoever's,
// it leaves everything: somebody relies on it. It may come twice. DEL never removes
// a bridge (nova-network did not either).
func RemoveCreatedBridge(ctx context.Context, spec BridgeSpec, info BridgeInfo) error {
	if !info.Created && !info.AddedAddress && !info.AddedOnLo {
		return nil
	}
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	ports, err := c.devices(ctx, "", info.Index)
	if err != nil || len(ports) > 0 {
		return err
	}
	if info.AddedOnLo {
		err = c.removeOnLo(ctx, spec.OnLo)
	}
	switch {
	case info.Created:
		err = errors.Join(err, c.removeEmptyBridge(ctx, info))
	case info.AddedAddress:
		err = errors.Join(err, c.removeAddress(info.Index, info.Name, spec.Gateway))
	}
	return err
}

func (c *conn) removeEmptyBridge(ctx context.Context, info BridgeInfo) error {
	ports, err := c.devices(ctx, "", info.Index)
	if err != nil || len(ports) > 0 {
		return err
	}
	if err := c.deleteLink(info.Index); err != nil {
		return fmt.Errorf("removing bridge %s: %w", info.Name, err)
	}
	return nil
}
