package filter

import (
	"context"
	"fmt"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Check compares the rules of r with their plan and returns a line for each defect; the
// next Attach mends all of them but one: of rules of ours in the other back end, where
// no record tells of them, Apply is in charge. It changes nothing, and looks at the
// shared chains and at r's own alone, without a program: with the nft back end its cost
// does not grow with the number of workloads (of the legacy one's tables the kernel hands
// out nothing less than all).
//
// It sees what is missing, added or planned otherwise; not a rule that somebody replaced
// in its place. In table nat our jump need not come first: plugins that run after
// flat-bridge (portmap) put theirs in front, which the next Attach puts right again. So
// does plugin firewall in FORWARD, when it runs for the first time: that is no defect of
// a workload that neighbours may reach anyway, for what it accepts they send.
func (t *Table) Check(ctx context.Context, networks Networks, n ipam.Network, r ipam.Reservation) (defects []string, err error) {
	if r.Holder == nil {
		return nil, fmt.Errorf("checking the rules of %s: nobody holds it", r.Addr)
	}
	err = t.locked(ctx, func() error {
		defects, err = t.check(ctx, networks, n, r)
		if err != nil {
			return fmt.Errorf("checking the rules of %s on network %s: %w", r.Addr, n.Name, err)
		}
		return nil
	})
	return defects, err
}

func (t *Table) check(ctx context.Context, networks Networks, n ipam.Network, r ipam.Reservation) ([]string, error) {
	known, n, err := current(ctx, networks, n)
	if err != nil || !hasLines(n) {
		return nil, err
	}
	p, wrong, err := t.looking(ctx)
	if err != nil {
		return nil, err
	}
	if p.missing != nil && !needsProgram(Attached{Network: n}) {
		return nil, nil
	}
	names := baseNames()
	var paths []ipam.Reservation // to r's own address and what else it may have
	if n.Filtered() {
		paths = withAllowed(n, []ipam.Reservation{r})
	}
	for _, path := range paths {
		names = append(names, pathNames(n, path)...)
	}
	s, err := t.read(ctx, p, some, names, nil)
	if err != nil {
		return nil, err
	}
	defects := baseDefects(s, known, n.Open(r) && len(n.Bridge.Deny) == 0)
	for _, path := range paths {
		defects = append(defects, pathDefects(s, n, path)...)
	}
	elsewhere, err := t.elsewhere(ctx, p, wrong)
	return append(defects, elsewhere...), err
}

// firewallChain is what plugin firewall jumps to from the beginning of FORWARD: it accepts
// whatever comes from the containers that it ran for, and answers to them.
const firewallChain = "CNI-FORWARD"

// baseDefects is about the shared chains and the jumps to them. afterFirewall says that
// plugin firewall may come first.
func baseDefects(s *seen, networks []ipam.Network, afterFirewall bool) (defects []string) {
	for _, b := range builtins {
		if afterFirewall && s.onlyBehind(b.chain, b.jump, firewallChain) {
			continue
		}
		switch count, first := s.jumps(b.chain, b.jump); {
		case count == 0:
			defects = append(defects, fmt.Sprintf("chain %s of table %s does not jump to %s", b.chain, b.table, b.jump))
		case !first && b.table == filterTable:
			defects = append(defects, fmt.Sprintf("chain %s of table %s jumps to %s, but something else comes first", b.chain, b.table, b.jump))
		}
	}
	merged := mergedBase(s, networks)
	for _, c := range Base(networks) {
		switch {
		case !s.has(c.Name):
			defects = append(defects, fmt.Sprintf("chain %s is missing", c.Name))
		case !c.Operator && !linesInPlace(s, c.Name, merged[c.Name]):
			defects = append(defects, fmt.Sprintf("chain %s is not as planned (%d rules, %d planned)", c.Name, len(s.chains[c.Name]), len(merged[c.Name])))
		}
	}
	return defects
}

// pathDefects is about the way to r's chain, and the chain.
func pathDefects(s *seen, n ipam.Network, r ipam.Reservation) (defects []string) {
	own := dispatchTo(n, r)
	path := treePath(n.Pool.Subnet, r.Addr)
	for i, node := range path {
		to := seenRule{dst: hostPrefix(own.Addr), jump: own.Chain}
		if i+1 < len(path) {
			to.dst, to.jump = path[i+1], treeName(path[i+1])
		}
		name := treeName(node)
		if !s.has(name) {
			defects = append(defects, fmt.Sprintf("chain %s, on the way to %s, is missing", name, own.Chain))
		} else if why := nodeDefect(s.chains[name], to); why != "" {
			defects = append(defects, fmt.Sprintf("chain %s, on the way to %s, %s", name, own.Chain, why))
		}
	}
	want := WorkloadChain(n, r)
	rules := s.chains[own.Chain]
	m, marked := s.marker(own.Chain)
	switch {
	case !s.has(own.Chain):
		defects = append(defects, fmt.Sprintf("chain %s is missing", own.Chain))
	case len(rules) == 0:
		defects = append(defects, fmt.Sprintf("chain %s is empty", own.Chain))
	case !marked:
		defects = append(defects, fmt.Sprintf("chain %s begins with a rule that is not ours", own.Chain))
	case m.network != markedName(n.Name) || m.addr != r.Addr:
		defects = append(defects, fmt.Sprintf("chain %s is of %s on network %s, not of %s on %s", own.Chain, m.addr, m.network, r.Addr, n.Name))
	case rules[0].comment != want.Rules[0].Comment:
		defects = append(defects, fmt.Sprintf("chain %s follows another policy than the network's", own.Chain))
	case len(rules) != len(want.Rules):
		defects = append(defects, fmt.Sprintf("chain %s has %d rules, %d are planned", own.Chain, len(rules), len(want.Rules)))
	}
	return defects
}

// nodeDefect says why a node does not lead to where it should; empty if it does. What it
// has beside is others' way, but nothing may judge before.
func nodeDefect(rules []seenRule, to seenRule) string {
	for _, r := range rules {
		switch {
		case !r.plain || !r.dst.IsValid():
			return "has a rule that is not ours"
		case r.dst == to.dst && r.jump == to.jump:
			return ""
		case r.dst.Overlaps(to.dst):
			return fmt.Sprintf("leads %s to %s", to.dst, r.jump)
		}
	}
	return fmt.Sprintf("does not lead %s to %s", to.dst, to.jump)
}

// elsewhere is about rules of ours in the other back end, where wrong does not say it.
func (t *Table) elsewhere(ctx context.Context, p place, wrong string) ([]string, error) {
	if wrong != "" {
		return []string{wrong}, nil
	}
	other, there, err := t.stray(ctx, p)
	if err != nil || !there {
		return nil, err
	}
	return []string{fmt.Sprintf("chain %s is in the %s back end of iptables as well, and in force there", chainForward, other)}, nil
}
