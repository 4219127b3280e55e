package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1 // tried and failed, or refused
	exitUsage   = 2 // not understood: nothing was tried
	exitDefects = 3 // check found defects
)

// commandDeadline bounds a command; the locks it waits for are held briefly.
const commandDeadline = 30 * time.Second

// node is what commands do to the machine beside the store.
type node interface {
	// Apply puts the stored policy of a network in force for its living workloads.
	Apply(ctx context.Context, network string) (attach.Report, error)
	// Renew makes the bridge and uplink of a network what it is to have by now.
	Renew(ctx context.Context, network ipam.Network) (attach.Side, error)
	// RestoreUplink gives the network card of a network's uplink back what it had.
	RestoreUplink(ctx context.Context, network ipam.Network) (nic string, err error)
	// Remove takes a network out of the kernel and deletes its store.
	Remove(ctx context.Context, network string) error
	// DeleteDead is CNI's DEL of the attachment that holds row, unless it lives after all.
	DeleteDead(ctx context.Context, network string, row ipam.Reservation) error
}

// thisNode is the node flatctl runs on.
func thisNode(dataDir string) (node, error) {
	n, err := attach.NewNode(rundir.FromEnv(os.Getenv), dataDir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err // not n: a nil *Node would be a node that is not nil
	}
	return n, nil
}

// control is one run of flatctl with its surroundings.
type control struct {
	in          io.Reader
	out, errOut io.Writer
	now         func() time.Time
	node        func(dataDir string) (node, error)
	host        func() (string, error) // this node's name
	counters    liveCounters
	daemon      daemonClient

	dataDir string
	output  string // table, json or dnsmasq
}

// failure is an error of a command that was understood; every other one is a usage
// error.
type failure struct{ err error }

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// defectsError ends check when it has found something.
type defectsError struct{ count int }

func (e defectsError) Error() string {
	return count(e.count, "defect") + " found"
}

// usageError is a mistake on the command line that a command found itself.
type usageError struct{ msg string }

func (e usageError) Error() string { return e.msg }

// run executes one command line and returns the exit code.
func (c *control) run(args []string) int {
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.errOut)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	_, _ = fmt.Fprintf(c.errOut, "flatctl: %s\n", strings.TrimSpace(explained(err)))
	var (
		failed  failure
		usage   usageError
		defects defectsError
	)
	switch {
	case errors.As(err, &defects):
		return exitDefects
	case errors.As(err, &usage), !errors.As(err, &failed):
		_, _ = fmt.Fprintf(c.errOut, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// explained adds what to do about errors whose text comes from the system.
func explained(err error) string {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return err.Error() + " (stores are root's: run flatctl as root)"
	}
	return err.Error()
}

func (c *control) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "flatctl",
		Short: "Configure flat networks, and see and make their reservations",
		Long: `flatctl configures flat networks, and shows and makes their reservations.

It works on the stores in the data directory, so that it needs no daemon. Commands
that take WORKLOAD accept NAMESPACE/NAME, an address or the beginning of a container
ID; where several match, the error lists them.

Exit codes: 0 done, 1 failed, 2 usage, 3 defects found.`,
		Example: `  flatctl apply /etc/cni/net.d/10-flat.conflist
  flatctl reservations flat
  flatctl reserve flat --workload default/db-0 --ip 10.0.0.20
  flatctl rules default/db-0`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.output == "table", c.output == "json", c.output == "dnsmasq" && cmd.Name() == "reservations":
				return nil
			case c.output == "dnsmasq":
				return usageError{"-o dnsmasq is a hosts file: flatctl reservations prints it"}
			}
			return usageError{fmt.Sprintf("-o %q: table or json is wanted", c.output)}
		},
	}
	root.SetVersionTemplate("flatctl {{.Version}}\n")
	root.PersistentFlags().StringVar(&c.dataDir, "data-dir", conf.DefaultDataDir, "directory of the stores")
	root.PersistentFlags().StringVarP(&c.output, "output", "o", "table", "table for people, json for programs; reservations also as dnsmasq's hosts file")
	_ = root.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		formats := []string{"table", "json"}
		if cmd.Name() == "reservations" {
			formats = append(formats, "dnsmasq")
		}
		return formats, cobra.ShellCompDirectiveNoFileComp
	})
	_ = root.MarkPersistentFlagDirname("data-dir")
	root.AddCommand(
		c.applyCommand(), c.networksCommand(), c.networkCommand(), c.uplinkCommand(),
		c.reservationsCommand(), c.reserveCommand(), c.releaseCommand(),
		c.exportCommand(), c.importCommand(), c.leasesCommand(), c.eventsCommand(),
		c.rulesCommand(), c.checkCommand(), c.configCommand(), c.installCommand(),
	)
	return root
}

// action makes fn a command's: its errors are failures, and it has a deadline.
func action(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, commandDeadline)
		defer cancel()
		if err := fn(ctx, args); err != nil {
			return failure{err}
		}
		return nil
	}
}

// exactly wants one argument for each name, which errors then call it by.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError{names[len(args)] + " is missing"}
		}
		return atMost(names...)(cmd, args)
	}
}

// atMost wants no more arguments than names.
func atMost(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return usageError{fmt.Sprintf("%q is one argument too many", args[len(names)])}
		}
		return nil
	}
}

// stores is the data directory that --data-dir names.
func (c *control) stores() *ipam.Dir { return ipam.OpenDir(c.dataDir, ipam.WithClock(c.now)) }
