package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func (c *control) uplinkCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "uplink",
		Short: "Give the network card of an uplink back what it had",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Sprintf("unknown command %q: flatctl uplink restore NETWORK is the one there is", args[0])}
			}
			return usageError{"a command is wanted: flatctl uplink restore NETWORK"}
		},
	}
	group.AddCommand(&cobra.Command{
		Use:   "restore NETWORK",
		Short: "Take the network card out of the bridge, with all that it had",
		Long: `Take the network card (flatInterface) out of the network's bridge and give it back what
it had: addresses, routes, and that it was down. Connections of the node go on.

Workloads reach other nodes no more. No ADD takes the card again until flatctl apply
is asked to, or the machine starts anew. It works as well when a move was interrupted.`,
		Example:           `  flatctl uplink restore flat`,
		Args:              exactly("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
		RunE:              action(func(ctx context.Context, args []string) error { return c.restoreUplink(ctx, args[0]) }),
	})
	return group
}

func (c *control) restoreUplink(ctx context.Context, name string) error {
	if err := c.known(ctx, name); err != nil {
		return err
	}
	var network ipam.Network
	err := c.stores().Store(name).View(ctx, func(v *ipam.View) (err error) {
		network, err = v.Network()
		return err
	})
	if err != nil {
		return fmt.Errorf("reading network %s: %w", name, err)
	}
	nic := ""
	if network.Bridge != nil {
		n, err := c.node(c.dataDir)
		if err != nil {
			return fmt.Errorf("preparing to restore the uplink of network %s: %w", name, err)
		}
		if nic, err = n.RestoreUplink(ctx, network); err != nil {
			return fmt.Errorf("restoring the uplink of network %s: %w", name, err)
		}
	}
	if c.output == "json" {
		return c.showJSON(map[string]string{"network": name, "restored": nic})
	}
	if nic == "" {
		return c.sayf("network %s has no uplink that flatdhcp has taken: there is nothing to restore", name)
	}
	return c.sayf("%s has back what it had, and network %s no uplink; `flatctl apply` makes it one again", nic, name)
}
