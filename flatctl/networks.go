package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// networkInfo is an element of `flatctl networks -o json`.
type networkInfo struct {
	ipam.Network
	Stats networkStats `json:"stats"`
}

// networkStats counts addresses; size is the sum of the others.
type networkStats struct {
	Size     uint64 `json:"size"`
	Used     uint64 `json:"used"`
	Reserved uint64 `json:"reserved"`
	Retained uint64 `json:"retained"`
	Free     uint64 `json:"free"`
}

func (c *control) networksCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "networks",
		Short: "List the networks and how full they are",
		Long: `List the networks of the data directory as last configured, and how full they are.

USED addresses are held by workloads, RESERVED ones are administrator's reservations
that nothing holds now and what was imported of other nodes, RETAINED ones were released
and are kept for their workload.`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              action(func(ctx context.Context, _ []string) error { return c.networks(ctx) }),
	}
}

func (c *control) networks(ctx context.Context) error {
	names, err := c.stores().Names(ctx)
	if err != nil {
		return err
	}
	infos := []networkInfo{}
	var errs []error
	for _, name := range names {
		var info networkInfo
		err := c.stores().Store(name).View(ctx, func(v *ipam.View) (err error) {
			if info.Network, err = v.Network(); err != nil {
				return err
			}
			s, err := v.Stats()
			info.Stats = networkStats(s)
			return err
		})
		if errors.Is(err, ipam.ErrNoNetwork) {
			continue // removed meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		infos = append(infos, info)
	}
	var rows [][]string
	for _, n := range infos {
		row := []string{n.Name, n.Pool.Subnet.String(), n.Pool.Gateway.String(), "", ""}
		if b := n.Bridge; b != nil {
			row[3], row[4] = b.Name, onOff(b.AllowSameNetTraffic)
		}
		rows = append(rows, append(row, fmt.Sprint(n.Stats.Used), fmt.Sprint(n.Stats.Reserved),
			fmt.Sprint(n.Stats.Retained), fmt.Sprint(n.Stats.Free)))
	}
	err = c.show(infos, []string{"NETWORK", "SUBNET", "GATEWAY", "BRIDGE", "SAME-NET", "USED", "RESERVED", "RETAINED", "FREE"}, rows,
		"No network is configured in "+c.dataDir+": flatctl apply FILE, or the first container, configures one.")
	return errors.Join(append(errs, err)...)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (c *control) networkCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "network",
		Short: "Remove a network",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Sprintf("unknown command %q: flatctl network rm NETWORK is the one there is", args[0])}
			}
			return usageError{"a command is wanted: flatctl network rm NETWORK"}
		},
	}
	group.AddCommand(&cobra.Command{
		Use:   "rm NETWORK",
		Short: "Remove a network that no workload is on",
		Long: `Remove a network: its chains, its part of the guard and its store, with the
administrator's reservations and what was retained.

While workloads are on the network it is refused, and they are listed. The bridge
stays: it may carry other ports, or the node's own traffic.`,
		Example:           `  flatctl network rm flat`,
		Args:              exactly("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
		RunE:              action(func(ctx context.Context, args []string) error { return c.removeNetwork(ctx, args[0]) }),
	})
	return group
}

func (c *control) removeNetwork(ctx context.Context, name string) error {
	if err := c.known(ctx, name); err != nil {
		return err
	}
	// Asked first without the node, so that a refusal needs no iptables.
	if err := c.removable(ctx, name); err != nil {
		return c.inUse(err)
	}
	n, err := c.node(c.dataDir)
	if err != nil {
		return fmt.Errorf("preparing to remove network %s: %w", name, err)
	}
	if err := n.Remove(ctx, name); err != nil {
		return c.inUse(fmt.Errorf("removing network %s: %w", name, err))
	}
	if c.output == "json" {
		return c.showJSON(map[string]string{"removed": name})
	}
	return c.sayf("network %s is removed", name)
}

func (c *control) removable(ctx context.Context, name string) error {
	snapshot, err := c.stores().Store(name).Snapshot(ctx)
	if err != nil {
		return err
	}
	var held []ipam.Reservation
	for _, r := range snapshot.Rows {
		if r.Holder != nil {
			held = append(held, r)
		}
	}
	if len(held) > 0 {
		return &ipam.InUseError{Network: name, Rows: held}
	}
	return nil
}

// inUse lists who is in the way.
func (c *control) inUse(err error) error {
	var used *ipam.InUseError
	if !errors.As(err, &used) {
		return err
	}
	var b strings.Builder
	for _, r := range used.Rows {
		fmt.Fprintf(&b, "\n  %s", describe(r))
	}
	return fmt.Errorf("%w; end them first:%s", err, b.String())
}

// known turns a misspelt network into an error that lists those there are.
func (c *control) known(ctx context.Context, name string) error {
	names, err := c.stores().Names(ctx)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == name {
			return nil
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: %q, and no other in %s", ipam.ErrNoNetwork, name, c.dataDir)
	}
	return fmt.Errorf("%w: %q; %s has %s", ipam.ErrNoNetwork, name, c.dataDir, strings.Join(names, ", "))
}
