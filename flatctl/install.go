package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/flatctl/install"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

func (c *control) installCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "install-plugins DIR",
		Short: "Put flat-bridge and flat-ipam where the runtime finds them",
		Long: `Install the plugins that lie beside flatctl, or in the directory that --from names,
into DIR: the runtime's plugin directory, mostly /opt/cni/bin.

A runtime may execute them meanwhile: each is written beside its place, executed once,
and renamed into it, none before all are written. What is there already, byte for byte,
is left alone. DIR must exist: in a container it is the node's, mounted.`,
		Example: `  flatctl install-plugins /opt/cni/bin
  flatctl install-plugins --from bin /opt/cni/bin`,
		Args: exactly("DIR"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: action(func(ctx context.Context, args []string) error { return c.install(ctx, from, args[0]) }),
	}
	cmd.Flags().StringVar(&from, "from", "", "directory of the programs (default: that of flatctl itself)")
	_ = cmd.MarkFlagDirname("from")
	return cmd
}

func (c *control) install(ctx context.Context, from, dir string) error {
	if from == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the directory of flatctl itself: %w; name the programs' by --from", err)
		}
		from = filepath.Dir(self)
	}
	programs, err := install.Programs(ctx, from, dir, []string{conf.FlatBridge, conf.FlatIPAM})
	if c.output == "json" {
		// With an error too: what is in place is in place.
		return errors.Join(err, c.showJSON(append([]install.Program{}, programs...)))
	}
	for _, p := range programs {
		what := "installed"
		if !p.Changed {
			what = "is there already"
		}
		err = errors.Join(err, c.sayf("%s: version %s %s", p.Path, p.Version, what))
	}
	return err
}
