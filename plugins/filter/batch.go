package filter

import (
	"fmt"
	"slices"
	"strings"
)

// batch is one iptables-restore transaction over our chains and our jumps. All
// chains that it writes or removes are declared first: that makes missing ones,
// empties the others, and so releases every reference between them, in whatever
// order they are deleted at the end.
type batch struct {
	declared []string
	created  []string
	rules    []string
	jumps    []string
	deleted  []string
	seen     map[string]bool // of declared
	changes  []string        // what it does, a line a chain, for people
}

func newBatch() *batch { return &batch{seen: map[string]bool{}} }

func (b *batch) empty() bool {
	return len(b.declared)+len(b.created)+len(b.rules)+len(b.jumps)+len(b.deleted) == 0
}

func (b *batch) declare(chain string) {
	if !b.seen[chain] {
		b.seen[chain] = true
		b.declared = append(b.declared, chain)
	}
}

// create makes a chain that must not exist yet: if it does by then, the
// transaction fails, where declaring it would empty it.
func (b *batch) create(chain string, specs []string) {
	b.created = append(b.created, chain)
	b.add(chain, specs)
}

// write makes chain hold exactly specs.
func (b *batch) write(chain string, specs []string) {
	b.declare(chain)
	b.add(chain, specs)
}

func (b *batch) add(chain string, specs []string) {
	for _, spec := range specs {
		b.rules = append(b.rules, "-A "+chain+" "+spec)
	}
	b.changes = append(b.changes, chain+": written")
}

// putIn makes spec the rule number position (from 1) of a chain that exists.
func (b *batch) putIn(chain string, position int, spec string) {
	b.rules = append(b.rules, fmt.Sprintf("-I %s %d %s", chain, position, spec))
	b.changes = append(b.changes, chain+": rule added")
}

// takeOut deletes one rule of a chain that exists.
func (b *batch) takeOut(chain, spec string) {
	b.rules = append(b.rules, "-D "+chain+" "+spec)
	b.changes = append(b.changes, chain+": rule removed")
}

// remove deletes chain, whether it exists or not. Nothing outside the batch's own
// chains may jump to it.
func (b *batch) remove(chain string) {
	b.declare(chain)
	b.deleted = append(b.deleted, chain)
	b.changes = append(b.changes, chain+": removed")
}

// removeEmpty deletes chain; if it has rules by then, the transaction fails.
func (b *batch) removeEmpty(chain string) {
	b.deleted = append(b.deleted, chain)
	b.changes = append(b.changes, chain+": removed")
}

// jumpFirst makes the jump to target the first rule of a built-in chain, and the
// only such; present says how many are there now.
func (b *batch) jumpFirst(builtin, target string, present int) {
	b.unjump(builtin, target, present)
	b.jumps = append(b.jumps, "-I "+builtin+" 1 -j "+target)
	b.changes = append(b.changes, builtin+": jump to "+target+" put first")
}

func (b *batch) unjump(builtin, target string, present int) {
	b.jumps = append(b.jumps, slices.Repeat([]string{"-D " + builtin + " -j " + target}, present)...)
}

// String is the input of iptables-restore --noflush. Built-in chains are not
// declared in it: that would set their policy.
func (b *batch) String() string {
	var s strings.Builder
	s.WriteString("*filter\n")
	for _, chain := range b.declared {
		fmt.Fprintf(&s, ":%s - [0:0]\n", chain)
	}
	for _, chain := range b.created {
		s.WriteString("-N " + chain + "\n")
	}
	for _, lines := range [][]string{b.rules, b.jumps} {
		for _, line := range lines {
			s.WriteString(line + "\n")
		}
	}
	for _, chain := range b.deleted {
		s.WriteString("-X " + chain + "\n")
	}
	s.WriteString("COMMIT\n")
	return s.String()
}
