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

// ErrNotABridge says that a network's bridge has the name of another device.
var ErrNotABridge = errors.New("not a bridge: rename it or set `bridge` to another name")

// BridgeState is a bridge as it is.
type BridgeState struct {
	Index          int
	MAC            ipam.MAC
	MTU            int // bytes
	Up             bool
	NFCallIPTables bool           // its own flag
	Addrs          []netip.Prefix // IPv4
}

// BridgeByName looks at a bridge; false = there is no device of that name. Another
// device is ErrNotABridge.
func BridgeByName(ctx context.Context, name string) (BridgeState, bool, error) {
	c, err := dial(ctx)
	if err != nil {
		return BridgeState{}, false, err
	}
	defer c.close()
	d, err := c.bridgeDevice(name)
	if errors.Is(err, unix.ENODEV) {
		return BridgeState{}, false, nil
	}
	if err != nil {
		return BridgeState{}, false, err
	}
	s := BridgeState{Index: d.index, MAC: d.mac, MTU: d.mtu, Up: d.up, NFCallIPTables: d.bridge.nfCall}
	s.Addrs, err = c.addresses(ctx, d)
	return s, true, err
}

// ErrNoLinkKind says that the kernel cannot make a kind of link.
var ErrNoLinkKind = errors.New("the kernel cannot make such links")

// CanMake reports why no link of a kind (bridge, veth) can be made here, or nil:
// ErrNoLinkKind, or a lack of privileges. The kernel is asked for one with a multicast
// MAC, which it refuses once it has found (or loaded) the kind: nothing is made.
func CanMake(ctx context.Context, kind string) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	req, _ := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, PortPrefix+"-try")
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, []byte{1, 0, 0, 0, 0, 0}))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)
	_, err = c.execute(req, 0)
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w (kind %s; try `modprobe %s`)", ErrNoLinkKind, kind, kind)
	case err == nil:
		return fmt.Errorf("trying to make a %s: the kernel took an impossible MAC", kind)
	}
	return fmt.Errorf("trying to make a %s: %w", kind, err)
}
