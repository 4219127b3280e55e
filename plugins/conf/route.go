package conf

import (
	"encoding/json"
	"math"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func (o *object) readRoutes(p *ipam.Pool) error {
	items, err := o.list("routes", "routes")
	if err != nil {
		return err
	}
	for _, item := range items {
		r, err := asObject(item.path, item.raw)
		if err != nil {
			return err
		}
		if err := r.checkKeys(routeKeys); err != nil {
			return err
		}
		dst, err := r.text("dst", "")
		if err != nil {
			return err
		}
		if dst == "" {
			return invalid(r.at("dst"), nil, `it is required, such as "0.0.0.0/0"`)
		}
		route := ipam.Route{}
		if route.Dst, err = asPrefix4(r.at("dst"), dst); err != nil {
			return err
		}
		// The kernel takes a next hop only from a network it is directly on.
		if route.GW, err = r.inSubnet("gw", p.Subnet, netip.Addr{}); err != nil {
			return err
		}
		if err := r.readRouteMetrics(&route); err != nil {
			return err
		}
		p.Routes = append(p.Routes, route)
	}
	return nil
}

// ResultRoute is a route as a result carries it.
func ResultRoute(r ipam.Route) *types.Route {
	dst := net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())}
	out := &types.Route{Dst: dst, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Table: r.Table, Scope: r.Scope}
	if r.GW.IsValid() {
		out.GW = r.GW.AsSlice()
	}
	return out
}

// readRouteMetrics reads what specification 1.1.0 adds to a route. 0 means the
// kernel's own, as it does there, but for table and scope, of which 0 is one.
func (o *object) readRouteMetrics(r *ipam.Route) (err error) {
	for _, m := range []struct {
		key string
		max uint32
		to  *int
	}{
		{"mtu", maxMTU, &r.MTU}, {"advmss", maxMTU, &r.AdvMSS}, {"priority", math.MaxUint32, &r.Priority},
	} {
		if n, ok, err := o.number(m.key, m.max); err != nil {
			return err
		} else if ok {
			*m.to = n
		}
	}
	for _, m := range []struct {
		key string
		max uint32
		to  **int
	}{
		{"table", math.MaxUint32, &r.Table}, {"scope", math.MaxUint8, &r.Scope},
	} {
		if n, ok, err := o.number(m.key, m.max); err != nil {
			return err
		} else if ok {
			*m.to = &n
		}
	}
	return nil
}

// number reads a whole number from 0 to most.
func (o *object) number(key string, most uint32) (int, bool, error) {
	raw, ok := o.raw(key)
	if !ok {
		return 0, false, nil
	}
	var n uint32
	if err := json.Unmarshal(raw, &n); err != nil || n > most {
		return 0, false, o.invalid(key, "a number from 0 to %d is wanted", most)
	}
	return int(n), true, nil
}
