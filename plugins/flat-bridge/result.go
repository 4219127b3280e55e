package main

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// Places of the three interfaces in a result. Others rely on the bridge being first
// (the firewall plugin) and on this order.
const (
	ifBridge = iota
	ifPort
	ifContainer
)

// firstWithMTU is the version of the specification that gave interfaces their MTU.
const firstWithMTU = "1.1.0"

// answer is what ADD prints: what it made, then what was made before it in the chain, in
// the keys of the version it was asked in.
func answer(cfg *conf.Config, made *types100.Result) *types100.Result {
	made = chained(made, cfg.PrevResult)
	// libcni's conversion leaves the key in, where 1.0.0 has none.
	if tells, err := cniversion.GreaterThanOrEqualTo(cfg.CNIVersion, firstWithMTU); err == nil && !tells {
		for _, ifc := range made.Interfaces {
			ifc.Mtu = 0
		}
	}
	return made
}

// chained adds the result of the plugins before this one, which must not be lost. It comes
// behind ours, which others expect in their places.
func chained(made, prev *types100.Result) *types100.Result {
	if prev == nil {
		return made
	}
	ours := len(made.Interfaces)
	made.Interfaces = append(made.Interfaces, prev.Interfaces...)
	for _, ip := range prev.IPs {
		moved := *ip
		if ip.Interface != nil {
			moved.Interface = types100.Int(*ip.Interface + ours)
		}
		made.IPs = append(made.IPs, &moved)
	}
	made.Routes = append(made.Routes, prev.Routes...)
	if made.DNS.IsEmpty() {
		made.DNS = prev.DNS
	}
	return made
}

// result names what ADD made: bridge, port and container interface with MAC and MTU,
// the reserved address (also where a DHCP client is to configure it), the routes that
// were set, and the DNS settings that the conflist gives.
func result(network ipam.Network, netns string, a attach.Attached, dns types.DNS) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			ifBridge:    {Name: a.Bridge.Name, Mac: a.Bridge.MAC.String(), Mtu: a.Bridge.MTU},
			ifPort:      {Name: a.Port.Name, Mac: a.Port.MAC.String(), Mtu: a.Port.MTU},
			ifContainer: {Name: a.Row.Holder.IfName, Mac: a.Row.MAC.String(), Mtu: a.Container.MTU, Sandbox: netns},
		},
		IPs: []*types100.IPConfig{{
			Interface: types100.Int(ifContainer),
			Address:   ipNet(netip.PrefixFrom(a.Row.Addr, network.Pool.Subnet.Bits())),
			Gateway:   network.Pool.Gateway.AsSlice(),
		}},
		DNS: dns,
	}
	for _, route := range a.Container.Routes {
		r.Routes = append(r.Routes, conf.ResultRoute(route))
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
