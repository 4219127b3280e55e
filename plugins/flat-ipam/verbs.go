package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// verbDeadline bounds every verb but STATUS, so that a store somebody holds on to ends
// in an error instead of a hanging runtime.
const verbDeadline = 10 * time.Second

// plugin is flat-ipam with what it needs of its surroundings.
type plugin struct {
	run    rundir.Dir
	stdout io.Writer
	logf   func(format string, args ...any)
}

// add reserves an address and prints it. Asked again by the same attachment it prints
// the same one.
func (p *plugin) add(args *skel.CmdArgs) (err error) {
	cfg, err := conf.Parse(args.StdinData, conf.FlatIPAM)
	if err != nil {
		return err
	}
	if err := refuseOwnNamespace(args); err != nil {
		return err
	}
	here, err := findSelf(args.Netns)
	if err != nil {
		return conf.CNIError("preparing ADD", err)
	}
	req, notices, err := cfg.Request(conf.Env{
		ContainerID: args.ContainerID, IfName: args.IfName, NetNS: args.Netns, Args: args.Args,
		NetNSInode: here.inode, BootID: here.bootID,
	})
	if err != nil {
		return err
	}
	for _, n := range notices {
		p.logf("%s", n)
	}
	dns, err := conf.ResultDNS(cfg.Network, false)
	if err != nil {
		return conf.CNIError("preparing the result", err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), verbDeadline)
	defer cancel()
	doing := fmt.Sprintf("adding container %s, interface %s", args.ContainerID, args.IfName)
	attachment := p.run.Attachment(args.ContainerID, args.IfName)
	lock, err := attachment.Lock(ctx)
	if err != nil {
		return conf.CNIError(doing, err)
	}
	defer p.unlock(lock)

	store := ipam.OpenDir(cfg.DataDir).Store(cfg.Name)
	grant, err := p.reserve(ctx, store, cfg.Network, req, here)
	if err != nil {
		return conf.CNIError(doing, err)
	}
	p.report(grant)
	// DEL wins over an ADD that still runs: it waits for the lock now.
	if attachment.Cancelled() {
		_, _, err := store.Release(ctx, args.ContainerID, args.IfName)
		return types.NewError(types.ErrTryAgainLater, doing+": its DEL arrived meanwhile", textOf(err))
	}
	return p.print(result(cfg.Network, grant.Addr, dns), cfg.CNIVersion)
}

// reserve asks for the reservation, and once more if what holds it is dead. The dead
// holder's attachment is locked meanwhile, so that no verb brings it back to life.
func (p *plugin) reserve(ctx context.Context, store *ipam.Store, n ipam.Network, req ipam.Request, here self) (ipam.Grant, error) {
	grant, err := store.Reserve(ctx, &n, req)
	var held *ipam.HeldError
	if !errors.As(err, &held) || held.Row.Holder == nil {
		return grant, err
	}
	holder := *held.Row.Holder
	if holder.ContainerID != req.Holder.ContainerID || holder.IfName != req.Holder.IfName {
		lock, free, lockErr := p.run.Attachment(holder.ContainerID, holder.IfName).TryLock()
		if lockErr != nil {
			return grant, errors.Join(err, lockErr)
		}
		if !free {
			return grant, fmt.Errorf("%w, for which a verb is running", err)
		}
		defer p.unlock(lock)
	}
	if why := here.alive(holder); why != "" {
		return grant, fmt.Errorf("%w, which is alive: %s; end that container first", err, why)
	}
	req.Dead = &holder
	return store.Reserve(ctx, &n, req)
}

// report logs what an administrator will want to have been told.
func (p *plugin) report(g ipam.Grant) {
	if g.TookOver != nil {
		p.logf("address %s of workload %s was taken over from container %s, which is dead", g.Addr, g.Workload, g.TookOver.ContainerID)
	}
	if g.FromRetained != nil {
		p.logf("address %s was retained for workload %s and was given to %s: no other was free", g.Addr, *g.FromRetained, g.Workload)
	}
}

// del releases what this attachment holds, and nothing else's. It needs neither
// namespace nor earlier result, and holding nothing is success.
func (p *plugin) del(args *skel.CmdArgs) error {
	cfg, err := conf.ParseRelease(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), verbDeadline)
	defer cancel()
	doing := fmt.Sprintf("deleting container %s, interface %s", args.ContainerID, args.IfName)
	attachment := p.run.Attachment(args.ContainerID, args.IfName)
	mark, err := attachment.Mark()
	if err != nil {
		return conf.CNIError(doing, err)
	}
	defer func() {
		if err := mark.Remove(); err != nil {
			p.logf("%v", err)
		}
	}()
	lock, err := attachment.Lock(ctx)
	if err != nil {
		return conf.CNIError(doing, err)
	}
	defer p.unlock(lock)

	_, _, err = ipam.OpenDir(cfg.DataDir).Store(cfg.Name).Release(ctx, args.ContainerID, args.IfName)
	if errors.Is(err, ipam.ErrNoNetwork) {
		return nil
	}
	return cniOrNil(doing, err)
}

// check finds out whether the reservation is still what ADD said.
func (p *plugin) check(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatIPAM)
	if err != nil {
		return err
	}
	if cfg.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "key prevResult is missing: CHECK compares with it", "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), verbDeadline)
	defer cancel()
	var row ipam.Reservation
	err = ipam.OpenDir(cfg.DataDir).Store(cfg.Name).View(ctx, func(v *ipam.View) (err error) {
		row, err = v.ByHolder(args.ContainerID, args.IfName)
		return err
	})
	who := fmt.Sprintf("container %s, interface %s", args.ContainerID, args.IfName)
	if errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrNoNetwork) {
		return types.NewError(conf.ErrCheckFailed, fmt.Sprintf("%s holds no address of network %s", who, cfg.Name), "delete the container and create it again")
	}
	if err != nil {
		return conf.CNIError("reading the reservation of "+who, err)
	}
	// Plugins chained after the main one may have added addresses of their own.
	var said []string
	for _, ip := range cfg.PrevResult.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok && a.Unmap() == row.Addr {
			return nil
		}
		said = append(said, ip.Address.IP.String())
	}
	return types.NewError(conf.ErrCheckFailed, fmt.Sprintf("%s holds %s in network %s, but its result says %q", who, row.Addr, cfg.Name, said), "")
}

// gc releases what no valid attachment holds. Rows of attachments with a port of ours
// are flat-bridge's, which has more than the row to take away.
func (p *plugin) gc(args *skel.CmdArgs) error {
	cfg, err := conf.ParseRelease(args.StdinData)
	if err != nil {
		return err
	}
	if cfg.ValidAttachments == nil {
		return nil // the runtime said nothing about what is valid
	}
	valid := map[types.GCAttachment]bool{}
	for _, a := range *cfg.ValidAttachments {
		valid[a] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), verbDeadline)
	defer cancel()
	gone, err := ipam.OpenDir(cfg.DataDir).Store(cfg.Name).GC(ctx, func(r ipam.Reservation) bool {
		h := r.Holder
		return h == nil || h.Ported || valid[types.GCAttachment{ContainerID: h.ContainerID, IfName: h.IfName}]
	})
	for _, r := range gone {
		p.logf("address %s of workload %s was released: no valid attachment holds it", r.Addr, r.Workload)
	}
	if errors.Is(err, ipam.ErrNoNetwork) {
		return nil
	}
	return cniOrNil("releasing what no valid attachment of network "+cfg.Name+" holds", err)
}

func (p *plugin) unlock(lock *rundir.Held) {
	if err := lock.Release(); err != nil {
		p.logf("%v", err)
	}
}

func (p *plugin) print(r *types100.Result, version string) error {
	out, err := r.GetAsVersion(version)
	if err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("making a result of version %s: %v", version, err), "")
	}
	if err := out.PrintTo(p.stdout); err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("writing the result: %v", err), "")
	}
	return nil
}

// result is what an IPAM plugin prints: no interfaces, for those are the main plugin's.
func result(n ipam.Network, addr netip.Addr, dns types.DNS) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		IPs: []*types100.IPConfig{{
			Address: ipNet(netip.PrefixFrom(addr, n.Pool.Subnet.Bits())),
			Gateway: n.Pool.Gateway.AsSlice(),
		}},
		DNS: dns,
	}
	for _, route := range n.Pool.Routes {
		r.Routes = append(r.Routes, conf.ResultRoute(route))
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// cniOrNil keeps a nil *types.Error from becoming an error that is not nil.
func cniOrNil(doing string, err error) error {
	if err == nil {
		return nil
	}
	return conf.CNIError(doing, err)
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
