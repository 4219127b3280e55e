package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Counter is one of the table's named counters: how many frames were dropped for
// one reason, and their bytes without Ethernet headers.
type Counter struct {
	Name    string
	Packets uint64
	Bytes   uint64
}

// Attach lets a port of a segment pass: it puts the port's elements in, replacing older
// ones of the same port name, adds the segment's gateways to those known, makes its
// uplink's elements what they should be, and installs the base if it is missing,
// damaged or of another version, keeping all other elements. All in one transaction;
// idempotent; its cost does not grow with the number of ports.
//
// Call it before the port is up. Any number of processes may call it at once.
func Attach(ctx context.Context, segment Segment, p Port) error {
	err := errors.Join(p.validate(), segment.validate())
	if err == nil {
		err = retry(ctx, func(c *conn) error { return c.attach(segment, &p) })
	}
	if err != nil {
		return fmt.Errorf("attaching port %s to the guard: %w", p.Name, err)
	}
	return nil
}

// AttachUplink is Attach for a segment without a port: it puts in what its uplink may
// carry.
//
// Call it before the uplink becomes a port of the bridge.
func AttachUplink(ctx context.Context, segment Segment) error {
	err := segment.validate()
	if err == nil {
		err = retry(ctx, func(c *conn) error { return c.attach(segment, nil) })
	}
	if err != nil {
		return fmt.Errorf("attaching uplink %s to the guard: %w", segment.Uplink.Name, err)
	}
	return nil
}

// attach attaches a segment, and p unless it is nil.
func (c *conn) attach(segment Segment, p *Port) error {
	return c.transact(func(b *batch) error {
		s, rules, err := c.base()
		if err != nil {
			return err
		}
		elements := segment.elements()
		own := func(e element) bool { return segment.Uplink.Name != "" && e.ofUplink(segment.Uplink.Name) }
		if p != nil {
			elements = append(elements, p.elements()...)
			own = func(e element) bool {
				return e.ofPort(p.Name) || segment.Uplink.Name != "" && e.ofUplink(segment.Uplink.Name)
			}
		}
		if s.defect != "" {
			others, err := c.rebuild(b, s, rules)
			if err != nil {
				return err
			}
			b.addElements(append(slices.DeleteFunc(others, own), elements...))
			return nil
		}
		old, err := c.ofUplink(segment.Uplink.Name)
		if err != nil {
			return err
		}
		if p != nil {
			ofPort, err := c.ofPort(p.Name)
			if err != nil {
				return err
			}
			old = append(old, ofPort...)
		}
		stale, missing := difference(old, elements)
		taken, err := c.othersOf(missing)
		if err != nil {
			return err
		}
		taken = slices.DeleteFunc(taken, func(e element) bool { return slices.Contains(stale, e) })
		b.deleteElements(append(stale, taken...))
		b.addElements(elements)
		return nil
	})
}

// DetachUplink removes what is known of the uplink of that name; what workloads have
// on it goes with them, and matches nothing without it. Idempotent.
//
// Call it when the uplink is no port of a bridge any more.
func DetachUplink(ctx context.Context, name string) error {
	err := (Uplink{Name: name}).validate()
	if err == nil {
		err = retry(ctx, func(c *conn) error {
			return c.transact(func(b *batch) error {
				old, err := c.ofUplink(name)
				b.deleteElements(old)
				return err
			})
		})
	}
	if err != nil {
		return fmt.Errorf("detaching uplink %s from the guard: %w", name, err)
	}
	return nil
}

// Detach removes every element of the port of that name, in one transaction; it
// passes nothing afterwards. Idempotent; the table stays.
//
// Call it when the link is gone.
func Detach(ctx context.Context, portName string) error {
	return DetachThen(ctx, []string{portName}, func() error { return nil })
}

// DetachThen is Detach for several ports and then, if they are detached, for next, whose
// error it returns as it is.
//
// Its connection is closed behind next: to close one waits until the kernel has freed what
// a transaction took out, some 10 ms, and frees then what others' transactions took out
// meanwhile. A next that changes nf_tables, as iptables does, waits for that itself: so
// for both once.
func DetachThen(ctx context.Context, portNames []string, next func() error) error {
	for _, name := range portNames {
		var kept *conn
		err := validatePortName(name)
		if err == nil {
			err = retry(ctx, func(c *conn) error {
				err := c.detach(name)
				if c.keep = err == nil; c.keep {
					kept = c
				}
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("detaching port %s from the guard: %w", name, err)
		}
		defer kept.close()
	}
	return next()
}

func (c *conn) detach(portName string) error {
	return c.transact(func(b *batch) error { return c.detachIn(b, portName) })
}

// detachIn adds to b what removes a port's elements.
func (c *conn) detachIn(b *batch, portName string) error {
	old, err := c.ofPort(portName)
	if err == nil && len(old) == 0 {
		// Nothing recorded, but what was put in by hand goes as well.
		old, err = c.scan(portName)
	}
	if err != nil {
		return err
	}
	// The same MAC or address may be another port's by now, whose ADD came before
	// this DEL.
	others, err := c.othersOf(old)
	b.deleteElements(slices.DeleteFunc(old, func(e element) bool {
		return slices.ContainsFunc(others, func(o element) bool { return o.set == e.set && o.key == e.key })
	}))
	return err
}

// Apply makes the whole table what NewPlan(segments, ports) says, in one
// transaction, and returns what had to change, a line each; none if nothing had to.
// The ports and uplinks named others are not the caller's to judge: they keep the
// elements that they have, and where there are any, so do gateways, which may be theirs.
func Apply(ctx context.Context, segments []Segment, ports []Port, others []string) (changed []string, err error) {
	plan, err := NewPlan(segments, ports)
	if err != nil {
		return nil, err
	}
	err = retry(ctx, func(c *conn) error {
		changed, err = c.apply(plan, others)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("applying the guard of %d ports: %w", len(ports), err)
	}
	return changed, nil
}

func (c *conn) apply(plan Plan, others []string) (changed []string, err error) {
	err = c.transact(func(b *batch) error {
		s, rules, err := c.base()
		if err != nil {
			return err
		}
		changed = nil
		var have []element
		if s.defect == "" {
			have, err = c.scan("")
		} else {
			changed = append(changed, "base rules installed: "+s.defect)
			have, err = c.rebuild(b, s, rules)
		}
		if err != nil {
			return err
		}
		stale, missing := difference(have, plan.elements)
		kept := func(e element) bool {
			return len(others) > 0 && e.set == setGateways || slices.ContainsFunc(others, e.ofPort) || slices.ContainsFunc(others, e.ofUplink)
		}
		var spared []element
		for _, e := range stale {
			if kept(e) {
				spared = append(spared, e)
			}
		}
		stale = slices.DeleteFunc(stale, kept)
		if s.defect == "" {
			b.deleteElements(stale)
			b.addElements(missing)
		} else {
			b.addElements(append(spared, plan.elements...))
		}
		changed = append(changed, changes("delete", stale)...)
		changed = append(changed, changes("add", missing)...)
		return nil
	})
	return changed, err
}

// rebuild makes the table anew, still without elements, and returns those that the
// ports had: what the sets had, and for sets that were missing or unusable, what
// the ports' records say.
func (c *conn) rebuild(b *batch, s baseState, rules []encodedRule) ([]element, error) {
	values, err := c.counters()
	if err != nil {
		return nil, err
	}
	b.rebuild(s, rules, values)
	es, err := c.scan("")
	for _, e := range es {
		if p, ok := e.port(); ok {
			es = append(es, p.elements()...)
		}
		if u, ok := e.uplink(); ok {
			es = append(es, u.elements()...)
		}
	}
	slices.SortFunc(es, compareElements)
	return slices.Compact(es), err
}

// changes says in nft's words what is done with elements.
func changes(verb string, es []element) []string {
	var lines []string
	for _, s := range sets() {
		for _, e := range es {
			if e.set == s.name {
				lines = append(lines, fmt.Sprintf("%s element bridge %s %s { %s }", verb, tableName, s.name, s.text(e)))
			}
		}
	}
	return lines
}

// Remove deletes the table: workload ports are unguarded afterwards. Idempotent.
func Remove(ctx context.Context) error {
	err := retry(ctx, func(c *conn) error {
		return c.transact(func(b *batch) error {
			there, _, err := c.table()
			if there {
				b.deleteTable()
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("removing the guard: %w", err)
	}
	return nil
}

// Counters returns the named counters, sorted by name; none if there is no table.
func Counters(ctx context.Context) ([]Counter, error) {
	var cs []Counter
	err := retry(ctx, func(c *conn) (err error) {
		cs, err = c.counters()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the guard's counters: %w", err)
	}
	slices.SortFunc(cs, func(a, b Counter) int { return strings.Compare(a.Name, b.Name) })
	return cs, nil
}

// transact makes the changes that plan collects take place as one transaction. If
// plan has read whole sets, it does on the very ruleset that was read, or not at all
// (errChanged). A change of one port's elements alone is right on any ruleset, so
// that others' changes, however frequent, do not hold it up.
func (c *conn) transact(plan func(*batch) error) error {
	generation, err := c.generation()
	if err != nil {
		return err
	}
	var b batch
	if err := plan(&b); err != nil {
		return err
	}
	if !c.tied {
		return c.commit(&b, anyGeneration)
	}
	if len(b.messages) > 0 {
		return c.commit(&b, generation)
	}
	now, err := c.generation()
	if err == nil && now != generation {
		return errChanged
	}
	return err
}

// ofPort returns the elements of the port of that name, at a cost that does not
// grow with the number of ports; c.exact does not trust records.
func (c *conn) ofPort(name string) ([]element, error) {
	if c.exact {
		return c.scan(name)
	}
	members, err := c.element(setPorts.element(nameBytes(name)))
	if err != nil || len(members) == 0 {
		return nil, err
	}
	if p, ok := members[0].port(); ok {
		return p.elements(), nil
	}
	return c.scan(name)
}

// ofUplink is ofPort for an uplink's own elements; none for the name "".
func (c *conn) ofUplink(name string) ([]element, error) {
	if name == "" {
		return nil, nil
	}
	if !c.exact {
		members, err := c.element(setUplinks.element(nameBytes(name)))
		if err != nil {
			return nil, err
		}
		if len(members) > 0 {
			if u, ok := members[0].uplink(); ok {
				return u.elements(), nil
			}
		}
	}
	all, err := c.scan("")
	return slices.DeleteFunc(all, func(e element) bool { return !e.ofUplink(name) }), err
}

// othersOf returns what the kernel has in the place of elements that several ports may
// own one after the other: the same key with another comment.
// It ties the transaction to what was read if there is any: adding would leave it.
func (c *conn) othersOf(es []element) ([]element, error) {
	var found []element
	for _, e := range es {
		if !e.isUplinks() {
			continue
		}
		members, err := c.element(e)
		if err != nil {
			return nil, err
		}
		if len(members) > 0 && members[0] != e {
			c.tied = true
			found = append(found, members[0])
		}
	}
	return found, nil
}

// scan returns the elements of the port of that name, or all of the table's if it
// is empty, by reading whole sets. It ties the transaction to what was read.
func (c *conn) scan(portName string) ([]element, error) {
	c.tied = true
	var es []element
	for _, s := range sets() {
		members, err := c.elements(s)
		if err != nil {
			return nil, err
		}
		for _, e := range members {
			if portName == "" || e.ofPort(portName) {
				es = append(es, e)
			}
		}
	}
	return es, nil
}
