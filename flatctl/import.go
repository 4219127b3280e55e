package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Formats that import reads.
const (
	fromNode    = "node"
	fromDnsmasq = "dnsmasq"
)

// importInfo is what `flatctl import --from dnsmasq -o json` prints.
type importInfo struct {
	Network      string            `json:"network"`
	DryRun       bool              `json:"dryRun"`
	Reservations []reservationInfo `json:"reservations"`
}

func (c *control) importCommand() *cobra.Command {
	var from string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over what another node, or another DHCP server's file, reserves",
		Long: `Take over the reservations in a file (- is standard input): all of them, or none.

What 'flatctl export' printed on a node that is a peer of the network (ipam.peers) becomes
what this node has of that one; what it had besides is given up, so that the same file
again changes nothing. Two reservations that are in each other's way are named both.

With --from dnsmasq each line of dnsmasq's hosts file (the file that --dhcp-hostsfile
names, such as nova-br100.conf; also the dhcp-host lines of a dnsmasq.conf) becomes an
administrator's reservation: MAC, address, name and lease time. Every line that cannot be
taken over is named. The network is the one that has the addresses. A reservation is for a
workload: a line's is the one that a comment above it names (as 'flatctl reservations -o
dnsmasq' writes it), else the bare host name, as podman names containers.`,
		Example: `  ssh compute-1 flatctl export flat | flatctl import -
  flatctl import --from dnsmasq --dry-run /var/lib/nova/networks/nova-br100.conf`,
		Args: exactly("FILE"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"json", "conf"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: action(func(ctx context.Context, args []string) error {
			switch from {
			case fromNode:
				return c.importNode(ctx, args[0], dryRun)
			case fromDnsmasq:
				return c.importFile(ctx, args[0], dryRun)
			}
			return usageError{fmt.Sprintf("--from %q: node (what export prints) or dnsmasq is wanted", from)}
		}),
	}
	cmd.Flags().StringVar(&from, "from", fromNode, "whose file it is: node (what flatctl export prints there) or dnsmasq")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{fromNode, fromDnsmasq}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *control) importFile(ctx context.Context, file string, dryRun bool) error {
	text, err := c.read(file)
	if err != nil {
		return fmt.Errorf("reading the hosts file: %w", err)
	}
	lines, err := parseHosts(string(text))
	if err != nil {
		return fmt.Errorf("nothing is imported from %s:\n%w", file, err)
	}
	if len(lines) == 0 {
		return fmt.Errorf("nothing is imported from %s: it has no line of a host", file)
	}
	network, err := c.networkOf(ctx, lines)
	if err != nil {
		return fmt.Errorf("nothing is imported from %s: %w", file, err)
	}
	reqs := make([]ipam.AdminRequest, len(lines))
	for i, l := range lines {
		reqs[i] = l.request(network)
		for _, field := range l.ignored {
			_, _ = fmt.Fprintf(c.errOut, "flatctl: %s: line %d: %s is not taken over: tags have no meaning here\n", file, l.number, field)
		}
	}
	rows, err := c.stores().Store(network.Name).ReserveAdmins(ctx, reqs, dryRun)
	if which := (*ipam.RequestError)(nil); errors.As(err, &which) {
		err = fmt.Errorf("line %d: %w", lines[which.Index].number, err)
	}
	if err != nil {
		return fmt.Errorf("nothing is imported from %s: %w", file, err)
	}
	if c.output == "json" {
		info := importInfo{Network: network.Name, DryRun: dryRun, Reservations: []reservationInfo{}}
		for _, r := range rows {
			info.Reservations = append(info.Reservations, reservationInfo{network.Name, r})
		}
		return c.showJSON(info)
	}
	for _, r := range rows {
		if err := c.sayf("%s %s %s for workload %s", r.Addr, r.MAC, r.Hostname, r.Workload); err != nil {
			return err
		}
	}
	if dryRun {
		return c.sayf("network %s: %s to be reserved (dry run: nothing is)", network.Name, count(len(rows), "address"))
	}
	return c.sayf("network %s: %s reserved", network.Name, count(len(rows), "address"))
}

// networkOf returns the one network that has every line's address.
func (c *control) networkOf(ctx context.Context, lines []hostLine) (ipam.Network, error) {
	networks, readErr := c.stores().Networks(ctx)
	var one ipam.Network
	for i, l := range lines {
		at := slices.IndexFunc(networks, func(n ipam.Network) bool { return n.Pool.Subnet.Contains(l.addr) })
		if at < 0 {
			return one, errors.Join(fmt.Errorf("line %d: no network in %s has address %s: `flatctl networks` lists them", l.number, c.dataDir, l.addr), readErr)
		}
		if i > 0 && networks[at].Name != one.Name {
			return one, fmt.Errorf("line %d: address %s is in network %s, those before it in %s: give each network a file, since all of a file is imported or nothing",
				l.number, l.addr, networks[at].Name, one.Name)
		}
		one = networks[at]
	}
	return one, nil
}

// request is what a line asks for. A name in the network's zone is a bare one there.
func (l hostLine) request(n ipam.Network) ipam.AdminRequest {
	req := ipam.AdminRequest{Addr: l.addr, MAC: l.mac, Hostname: strings.TrimSuffix(l.hostname, ".")}
	if bare, ok := strings.CutSuffix(req.Hostname, "."+zone(n)); ok {
		req.Hostname = bare
	}
	if l.lease > 0 {
		d := ipam.Duration(l.lease)
		req.LeaseTime = &d
	}
	if l.workload != nil {
		req.Workload = *l.workload
		return req
	}
	name := req.Hostname
	if name == "" {
		name = ipam.DefaultHostname(l.addr)
	}
	req.Workload = ipam.Workload{Kind: ipam.KindName, Value: name, IfName: "eth0"}
	return req
}

// showHosts prints reservations as hosts files, one after the other.
func (c *control) showHosts(ctx context.Context, names []string) error {
	if names == nil {
		var err error
		if names, err = c.stores().Names(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range names {
		s, err := c.stores().Store(name).Snapshot(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if _, err := fmt.Fprint(c.out, hostsFile(s.Network, s.Rows)); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}
