package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ntfSticky is NTF_STICKY: the bridge does not move the entry to a port that sends
// with the same source MAC. A static entry alone is moved.
const ntfSticky = 0x40

// pinMAC makes the container's MAC a static sticky entry of the port, so that no
// other port can steal its frames, and none are flooded before it first speaks.
func (c *conn) pinMAC(d device, mac ipam.MAC) error {
	err := c.NeighSet(&netlink.Neigh{
		LinkIndex:    d.index,
		Family:       unix.AF_BRIDGE,
		State:        netlink.NUD_NOARP,
		Flags:        netlink.NTF_MASTER | ntfSticky,
		HardwareAddr: mac.HardwareAddr(),
	})
	if err != nil {
		return fmt.Errorf("pinning MAC %s to port %s: %w", mac, d.name, err)
	}
	return nil
}
