package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// labelOnLo marks the addresses that were put on lo here, as `ip address` shows: somebody
// else's is used as it is and never taken away.
const (
	loopback  = "lo"
	labelOnLo = loopback + ":flatdhcp"
)

// ensureOnLo gives lo an address (of scope link, as nova-network did) unless some link of
// the host has it. On lo it is the host's whatever happens to links, and every link answers
// ARP requests for it.
func (c *conn) ensureOnLo(ctx context.Context, addr netip.Addr) (added bool, err error) {
	holder, err := c.holderOf(ctx, addr)
	if err != nil || holder != nil {
		return false, err
	}
	lo, err := c.device(loopback)
	if err != nil {
		return false, fmt.Errorf("looking up %s: %w", loopback, err)
	}
	a := address(netip.PrefixFrom(addr, addr.BitLen()))
	a.Scope, a.Label = unix.RT_SCOPE_LINK, labelOnLo
	err = c.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: lo.index}}, a)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("adding address %s to %s: %w", addr, loopback, err)
	}
	return err == nil, nil
}

// removeOnLo takes an address that ensureOnLo put there away.
func (c *conn) removeOnLo(ctx context.Context, addr netip.Addr) error {
	a, err := c.holderOf(ctx, addr)
	if err != nil || a == nil || a.Label != labelOnLo {
		return err
	}
	err = c.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: a.LinkIndex}}, a)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("removing address %s from %s: %w", addr, loopback, err)
	}
	return nil
}

// holderOf returns the entry of a host's address; nil = the host does not have it.
func (c *conn) holderOf(ctx context.Context, addr netip.Addr) (*netlink.Addr, error) {
	list, err := dump(ctx, "addresses", func() ([]netlink.Addr, error) { return c.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip == addr {
			return &a, nil
		}
	}
	return nil, nil
}

// EnsureOnLo is for an address that BridgeSpec.OnLo asks for on a bridge that is ready.
func EnsureOnLo(ctx context.Context, addr netip.Addr) error {
	return withConn(ctx, func(c *conn) error {
		_, err := c.ensureOnLo(ctx, addr)
		return err
	})
}

// RemoveOnLo takes an address away that nobody asks for any more, if it was put there by
// EnsureBridge or EnsureOnLo. One that is not there is no error.
func RemoveOnLo(ctx context.Context, addr netip.Addr) error {
	return withConn(ctx, func(c *conn) error { return c.removeOnLo(ctx, addr) })
}

// HasAddress reports whether some link of the host has an IPv4 address. A loopback
// address is always the host's.
func HasAddress(ctx context.Context, addr netip.Addr) (has bool, err error) {
	if addr.IsLoopback() {
		return true, nil
	}
	err = withConn(ctx, func(c *conn) error {
		holder, err := c.holderOf(ctx, addr)
		has = holder != nil
		return err
	})
	return has, err
}

func withConn(ctx context.Context, f func(*conn) error) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return f(c)
}
