package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// exported is what `flatctl export` prints and `flatctl import` reads.
type exported struct {
	Network      string         `json:"network"`
	Node         string         `json:"node"`
	Subnet       netip.Prefix   `json:"subnet"`
	MACPrefix    ipam.MACPrefix `json:"macPrefix"`
	RangeStart   netip.Addr     `json:"rangeStart"` // what the node gives
	RangeEnd     netip.Addr     `json:"rangeEnd"`
	Reservations []exportedRow  `json:"reservations"`
}

// exportedRow is a reservation less what only its own node needs.
type exportedRow struct {
	Addr      netip.Addr     `json:"addr"`
	MAC       ipam.MAC       `json:"mac"`
	Hostname  string         `json:"hostname"`
	Workload  ipam.Workload  `json:"workload"`
	Admin     bool           `json:"admin,omitempty"`
	Options   dhcpoption.Set `json:"options,omitempty"`
	LeaseTime ipam.Duration  `json:"leaseTime,omitempty"`
	Since     time.Time      `json:"since"`
}

func (c *control) exportCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "export NETWORK",
		Short: "Print, for another node's import, what it cannot know of this node's workloads",
		Long: `Print the reservations that a gateway of which this node is a peer (ipam.peers) cannot
derive from a MAC: those with a MAC or a host name of their own, with options or a lease
time. 'flatctl import' on that node takes them over. It is JSON, whatever -o says.`,
		Example: `  flatctl export flat | ssh controller flatctl import -
  flatctl export flat --node compute-1 >compute-1.json`,
		Args:              exactly("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
		RunE:              action(func(ctx context.Context, args []string) error { return c.export(ctx, args[0], node) }),
	}
	cmd.Flags().StringVar(&node, "node", "", "this node's name in the other's ipam.peers (default: the host name)")
	_ = cmd.RegisterFlagCompletionFunc("node", cobra.NoFileCompletions)
	return cmd
}

func (c *control) export(ctx context.Context, network, node string) error {
	if err := c.known(ctx, network); err != nil {
		return err
	}
	if node == "" {
		var err error
		if node, err = c.host(); err != nil {
			return fmt.Errorf("asking for this node's name: %w; give it by --node", err)
		}
	}
	s, err := c.stores().Store(network).Snapshot(ctx)
	if err != nil {
		return err
	}
	pool := s.Network.Pool
	e := exported{Network: network, Node: node, Subnet: pool.Subnet, MACPrefix: pool.MACPrefix,
		RangeStart: pool.RangeStart, RangeEnd: pool.RangeEnd, Reservations: []exportedRow{}}
	for _, r := range s.Rows {
		derived := !r.MACRequested && r.Hostname == ipam.DefaultHostname(r.Addr) && len(r.Options) == 0 && r.LeaseTime == 0
		if derived || r.Workload.Peer() != "" {
			continue
		}
		e.Reservations = append(e.Reservations, exportedRow{
			Addr: r.Addr, MAC: r.MAC, Hostname: r.Hostname, Workload: r.Workload,
			Admin: r.Admin, Options: r.Options, LeaseTime: r.LeaseTime, Since: r.Since,
		})
	}
	return c.showJSON(e)
}

// readExported reads what export printed. What it does not know is an error: it would be
// left out in silence.
func readExported(text []byte) (e exported, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("reading what flatctl export prints: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return e, fmt.Errorf("reading what flatctl export prints: something follows it")
	}
	if e.Network == "" || e.Node == "" || !e.RangeStart.IsValid() || !e.RangeEnd.IsValid() {
		return e, fmt.Errorf("reading what flatctl export prints: network, node, rangeStart and rangeEnd are wanted")
	}
	for i, r := range e.Reservations {
		if !r.Addr.IsValid() || r.MAC.IsZero() || r.Workload == (ipam.Workload{}) {
			return e, fmt.Errorf("reading what flatctl export prints: reservation %d: addr, mac and workload are wanted", i+1)
		}
	}
	return e, nil
}

// nodeImport is what `flatctl import -o json` prints.
type nodeImport struct {
	Network  string            `json:"network"`
	Node     string            `json:"node"`
	DryRun   bool              `json:"dryRun"`
	Made     []reservationInfo `json:"made"`
	Released []reservationInfo `json:"released"`
	Kept     int               `json:"kept"`
}

func (c *control) importNode(ctx context.Context, file string, dryRun bool) error {
	text, err := c.read(file)
	if err != nil {
		return fmt.Errorf("reading another node's reservations: %w", err)
	}
	e, err := readExported(text)
	if err == nil {
		err = c.fits(ctx, e)
	}
	var done ipam.PeerImport
	if err == nil {
		rows := make([]ipam.Reservation, len(e.Reservations))
		for i, r := range e.Reservations {
			rows[i] = ipam.Reservation{
				Addr: r.Addr, MAC: r.MAC, Hostname: r.Hostname, Workload: r.Workload,
				Admin: r.Admin, Options: r.Options, LeaseTime: r.LeaseTime, Since: r.Since,
			}
		}
		done, err = c.stores().Store(e.Network).ImportPeer(ctx, e.Node, rows, dryRun)
	}
	if err != nil {
		return fmt.Errorf("nothing is imported from %s: %w", file, err)
	}
	return c.showNodeImport(e, done, dryRun)
}

// fits refuses reservations of another network than the one that has their name here.
func (c *control) fits(ctx context.Context, e exported) error {
	if err := c.known(ctx, e.Network); err != nil {
		return err
	}
	var pool ipam.Pool
	if err := c.stores().Store(e.Network).View(ctx, func(v *ipam.View) error {
		n, err := v.Network()
		pool = n.Pool
		return err
	}); err != nil {
		return err
	}
	switch {
	case e.Subnet != pool.Subnet:
		return fmt.Errorf("network %s of node %s has subnet %s, and %s here: it is another network", e.Network, e.Node, e.Subnet, pool.Subnet)
	case e.MACPrefix != pool.MACPrefix:
		return fmt.Errorf("network %s of node %s has macPrefix %s, and %s here: all nodes of a network must have the same", e.Network, e.Node, e.MACPrefix, pool.MACPrefix)
	}
	for _, p := range pool.Peers {
		if p.Node == e.Node && (!p.Range().Contains(e.RangeStart) || !p.Range().Contains(e.RangeEnd)) {
			return fmt.Errorf("node %s gives %s to %s itself, and ipam.peers here says %s to %s: its workloads outside of that would have no lease, or another's address; make the two agree",
				e.Node, e.RangeStart, e.RangeEnd, p.RangeStart, p.RangeEnd)
		}
	}
	return nil
}

func (c *control) showNodeImport(e exported, done ipam.PeerImport, dryRun bool) error {
	if c.output == "json" {
		info := nodeImport{Network: e.Network, Node: e.Node, DryRun: dryRun, Made: []reservationInfo{}, Released: []reservationInfo{}, Kept: done.Kept}
		for _, r := range done.Made {
			info.Made = append(info.Made, reservationInfo{e.Network, r})
		}
		for _, r := range done.Gone {
			info.Released = append(info.Released, reservationInfo{e.Network, r})
		}
		return c.showJSON(info)
	}
	for _, r := range done.Made {
		if err := c.sayf("%s %s %s for workload %s", r.Addr, r.MAC, r.Hostname, r.Workload); err != nil {
			return err
		}
	}
	for _, r := range done.Gone {
		if err := c.sayf("%s %s %s is released: node %s has it no more", r.Addr, r.MAC, r.Hostname, e.Node); err != nil {
			return err
		}
	}
	note := ""
	if dryRun {
		note = " (dry run: nothing is done)"
	}
	return c.sayf("network %s, node %s: %s imported, %d released, %d as they were%s",
		e.Network, e.Node, count(len(done.Made), "reservation"), len(done.Gone), done.Kept, note)
}
