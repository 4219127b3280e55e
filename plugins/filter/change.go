package filter

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The planners below go from what the kernel holds to one transaction. They are
// pure. What is in place stays untouched, counters included.

// baseNames are the chains whose state every change of rules depends on.
func baseNames() []string {
	var names []string
	for _, b := range builtins {
		names = append(names, b.chain)
	}
	for _, c := range Base(nil) {
		names = append(names, c.Name)
	}
	return names
}

// pathNames are the chains that the attachment of r has a part in.
func pathNames(n ipam.Network, r ipam.Reservation) []string {
	names := []string{dispatchTo(n, r).Chain}
	for _, node := range treePath(n.Pool.Subnet, r.Addr) {
		names = append(names, treeName(node))
	}
	return names
}

// planAttach puts the chains of rows and the way to each in; of unfiltered networks
// no more than the shared chains. A chain is always written: a hash would not notice a
// rule that was replaced by hand.
func planAttach(s *seen, networks []ipam.Network, rows []Attached) (*batch, error) {
	b := newBatch()
	rows = slices.DeleteFunc(slices.Clone(rows), func(a Attached) bool { return !a.Network.Filtered() })
	if suffices(s, networks, rows) {
		for _, a := range rows {
			if err := attachPath(b, s, a.Network.Pool.Subnet, dispatchTo(a.Network, a.Row)); err != nil {
				return nil, err
			}
		}
	} else {
		// More than the own paths is concerned: the trees of other networks, and of
		// these under an earlier subnet, must be known.
		if s.depth == some {
			return nil, errReadMore
		}
		ways, err := collect(s)
		if err != nil {
			return nil, err
		}
		for _, a := range rows {
			own := dispatchTo(a.Network, a.Row)
			maps.DeleteFunc(ways, func(_ netip.Addr, chain string) bool { return chain == own.Chain })
			ways[own.Addr] = own.Chain
		}
		if err := rebuild(b, s, networks, ways); err != nil {
			return nil, err
		}
	}
	for _, a := range rows {
		b.write(dispatchTo(a.Network, a.Row).Chain, WorkloadChain(a.Network, a.Row).specs())
	}
	return b, nil
}

// suffices says whether the rows can be put in by a change of their own paths.
func suffices(s *seen, networks []ipam.Network, rows []Attached) bool {
	for _, a := range rows {
		m, ok := s.marker(dispatchTo(a.Network, a.Row).Chain)
		if ok && m.addr != a.Row.Addr || !s.has(treeName(a.Network.Pool.Subnet)) {
			return false
		}
	}
	return baseInPlace(s, networks)
}

// attachPath makes every node on the way to own lead there. A node that exists is
// changed by single rules, never written anew: should this transaction be carried
// out late (its plugin killed, the lock gone, iptables-restore still running), it
// cannot take out a jump that a neighbour got meanwhile; nor may a node that is new
// be there by then. s then says what the batch
// will have made of the nodes, for the next row of the same batch.
func attachPath(b *batch, s *seen, subnet netip.Prefix, own Dispatch) error {
	path := treePath(subnet, own.Addr)
	for i, node := range path {
		name := treeName(node)
		rules, foreign, err := s.node(name)
		if err != nil {
			return err
		}
		to := seenRule{dst: hostPrefix(own.Addr), jump: own.Chain, plain: true}
		if i+1 < len(path) {
			to.dst, to.jump = path[i+1], treeName(path[i+1])
		}
		kept := slices.DeleteFunc(slices.Clone(rules), func(r seenRule) bool { return r.dst == to.dst })
		wanted := sortNode(append(kept, to))
		switch {
		case !s.has(name):
			b.create(name, nodeSpecs(wanted))
		case foreign || !sameNode(rules, sortNode(slices.Clone(rules))):
			b.write(name, nodeSpecs(wanted))
		case !sameNode(wanted, rules):
			for _, r := range rules {
				if r.dst == to.dst {
					b.takeOut(name, r)
				}
			}
			b.putIn(name, 1+slices.Index(wanted, to), to.nodeSpec())
		}
		s.chains[name] = wanted
	}
	return nil
}

// planDetach takes the chains of rows and every jump to them out, and nodes that are
// empty then. At depth some it trusts a chain's own word on which address it serves.
// It deletes nodes without emptying them, for the reason given at attachPath.
func planDetach(s *seen, rows []Attached) (*batch, error) {
	own, b := map[string]bool{}, newBatch()
	for _, a := range rows {
		chain := dispatchTo(a.Network, a.Row).Chain
		if m, ok := s.marker(chain); ok && m.addr != a.Row.Addr && s.depth == some {
			return nil, errReadMore
		}
		own[chain] = true
	}
	nodes := map[string][]seenRule{}
	for _, chain := range sortedKeys(s.chains) {
		if !strings.HasPrefix(chain, treePrefix) {
			continue
		}
		rules, foreign, err := s.node(chain)
		if err != nil {
			return nil, err
		}
		if foreign {
			b.write(chain, nodeSpecs(rules))
		}
		nodes[chain] = takeOutIf(b, chain, rules, func(r seenRule) bool { return own[r.jump] })
	}
	prune(b, nodes)
	for _, chain := range sortedKeys(own) {
		if s.has(chain) {
			b.remove(chain)
		}
	}
	return b, nil
}

// prune takes empty nodes out of their parents, from the leaves up. A node without
// a parent among nodes is a root, which stays for as long as its network does.
func prune(b *batch, nodes map[string][]seenRule) {
	for again := true; again; {
		again = false
		for _, parent := range sortedKeys(nodes) {
			kept := takeOutIf(b, parent, nodes[parent], func(r seenRule) bool {
				child, isNode := nodes[r.jump]
				if isNode && len(child) == 0 {
					b.removeEmpty(r.jump)
				}
				return isNode && len(child) == 0
			})
			again = again || len(kept) < len(nodes[parent])
			nodes[parent] = kept
		}
	}
}

// takeOutIf takes those of a node's rules out that are to go, and returns the rest.
func takeOutIf(b *batch, node string, rules []seenRule, goes func(seenRule) bool) (kept []seenRule) {
	for _, r := range rules {
		if goes(r) {
			b.takeOut(node, r)
		} else {
			kept = append(kept, r)
		}
	}
	return kept
}

// planApply makes one network's rules what its rows say: none, if it is unfiltered.
func planApply(s *seen, networks []ipam.Network, n ipam.Network, rows []ipam.Reservation) (*batch, error) {
	if s.depth == some {
		return nil, errReadMore
	}
	b := newBatch()
	if unneeded(s, networks) {
		dismantle(b, s)
		return b, nil
	}
	ways, err := collect(s)
	if err != nil {
		return nil, err
	}
	present := chainsOf(s, n, ways)
	for addr := range ways {
		if n.Pool.Subnet.Contains(addr) {
			delete(ways, addr)
		}
	}
	wanted := map[string]bool{}
	for _, r := range rows {
		own := dispatchTo(n, r)
		ways[own.Addr], wanted[own.Chain] = own.Chain, true
	}
	if err := rebuild(b, s, networks, ways); err != nil {
		return nil, err
	}
	for _, r := range rows {
		c := WorkloadChain(n, r)
		if !inPlace(s, c) {
			b.write(c.Name, c.specs())
		}
	}
	for _, chain := range present {
		if !wanted[chain] {
			b.remove(chain)
		}
	}
	return b, nil
}

// planRemove takes n out; others are the networks that stay. With the last of them
// the shared chains go as well, but for what the operator wrote.
func planRemove(s *seen, others []ipam.Network, n ipam.Network) (*batch, error) {
	if s.depth == some {
		return nil, errReadMore
	}
	n.Bridge = nil // known, so that its lines are not kept for it, but without any
	known := append(slices.Clone(others), n)
	b := newBatch()
	if unneeded(s, known) {
		dismantle(b, s)
		return b, nil
	}
	ways, err := collect(s)
	if err != nil {
		return nil, err
	}
	if err := rebuild(b, s, known, ways); err != nil {
		return nil, err
	}
	for _, chain := range chainsOf(s, n, ways) {
		b.remove(chain)
	}
	return b, nil
}

// chainsOf returns the workload chains of n: those that say so themselves, those to
// which an address of its subnet leads, and what somebody's flush has left: empty
// chains to which nothing leads, which may be anybody's and are of no use to him.
func chainsOf(s *seen, n ipam.Network, ways map[netip.Addr]string) []string {
	chains, reached := map[string]bool{}, map[string]bool{}
	for _, chain := range ways {
		reached[chain] = true
	}
	for chain, rules := range s.chains {
		if !strings.HasPrefix(chain, workloadPrefix) {
			continue
		}
		m, ok := s.marker(chain)
		if ok && m.network == markedName(n.Name) || len(rules) == 0 && !reached[chain] {
			chains[chain] = true
		}
	}
	for addr, chain := range ways {
		if n.Pool.Subnet.Contains(addr) {
			chains[chain] = true
		}
	}
	return sortedKeys(chains)
}

// inPlace says whether a workload's chain is in: its first rule carries the right
// hash and none is missing or added. A rule replaced in its place goes unnoticed.
func inPlace(s *seen, c Chain) bool {
	rules := s.chains[c.Name]
	return len(rules) == len(c.Rules) && len(rules) > 0 && rules[0].comment == c.Rules[0].Comment
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
