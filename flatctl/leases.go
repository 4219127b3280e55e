package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
)

func (c *control) leasesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leases [NETWORK]",
		Short: "What DHCP clients did: bound until when, last seen, what they call themselves",
		Long: `List what flat-dhcpd has seen of the clients of a network, or of all.

STATE is offered, bound, expired, released or declined; NODE the peer that the workload is
on, if it is not on this node. It is for people: no answer
depends on it, and a client in any state is given its reserved address again. It comes
from the daemon, or, if that is away or --data-dir is given, from what it last wrote into
the data directory.`,
		Example: `  flatctl leases
  flatctl leases flat -o json | jq -r '.[] | select(.state == "bound") | .ip'`,
		Args:              atMost("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
	}
	cmd.RunE = action(func(ctx context.Context, args []string) error {
		return c.leases(ctx, args, cmd.Flags().Changed("data-dir"))
	})
	return cmd
}

func (c *control) leases(ctx context.Context, args []string, fromDisk bool) error {
	list, err := c.readLeases(ctx, fromDisk)
	if len(args) > 0 {
		if known := c.known(ctx, args[0]); known != nil {
			return known
		}
		list = slices.DeleteFunc(list, func(l lease.Lease) bool { return l.Network != args[0] })
	}
	now := c.now()
	infos := append([]lease.Lease{}, list...)
	var rows [][]string
	for _, l := range list {
		expires := ""
		switch {
		case l.State == lease.StateBound && l.Expires.IsZero():
			expires = "never"
		case l.State == lease.StateBound:
			expires = "in " + l.Expires.Sub(now).Round(time.Second).String()
		case l.State == lease.StateExpired:
			expires = ago(now, l.Expires)
		}
		rows = append(rows, []string{l.Network, l.IP.String(), l.MAC.String(), string(l.State), expires,
			ago(now, l.LastSeen), l.Hostname, l.Node, l.ClientHostname, l.VendorClass})
	}
	heads := []string{"NETWORK", "ADDRESS", "MAC", "STATE", "EXPIRES", "LAST SEEN", "HOSTNAME", "NODE", "CLIENT'S NAME", "CLIENT"}
	return errors.Join(err, c.show(infos, heads, rows, "No client has been seen."))
}

// readLeases returns what could be read, even beside an error.
func (c *control) readLeases(ctx context.Context, fromDisk bool) (list []lease.Lease, err error) {
	if !fromDisk {
		err := c.daemon.get(ctx, "/leases", &list)
		if !errors.Is(err, errNoDaemon) {
			return list, err
		}
	}
	return lease.ReadDir(c.dataDir, c.now())
}

func (c *control) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Watch what happens to leases, as it happens",
		Long: `Print the daemon's lease events until interrupted: reserved, offered, bound, renewed,
released, declined, refused. -o json has one object a line. A reader that is too slow is
told how many it missed.`,
		Example: `  flatctl events
  flatctl events -o json | jq --unbuffered -r 'select(.event == "bound") | .hostname'`,
		Args:              atMost(),
		ValidArgsFunction: cobra.NoFileCompletions,
		// Without the deadline of other commands.
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if ctx == nil {
				ctx = context.Background()
			}
			if err := c.events(ctx); err != nil {
				return failure{err}
			}
			return nil
		},
	}
}

func (c *control) events(ctx context.Context) error {
	body, err := c.daemon.open(ctx, "/events")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	in := bufio.NewReader(body)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return errors.New("flat-dhcpd ended the stream: it stops, or is being started anew")
		}
		if err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
		text := string(line)
		if c.output != "json" {
			if text, err = eventLine(line); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(c.out, text); err != nil {
			return err
		}
	}
}

// eventLine writes an event for people.
func eventLine(line []byte) (string, error) {
	var e struct {
		lease.Event
		Count uint64 `json:"count"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return "", fmt.Errorf("reading events: %w", err)
	}
	if e.Kind == "lost" {
		return fmt.Sprintf("(%d events missed: this reader is too slow)\n", e.Count), nil
	}
	text := fmt.Sprintf("%s %-8s %s %s %s %s", e.Time.UTC().Format(time.RFC3339), e.Kind, e.Network, e.IP, e.MAC, e.Hostname)
	if e.Seconds > 0 {
		text += " for " + (time.Duration(e.Seconds) * time.Second).String()
	}
	if e.Node != "" {
		text += " on " + e.Node
	}
	if e.ClientHostname != "" || e.VendorClass != "" {
		text += fmt.Sprintf(" (calls itself %q, %q)", e.ClientHostname, e.VendorClass)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text + "\n", nil
}
