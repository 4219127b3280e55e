package filter

import (
	"strings"
)

// The chains that all networks share, and the stems of the others' names.
const (
	chainInput        = "FLAT-INPUT"
	chainForward      = "FLAT-FORWARD"
	chainOutput       = "FLAT-OUTPUT"
	chainProvider     = "FLAT-PROVIDER"
	chainProviderUser = "FLAT-PROVIDER-USER"
	chainDrop         = "FLAT-DROP"
	chainReject       = "FLAT-REJECT"
	chainMidstream    = "FLAT-MIDSTREAM"
	chainPrerouting   = "FLAT-PREROUTING"  // of table nat
	chainPostrouting  = "FLAT-POSTROUTING" // of table nat

	ourPrefix      = "FLAT-"
	workloadPrefix = "FLAT-WL-"
	treePrefix     = "FLAT-T-"
)

// The tables that chains of ours are in.
const (
	natTable    = "nat"
	filterTable = "filter"
)

// tables are in the order in which a change is carried out: iptables-restore commits
// one after the other. If nat is refused, filter is not touched; if filter is refused
// after nat, all that is in is the translation of a network, not a workload's.
var tables = [...]string{natTable, filterTable}

// builtins are chains of the tables' own, each with the chain of ours that it jumps
// to before anything else. No two tables have one of the same name here, nor chains of
// ours: so a name alone tells a chain.
var builtins = [...]struct{ table, chain, jump string }{
	{filterTable, "INPUT", chainInput},
	{filterTable, "FORWARD", chainForward},
	{filterTable, "OUTPUT", chainOutput},
	{natTable, "PREROUTING", chainPrerouting},
	{natTable, "POSTROUTING", chainPostrouting},
}

// tableOf is the table that a chain of ours, or one of builtins, is in.
func tableOf(chain string) string {
	for _, b := range builtins {
		if b.table == natTable && (chain == b.chain || chain == b.jump) {
			return natTable
		}
	}
	return filterTable
}

// Rule is one rule of a chain, in iptables' own words.
type Rule struct {
	// Match is what a packet must be, as iptables arguments; empty = every packet.
	// It is written as iptables-save prints it, so that what is in the kernel can
	// be compared as text.
	Match string
	// Target is a verdict with its options, or the chain jumped to.
	Target string
	// Comment is carried in the kernel, by the comment match; empty = none.
	Comment string
	// Why explains the rule to people, in one line. It never reaches the kernel.
	Why string
}

// spec is the rule as iptables takes it after "-A CHAIN ". The comment stands
// behind the other matches: it is evaluated only for packets that they let by.
func (r Rule) spec() string {
	parts := make([]string, 0, 3)
	if r.Match != "" {
		parts = append(parts, r.Match)
	}
	if r.Comment != "" {
		parts = append(parts, `-m comment --comment "`+r.Comment+`"`)
	}
	return strings.Join(append(parts, "-j "+r.Target), " ")
}

// Chain is one chain as it should be, its rules in order.
type Chain struct {
	Name  string
	Rules []Rule
	// Operator marks a chain whose content is the operator's: it is made if it is
	// missing and never written to.
	Operator bool
}

func (c Chain) specs() []string {
	specs := make([]string, len(c.Rules))
	for i, r := range c.Rules {
		specs[i] = r.spec()
	}
	return specs
}

// String returns the chain's rules as iptables-save prints them, a line each.
func (c Chain) String() string {
	var b strings.Builder
	for _, spec := range c.specs() {
		b.WriteString("-A " + c.Name + " " + spec + "\n")
	}
	return b.String()
}

// Annotated returns the chain for people: each rule under a line that explains it.
func (c Chain) Annotated() string {
	var b strings.Builder
	for _, r := range c.Rules {
		if r.Why != "" {
			b.WriteString("# " + r.Why + "\n")
		}
		b.WriteString("-A " + c.Name + " " + r.spec() + "\n")
	}
	return b.String()
}

// Plan is what the tables should hold of ours: chains, in the order of Base,
// then for each network its tree and its workloads' chains, both by address. The
// jumps of the built-in chains (each first in its own) belong to every plan.
type Plan struct {
	Chains []Chain
}

// String returns the plan as the input of iptables-restore, which on tables without
// anything of ours makes it so.
func (p Plan) String() string {
	b := newBatch()
	for _, c := range p.Chains {
		b.write(c.Name, c.specs())
	}
	for _, builtin := range builtins {
		b.jumpFirst(builtin.chain, builtin.jump, 0)
	}
	return b.String()
}
