package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/firewalld"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

func (p plugin) add(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatBridge)
	if err != nil {
		return err
	}
	node, err := p.node(cfg.DataDir)
	if err != nil {
		return cniError("preparing ADD", err)
	}
	inode, err := link.NetNSInode(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS=%s: %v", args.Netns, err), "")
	}
	req, notices, err := cfg.Request(conf.Env{
		Args:        args.Args,
		ContainerID: args.ContainerID,
		IfName:      args.IfName,
		NetNS:       args.Netns,
		NetNSInode:  inode,
		BootID:      node.BootID,
	})
	if err != nil {
		return err
	}
	for _, n := range append(cfg.Notices, notices...) {
		p.log.Warn(n, "container", args.ContainerID)
	}
	// What can fail is done before anything is touched: nothing undoes an ADD that has
	// succeeded.
	dns, err := conf.ResultDNS(cfg.Network, node.DaemonLives())
	if err != nil {
		return cniError("preparing the result", err)
	}
	return withDeadline(func(ctx context.Context) error {
		made, err := node.Add(ctx, cfg.Network, req)
		if err != nil {
			return cniError("adding "+args.ContainerID+" "+args.IfName+" to network "+cfg.Name, err)
		}
		return types.PrintResult(answer(cfg, result(cfg.Network, args.Netns, made, dns)), cfg.CNIVersion)
	})
}

func (p plugin) del(args *skel.CmdArgs) error {
	cfg, err := conf.ParseRelease(args.StdinData)
	if err != nil {
		return err
	}
	node, err := p.node(cfg.DataDir)
	if err != nil {
		return cniError("preparing DEL", err)
	}
	return withDeadline(func(ctx context.Context) error {
		err := node.Delete(ctx, cfg.Name, args.ContainerID, args.IfName)
		return cniError("deleting "+args.ContainerID+" "+args.IfName+" from network "+cfg.Name, err)
	})
}

// gc deletes what no valid attachment has. A runtime that does not say which are valid
// (the key is absent, as cnitool leaves it) has nothing deleted; null and [] say that
// none is.
func (p plugin) gc(args *skel.CmdArgs) error {
	cfg, err := conf.ParseRelease(args.StdinData)
	if err != nil {
		return err
	}
	if cfg.ValidAttachments == nil {
		p.log.Info("GC: cni.dev/valid-attachments is absent: nothing is touched", "network", cfg.Name)
		return nil
	}
	node, err := p.node(cfg.DataDir)
	if err != nil {
		return cniError("preparing GC", err)
	}
	var valid []attach.ID
	for _, a := range *cfg.ValidAttachments {
		valid = append(valid, attach.ID{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	ctx, cancel := context.WithTimeout(context.Background(), gcDeadline)
	defer cancel()
	_, err = node.GC(ctx, cfg.Name, valid)
	return cniError("collecting what no valid attachment of network "+cfg.Name+" has", err)
}

// errFeature is the code of a kernel feature or program that is missing (100 and
// above are the plugins' own).
const errFeature uint = 101

// cniError gives what attach returns the code that design and specification assign.
func cniError(doing string, err error) error {
	if err == nil {
		return nil
	}
	var living *attach.LivingHolderError
	code := uint(0)
	switch {
	case errors.As(err, &living), errors.Is(err, attach.ErrCancelled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, link.ErrBridgeFull), errors.Is(err, attach.ErrNoMetadata), errors.Is(err, attach.ErrUplinkReturned),
		errors.Is(err, firewalld.ErrRefused), errors.Is(err, attach.ErrAllForeign), errors.Is(err, attach.ErrOwnForeign):
		code = types.ErrTryAgainLater
	case errors.Is(err, attach.ErrSameNetNS):
		code = types.ErrInvalidNetNS
	case errors.Is(err, link.ErrNotABridge), errors.Is(err, link.ErrNotALeg), errors.Is(err, link.ErrBridgeHasMAC), errors.Is(err, attach.ErrUplink):
		code = types.ErrInvalidNetworkConfig
	case errors.Is(err, link.ErrIfNameTaken):
		code = types.ErrInvalidEnvironmentVariables
	case errors.Is(err, link.ErrMACLocal):
		code = conf.ErrRequestRefused
	case errors.Is(err, link.ErrNoBridgeNetfilter), errors.Is(err, filter.ErrNoProgram), errors.Is(err, guard.ErrUnsupported),
		errors.Is(err, link.ErrNoLinkKind), errors.Is(err, attach.ErrUnprivileged):
		code = errFeature
	default:
		return conf.CNIError(doing, err)
	}
	return types.NewError(code, fmt.Sprintf("%s: %v", doing, err), "")
}
