package uplink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// upWait bounds how long a bridge may take to send after its first port has come, and an
	// IPv6 address to be one of the node's: the kernel sees to both by and by.
	upWait = 5 * time.Second
	// upStep is how often it is looked at.
	upStep = time.Millisecond
)

// apply puts changes into the kernel, one after the other. What is so already is no error.
func apply(ctx context.Context, changes []Change, fault Fault) error {
	for _, c := range changes {
		err := ctx.Err()
		if err == nil {
			err = fault(c.String(), false)
		}
		if err == nil {
			err = c.apply(ctx)
		}
		if err == nil {
			err = fault(c.String(), true)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

func (c Change) apply(ctx context.Context) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c.Link.Index}}
	switch c.Op {
	case addAddress:
		return execute(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Address.request(c.Link.Device, c.From, unix.IFA_F_NODAD), unix.EEXIST)
	case settle:
		return execute(unix.RTM_NEWADDR, unix.NLM_F_REPLACE, c.Address.request(c.Link.Device, c.From, c.Address.flags()&unix.IFA_F_NODAD))
	case delAddress:
		return execute(unix.RTM_DELADDR, 0, c.Address.request(c.Link.Device, c.From, 0), unix.EADDRNOTAVAIL)
	case addRoute:
		return execute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, c.Route.request(c.Link.Index), unix.EEXIST)
	case delRoute:
		return execute(unix.RTM_DELROUTE, 0, c.Route.request(c.Link.Index), unix.ESRCH)
	case addNeighbour:
		return c.Neighbour.addTo(c.Link.Index)
	case delNeighbour:
		err := netlink.NeighDel(&netlink.Neigh{LinkIndex: c.Link.Index, IP: c.Neighbour.IP})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	case enslave:
		return c.enslave(link)
	case release:
		return netlink.LinkSetNoMaster(link)
	case waitUp:
		return waitUntilUp(ctx, c.Link.Index)
	case waitLocal:
		return waitUntilLocal(ctx, c.Link.Index, c.Address)
	case setUp:
		return netlink.LinkSetUp(link)
	case setDown:
		return netlink.LinkSetDown(link)
	case setMAC:
		return netlink.LinkSetHardwareAddr(link, c.MAC.HardwareAddr())
	case setMTU:
		return netlink.LinkSetMTU(link, c.MTU)
	case setIPv6:
		return os.WriteFile(filepath.Join(sysctlIPv6, c.Link.Name, c.Setting), []byte(c.Value), 0)
	}
	return fmt.Errorf("unknown change %q", c.Op)
}

// enslave makes the NIC a port. The bridge asks it for all frames, not only for those to
// its own MAC: a card that cannot do that is no uplink.
func (c Change) enslave(link netlink.Link) error {
	err := netlink.LinkSetMasterByIndex(link, c.Bridge.Index)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("something else takes its frames (a macvlan in another namespace, or Open vSwitch?): %w", err)
	}
	return err
}

func execute(command, flags int, message []byte, fine ...error) error {
	req := nl.NewNetlinkRequest(command, flags|unix.NLM_F_ACK)
	req.AddRawData(message)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	for _, f := range fine {
		if errors.Is(err, f) {
			return nil
		}
	}
	return err
}

// addTo tells a link of the neighbour, whose MAC the kernel goes on with until it hears more.
func (n Neighbour) addTo(link int) error {
	e := n.Neigh
	e.LinkIndex, e.Flags, e.FlagsExt = link, 0, 0
	if e.State != netlink.NUD_REACHABLE && !n.Permanent {
		e.State = netlink.NUD_STALE
	}
	return netlink.NeighSet(&e)
}

func waitUntilUp(ctx context.Context, index int) error {
	ctx, cancel := context.WithTimeout(ctx, upWait)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		l, err := netlink.LinkByIndex(index)
		return err == nil && l.Attrs().OperState == netlink.OperUp, err
	})
}

func waitUntilLocal(ctx context.Context, index int, a Address) error {
	ctx, cancel := context.WithTimeout(ctx, upWait)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		routes, err := dumpMessages(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, unix.AF_INET6)
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(routes, func(raw []byte) bool {
			p, err := Route{Raw: raw}.parse()
			return err == nil && p.kind == unix.RTN_LOCAL && p.dst.Addr() == a.prefix().Addr() && slices.Contains(p.links, index)
		}), nil
	})
}

// poll waits until something is so, or fails, or ctx ends.
func poll(ctx context.Context, so func() (bool, error)) error {
	step := time.NewTicker(upStep)
	defer step.Stop()
	for {
		if yes, err := so(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-step.C:
		}
	}
}
