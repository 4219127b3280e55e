package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/flock"
	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// Networks reads the networks of this node as last configured. The applier calls
// it under the filter lock (lock order: filter, then store), so that what it
// plans is never older than what somebody else has just put in.
type Networks func(ctx context.Context) ([]ipam.Network, error)

// Rows reads the reservations of one network whose attachments are alive on this
// node (a port is there). It is called under the filter lock, for the reason
// given at Networks: with rows read before, Apply would take out the chain of an
// ADD that came between, or bring back the one of a DEL.
type Rows func(ctx context.Context) ([]ipam.Reservation, error)

// Options are the surroundings of a Table.
type Options struct {
	// Iptables are paths tried in order; nil = iptables in the directories where
	// distributions keep it, whatever PATH says. The programs beside it, named with
	// -save and -restore, are used. So are, when another back end than before is in use,
	// those beside it that are called iptables-nft or iptables-legacy.
	Iptables []string
	// RecordPath is a file that says which back end has our rules, on a file system that
	// a boot clears. Empty = there is no record, and a change of back end goes unnoticed.
	RecordPath string
	// LockPath is the node's filter lock. Empty = whoever calls holds it.
	LockPath string
	// Exec runs programs; nil = program.Run.
	Exec Exec
}

// Table puts plans into the kernel's tables filter and nat (IPv4) of the network
// namespace it is used in. It keeps no state of the kernel's: each call reads what it needs
// under the filter lock. Safe for concurrent use, also by several processes.
//
// Every change is one run of iptables-restore, with a transaction for each table: each
// is in as a whole or not at all. nat comes first; that it went in and filter did not is
// the only change that an error may leave, and concerns no workload's chain.
//
// The programs are looked for when they are needed: where nothing of ours has to be put
// in or taken out none need be there. Then the error wraps ErrNoProgram.
type Table struct {
	candidates []string
	lockPath   string
	record     program.Record
	exec       Exec
	// besides is exec that calls beside while the program runs.
	besides func(ctx context.Context, path string, args []string, stdin []byte, beside func()) ([]byte, error)
	// readKernel reads chains (nil = all) of the nft back end, readLegacy all of the other,
	// both without a program.
	readKernel func(ctx context.Context, chains []string, later *closers) (*seen, error)
	readLegacy func(ctx context.Context) (*seen, error)
	runs       atomic.Int64
}

// New returns a Table. It looks at nothing yet.
func New(o Options) *Table {
	t := &Table{
		candidates: o.Iptables, lockPath: o.LockPath, record: program.Record(o.RecordPath), exec: o.Exec,
		readKernel: readNFT, readLegacy: readLegacy,
	}
	t.besides = func(ctx context.Context, path string, args []string, stdin []byte, beside func()) ([]byte, error) {
		beside()
		return t.exec(ctx, path, args, stdin)
	}
	if t.exec == nil {
		t.exec, t.besides = program.Run, program.Beside
	}
	return t
}

// Runs returns the number of programs executed so far.
func (t *Table) Runs() int { return int(t.runs.Load()) }

// Attached is a row and the network it is of.
type Attached struct {
	Network ipam.Network
	Row     ipam.Reservation
}

// Attach puts the rules of one workload in: shared chains if they are missing or
// out of date, the path through the tree, the workload's chain. On an unfiltered
// network these are the shared chains alone, or nothing. It uses n as
// networks returns it; n itself if networks does not know it. An error means that
// the rules are not in.
func (t *Table) Attach(ctx context.Context, networks Networks, n ipam.Network, r ipam.Reservation) error {
	return t.AttachAll(ctx, networks, []Attached{{n, r}})
}

// AttachAll is Attach for several workloads, in one transaction.
func (t *Table) AttachAll(ctx context.Context, networks Networks, rows []Attached) error {
	return t.AttachBeside(ctx, networks, rows, func() {})
}

// AttachBeside is AttachAll that calls beside while iptables-restore runs, which is half of
// its time: never if it comes to no program, and again with each try. What beside
// changes of nf_tables is no obstacle.
func (t *Table) AttachBeside(ctx context.Context, networks Networks, rows []Attached, beside func()) error {
	return t.each(ctx, rows, "putting in the rules of", func() error {
		names, rows := baseNames(), slices.Clone(rows)
		known, err := networks(ctx)
		if err != nil {
			return err
		}
		for i := range rows {
			a := &rows[i]
			so := func(context.Context) ([]ipam.Network, error) { return known, nil }
			if known, a.Network, err = current(ctx, so, a.Network); err != nil {
				return err
			}
		}
		rows = allAllowed(rows)
		for _, a := range rows {
			if err := checkRow(a.Network, a.Row); err != nil {
				return err
			}
			names = append(names, pathNames(a.Network, a.Row)...)
		}
		rows = slices.DeleteFunc(rows, func(a Attached) bool { return !hasLines(a.Network) })
		if len(rows) == 0 {
			return nil
		}
		p, err := t.place(ctx, true)
		if err != nil {
			return err
		}
		if p.missing != nil && !slices.ContainsFunc(rows, needsProgram) {
			return nil
		}
		_, err = t.changeBy(ctx, t.runBeside(beside), p, names, func(s *seen) (*batch, error) { return planAttach(s, known, rows) })
		return err
	})
}

// Detach takes out what Attach put in for r's holder: the jump, tree nodes that
// are then empty, the chain. It touches no other chain's jumps, not even one for
// the same address. Nothing to take out is no error and runs no program.
func (t *Table) Detach(ctx context.Context, n ipam.Network, r ipam.Reservation) error {
	return t.DetachAll(ctx, []Attached{{n, r}})
}

// DetachAll is Detach for several workloads, in one transaction.
func (t *Table) DetachAll(ctx context.Context, rows []Attached) error {
	return t.each(ctx, rows, "taking out the rules of", func() error {
		var names []string
		for _, a := range rows {
			names = append(names, pathNames(a.Network, a.Row)...)
		}
		p, err := t.place(ctx, false)
		if err == nil {
			_, err = t.change(ctx, p, names, func(s *seen) (*batch, error) { return planDetach(s, rows) })
		}
		return err
	})
}

// each runs f, for rows that must all be held, under the filter lock.
func (t *Table) each(ctx context.Context, rows []Attached, doing string, f func() error) error {
	if len(rows) == 0 {
		return nil
	}
	what := fmt.Sprintf("%s %s on network %s", doing, rows[0].Row.Addr, rows[0].Network.Name)
	if len(rows) > 1 {
		what += fmt.Sprintf(" and %d others", len(rows)-1)
	}
	for _, a := range rows {
		if a.Row.Holder == nil {
			return fmt.Errorf("%s %s: nobody holds it", doing, a.Row.Addr)
		}
	}
	return t.locked(ctx, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// Apply makes the rules of one network what networks and rows say, and returns a
// line for each chain it changed (none = all was right). A chain of the network
// that belongs to none of rows is taken out, and so is whatever is ours in the back end
// that is not in use.
func (t *Table) Apply(ctx context.Context, networks Networks, network string, rows Rows) (changed []string, err error) {
	err = t.locked(ctx, func() error {
		changed, err = t.apply(ctx, networks, network, rows)
		if err != nil {
			return fmt.Errorf("applying the rules of network %s: %w", network, err)
		}
		return nil
	})
	return changed, err
}

func (t *Table) apply(ctx context.Context, networks Networks, network string, rows Rows) ([]string, error) {
	known, n, err := current(ctx, networks, ipam.Network{Name: network})
	if err != nil {
		return nil, err
	}
	alive, err := rows(ctx)
	if err != nil {
		return nil, err
	}
	if alive = withAllowed(n, ruled(alive)); !n.Filtered() {
		alive = nil
	}
	for _, r := range alive {
		if err := checkRow(n, r); err != nil {
			return nil, err
		}
	}
	p, err := t.place(ctx, true)
	if err != nil {
		return nil, err
	}
	if p.missing != nil && !needsProgram(Attached{Network: n}) {
		known = slices.DeleteFunc(slices.Clone(known), func(o ipam.Network) bool { return !needsProgram(Attached{Network: o}) })
	}
	b, err := t.change(ctx, p, nil, func(s *seen) (*batch, error) { return planApply(s, known, n, alive) })
	if err != nil {
		return nil, err
	}
	other, there, err := t.stray(ctx, p)
	if err != nil || !there {
		return b.changes, err
	}
	cleared, err := t.clear(ctx, other)
	return append(b.changes, cleared...), err
}

// Remove takes out n's lines of the shared chains, its tree and what is left of
// its workload chains, whether or not networks still has it; with the last
// network, the shared chains as well, but for FLAT-PROVIDER-USER if it has rules.
// That nothing lives on n any more is the caller's business.
func (t *Table) Remove(ctx context.Context, networks Networks, n ipam.Network) error {
	return t.locked(ctx, func() error {
		others, err := networks(ctx)
		if err == nil {
			others = slices.DeleteFunc(slices.Clone(others), func(o ipam.Network) bool { return o.Name == n.Name })
			err = checkNetworks(others)
		}
		var p place
		if err == nil {
			p, err = t.place(ctx, true)
		}
		if err == nil {
			_, err = t.change(ctx, p, nil, func(s *seen) (*batch, error) { return planRemove(s, others, n) })
		}
		if err != nil {
			return fmt.Errorf("taking out the rules of network %s: %w", n.Name, err)
		}
		return nil
	})
}

// locked runs f under the filter lock.
func (t *Table) locked(ctx context.Context, f func() error) error {
	if t.lockPath == "" {
		return f()
	}
	lock, err := flock.Exclusive(ctx, t.lockPath, 0o600)
	if err != nil {
		return fmt.Errorf("waiting for the filter lock: %w", err)
	}
	return errors.Join(f(), lock.Unlock())
}
