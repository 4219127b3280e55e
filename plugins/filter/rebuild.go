package filter

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// baseLine is one rule of a shared chain: what tells it, and its text if known.
type baseLine struct {
	comment, spec string
	rank          int
}

// rankOf is a line's place among those of all networks, by the chain it leads to: first
// what keeps cut connections cut, then all dispatching, then any accepting.
func rankOf(target string) int {
	switch {
	case target == chainMidstream:
		return 0
	case strings.HasPrefix(target, treePrefix):
		return 1
	default:
		return 2
	}
}

// compare is the order of lines in a shared chain: by rank, then by network. A network's
// own lines of one rank are equal, and keep the order of its plan.
func (l baseLine) compare(other baseLine) int {
	if l.rank != other.rank {
		return l.rank - other.rank
	}
	mine, _ := parseMarker(l.comment)
	its, _ := parseMarker(other.comment)
	return strings.Compare(mine.network, its.network)
}

// mergedBase returns the shared chains as they should be: the plan of the networks
// known, and the lines of others, kept as they are. Others are networks of another
// data directory, or one whose store cannot be read just now: neither may cost
// their workloads the protection. The order is the same whoever merges: two data
// directories on a node would else write the chains anew in turn, with every ADD.
func mergedBase(s *seen, networks []ipam.Network) map[string][]baseLine {
	foreign := foreignLines(s, networks)
	merged := map[string][]baseLine{}
	for _, c := range Base(networks) {
		if c.Operator {
			continue
		}
		lines := make([]baseLine, 0, len(c.Rules)+len(foreign[c.Name]))
		for _, r := range c.Rules {
			lines = append(lines, baseLine{r.Comment, r.spec(), rankOf(r.Target)})
		}
		for _, r := range foreign[c.Name] {
			lines = append(lines, baseLine{r.comment, r.spec, rankOf(r.jump)})
		}
		slices.SortStableFunc(lines, baseLine.compare)
		merged[c.Name] = lines
	}
	return merged
}

// foreignLines returns, by chain, the lines of networks of ours that are not among
// networks.
func foreignLines(s *seen, networks []ipam.Network) map[string][]seenRule {
	known := map[string]bool{sharedMarker: true}
	for _, n := range networks {
		known[markedName(n.Name)] = true
	}
	foreign := map[string][]seenRule{}
	for _, chain := range []string{chainProvider, chainInput, chainForward, chainOutput, chainPrerouting, chainPostrouting} {
		for _, r := range s.chains[chain] {
			if m, ok := parseMarker(r.comment); ok && !known[m.network] {
				foreign[chain] = append(foreign[chain], r)
			}
		}
	}
	return foreign
}

func linesInPlace(s *seen, chain string, lines []baseLine) bool {
	return s.has(chain) && slices.EqualFunc(lines, s.chains[chain], func(l baseLine, r seenRule) bool {
		return l.comment == r.comment
	})
}

// baseInPlace says whether shared chains and jumps are as planned for networks.
func baseInPlace(s *seen, networks []ipam.Network) bool {
	for _, builtin := range builtins {
		if count, first := s.jumps(builtin.chain, builtin.jump); count != 1 || !first {
			return false
		}
	}
	for chain, lines := range mergedBase(s, networks) {
		if !linesInPlace(s, chain, lines) {
			return false
		}
	}
	return s.has(chainProviderUser)
}

// rebuild makes shared chains, jumps and the trees of networks what they should be
// if ways are all the addresses with a chain. It writes only what differs.
func rebuild(b *batch, s *seen, networks []ipam.Network, ways map[netip.Addr]string) error {
	merged := mergedBase(s, networks)
	for _, c := range Base(networks) {
		switch {
		case c.Operator && !s.has(c.Name):
			b.create(c.Name, nil)
		case !c.Operator && !linesInPlace(s, c.Name, merged[c.Name]):
			var specs []string
			for _, line := range merged[c.Name] {
				if line.spec == "" {
					return errReadMore
				}
				specs = append(specs, line.spec)
			}
			put(b, s, c.Name, specs)
		}
	}
	if err := rebuildTrees(b, s, networks, ways); err != nil {
		return err
	}
	for _, builtin := range builtins {
		if count, first := s.jumps(builtin.chain, builtin.jump); count != 1 || !first {
			b.jumpFirst(builtin.chain, builtin.jump, count)
		}
	}
	return nil
}

// put writes a chain that is there, or makes it.
func put(b *batch, s *seen, chain string, specs []string) {
	if s.has(chain) {
		b.write(chain, specs)
	} else {
		b.create(chain, specs)
	}
}

func rebuildTrees(b *batch, s *seen, networks []ipam.Network, ways map[netip.Addr]string) error {
	rows := make([]Dispatch, 0, len(ways))
	for addr, chain := range ways {
		rows = append(rows, Dispatch{addr, chain})
	}
	kept := map[string]bool{}
	for _, lines := range foreignLines(s, networks) {
		for _, r := range lines {
			for _, node := range s.subtree(r.jump) {
				kept[node] = true
			}
		}
	}
	for _, n := range networks {
		if !n.Filtered() {
			continue
		}
		for _, c := range Tree(n.Pool.Subnet, rows) {
			kept[c.Name] = true
			rules, foreign, err := s.node(c.Name)
			if err != nil {
				return err
			}
			if !s.has(c.Name) || foreign || !slices.Equal(c.specs(), nodeSpecs(rules)) {
				put(b, s, c.Name, c.specs())
			}
		}
	}
	for _, chain := range sortedKeys(s.chains) {
		node, ok := parseTreeName(chain)
		if ok && !kept[chain] && slices.ContainsFunc(networks, func(n ipam.Network) bool { return n.Pool.Subnet.Overlaps(node) }) {
			b.remove(chain)
		}
	}
	return nil
}

// subtree returns root and the nodes below it, if root is a node that was read.
func (s *seen) subtree(root string) []string {
	if !strings.HasPrefix(root, treePrefix) || !s.has(root) {
		return nil
	}
	nodes := []string{root}
	for i := 0; i < len(nodes); i++ {
		for _, r := range s.chains[nodes[i]] {
			if strings.HasPrefix(r.jump, treePrefix) && !slices.Contains(nodes, r.jump) {
				nodes = append(nodes, r.jump)
			}
		}
	}
	return nodes
}

// collect returns which addresses have a chain: the kernel's truth. What packets
// can reach counts before what is left of an earlier tree.
func collect(s *seen) (map[netip.Addr]string, error) {
	var nodes []string
	for _, chain := range []string{chainForward, chainOutput} {
		for _, r := range s.chains[chain] {
			nodes = append(nodes, s.subtree(r.jump)...)
		}
	}
	for _, chain := range sortedKeys(s.chains) {
		if strings.HasPrefix(chain, treePrefix) {
			nodes = append(nodes, chain)
		}
	}
	ways := map[netip.Addr]string{}
	for _, node := range nodes {
		rules, _, err := s.node(node)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if !r.dst.IsSingleIP() || !strings.HasPrefix(r.jump, workloadPrefix) {
				continue
			}
			if _, known := ways[r.dst.Addr()]; !known {
				ways[r.dst.Addr()] = r.jump
			}
		}
	}
	return ways, nil
}

// unneeded says whether no network needs the shared chains, whoever knows it.
func unneeded(s *seen, networks []ipam.Network) bool {
	return len(linesOfAll(networks)) == 0 && len(foreignLines(s, networks)) == 0
}

// dismantle takes out all that is ours. The operator's chain stays if it has
// rules, and with it the fallback chains that these may use.
func dismantle(b *batch, s *seen) {
	for _, builtin := range builtins {
		if count, _ := s.jumps(builtin.chain, builtin.jump); count > 0 {
			b.unjump(builtin.chain, builtin.jump, count)
		}
	}
	operated := len(s.chains[chainProviderUser]) > 0
	for _, chain := range sortedKeys(s.chains) {
		switch {
		case !strings.HasPrefix(chain, ourPrefix):
		case chain == chainProviderUser:
			if !operated {
				b.removeEmpty(chain)
			}
		case operated && (chain == chainDrop || chain == chainReject):
		case isOurs(chain):
			b.remove(chain)
		}
	}
}

// isOurs says whether a chain is of a name that this package gives.
func isOurs(chain string) bool {
	if _, node := parseTreeName(chain); node {
		return true
	}
	if strings.HasPrefix(chain, workloadPrefix) {
		return true
	}
	return slices.ContainsFunc(Base(nil), func(c Chain) bool { return c.Name == chain })
}
