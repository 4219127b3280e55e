package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
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

// NeighboursAt returns the IPv4 addresses that the host knows by a MAC on a bridge. No such
// bridge, none.
func NeighboursAt(ctx context.Context, bridge string, mac ipam.MAC) (addrs []netip.Addr, err error) {
	err = withConn(ctx, func(c *conn) error {
		d, err := c.device(bridge)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		known, err := c.NeighList(d.index, unix.AF_INET)
		for _, n := range known {
			if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && mac.String() == n.HardwareAddr.String() {
				addrs = append(addrs, a)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the neighbours on %s with MAC %s: %w", bridge, mac, err)
	}
	return addrs, nil
}
