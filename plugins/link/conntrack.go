package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FlushConntrack deletes every IPv4 connection entry of the calling thread's
// namespace that has addr as a source or destination, in either direction, and
// returns their number: the next owner of addr must not inherit what rule 2 of the
// workload chains accepts as ESTABLISHED.
func FlushConntrack(ctx context.Context, addr netip.Addr) (int, error) {
	n, err := flushFlows(ctx, func(f *netlink.ConntrackFlow) bool {
		return slices.Contains(ends(f), addr)
	})
	if err != nil {
		return n, fmt.Errorf("flushing connection entries of %s: %w", addr, err)
	}
	return n, nil
}

// FlushConntrackBetween deletes the entries between addr and other addresses of its
// subnet, those in except (the gateways) aside, and returns their number. On closing a
// network it makes the running connections meet the new rules; the rules must be in.
func FlushConntrackBetween(ctx context.Context, addr netip.Addr, subnet netip.Prefix, except []netip.Addr) (int, error) {
	n, err := flushFlows(ctx, func(f *netlink.ConntrackFlow) bool {
		all := ends(f)
		return slices.Contains(all, addr) && slices.ContainsFunc(all, func(a netip.Addr) bool {
			return a != addr && subnet.Contains(a) && !slices.Contains(except, a)
		})
	})
	if err != nil {
		return n, fmt.Errorf("flushing connection entries between %s and %s: %w", addr, subnet, err)
	}
	return n, nil
}

// ends returns the addresses of both directions of a flow.
func ends(f *netlink.ConntrackFlow) []netip.Addr {
	var all []netip.Addr
	for _, ip := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
		if a, ok := netip.AddrFromSlice(ip); ok {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// flowFilter makes a function a netlink.CustomConntrackFilter.
type flowFilter func(*netlink.ConntrackFlow) bool

func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

func flushFlows(ctx context.Context, match flowFilter) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	total := 0
	for try := 1; ; try++ {
		n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, match)
		total += int(n)
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == dumpTries {
			return total, err
		}
		if err := ctx.Err(); err != nil {
			return total, err
		}
	}
}
