package filter

import (
	"fmt"
	"slices"
	"strings"
)

// batch is one run of iptables-restore over our chains and our jumps, with a
// transaction for each table that it changes.
type batch struct {
	sections map[string]*section // by table
	seen     map[string]bool     // chains declared
	changes  []string            // what it does, a line a chain, for people
	taken    []takenRule         // the rules that takeOut deletes
	more     bool                // it does more than take rules and chains out
}

// section is what a batch does to one table. All chains that it writes or removes are
// declared first: that makes missing ones, empties the others, and so releases every
// reference between them, in whatever order they are deleted at the end.
type section struct {
	declared, created, rules, jumps, deleted []string
}

func (s *section) empty() bool {
	return len(s.declared)+len(s.created)+len(s.rules)+len(s.jumps)+len(s.deleted) == 0
}

func newBatch() *batch {
	b := &batch{sections: map[string]*section{}, seen: map[string]bool{}}
	for _, table := range tables {
		b.sections[table] = &section{}
	}
	return b
}

func (b *batch) empty() bool {
	for _, s := range b.sections {
		if !s.empty() {
			return false
		}
	}
	return true
}

// of is the part of the batch that chain belongs to.
func (b *batch) of(chain string) *section { return b.sections[tableOf(chain)] }

func (b *batch) declare(chain string) {
	if !b.seen[chain] {
		b.seen[chain] = true
		s := b.of(chain)
		s.declared = append(s.declared, chain)
	}
}

// create makes a chain that must not exist yet: if it does by then, the
// transaction fails, where declaring it would empty it.
func (b *batch) create(chain string, specs []string) {
	b.more = true
	s := b.of(chain)
	s.created = append(s.created, chain)
	b.add(chain, specs)
}

// write makes chain hold exactly specs.
func (b *batch) write(chain string, specs []string) {
	b.declare(chain)
	b.add(chain, specs)
}

func (b *batch) add(chain string, specs []string) {
	b.more = true
	s := b.of(chain)
	for _, spec := range specs {
		s.rules = append(s.rules, "-A "+chain+" "+spec)
	}
	b.changes = append(b.changes, chain+": written")
}

// putIn makes spec the rule number position (from 1) of a chain that exists.
func (b *batch) putIn(chain string, position int, spec string) {
	b.more = true
	s := b.of(chain)
	s.rules = append(s.rules, fmt.Sprintf("-I %s %d %s", chain, position, spec))
	b.changes = append(b.changes, chain+": rule added")
}

// takeOut deletes one rule of a node that exists.
func (b *batch) takeOut(chain string, r seenRule) {
	s := b.of(chain)
	s.rules = append(s.rules, "-D "+chain+" "+r.nodeSpec())
	b.taken = append(b.taken, takenRule{chain, r.handle})
	b.changes = append(b.changes, chain+": rule removed")
}

// remove deletes chain, whether it exists or not. Nothing outside the batch's own
// chains may jump to it.
func (b *batch) remove(chain string) {
	b.declare(chain)
	b.delete(chain)
	b.changes = append(b.changes, chain+": removed")
}

// removeEmpty deletes chain; if it has rules by then, the transaction fails.
func (b *batch) removeEmpty(chain string) {
	b.delete(chain)
	b.changes = append(b.changes, chain+": removed")
}

func (b *batch) delete(chain string) {
	s := b.of(chain)
	s.deleted = append(s.deleted, chain)
}

// jumpFirst makes the jump to target the first rule of a built-in chain, and the
// only such; present says how many are there now.
func (b *batch) jumpFirst(builtin, target string, present int) {
	b.unjump(builtin, target, present)
	s := b.of(builtin)
	s.jumps = append(s.jumps, "-I "+builtin+" 1 -j "+target)
	b.changes = append(b.changes, builtin+": jump to "+target+" put first")
}

func (b *batch) unjump(builtin, target string, present int) {
	b.more = true
	s := b.of(builtin)
	s.jumps = append(s.jumps, slices.Repeat([]string{"-D " + builtin + " -j " + target}, present)...)
}

// String is the input of iptables-restore --noflush. Built-in chains are not
// declared in it: that would set their policy.
func (b *batch) String() string {
	var text strings.Builder
	for _, table := range tables {
		if s := b.sections[table]; !s.empty() {
			text.WriteString("*" + table + "\n" + s.String() + "COMMIT\n")
		}
	}
	return text.String()
}

func (s *section) String() string {
	var text strings.Builder
	for _, chain := range s.declared {
		fmt.Fprintf(&text, ":%s - [0:0]\n", chain)
	}
	for _, chain := range s.created {
		text.WriteString("-N " + chain + "\n")
	}
	for _, lines := range [][]string{s.rules, s.jumps} {
		for _, line := range lines {
			text.WriteString(line + "\n")
		}
	}
	for _, chain := range s.deleted {
		text.WriteString("-X " + chain + "\n")
	}
	return text.String()
}
