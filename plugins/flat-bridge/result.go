package main

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

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
