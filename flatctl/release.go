package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
)

func (c *control) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release WORKLOAD",
		Short: "Give up a reservation that nothing alive holds",
		Long: `Give up an administrator's reservation, the reservation of a container that died
without a DEL, or, by its address, the claim that a released workload still has.

It is refused while the container lives: end that instead.`,
		Example: `  flatctl release default/db-0
  flatctl release 10.0.0.20`,
		Args:              exactly("WORKLOAD"),
		ValidArgsFunction: c.completeWorkloads,
		RunE:              action(func(ctx context.Context, args []string) error { return c.release(ctx, args[0]) }),
	}
}

func (c *control) release(ctx context.Context, arg string) error {
	row, err := c.workload(ctx, arg)
	if errors.Is(err, ipam.ErrNotFound) {
		return c.releaseClaim(ctx, arg, err)
	}
	if err != nil {
		return err
	}
	if h := row.Holder; h != nil {
		why, err := alive(ctx, *h)
		if err != nil {
			return fmt.Errorf("finding out whether %s lives: %w", describe(row.Reservation), err)
		}
		if why != "" {
			return fmt.Errorf("%w: %s is alive: %s; end the container instead", ipam.ErrRefused, describe(row.Reservation), why)
		}
		// Its DEL never came, so its rules may still be in.
		n, err := c.node(c.dataDir)
		if err != nil {
			return fmt.Errorf("preparing to release %s: %w", row.Addr, err)
		}
		if err := n.DeleteDead(ctx, row.Network.Name, row.Reservation); err != nil {
			return fmt.Errorf("taking away what is left of %s: %w", describe(row.Reservation), err)
		}
	}
	_, err = c.stores().Store(row.Network.Name).ReleaseAdmin(ctx, row.Addr)
	if err != nil && (row.Holder == nil || !errors.Is(err, ipam.ErrNotFound)) {
		return err
	}
	return c.released(row.Network.Name, row.Reservation)
}

// releaseClaim releases an address that no row has any more.
func (c *control) releaseClaim(ctx context.Context, arg string, notFound error) error {
	addr, err := netip.ParseAddr(arg)
	if err != nil {
		return fmt.Errorf("%w; what a workload has released but may still claim is named by its address", notFound)
	}
	networks, err := c.stores().Networks(ctx)
	for _, n := range networks {
		if !n.Pool.Subnet.Contains(addr.Unmap()) {
			continue
		}
		r, err := c.stores().Store(n.Name).ReleaseAdmin(ctx, addr.Unmap())
		if err != nil {
			return err
		}
		return c.released(n.Name, r)
	}
	return errors.Join(notFound, err)
}

func (c *control) released(network string, r ipam.Reservation) error {
	if c.output == "json" {
		return c.showJSON(reservationInfo{network, r})
	}
	return c.sayf("%s is released in network %s; workload %s has no claim to it any more", r.Addr, network, r.Workload)
}

func alive(ctx context.Context, h ipam.Holder) (string, error) {
	boot, err := attach.BootID()
	if err != nil {
		return "", err
	}
	return attach.Alive(ctx, h, boot)
}
