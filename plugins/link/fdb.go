package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ErrMACLocal says that the bridge, or the interface behind one of its ports, has the
// MAC itself. Frames to it are the host's; a workload with it would take them away.
var ErrMACLocal = errors.New("MAC is the bridge's own or one of its ports'")

// ntfSticky is NTF_STICKY: the bridge does not move the entry to a port that sends
// with the same source MAC. A static entry alone is moved.
const ntfSticky = 0x40

// pinMAC makes the container's MAC a static sticky entry of the port, so that no
// other port can steal its frames, and none are flooded before it first speaks. An
// entry that the bridge learned elsewhere gives way; one of the host's own does not.
func (c *conn) pinMAC(d device, mac ipam.MAC) error {
	pin := &netlink.Neigh{
		LinkIndex:    d.index,
		Family:       unix.AF_BRIDGE,
		State:        netlink.NUD_NOARP,
		Flags:        netlink.NTF_MASTER | ntfSticky,
		HardwareAddr: mac.HardwareAddr(),
	}
	err := c.NeighAdd(pin)
	if errors.Is(err, unix.EEXIST) {
		var local bool
		if local, err = c.isLocal(d, mac); err == nil {
			err = ErrMACLocal
			if !local {
				err = c.NeighSet(pin)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("pinning MAC %s to port %s: %w", mac, d.name, err)
	}
	return nil
}

// Pinned reports whether mac is a static sticky entry of the bridge for a port, as
// CreatePort makes it.
func Pinned(ctx context.Context, port string, mac ipam.MAC) (bool, error) {
	if err := checkPortName(port); err != nil {
		return false, err
	}
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	d, err := c.device(port)
	if err != nil {
		return false, fmt.Errorf("looking up port %s: %w", port, err)
	}
	if d.masterKind != "bridge" {
		return false, nil
	}
	return c.pinned(d, mac)
}

func (c *conn) pinned(d device, mac ipam.MAC) (bool, error) {
	n, ok, err := c.bridgeEntry(d, mac)
	return ok && n.LinkIndex == d.index && n.State&netlink.NUD_NOARP != 0 && n.Flags&ntfSticky != 0, err
}

// isLocal reports whether the bridge of port d has mac as a permanent entry, which is
// how it keeps the host's own addresses.
func (c *conn) isLocal(d device, mac ipam.MAC) (bool, error) {
	n, ok, err := c.bridgeEntry(d, mac)
	return ok && n.State&netlink.NUD_PERMANENT != 0, err
}

// bridgeEntry asks the bridge of port d for its entry of mac, whatever port that is
// of; false = it has none.
func (c *conn) bridgeEntry(d device, mac ipam.MAC) (*netlink.Neigh, bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(d.index), Flags: netlink.NTF_MASTER})
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac[:]))
	msgs, err := c.execute(req, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) { // or it has just aged out
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("asking for the bridge's entry: %w", err)
	}
	if len(msgs) != 1 {
		return nil, false, fmt.Errorf("asking for the bridge's entry: %d answers", len(msgs))
	}
	n, err := netlink.NeighDeserialize(msgs[0])
	if err != nil {
		return nil, false, fmt.Errorf("parsing the bridge's entry: %w", err)
	}
	return n, true, nil
}
