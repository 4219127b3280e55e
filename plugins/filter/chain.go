package filter

// Rule is one rule of a chain, in iptables' own words.
type Rule struct {
	// Match is what a packet must be, as iptables arguments; empty = every packet.
	Match string
	// Target is a verdict with its options, or the chain jumped to.
	Target string
	// Comment is carried in the kernel, by the comment match; empty = none.
	Comment string
	// Why explains the rule to people, in one line. It never reaches the kernel.
	Why string
}

// Chain is one chain of table filter as it should be, its rules in order.
type Chain struct {
	Name  string
	Rules []Rule
	// Operator marks a chain whose content is the operator's: it is made if it is
	// missing and never written to.
	Operator bool
}

// Plan is what table filter should hold of ours: chains, in the order of Base,
// then for each network its tree and its workloads' chains, both by address. The
// jumps of the built-in chains (each first in its own) belong to every plan.
type Plan struct {
	Chains []Chain
}
