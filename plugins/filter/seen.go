package filter

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// depth says how much of the tables has been read.
type depth int

const (
	some  depth = iota // the chains asked for
	whole              // all of ours
	text               // all of ours, with the text of each rule
)

// errReadMore is a planner's way to say that what was read does not suffice.
var errReadMore = errors.New("more of the tables must be read")

// seen is what the kernel holds of ours, and the built-in chains.
type seen struct {
	depth  depth
	chains map[string][]seenRule // key present = chain exists
}

func (s *seen) has(chain string) bool {
	_, ok := s.chains[chain]
	return ok
}

// seenRule is what a reader understands of a rule: dispatch and comments, no more.
type seenRule struct {
	dst     netip.Prefix // destination; invalid = none
	jump    string       // the chain jumped to, "" for a verdict or goto
	comment string
	plain   bool   // a jump, and nothing but dst beside it
	spec    string // at depth text: the rule behind "-A CHAIN "
	handle  uint64 // nf_tables' own name for it, never used again in its table; 0 = not known
}

// isKnown says whether readers tell a jump to chain from other rules.
func isKnown(chain string) bool {
	return strings.HasPrefix(chain, ourPrefix) || chain == firewallChain
}

// to notes the rule's destination; false = it has one already, or this is none.
func (r *seenRule) to(dst netip.Prefix) bool {
	if r.dst.IsValid() || !dst.Addr().Is4() || dst != dst.Masked() {
		return false
	}
	r.dst = dst
	return true
}

// nodeSpec is the rule as Tree plans it, if it is one of a node.
func (r seenRule) nodeSpec() string { return nodeRule(r.dst, r.jump).spec() }

// jumps counts the built-in chain's unconditional jumps to target, and says
// whether the first rule is one.
func (s *seen) jumps(builtin, target string) (count int, first bool) {
	for i, r := range s.chains[builtin] {
		if r.plain && !r.dst.IsValid() && r.comment == "" && r.jump == target {
			count++
			first = first || i == 0
		}
	}
	return count, first
}

// onlyBehind says that the built-in chain jumps to target as soon as it has jumped to
// other, whatever that rule's comment.
func (s *seen) onlyBehind(builtin, target, other string) bool {
	rules := s.chains[builtin]
	return len(rules) > 1 && rules[0].plain && !rules[0].dst.IsValid() && rules[0].jump == other &&
		rules[1].plain && !rules[1].dst.IsValid() && rules[1].comment == "" && rules[1].jump == target
}

// node returns the rules of a tree node that are dispatch rules; foreign says that
// it holds something else, too, and must be written anew. Other rules are nobody's,
// but only at depth text: before that they may be something that the reader does
// not know.
func (s *seen) node(chain string) (rules []seenRule, foreign bool, err error) {
	for _, r := range s.chains[chain] {
		if r.plain && r.dst.IsValid() && strings.HasPrefix(r.jump, ourPrefix) {
			rules = append(rules, r)
			foreign = foreign || r.comment != "" // kept, without it
			continue
		}
		if s.depth < text {
			return nil, true, errReadMore
		}
		foreign = true
	}
	return rules, foreign, nil
}

// marker returns what the first rule of a workload's chain says about itself.
func (s *seen) marker(chain string) (marker, bool) {
	rules := s.chains[chain]
	if len(rules) == 0 {
		return marker{}, false
	}
	return parseMarker(rules[0].comment)
}

func sortNode(rules []seenRule) []seenRule {
	slices.SortFunc(rules, func(a, b seenRule) int {
		return comparePrefixes(a.dst, b.dst)
	})
	return rules
}

func sameNode(a, b []seenRule) bool {
	return slices.EqualFunc(a, b, func(a, b seenRule) bool { return a.dst == b.dst && a.jump == b.jump })
}

func nodeSpecs(rules []seenRule) []string {
	specs := make([]string, len(rules))
	for i, r := range rules {
		specs[i] = r.nodeSpec()
	}
	return specs
}
