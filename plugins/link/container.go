package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ContainerSpec is what the inside of a container is to become.
type ContainerSpec struct {
	NetNS  string // path
	IfName string // made by CreatePort
	// Addr is the address with the subnet's length; zero (addressing: dhcp) = the
	// interface comes up and the rest is left to the workload's client.
	Addr    netip.Prefix
	Gateway netip.Addr // zero = none
	// Routes are the network's own. A zero GW means Gateway; an unspecified one
	// (0.0.0.0), or no Gateway, a route straight to the link.
	Routes []ipam.Route
	// DefaultRoute wants one to Gateway, beside another interface's if there is one. A
	// default route among Routes is set whatever it says, and in its place.
	DefaultRoute bool
	MTU          int // bytes; 0 = leave
}

// ContainerInfo is what the inside became.
type ContainerInfo struct {
	Index           int
	MAC             ipam.MAC
	MTU             int          // bytes
	DefaultRouteSet bool         // by this call
	Routes          []ipam.Route // set by this call: gateways filled in, default included
}

// isDefault reports whether r is a default route of the table that packets meet
// first; one of another table is for those that a rule sends there.
func isDefault(r ipam.Route) bool {
	return r.Dst == anywhere && (r.Table == nil || *r.Table == unix.RT_TABLE_MAIN)
}

var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// ConfigureContainer brings up lo (nobody else does it under some runtimes) and the
// container's side of a port, and gives it address and routes. The interface gets
// no IPv6 link-local address: the network has no IPv6, and its probes would be so many
// drops at the guard. Undone by DeletePort, which takes interface, address and routes
// along.
func ConfigureContainer(ctx context.Context, spec ContainerSpec) (ContainerInfo, error) {
	info, err := configureContainer(ctx, spec)
	if err != nil {
		return ContainerInfo{}, fmt.Errorf("configuring %s in namespace %s: %w", spec.IfName, spec.NetNS, err)
	}
	return info, nil
}

func configureContainer(ctx context.Context, spec ContainerSpec) (info ContainerInfo, err error) {
	c, err := dialAt(ctx, spec.NetNS)
	if err != nil {
		return info, err
	}
	defer c.close()
	if err := c.setUp(0, "lo", true); err != nil {
		return info, fmt.Errorf("setting lo up: %w", err)
	}
	d, err := c.device(spec.IfName)
	if err != nil {
		return info, fmt.Errorf("looking it up: %w", err)
	}
	var attrs []*nl.RtAttr
	if spec.MTU != 0 && spec.MTU != d.mtu {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(spec.MTU))))
		d.mtu = spec.MTU
	}
	if err := c.change(d.index, attrs...); err != nil {
		return info, fmt.Errorf("switching its IPv6 addresses off: %w", err)
	}
	if err := c.setUp(d.index, "", true); err != nil {
		return info, fmt.Errorf("setting it up: %w", err)
	}
	info = ContainerInfo{Index: d.index, MAC: d.mac, MTU: d.mtu}
	if !spec.Addr.IsValid() {
		return info, nil
	}
	err = c.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, address(spec.Addr))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return info, fmt.Errorf("adding address %s: %w", spec.Addr, err)
	}
	if err := c.answerBySource(ctx, d, spec.Addr, spec.Gateway); err != nil {
		return info, err
	}
	info.Routes = plannedRoutes(spec)
	for _, r := range info.Routes {
		if err := c.addRoute(d.index, r); err != nil {
			return info, err
		}
		info.DefaultRouteSet = info.DefaultRouteSet || isDefault(r)
	}
	return info, nil
}

// plannedRoutes returns the routes to set, those to the link first: a gateway may be
// reached by one of them.
func plannedRoutes(spec ContainerSpec) []ipam.Route {
	var routes []ipam.Route
	given := false // a default route
	for _, r := range spec.Routes {
		switch {
		case !r.GW.IsValid():
			r.GW = spec.Gateway
		case r.GW.IsUnspecified():
			r.GW = netip.Addr{}
		}
		r.Dst = r.Dst.Masked()
		given = given || isDefault(r)
		routes = append(routes, r)
	}
	if spec.DefaultRoute && !given && spec.Gateway.IsValid() {
		routes = append(routes, ipam.Route{Dst: anywhere, GW: spec.Gateway})
	}
	slices.SortStableFunc(routes, func(a, b ipam.Route) int {
		switch {
		case !a.GW.IsValid() && b.GW.IsValid():
			return -1
		case a.GW.IsValid() && !b.GW.IsValid():
			return 1
		}
		return 0
	})
	return routes
}

// hasDefaultRoute reports whether the main table has an IPv4 default route, but by the link
// with index except.
func (c *conn) hasDefaultRoute(ctx context.Context, except int) (bool, error) {
	routes, err := dump(ctx, "routes", func() ([]netlink.Route, error) {
		return c.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return false, err
	}
	for _, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if ones == 0 && r.Type == unix.RTN_UNICAST && r.LinkIndex != except {
			return true, nil
		}
	}
	return false, nil
}

// addRoute sets one route, before another container interface's of the same
// destination, as the reference plugins do. The same route again is no error.
func (c *conn) addRoute(index int, r ipam.Route) error {
	route := &netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(r.Dst),
		Scope:     netlink.SCOPE_LINK,
		MTU:       r.MTU,
		AdvMSS:    r.AdvMSS,
		Priority:  r.Priority,
	}
	via := "to the link"
	if r.GW.IsValid() {
		route.Gw, route.Scope, via = r.GW.AsSlice(), netlink.SCOPE_UNIVERSE, "via "+r.GW.String()
	}
	if r.Table != nil {
		route.Table = *r.Table
		via += fmt.Sprintf(" in table %d", *r.Table)
	}
	if r.Scope != nil {
		route.Scope = netlink.Scope(*r.Scope)
		via += fmt.Sprintf(" of scope %d", *r.Scope)
	}
	if err := c.RouteAddEcmp(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding route %s %s: %w", r.Dst, via, err)
	}
	return nil
}
