package filter

import (
	"context"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
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

// Options are the surroundings of a Table; only LockPath must be given.
type Options struct {
	// Iptables are paths tried in order; nil = iptables in the directories where
	// distributions keep it, whatever PATH says.
	Iptables []string
	// LockPath is the node's filter lock (rundir: filter.lock).
	LockPath string
	// Lock takes the lock at LockPath or fails when ctx ends; nil = flock.
	Lock func(ctx context.Context, path string) (unlock func() error, err error)
	// Exec runs a program; nil = os/exec with LC_ALL=C.
	Exec Exec
	// Clock tells the time in messages; nil = time.Now.
	Clock func() time.Time
}

// Exec runs path with args and stdin, and returns what it wrote to stdout. Its
// error carries stderr.
type Exec func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error)

// Table puts plans into the kernel's table filter (IPv4) of the network namespace
// it is used in. It keeps no state of the kernel's: each call reads what it needs
// under the filter lock. Safe for concurrent use, also by several processes.
type Table struct{}

// RuleCounter is one rule of a chain and what it has matched so far.
type RuleCounter struct {
	Packets, Bytes uint64
	Rule           string // as iptables -S prints it, without counters
}

// New finds iptables and its back end; it runs a program only if the file's name
// does not tell the back end.
func New(o Options) (*Table, error) { panic("not yet") }

// Attach puts the rules of one workload in: base chains if they are missing or out
// of date, the path through the tree, the workload's chain, in one transaction. It
// uses n as networks returns it; n itself if networks does not know it. An error
// means that the rules are not in, and nothing was changed by this call.
func (t *Table) Attach(ctx context.Context, networks Networks, n ipam.Network, r ipam.Reservation) error {
	panic("not yet")
}

// Detach takes out what Attach put in for r's holder: the jump, tree nodes that
// are then empty, the chain. Nothing to take out is no error and runs no program.
func (t *Table) Detach(ctx context.Context, n ipam.Network, r ipam.Reservation) error {
	panic("not yet")
}

// Apply makes the rules of one network what networks and rows say, in one
// transaction, and returns a line for each chain it changed (none = all was right).
func (t *Table) Apply(ctx context.Context, networks Networks, network string, rows Rows) (changed []string, err error) {
	panic("not yet")
}

// Remove takes out n's lines of the base chains, its tree and what is left of its
// workload chains; with the last network, the base as well.
func (t *Table) Remove(ctx context.Context, networks Networks, n ipam.Network) error {
	panic("not yet")
}

// Counters lists a chain's rules with their counters.
func (t *Table) Counters(ctx context.Context, chain string) ([]RuleCounter, error) {
	panic("not yet")
}

// Backend returns "nft" or "legacy".
func (t *Table) Backend() string { panic("not yet") }

// Runs returns the number of programs executed so far.
func (t *Table) Runs() int { panic("not yet") }
