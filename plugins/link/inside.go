package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// InsideInfo is a container's interface as it is.
type InsideInfo struct {
	Index int
	MAC   ipam.MAC
	MTU   int // bytes
	Up    bool
	Addrs []netip.Prefix // IPv4
	Port  int            // index of the pair's other end; 0 = it is no pair's end
}

// Before looks at the namespace at path before interface ifName is made in it: taken = there
// is one of that name; routed = the main table has an IPv4 default route, by another
// interface. The latter is looked for only if routes is set.
func Before(ctx context.Context, path, ifName string, routes bool) (taken, routed bool, err error) {
	c, err := dialAt(ctx, path)
	if err != nil {
		return false, false, err
	}
	defer c.close()
	d, err := c.device(ifName)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return false, false, fmt.Errorf("looking for %s in namespace %s: %w", ifName, path, err)
	}
	taken = err == nil
	if routes {
		if routed, err = c.hasDefaultRoute(ctx, d.index); err != nil {
			return taken, false, fmt.Errorf("looking for a default route in namespace %s: %w", path, err)
		}
		return taken, routed, nil
	}
	return taken, false, nil
}

// Inside looks at interface ifName of the namespace at path; false = there is none.
func Inside(ctx context.Context, path, ifName string) (InsideInfo, bool, error) {
	info, err := inside(ctx, path, ifName)
	if errors.Is(err, unix.ENODEV) {
		return InsideInfo{}, false, nil
	}
	if err != nil {
		return InsideInfo{}, false, fmt.Errorf("looking at %s in namespace %s: %w", ifName, path, err)
	}
	return info, true, nil
}

func inside(ctx context.Context, path, ifName string) (InsideInfo, error) {
	c, err := dialAt(ctx, path)
	if err != nil {
		return InsideInfo{}, err
	}
	defer c.close()
	d, err := c.device(ifName)
	if err != nil {
		return InsideInfo{}, err
	}
	addrs, err := c.addresses(ctx, d)
	if err != nil {
		return InsideInfo{}, err
	}
	info := InsideInfo{Index: d.index, MAC: d.mac, MTU: d.mtu, Up: d.up, Addrs: addrs}
	if d.kind == "veth" {
		info.Port = d.peer
	}
	return info, nil
}
