package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// RemoveLeg takes a bridge's leg away, if it has one: its gateway is no longer shared.
func RemoveLeg(ctx context.Context, bridge string) (removed bool, err error) {
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	legs, err := c.leg(bridge)
	if err != nil || legs == nil {
		return false, err
	}
	return true, c.removeLeg(bridge)
}

// RemoveCreatedLeg undoes an EnsureLeg that made the leg, unless the bridge has ports
// beside it: somebody relies on it. It may come twice.
func RemoveCreatedLeg(ctx context.Context, bridge string) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	d, err := c.bridgeDevice(bridge)
	if errors.Is(err, unix.ENODEV) {
		return c.removeLeg(bridge)
	}
	if err != nil {
		return err
	}
	ports, err := c.devices(ctx, "", d.index)
	if err != nil || slices.ContainsFunc(ports, func(p device) bool { return p.name != LegPort(bridge) }) {
		return err
	}
	return c.removeLeg(bridge)
}

// removeLeg deletes the pair. One that is another's stays.
func (c *conn) removeLeg(bridge string) error {
	legs, err := c.leg(bridge)
	if err != nil || legs == nil {
		return err
	}
	if err := c.deleteLink(legs[1].index); err != nil {
		return fmt.Errorf("removing leg %s of bridge %s: %w", legs[0].name, bridge, err)
	}
	return nil
}

// WaitLeg waits until a bridge's leg hears what is asked of it and can answer, as
// WaitForwarding does for a workload's port.
func WaitLeg(ctx context.Context, bridge string, limit time.Duration) (bool, error) {
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	return c.waitForwarding(ctx, LegPort(bridge), LegName(bridge), limit)
}

// CanMakeLeg reports why EnsureLeg would fail for as long as nobody mends it, or nil:
// ErrNotALeg, ErrBridgeHasMAC. The bridge may be missing.
func CanMakeLeg(ctx context.Context, spec LegSpec) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.leg(spec.Bridge); err != nil {
		return err
	}
	d, err := c.bridgeDevice(spec.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	return spec.admit(d)
}

// CheckLeg compares the leg with what EnsureLeg makes of it, and returns a line for each
// defect. It changes nothing.
func CheckLeg(ctx context.Context, spec LegSpec) (defects []string, err error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	legs, err := c.leg(spec.Bridge)
	switch {
	case errors.Is(err, ErrNotALeg):
		return []string{err.Error()}, nil
	case err != nil:
		return nil, err
	case legs == nil:
		return []string{fmt.Sprintf("bridge %s has no leg for its shared gateway %s", spec.Bridge, spec.Addr)}, nil
	}
	unless := func(ok bool, format string, args ...any) {
		if !ok {
			defects = append(defects, fmt.Sprintf("leg %s of bridge %s ", legs[0].name, spec.Bridge)+fmt.Sprintf(format, args...))
		}
	}
	end, port := legs[0], legs[1]
	unless(end.mac == spec.MAC, "has MAC %s, not the shared gateway's, %s", end.mac, spec.MAC)
	unless(end.up && port.up, "is down")
	addrs, err := c.addresses(ctx, end)
	if err != nil {
		return nil, err
	}
	for _, p := range spec.addrs() {
		unless(slices.Contains(addrs, p), "lacks address %s", p.Addr())
	}
	bridge, err := c.bridgeDevice(spec.Bridge)
	if err != nil {
		return nil, err
	}
	if port.master != bridge.index {
		unless(false, "is not on the bridge")
		return defects, nil
	}
	pinned, err := c.pinned(port, spec.MAC)
	if err != nil {
		return nil, err
	}
	unless(pinned, "is not known to the bridge by a static sticky entry of MAC %s", spec.MAC)
	for _, s := range []struct{ name, key, want string }{
		{spec.Bridge, "arp_ignore", "1"}, {spec.Bridge, "arp_announce", "2"},
		{end.name, "arp_ignore", "1"}, {end.name, "rp_filter", "2"},
	} {
		v, err := sysctl("ipv4/conf/" + s.name + "/" + s.key)
		if err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", s.key, s.name, err)
		}
		unless(v == s.want, "needs net.ipv4.conf.%s.%s to be %s, and it is %s", s.name, s.key, s.want, v)
	}
	return defects, nil
}
