package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sourceTable is the routing table of the container's interface with index 0; the
// others follow. Higher than what people number by hand, and below the kernel's 2^32.
const sourceTable = 0xfda70000

// answerBySource makes a container that has another interface in the same subnet answer
// by the one that it was asked at. The main table knows one way to the subnet, the first
// interface's, and the guard lets no port send from another port's address. So what is
// sent from this interface's address goes by a table of its own. The table's routes go
// with the interface; a rule that leads to an empty table does nothing.
func (c *conn) answerBySource(ctx context.Context, d device, addr netip.Prefix, gateway netip.Addr) error {
	subnet := addr.Masked()
	routes, err := dump(ctx, "routes", func() ([]netlink.Route, error) {
		return c.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: ipNet(subnet)}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return err
	}
	shared := false
	for _, r := range routes {
		shared = shared || r.LinkIndex != d.index
	}
	if !shared {
		return nil
	}
	table := sourceTable + d.index
	own := []netlink.Route{{LinkIndex: d.index, Dst: ipNet(subnet), Src: addr.Addr().AsSlice(), Scope: netlink.SCOPE_LINK, Table: table}}
	if gateway.IsValid() {
		own = append(own, netlink.Route{LinkIndex: d.index, Dst: ipNet(anywhere), Gw: gateway.AsSlice(), Table: table})
	}
	for _, r := range own {
		if err := c.RouteReplace(&r); err != nil {
			return fmt.Errorf("adding route %s to table %d: %w", r.Dst, table, err)
		}
	}
	if err := c.dropSourceRules(ctx, addr.Addr()); err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Family, rule.Src, rule.Table = netlink.FAMILY_V4, ipNet(netip.PrefixFrom(addr.Addr(), 32)), table
	if err := c.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding the rule that sends what is from %s by table %d: %w", addr.Addr(), table, err)
	}
	return nil
}

// dropSourceRules removes rules that an earlier interface with the address left.
func (c *conn) dropSourceRules(ctx context.Context, addr netip.Addr) error {
	rules, err := dump(ctx, "rules", func() ([]netlink.Rule, error) { return c.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Src == nil || !r.Src.IP.Equal(addr.AsSlice()) || r.Table < sourceTable {
			continue
		}
		if err := c.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing an old rule for %s: %w", addr, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
