package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureAddress gives the bridge the gateway address unless it has it. Another
// address that shares the subnet would answer DHCP and count as this node's, or
// carries another prefix length: a mistake, or the NIC's own address.
func (c *conn) ensureAddress(ctx context.Context, d device, spec BridgeSpec) (added bool, err error) {
	want, what, key := spec.Gateway, "the gateway", "gateway"
	if spec.Shared {
		what, key = "the node address", "nodeAddress"
	}
	has, err := c.addresses(ctx, d)
	if err != nil {
		return false, err
	}
	for _, p := range has {
		if p == want {
			return false, nil
		}
	}
	for _, p := range has {
		if p.Overlaps(want) {
			return false, fmt.Errorf("bridge %s has address %s, which is not %s %s of the same subnet: remove it (`ip address del %s dev %s`) or set `%s` to it",
				d.name, p, what, want, p, d.name, key)
		}
	}
	err = c.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, address(want))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		// The kernel may have done it all the same, and only the answer was lost.
		return false, errors.Join(fmt.Errorf("adding gateway address %s to bridge %s: %w", want, d.name, err),
			c.removeAddress(d.index, d.name, want))
	}
	return err == nil, nil
}

// removeAddress takes an address away from a link. One that is not there is no error.
func (c *conn) removeAddress(index int, name string, p netip.Prefix) error {
	err := c.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, address(p))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing gateway address %s from bridge %s: %w", p, name, err)
	}
	return nil
}

// Addresses lists the IPv4 addresses that the host has on a link. No such link, none.
func Addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	d, err := c.device(name)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", name, err)
	}
	prefixes, err := c.addresses(ctx, d)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs, nil
}

// addresses lists the IPv4 addresses of a link.
func (c *conn) addresses(ctx context.Context, d device) ([]netip.Prefix, error) {
	list, err := dump(ctx, "addresses of "+d.name, func() ([]netlink.Addr, error) {
		return c.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, netlink.FAMILY_V4)
	})
	if err != nil {
		return nil, err
	}
	var found []netip.Prefix
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if ones, _ := a.Mask.Size(); ok {
			found = append(found, netip.PrefixFrom(ip, ones))
		}
	}
	return found, nil
}

// address is p for the library; IFA_F_NODAD matters to IPv6 alone.
func address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{
		IPNet: ipNet(p),
		Flags: unix.IFA_F_NODAD,
	}
}
