package guard

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Plan is the whole table as it should be: the constant base and the elements of
// its sets, sorted and without duplicates.
type Plan struct {
	elements []element
}

// NewPlan returns the table that lets these ports of these segments pass. It refuses
// names, MACs and addresses that no workload port or uplink can have, and either
// given twice.
func NewPlan(segments []Segment, ports []Port) (Plan, error) {
	var errs []error
	var es []element
	seen := map[string]bool{}
	for _, s := range segments {
		errs = append(errs, s.validate())
		es = append(es, s.elements()...)
		if name := s.Uplink.Name; name != "" {
			if seen[name] {
				errs = append(errs, fmt.Errorf("uplink %s is given twice", name))
			}
			seen[name] = true
		}
	}
	for _, p := range ports {
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("port %s is given twice", p.Name))
		}
		seen[p.Name] = true
		errs = append(errs, p.validate())
		es = append(es, p.elements()...)
	}
	if err := errors.Join(errs...); err != nil {
		return Plan{}, fmt.Errorf("planning the guard: %w", err)
	}
	slices.SortFunc(es, compareElements)
	return Plan{slices.Compact(es)}, nil
}

func compareElements(a, b element) int {
	return cmp.Or(strings.Compare(string(a.set), string(b.set)), strings.Compare(a.key, b.key),
		strings.Compare(a.comment, b.comment), cmp.Compare(a.rate, b.rate))
}

// String is the table as `nft list table bridge flatdhcp` prints it, but for the
// counters' values, which are 0, and with one element a line, sorted.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table bridge %s {\n", tableName)
	for _, c := range counters() {
		fmt.Fprintf(&b, "\tcounter %s {\n\t\tpackets 0 bytes 0\n\t}\n\n", c)
	}
	for _, s := range sets() {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.name, s.typeText())
		if s.name.limited() {
			fmt.Fprintf(&b, "\t\t%s\n", rateText(unsetRate))
		}
		var members []string
		for _, e := range p.elements {
			if e.set == s.name {
				members = append(members, s.text(e))
			}
		}
		if len(members) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(members, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range chains() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "\t\ttype filter hook %s priority %s; policy accept;\n", c.hook.name, c.hook.priorityText)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// text is the element as nft prints it.
func (s set) text(e element) string {
	t := s.keyText(e.key)
	if s.name.limited() {
		t += " " + rateText(e.rate)
	}
	if e.comment != "" {
		t += ` comment "` + e.comment + `"`
	}
	return t
}

// difference returns what must leave and enter the kernel's elements so that they
// are those of the plan. A member whose comment differs does both.
func difference(have, want []element) (remove, add []element) {
	in := func(es []element) map[element]bool {
		m := make(map[element]bool, len(es))
		for _, e := range es {
			m[e] = true
		}
		return m
	}
	h, w := in(have), in(want)
	for e := range h {
		if !w[e] {
			remove = append(remove, e)
		}
	}
	for e := range w {
		if !h[e] {
			add = append(add, e)
		}
	}
	slices.SortFunc(remove, compareElements)
	slices.SortFunc(add, compareElements)
	return remove, add
}
