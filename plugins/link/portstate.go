package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxForwardingWait bounds WaitForwarding: without spanning tree a port forwards within
// milliseconds of carrier on an idle node, or something else is wrong. A busy node, with
// hundreds of ADDs at once, takes longer to do that work.
const maxForwardingWait = 2 * time.Second

// States of a bridge port (linux/if_bridge.h).
const (
	stateDisabled   = 0
	stateForwarding = 3
)

// PortUp lets frames through a port. Its rules must be in.
func PortUp(ctx context.Context, name string) error {
	if err := setPort(ctx, name, true); err != nil {
		return fmt.Errorf("setting port %s up: %w", name, err)
	}
	return nil
}

// PortDown stops all frames at a port at once, before its rules go. A missing port
// is no error: it is down.
func PortDown(ctx context.Context, name string) error {
	if err := setPort(ctx, name, false); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("setting port %s down: %w", name, err)
	}
	return nil
}

func setPort(ctx context.Context, name string, up bool) error {
	if err := checkPortName(name); err != nil {
		return err
	}
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return c.setUp(0, name, up)
}

// SetPort gives a port the flags of PortSpec that a network's policy decides. A missing
// port is no error: its DEL was faster.
func SetPort(ctx context.Context, name string, hairpin, learning bool) error {
	if err := checkPortName(name); err != nil {
		return err
	}
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	d, err := c.device(name)
	if err == nil {
		slave := slaveData()
		slave.data.AddRtAttr(nl.IFLA_BRPORT_LEARNING, flag(learning))
		slave.data.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(hairpin))
		err = c.change(d.index, slave.info)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("setting hairpin mode of port %s to %t and learning to %t: %w", name, hairpin, learning, err)
	}
	return nil
}

// bridgePort is the attribute of a link that speaks of it as a bridge's port.
type bridgePort struct{ info, data *nl.RtAttr }

func slaveData() bridgePort {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	return bridgePort{info: info, data: info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)}
}

func flag(on bool) []byte {
	if on {
		return nl.Uint8Attr(1)
	}
	return nl.Uint8Attr(0)
}

// DeletePort removes a port, and with it the container's end, wherever that is, and
// the bridge's entries for it. When it returns there is no such link any more and no frame
// of it under way; the kernel may still be freeing both ends, see dropLink. A missing
// port is no error; a device that is no veth is refused.
func DeletePort(ctx context.Context, name string) error {
	if err := checkPortName(name); err != nil {
		return err
	}
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	d, ok, err := c.port(name)
	if err != nil || !ok {
		return err
	}
	if err := c.dropLink(ctx, d.index); err != nil {
		return fmt.Errorf("removing port %s: %w", name, err)
	}
	return nil
}

// WaitForwarding waits until the bridge forwards what comes from the port, and itself sends:
// what is sent before, an announcement or the answer to a DISCOVER, is lost without an error.
// Carrier reaches the bridge by asynchronous work of the kernel, some milliseconds after both
// ends are up; with the first port the bridge has its own carrier later still. It waits
// for limit, at most 2 s; false means not yet, which is no error: spanning tree
// takes its time (then it returns at once), or the container's end is down.
func WaitForwarding(ctx context.Context, name string, limit time.Duration) (bool, error) {
	if err := checkPortName(name); err != nil {
		return false, err
	}
	c, err := dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	return c.waitForwarding(ctx, name, "", limit)
}

// waitForwarding is WaitForwarding for a port of any name, which waits for end to be able to
// send as well, unless that is empty.
func (c *conn) waitForwarding(ctx context.Context, name, end string, limit time.Duration) (bool, error) {
	until := time.Now().Add(min(limit, maxForwardingWait))
	for step := time.Millisecond; ; step = min(2*step, 10*time.Millisecond) {
		d, ok, err := c.port(name)
		switch {
		case err != nil:
			return false, err
		case !ok:
			return false, fmt.Errorf("waiting for port %s to forward: %w", name, unix.ENODEV)
		case d.asPort.state == stateForwarding:
			bridge, err := c.deviceAt(d.master)
			if err != nil {
				return false, fmt.Errorf("looking at the bridge of port %s: %w", name, err)
			}
			other := device{operative: true}
			if end != "" {
				if other, err = c.device(end); err != nil {
					return false, fmt.Errorf("looking at the other end of port %s: %w", name, err)
				}
			}
			if bridge.operative && other.operative {
				return true, nil
			}
		case d.asPort.state != stateDisabled: // listening, learning, blocking: spanning tree
			return false, nil
		}
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		if err := pause(ctx, min(step, left)); err != nil {
			return false, fmt.Errorf("waiting for port %s to forward: %w", name, err)
		}
	}
}
