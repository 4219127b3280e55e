package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// check finds out whether the attachment is still what ADD made. One error names every
// defect. It passes right after ADD (CRI-O asks then), and after chained plugins
// changed routes or MTU or added addresses.
func (p plugin) check(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatBridge)
	if err != nil {
		return err
	}
	if cfg.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "key prevResult is missing: CHECK compares with it", "")
	}
	node, err := p.node(cfg.DataDir)
	if err != nil {
		return cniError("preparing CHECK", err)
	}
	return withDeadline(func(ctx context.Context) error {
		defects, err := node.Check(ctx, cfg.Name, attach.Claim{
			ContainerID: args.ContainerID,
			IfName:      args.IfName,
			NetNS:       args.Netns,
			Addrs:       resultAddrs(cfg.PrevResult),
		})
		if err != nil {
			return cniError("checking "+args.ContainerID+" "+args.IfName+" on network "+cfg.Name, err)
		}
		if len(defects) > 0 {
			return types.NewError(conf.ErrCheckFailed, strings.Join(defects, "; "), "")
		}
		return nil
	})
}

func resultAddrs(r *types100.Result) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}
