package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// reservationInfo is an element of `flatctl reservations -o json`, and what reserve
// and release print there.
type reservationInfo struct {
	Network string `json:"network"`
	ipam.Reservation
}

func (c *control) reservationsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reservations [NETWORK]",
		Short: "List reservations: who has which address, MAC and name",
		Long: `List the reservations of a network, or of all, by address.

CONTAINER is the attachment that holds the address now: the beginning of its ID and
its interface. An administrator's reservation that nothing holds has none, nor has what
came with an import from another node.`,
		Example: `  flatctl reservations
  flatctl reservations flat -o dnsmasq >flat.hosts
  flatctl reservations flat -o json | jq -r '.[] | "\(.addr) \(.workload)"'`,
		Args:              atMost("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
		RunE:              action(c.reservations),
	}
}

func (c *control) reservations(ctx context.Context, args []string) error {
	var names []string
	if len(args) > 0 {
		if err := c.known(ctx, args[0]); err != nil {
			return err
		}
		names = args
	}
	if c.output == "dnsmasq" {
		return c.showHosts(ctx, names)
	}
	all, readErr := c.rows(ctx, names)
	infos := []reservationInfo{}
	allowed := false // whether anybody asked for more than an address
	var rows [][]string
	for _, r := range all {
		infos = append(infos, reservationInfo{r.Network.Name, r.Reservation})
		container := ""
		if h := r.Holder; h != nil {
			container = h.ContainerID[:min(12, len(h.ContainerID))] + " " + h.IfName
		}
		by := "workload"
		if r.Admin {
			by = "administrator"
		}
		if node := r.Workload.Peer(); node != "" {
			by = "peer " + node
		}
		rows = append(rows, []string{r.Network.Name, r.Addr.String(), r.MAC.String(), r.Hostname, r.Workload.String(),
			container, by, r.Since.UTC().Format(time.DateTime), allowedText(r.Reservation)})
		allowed = allowed || len(r.AllowedAddresses) > 0
	}
	header := []string{"NETWORK", "ADDRESS", "MAC", "HOSTNAME", "WORKLOAD", "CONTAINER", "BY", "SINCE (UTC)", "MAY USE"}
	if !allowed {
		header = header[:len(header)-1]
		for i := range rows {
			rows[i] = rows[i][:len(header)]
		}
	}
	err := c.show(infos, header, rows, "No reservations.")
	return errors.Join(readErr, err)
}

// allowedText is what the workload asked for besides its own.
func allowedText(r ipam.Reservation) string {
	texts := make([]string, len(r.AllowedAddresses))
	for i, a := range r.AllowedAddresses {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

func (c *control) reserveCommand() *cobra.Command {
	var a reserveFlags
	cmd := &cobra.Command{
		Use:   "reserve NETWORK --workload NAMESPACE/NAME",
		Short: "Reserve an address, MAC or name for a workload, now or in future",
		Long: `Reserve an address, and with it a MAC and a host name, for a workload.

The workload need not exist. Its address is never given to another, and a request
against the reservation is an error. Without --ip the next free address is reserved;
an address outside rangeStart to rangeEnd may be given too.

--option and --lease-time are what the DHCP server tells this workload alone, in the
place of what it tells the others. An option without a value is not sent to it. What is
not named stays as it was; all of it goes with the reservation.

--workload is NAMESPACE/NAME for a Kubernetes pod, NAME alone for a container that its
runtime names so (podman), NAMESPACE/KIND:VALUE for another identity, such as
default/mac:fa:16:3e:00:00:14.`,
		Example: `  flatctl reserve flat --workload default/db-0
  flatctl reserve flat --workload default/db-0 --ip 10.0.0.20 --mac fa:16:3e:aa:00:14 --hostname db
  flatctl reserve flat --workload default/db-0 --option 42=10.0.0.9,10.0.0.10 --option 3= --lease-time 12h`,
		Args:              exactly("NETWORK"),
		ValidArgsFunction: c.completeNetworks,
		RunE: action(func(ctx context.Context, args []string) error {
			req, err := a.request()
			if err != nil {
				return err
			}
			return c.reserve(ctx, args[0], req)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&a.workload, "workload", "", "whom it is for: NAMESPACE/NAME (required)")
	f.StringVar(&a.ip, "ip", "", "address (default: the next free one)")
	f.StringVar(&a.mac, "mac", "", "MAC (default: derived from the address)")
	f.StringVar(&a.hostname, "hostname", "", "host name, one DNS label (default: derived from the address)")
	f.StringVar(&a.ifName, "ifname", "eth0", "the workload's interface")
	f.StringArrayVar(&a.options, "option", nil, "DHCP option as NUMBER=VALUE, lists separated by commas; repeatable")
	f.BoolVar(&a.clear, "clear-options", false, "give up the options set before")
	f.StringVar(&a.lease, "lease-time", "", `DHCP lease time such as 12h; "default" is the network's`)
	_ = cmd.MarkFlagRequired("workload") // fails only for a flag that does not exist
	_ = cmd.RegisterFlagCompletionFunc("workload", c.completeUnreserved)
	for _, name := range []string{"ip", "mac", "hostname", "ifname", "option", "lease-time"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// reserveFlags are reserve's, as they were written.
type reserveFlags struct {
	workload, ip, mac, hostname, ifName string
	options                             []string
	clear                               bool
	lease                               string
}

func (a *reserveFlags) request() (req ipam.AdminRequest, err error) {
	if req.Workload, err = parseWorkload(a.workload, a.ifName); err != nil {
		return req, err
	}
	if a.ip != "" {
		if req.Addr, err = netip.ParseAddr(a.ip); err != nil || !req.Addr.Unmap().Is4() {
			return req, usageError{fmt.Sprintf("--ip %q: an IPv4 address is wanted, such as 10.0.0.20", a.ip)}
		}
		req.Addr = req.Addr.Unmap()
	}
	if a.mac != "" {
		if req.MAC, err = ipam.ParseMAC(a.mac); err != nil {
			return req, usageError{fmt.Sprintf("--mac %v", err)}
		}
	}
	req.Hostname = a.hostname
	return req, a.overrides(&req)
}

// overrides reads what the DHCP server is to tell this workload alone.
func (a *reserveFlags) overrides(req *ipam.AdminRequest) error {
	req.ClearOptions = a.clear
	for _, s := range a.options {
		o, err := dhcpoption.Parse(s)
		if err != nil {
			return usageError{fmt.Sprintf("--option %s: %v", s, err)}
		}
		if _, twice := req.Options.Get(o.Code); twice {
			return usageError{fmt.Sprintf("--option %s: option %d is given twice; the values of a list are separated by commas", s, o.Code)}
		}
		req.Options = req.Options.With(o)
	}
	if a.lease == "" {
		return nil
	}
	var d time.Duration // the network's
	if a.lease != "default" {
		var err error
		if d, err = time.ParseDuration(a.lease); err != nil {
			return usageError{fmt.Sprintf("--lease-time %q: a duration such as 12h is wanted, or default", a.lease)}
		}
		if why := ipam.CheckLeaseTime(d); why != "" {
			return usageError{fmt.Sprintf("--lease-time %q: %s", a.lease, why)}
		}
	}
	lease := ipam.Duration(d)
	req.LeaseTime = &lease
	return nil
}

func (c *control) reserve(ctx context.Context, network string, req ipam.AdminRequest) error {
	if err := c.known(ctx, network); err != nil {
		return err
	}
	r, err := c.stores().Store(network).ReserveAdmin(ctx, req)
	if err != nil {
		return err
	}
	if c.output == "json" {
		return c.showJSON(reservationInfo{network, r})
	}
	return c.sayf("%s %s %s is reserved for workload %s in network %s", r.Addr, r.MAC, r.Hostname, r.Workload, network)
}
