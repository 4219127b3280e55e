package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FlushNeighbour makes the host forget the MAC of an address on a bridge, so that
// its next owner is asked for. No entry and no bridge are no errors.
func FlushNeighbour(ctx context.Context, bridge string, addr netip.Addr) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	d, err := c.device(bridge)
	if err == nil {
		err = c.NeighDel(&netlink.Neigh{LinkIndex: d.index, IP: addr.AsSlice()})
	}
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("flushing neighbour %s on %s: %w", addr, bridge, err)
	}
	return nil
}
