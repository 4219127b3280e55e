package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// rulesInfo is what `flatctl rules -o json` prints.
type rulesInfo struct {
	Network  string        `json:"network"`
	Workload ipam.Workload `json:"workload"`
	Addr     string        `json:"addr"`
	Chain    string        `json:"chain"`
	Rules    []ruleInfo    `json:"rules"`
	// Deny are the network's own deny rules, in the chain that all workloads share.
	Deny  []ruleInfo `json:"deny"`
	Guard guardInfo  `json:"guard"`
	// Live says why there are no counters, or how the kernel differs from the plan.
	Live string `json:"live,omitempty"`
}

// ruleInfo is one planned rule; the counters are null where they cannot be read.
type ruleInfo struct {
	Rule    string  `json:"rule"`
	Why     string  `json:"why"`
	Packets *uint64 `json:"packets"`
	Bytes   *uint64 `json:"bytes"`
}

func (r ruleInfo) write(b *strings.Builder, chain string) {
	fmt.Fprintf(b, "\n  # %s", r.Why)
	if r.Packets != nil {
		fmt.Fprintf(b, " [%d packets, %d bytes]", *r.Packets, *r.Bytes)
	}
	fmt.Fprintf(b, "\n  %s\n", strings.TrimPrefix(r.Rule, "-A "+chain+" "))
}

// guardInfo is what the guard lets the workload's port do, and what it has dropped on
// the node so far, by reason.
type guardInfo struct {
	Port        string      `json:"port"`
	MAC         ipam.MAC    `json:"mac"`
	Addrs       []string    `json:"addrs"`
	Closed      bool        `json:"closed"`
	CheckSource bool        `json:"checkSource"`
	CheckMAC    bool        `json:"checkMAC,omitempty"`
	Limits      ipam.Limits `json:"limits"` // packets a second, 0 = none
	// Allowed are what the port may use besides its own, and by which chain an address of
	// them is reached.
	Allowed []allowedInfo     `json:"allowed,omitempty"`
	Uplink  string            `json:"uplink,omitempty"`
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// liveCounters reads what the kernel has counted. The fields are functions so that
// tests need no kernel.
type liveCounters struct {
	chain func(ctx context.Context, chain string) ([]filter.RuleCounter, error)
	guard func(ctx context.Context) ([]guard.Counter, error)
}

func kernelCounters() liveCounters {
	return liveCounters{
		chain: func(ctx context.Context, chain string) ([]filter.RuleCounter, error) {
			run := rundir.FromEnv(os.Getenv)
			return filter.New(filter.Options{LockPath: run.FilterLock(), RecordPath: run.FilterBackend()}).Counters(ctx, chain)
		},
		guard: guard.Counters,
	}
}

// allowedInfo is an allowed address or MAC.
type allowedInfo struct {
	ipam.AllowedAddress
	Chain string `json:"chain,omitempty"`
}

func allowedInfos(n ipam.Network, list []ipam.AllowedAddress) (infos []allowedInfo) {
	for _, a := range list {
		info := allowedInfo{AllowedAddress: a}
		if a.Addr.IsValid() && n.Filtered() {
			info.Chain = filter.WorkloadChain(n, filter.AllowedRow(a.Addr)).Name
		}
		infos = append(infos, info)
	}
	return infos
}

func (a allowedInfo) write(b *strings.Builder) {
	switch {
	case !a.Addr.IsValid():
		fmt.Fprintf(b, "  may send its own addresses with MAC %s as well\n", a.MAC)
		return
	case a.MAC.IsZero():
		fmt.Fprintf(b, "  may have %s as well", a.Addr)
	default:
		fmt.Fprintf(b, "  may have %s with MAC %s as well", a.Addr, a.MAC)
	}
	if a.Chain != "" {
		fmt.Fprintf(b, ", which is reached as chain %s says", a.Chain)
	}
	b.WriteByte('\n')
}

func (c *control) rulesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rules WORKLOAD",
		Short: "Explain what a workload's chain and guard let through, with counters",
		Long: `Show the plan of a workload's iptables chain, a reason at each rule, and what the
guard holds its port to. Where the kernel can be read each rule has its counter, and a
chain that differs from the plan is said to.`,
		Example:           `  flatctl rules default/db-0`,
		Args:              exactly("WORKLOAD"),
		ValidArgsFunction: c.completeWorkloads,
		RunE:              action(func(ctx context.Context, args []string) error { return c.rules(ctx, args[0]) }),
	}
}

func (c *control) rules(ctx context.Context, arg string) error {
	row, err := c.workload(ctx, arg)
	if err != nil {
		return err
	}
	switch {
	case row.Network.Bridge == nil || row.Holder != nil && !row.Holder.Ported:
		return fmt.Errorf("%s has no rules of ours: flat-bridge did not attach it", describe(row.Reservation))
	case row.Workload.Peer() != "":
		return fmt.Errorf("%s has no rules here: it is on node %s", describe(row.Reservation), row.Workload.Peer())
	case row.Holder == nil:
		return fmt.Errorf("%s has no rules: nothing holds the reservation now", describe(row.Reservation))
	}
	info := rulesOf(ctx, row, c.counters)
	if c.output == "json" {
		return c.showJSON(info)
	}
	return c.sayf("%s", info)
}

// rulesOf plans, then looks what the kernel has counted.
func rulesOf(ctx context.Context, row found, live liveCounters) rulesInfo {
	chain := filter.WorkloadChain(row.Network, row.Reservation)
	port := guard.PortFor(row.Network, row.Reservation, link.PortName(row.Holder.ContainerID, row.Holder.IfName))
	info := rulesInfo{
		Network: row.Network.Name, Workload: row.Workload, Addr: row.Addr.String(), Chain: chain.Name,
		Guard: guardInfo{Port: port.Name, MAC: port.MAC, Addrs: []string{}, Closed: port.Closed, CheckSource: port.CheckSource, CheckMAC: port.CheckMAC,
			Limits: port.Limits, Uplink: port.Uplink, Allowed: allowedInfos(row.Network, port.Allowed)},
	}
	for _, a := range port.Addrs {
		info.Guard.Addrs = append(info.Guard.Addrs, a.String())
	}
	info.Rules, info.Deny = []ruleInfo{}, []ruleInfo{}
	if !row.Network.Filtered() {
		info.Chain, info.Live = "", "network "+row.Network.Name+" is unfiltered (filter: none): no chain judges what reaches its workloads"
		info.countGuard(ctx, live)
		return info
	}
	info.Rules = ruleInfos(chain)
	for _, c := range filter.Base([]ipam.Network{row.Network}) {
		if c.Name == providerChain {
			info.Deny = ruleInfos(c)
		}
	}
	info.count(ctx, live)
	return info
}

// providerChain holds the deny rules of all networks.
const providerChain = "FLAT-PROVIDER"

func ruleInfos(c filter.Chain) []ruleInfo {
	infos := []ruleInfo{}
	for _, r := range c.Rules {
		one := filter.Chain{Name: c.Name, Rules: []filter.Rule{r}}
		infos = append(infos, ruleInfo{Rule: strings.TrimSpace(one.String()), Why: r.Why})
	}
	return infos
}

// countGuard fills in what the guard has dropped, if it can be read.
func (i *rulesInfo) countGuard(ctx context.Context, live liveCounters) {
	if dropped, err := live.guard(ctx); err == nil && len(dropped) > 0 {
		i.Guard.Dropped = map[string]uint64{}
		for _, d := range dropped {
			i.Guard.Dropped[d.Name] = d.Packets
		}
	}
}

// count fills the counters in where the kernel's chain is the planned one.
func (i *rulesInfo) count(ctx context.Context, live liveCounters) {
	i.countGuard(ctx, live)
	counted, err := live.chain(ctx, i.Chain)
	if err != nil {
		i.Live = fmt.Sprintf("no counters: %v", err)
		return
	}
	same := len(counted) == len(i.Rules)
	for n := 0; same && n < len(counted); n++ {
		same = strings.TrimSpace(counted[n].Rule) == i.Rules[n].Rule
	}
	if !same {
		i.Live = fmt.Sprintf("the chain in the kernel is not the planned one (%d rules, %d planned): `flatctl apply` puts it right",
			len(counted), len(i.Rules))
		return
	}
	for n := range i.Rules {
		i.Rules[n].Packets, i.Rules[n].Bytes = &counted[n].Packets, &counted[n].Bytes
	}
	if len(i.Deny) == 0 {
		return
	}
	// Other networks' rules stand in this chain as well.
	denied, err := live.chain(ctx, providerChain)
	for n := range i.Deny {
		at := slices.IndexFunc(denied, func(c filter.RuleCounter) bool { return strings.TrimSpace(c.Rule) == i.Deny[n].Rule })
		if err != nil || at < 0 {
			i.Live = "a deny rule is not in the kernel: `flatctl apply` puts it right"
			continue
		}
		i.Deny[n].Packets, i.Deny[n].Bytes = &denied[at].Packets, &denied[at].Bytes
	}
}

// String is the text for people: each rule under its reason, as iptables prints it.
func (i rulesInfo) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "workload %s, address %s, network %s\n", i.Workload, i.Addr, i.Network)
	if i.Live != "" {
		fmt.Fprintf(&b, "%s\n", i.Live)
	}
	if i.Chain != "" {
		fmt.Fprintf(&b, "\nWhat reaches it: chain %s, the first rule that matches decides\n", i.Chain)
	}
	for _, r := range i.Rules {
		r.write(&b, i.Chain)
	}
	if len(i.Deny) > 0 {
		fmt.Fprintf(&b, "\nWhat the network's deny rules drop before: chain %s\n", providerChain)
	}
	for _, r := range i.Deny {
		r.write(&b, providerChain)
	}
	fmt.Fprintf(&b, "\nWhat its port may send and get: guard, port %s\n\n", i.Guard.Port)
	addrs := strings.Join(i.Guard.Addrs, ", ")
	if i.Guard.CheckSource {
		fmt.Fprintf(&b, "  sends only as MAC %s, addresses %s, in Ethernet, IPv4 and ARP headers\n", i.Guard.MAC, addrs)
	} else if i.Guard.CheckMAC {
		fmt.Fprintf(&b, "  sends only as MAC %s, in Ethernet, ARP and DHCP headers, and as any address: antiSpoofing is off, macspoofchk on\n", i.Guard.MAC)
	} else {
		b.WriteString("  sends as any MAC and address: antiSpoofing is off\n")
	}
	fmt.Fprintf(&b, "  gets unicast IPv4 only for %s\n", addrs)
	b.WriteString("  never serves DHCP, never sends bridge protocol frames, nothing but IPv4 and ARP\n")
	for _, a := range i.Guard.Allowed {
		a.write(&b)
	}
	if text := limitsText(i.Guard.Limits); text != "" {
		fmt.Fprintf(&b, "  sends at most, in a second: %s\n", text)
	}
	if i.Guard.Uplink != "" {
		fmt.Fprintf(&b, "  nobody beyond uplink %s sends as it: MAC %s, address %s\n", i.Guard.Uplink, i.Guard.MAC, i.Addr)
	}
	if i.Guard.Closed {
		b.WriteString("  gets no broadcast or multicast but ARP and a gateway's DHCP: allowSameNetTraffic is off\n")
	}
	for _, reason := range slices.Sorted(maps.Keys(i.Guard.Dropped)) {
		if n := i.Guard.Dropped[reason]; n > 0 {
			fmt.Fprintf(&b, "  dropped so far, all ports of the node: %s %d%s\n", reason, n, inBrackets(guard.Why(reason)))
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// limitsText names the limits that there are.
func limitsText(l ipam.Limits) string {
	var parts []string
	for _, one := range []struct {
		n    int
		what string
	}{{l.ARP, "ARP packets"}, {l.Broadcast, "broadcasts and multicasts"}, {l.DHCP, "DHCP messages"}, {l.DNS, "DNS queries"}} {
		if one.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", one.n, one.what))
		}
	}
	return strings.Join(parts, ", ")
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
