package filter

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The dispatch tree: from a subnet down to its populated /28s, four bits a level,
// on prefix lengths that are multiples of four. A node has at most sixteen rules,
// so a packet meets at most 16 rules a level (96 in a /8), however many workloads
// there are. Its rules carry no comments: every packet passes here.
const (
	treeStep = 4
	treeLeaf = 28
)

// Dispatch says which chain judges what is sent to an address.
type Dispatch struct {
	Addr  netip.Addr
	Chain string
}

// Tree plans the dispatch tree of a subnet: each node before its children, both in
// the order of addresses. The root is there even if no row is; of several rows for
// one address the last counts, rows outside the subnet do not.
func Tree(subnet netip.Prefix, rows []Dispatch) []Chain {
	children := map[netip.Prefix]map[netip.Prefix]string{subnet: {}}
	for _, row := range rows {
		if !subnet.Contains(row.Addr) {
			continue
		}
		path := treePath(subnet, row.Addr)
		for i, node := range path {
			if children[node] == nil {
				children[node] = map[netip.Prefix]string{}
			}
			if i+1 < len(path) {
				children[node][path[i+1]] = treeName(path[i+1])
			} else {
				children[node][hostPrefix(row.Addr)] = row.Chain
			}
		}
	}
	nodes := make([]netip.Prefix, 0, len(children))
	for node := range children {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, comparePrefixes)
	chains := make([]Chain, 0, len(nodes))
	for _, node := range nodes {
		chains = append(chains, Chain{Name: treeName(node), Rules: nodeRules(children[node])})
	}
	return chains
}

func nodeRules(children map[netip.Prefix]string) []Rule {
	prefixes := make([]netip.Prefix, 0, len(children))
	for p := range children {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, comparePrefixes)
	rules := make([]Rule, 0, len(prefixes))
	for _, p := range prefixes {
		rules = append(rules, nodeRule(p, children[p]))
	}
	return rules
}

func nodeRule(to netip.Prefix, chain string) Rule {
	return Rule{Match: "-d " + to.String(), Target: chain}
}

// comparePrefixes orders by address, then the wider prefix first.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// treePath returns the nodes on the way to addr, from subnet to the leaf.
func treePath(subnet netip.Prefix, addr netip.Addr) []netip.Prefix {
	path := []netip.Prefix{subnet}
	for bits := subnet.Bits(); bits < treeLeaf; {
		bits = (bits/treeStep + 1) * treeStep
		path = append(path, netip.PrefixFrom(addr, bits).Masked())
	}
	return path
}

// treeName is the chain of a node: FLAT-T-0a000010-28 for 10.0.0.16/28.
func treeName(node netip.Prefix) string {
	return treePrefix + hex.EncodeToString(node.Addr().AsSlice()) + "-" + strconv.Itoa(node.Bits())
}

// parseTreeName is the inverse of treeName.
func parseTreeName(chain string) (netip.Prefix, bool) {
	digits, length, ok := strings.Cut(strings.TrimPrefix(chain, treePrefix), "-")
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != 4 {
		return netip.Prefix{}, false
	}
	bits, err := strconv.Atoi(length)
	node := netip.PrefixFrom(netip.AddrFrom4([4]byte(raw)), bits)
	if err != nil || !node.IsValid() || treeName(node) != chain {
		return netip.Prefix{}, false
	}
	return node, true
}
