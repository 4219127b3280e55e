package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// MACs returns the MACs of the interfaces of these names, each once; one that is not
// there has none.
func MACs(ctx context.Context, names ...string) ([]ipam.MAC, error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var macs []ipam.MAC
	for _, name := range names {
		d, err := c.device(name)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking up the MAC of %s: %w", name, err)
		}
		if !d.mac.IsZero() && !slices.Contains(macs, d.mac) {
			macs = append(macs, d.mac)
		}
	}
	return macs, nil
}

// HasPorts reports whether a bridge has a port beside the one named but, and its own leg.
// No such bridge, none.
func HasPorts(ctx context.Context, bridge, but string) (bool, error) {
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	d, err := c.bridgeDevice(bridge)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ports, err := c.devices(ctx, "", d.index)
	if err != nil {
		return false, fmt.Errorf("looking for ports of bridge %s: %w", bridge, err)
	}
	return slices.ContainsFunc(ports, func(p device) bool { return p.name != but && !strings.HasPrefix(p.name, LegPortPrefix) }), nil
}

// MasterOf returns the bridge (or bond) that an interface is a port of; empty if it is
// none's, or not there.
func MasterOf(ctx context.Context, name string) (string, error) {
	c, err := dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	d, err := c.device(name)
	if err == nil && d.master != 0 {
		d, err = c.deviceAt(d.master)
		if err == nil {
			return d.name, nil
		}
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return "", fmt.Errorf("looking up the bridge of %s: %w", name, err)
	}
	return "", nil
}
