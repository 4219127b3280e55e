package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// applyInfo is what `flatctl apply -o json` prints.
type applyInfo struct {
	Network string         `json:"network"`
	Created bool           `json:"created"`
	Changes []change       `json:"changes"`
	Node    *attach.Report `json:"node,omitempty"` // absent for a network without a bridge of ours
}

// change is one key of the configuration that has another value now; null = absent.
type change struct {
	Key  string          `json:"key"`
	From json.RawMessage `json:"from"`
	To   json.RawMessage `json:"to"`
}

func (c *control) applyCommand() *cobra.Command {
	var dataDirGiven func() bool
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a network's configuration in force, for living workloads too",
		Long: `Read a conflist (or one plugin's configuration; - is standard input), keep it as the
network's configuration, and put it in force for the workloads that live: their chains,
the guard, and where allowSameNetTraffic was turned off the end of the connections that
are no longer allowed.

The file's ipam.dataDir says which store is meant. A change that would strand
reservations is refused. Containers' next ADD brings the file that the runtime has, so
change that one: /etc/cni/net.d/*.conflist.`,
		Example: `  flatctl apply /etc/cni/net.d/10-flat.conflist
  jq '.plugins[0].allowSameNetTraffic = false' 10-flat.conflist | flatctl apply -`,
		Args: exactly("FILE"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeConflists(cmd, args, begun)
		},
		RunE: action(func(ctx context.Context, args []string) error { return c.apply(ctx, args[0], dataDirGiven()) }),
	}
	dataDirGiven = func() bool { return cmd.Flags().Changed("data-dir") }
	return cmd
}

func (c *control) apply(ctx context.Context, file string, dataDirGiven bool) error {
	text, err := c.read(file)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	cfg, err := conf.ParseList(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if dataDirGiven && c.dataDir != cfg.DataDir {
		return usageError{fmt.Sprintf("%s has its store in ipam.dataDir %s, not in --data-dir %s: leave the flag out", file, cfg.DataDir, c.dataDir)}
	}
	for _, notice := range cfg.Notices {
		_, _ = fmt.Fprintf(c.errOut, "flatctl: %s: %s\n", file, notice)
	}
	c.dataDir = cfg.DataDir
	store := c.stores().Store(cfg.Name)
	var before *ipam.Network
	err = store.View(ctx, func(v *ipam.View) error {
		n, err := v.Network()
		before = &n
		return err
	})
	if errors.Is(err, ipam.ErrNoNetwork) {
		before = nil
	} else if err != nil {
		return fmt.Errorf("reading network %s: %w", cfg.Name, err)
	}
	if _, err := store.Configure(ctx, cfg.Network); err != nil {
		return err
	}
	info := applyInfo{Network: cfg.Name, Created: before == nil, Changes: []change{}}
	if before != nil {
		info.Changes = append(info.Changes, changes(*before, cfg.Network)...)
	}
	if cfg.Network.Bridge != nil {
		report, err := c.enforce(ctx, cfg.Network)
		if err != nil {
			return fmt.Errorf("network %s is configured, but not yet in force for living workloads: %w; mend that and apply again", cfg.Name, err)
		}
		// Programs get lists, even empty ones.
		report.Chains, report.Guard, report.Side = append([]string{}, report.Chains...), append([]string{}, report.Guard...), append([]string{}, report.Side...)
		info.Node = &report
	}
	if c.output == "json" {
		return c.showJSON(info)
	}
	return c.sayf("%s", info)
}

func (c *control) enforce(ctx context.Context, network ipam.Network) (attach.Report, error) {
	n, err := c.node(c.dataDir)
	if err != nil {
		return attach.Report{}, err
	}
	side, err := n.Renew(ctx, network)
	if err != nil {
		return attach.Report{}, err
	}
	report, err := n.Apply(ctx, network.Name)
	report.Side = append(side.Changes, side.Notices...)
	return report, err
}

func (c *control) read(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(c.in)
	}
	return os.ReadFile(file)
}

// String is the text for people.
func (i applyInfo) String() string {
	var b strings.Builder
	switch {
	case i.Created:
		fmt.Fprintf(&b, "network %s is configured", i.Network)
	case len(i.Changes) == 0:
		fmt.Fprintf(&b, "network %s: the configuration is unchanged", i.Network)
	default:
		fmt.Fprintf(&b, "network %s: the configuration is changed", i.Network)
	}
	for _, ch := range i.Changes {
		fmt.Fprintf(&b, "\n  %s: %s -> %s", ch.Key, orAbsent(ch.From), orAbsent(ch.To))
	}
	if i.Node == nil {
		return b.String()
	}
	for _, line := range i.Node.Side {
		fmt.Fprintf(&b, "\n%s", line)
	}
	switch {
	case i.Node.Workloads == 0:
		b.WriteString("\nno workload is on it now")
	case len(i.Node.Chains) == 0 && len(i.Node.Guard) == 0:
		fmt.Fprintf(&b, "\nin force for %s: every rule was in place", count(i.Node.Workloads, "living workload"))
	default:
		fmt.Fprintf(&b, "\nin force for %s", count(i.Node.Workloads, "living workload"))
	}
	for _, line := range i.Node.Chains {
		fmt.Fprintf(&b, "\n  chains: %s", line)
	}
	for _, line := range i.Node.Guard {
		fmt.Fprintf(&b, "\n  guard: %s", line)
	}
	if i.Node.Cut > 0 {
		fmt.Fprintf(&b, "\n  %s cut", count(i.Node.Cut, "connection"))
	}
	return b.String()
}

func orAbsent(value json.RawMessage) string {
	if value == nil {
		return "(none)"
	}
	return string(value)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "ss") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// changes compares two records key by key, under the names of the conflist's keys.
func changes(before, after ipam.Network) []change {
	a, b := flatten(before), flatten(after)
	keys := map[string]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	var out []change
	for k := range keys {
		if !bytes.Equal(a[k], b[k]) {
			out = append(out, change{Key: k, From: a[k], To: b[k]})
		}
	}
	slices.SortFunc(out, func(x, y change) int { return strings.Compare(x.Key, y.Key) })
	return out
}

// flatten returns a record's keys as the conflist names them, and their values as
// JSON. Lists stay whole: an element has no name to speak of.
func flatten(n ipam.Network) map[string]json.RawMessage {
	var record struct {
		Pool, Bridge map[string]json.RawMessage
	}
	out := map[string]json.RawMessage{}
	text, err := json.Marshal(n)
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err != nil {
		return out // a record that was just read or written always can be
	}
	for k, v := range record.Pool {
		if k != "macPrefix" {
			k = "ipam." + k
		}
		out[k] = v
	}
	for k, v := range record.Bridge {
		if k == "name" {
			k = "bridge"
		}
		out[k] = v
	}
	return out
}
