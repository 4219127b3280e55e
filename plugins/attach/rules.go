package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// ruleChange is the rules of one attachment, to be put in or taken out.
type ruleChange struct {
	In      bool             `json:"in"`
	Network ipam.Network     `json:"network"` // as its verb knows it; the stored record counts
	Row     ipam.Reservation `json:"row"`
	// KeepGuard leaves the guard's elements: the port is another network's by now.
	KeepGuard bool `json:"keepGuard,omitempty"`

	file string // the ticket it came from; empty = none
}

func (c ruleChange) port() string {
	return link.PortName(c.Row.Holder.ContainerID, c.Row.Holder.IfName)
}

// changeRules carries c out under the filter lock.
//
// Every change costs a program, and when a node starts hundreds of containers at once
// they all wait for the lock. So who has to wait leaves a ticket, and who has the lock
// carries out all changes that wait, in one transaction: most then find theirs done.
// Putting in happens while the attachment's port is down or missing, taking out while
// it is down or gone, so that it matters to nobody which process does it, or when.
func (n *Node) changeRules(ctx context.Context, c ruleChange) error {
	lock, free, err := n.Run.TryLock(n.Run.FilterLock())
	if err != nil {
		return fmt.Errorf("taking the filter lock: %w", err)
	}
	if !free {
		if c.file, err = n.leaveTicket(c); err != nil {
			return err
		}
		if lock, err = n.Run.Lock(ctx, n.Run.FilterLock()); err != nil {
			return errors.Join(fmt.Errorf("waiting for the filter lock: %w", err), removeTickets([]ruleChange{c}))
		}
		if _, err := os.Stat(c.file); errors.Is(err, os.ErrNotExist) {
			return lock.Unlock() // somebody has done it
		}
	}
	return errors.Join(n.carryOut(ctx, c), lock.Unlock())
}

// carryOut does own, and what else waits if it can be done along with it.
func (n *Node) carryOut(ctx context.Context, own ruleChange) error {
	// One whose store cannot be read keeps its rules as they are; it stops nobody else.
	networks, err := n.Data.Networks(ctx)
	if _, known := recordOf(networks, own.Network.Name); err != nil && own.In && !known {
		return errors.Join(err, removeTickets([]ruleChange{own}))
	}
	waiting := n.tickets(own, networks)
	if len(waiting) > 0 {
		all := append([]ruleChange{own}, waiting...)
		if n.force(ctx, networks, all) == nil {
			return removeTickets(all)
		}
		// One of them cannot be done, and its own verb is to hear of it.
	}
	return errors.Join(n.force(ctx, networks, []ruleChange{own}), removeTickets([]ruleChange{own}))
}

// force makes the kernel's rules what changes say. The policy is that of networks, read
// under the lock: `flatctl apply` may have changed it since a row was committed.
func (n *Node) force(ctx context.Context, networks []ipam.Network, changes []ruleChange) error {
	var in, out []filter.Attached
	var guarded []ruleChange
	var gone []string
	for _, c := range changes {
		if record, ok := recordOf(networks, c.Network.Name); ok {
			c.Network = record
		}
		if !c.In {
			if !c.KeepGuard {
				gone = append(gone, c.port())
			}
			if c.Network.Bridge != nil {
				out = append(out, filter.Attached{Network: c.Network, Row: c.Row})
			}
			continue
		}
		in = append(in, filter.Attached{Network: c.Network, Row: c.Row})
		guarded = append(guarded, c)
	}
	if n.takeOut(ctx, gone, out) {
		gone, out = nil, nil
	}
	// The ports are down: it does not matter which of the two is in first.
	attach := sync.OnceValue(func() error { return attachToGuard(ctx, guarded) })
	return guard.DetachThen(ctx, gone, func() error {
		err := n.Filter.AttachBeside(ctx, given(networks), in, func() { _ = attach() })
		if err == nil {
			err = attach()
		}
		if err != nil {
			return err
		}
		return n.Filter.DetachAll(ctx, out)
	})
}

func attachToGuard(ctx context.Context, changes []ruleChange) error {
	for _, c := range changes {
		segment, err := Segment(ctx, c.Network)
		if err == nil {
			err = guard.Attach(ctx, segment, guard.PortFor(c.Network, c.Row, c.port()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeOut removes ports from the guard and rows' chains in one transaction, where it can
// be done without a program. false = nothing has changed.
func (n *Node) takeOut(ctx context.Context, ports []string, rows []filter.Attached) bool {
	removal, ok := n.Filter.Removal(ctx, rows)
	if !ok {
		return false
	}
	err := guard.DetachWith(ctx, ports, removal)
	if err != nil {
		n.Log.Debug("taking out rules without iptables was refused: they go with it", "error", err)
	}
	return err == nil
}

// recordOf returns the stored record of a network with a bridge of ours.
func recordOf(networks []ipam.Network, name string) (ipam.Network, bool) {
	i := slices.IndexFunc(networks, func(o ipam.Network) bool { return o.Name == name && o.Bridge != nil })
	if i < 0 {
		return ipam.Network{}, false
	}
	return networks[i], true
}

// given is for a caller that has read the networks already.
func given(networks []ipam.Network) filter.Networks {
	return func(context.Context) ([]ipam.Network, error) { return networks, nil }
}

// A ticket is a file PORT.TIME.rules beside the attachments' locks: TIME, nanoseconds
// since boot, tells which of one attachment's is the last.
const ticketSuffix = ".rules"

func (n *Node) ticketDir() string { return filepath.Join(string(n.Run), "attach") }

func (n *Node) leaveTicket(c ruleChange) (string, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return "", fmt.Errorf("asking for the time since boot: %w", err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("writing a ticket for the filter lock: %w", err)
	}
	name := filepath.Join(n.ticketDir(), fmt.Sprintf("%s.%020d", c.port(), now.Nano()))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return "", fmt.Errorf("writing a ticket for the filter lock: %w", err)
	}
	if err := os.Rename(name, name+ticketSuffix); err != nil {
		return "", errors.Join(fmt.Errorf("writing a ticket for the filter lock: %w", err), os.Remove(name))
	}
	return name + ticketSuffix, nil
}

// tickets returns what waits beside own, and removes what a later ticket of the same
// attachment has overtaken: its verb was killed. What cannot be read or belongs to a
// network that is gone is left to its own verb.
func (n *Node) tickets(own ruleChange, networks []ipam.Network) []ruleChange {
	files, err := filepath.Glob(filepath.Join(n.ticketDir(), "*"+ticketSuffix)) // in order
	if err != nil {
		return nil
	}
	// A verb that was killed while it wrote its ticket left it without its last name.
	if half, err := filepath.Glob(filepath.Join(n.ticketDir(), own.port()+".*")); err == nil {
		for _, file := range half {
			if !strings.HasSuffix(file, ticketSuffix) {
				_ = os.Remove(file) // nobody reads it
			}
		}
	}
	last := map[string]ruleChange{}
	for _, file := range files {
		port, _, _ := strings.Cut(filepath.Base(file), ".")
		if old, overtaken := last[port]; overtaken {
			_ = os.Remove(old.file) // if it stays it is overtaken again
			delete(last, port)
		}
		if file == own.file {
			continue
		}
		if port == own.port() {
			_ = os.Remove(file) // a killed verb's: its attachment is held by own's now
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		c, ok := parseTicket(b)
		if !ok || c.port() != port {
			continue
		}
		if _, known := recordOf(networks, c.Network.Name); c.In && !known {
			continue
		}
		c.file = file
		last[port] = c
	}
	var waiting []ruleChange
	for _, c := range last {
		waiting = append(waiting, c)
	}
	slices.SortFunc(waiting, func(a, b ruleChange) int { return strings.Compare(a.file, b.file) })
	return waiting
}

func parseTicket(b []byte) (c ruleChange, ok bool) {
	err := json.Unmarshal(b, &c)
	return c, err == nil && c.Row.Holder != nil
}

func removeTickets(changes []ruleChange) error {
	var errs []error
	for _, c := range changes {
		if c.file == "" {
			continue
		}
		if err := os.Remove(c.file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a ticket for the filter lock: %w", err))
		}
	}
	return errors.Join(errs...)
}

// ticketAge is how old a ticket that cannot be read must be to be a killed verb's: it
// takes a verb milliseconds to write one.
const ticketAge = time.Minute

// sweepTickets removes the tickets that killed verbs left.
func (n *Node) sweepTickets() error {
	// The pattern is bad only if the run directory's name is one: then there are none.
	files, _ := filepath.Glob(filepath.Join(n.ticketDir(), link.PortPrefix+"*.*"))
	var errs []error
	for _, file := range files {
		dead, err := n.deadTicket(file)
		if dead {
			err = os.Remove(file)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a killed verb's ticket: %w", err))
		}
	}
	return errors.Join(errs...)
}

// deadTicket reports whether no verb is running for the attachment that left a ticket.
func (n *Node) deadTicket(file string) (bool, error) {
	info, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	c, ok := parseTicket(b)
	if !ok {
		return time.Since(info.ModTime()) > ticketAge, nil
	}
	lock, free, err := n.Run.Attachment(c.Row.Holder.ContainerID, c.Row.Holder.IfName).TryLock()
	if err != nil || !free {
		return false, err
	}
	return true, lock.Release()
}
