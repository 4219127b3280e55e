package filter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// The back ends of iptables, of which the administrator's choice is followed.
const (
	BackendNFT    = program.NFT
	BackendLegacy = program.Legacy
)

// ErrNoProgram says that iptables, iptables-save or iptables-restore is missing or
// cannot be run.
var ErrNoProgram = program.ErrMissing

// Exec runs a program.
type Exec = program.Exec

// ProgramError is what Exec returns for a program that fails.
type ProgramError = program.Error

// place is where a change is made: one back end and the programs that speak to it. If
// missing is set there are none: then what there is can be read, but not changed.
type place struct {
	program.Family
	missing error
	first   bool // nothing has been recorded yet
}

// Backend returns the back end that the node's iptables has, BackendNFT or
// BackendLegacy.
func (t *Table) Backend(ctx context.Context) (string, error) {
	f, err := program.Find(ctx, t.run, t.candidates)
	return f.Backend, err
}

// place finds the back end for a change. If it is not the one that has our rules, they
// are moved first, or, if move is false, the change is made where they are. Programs are
// looked for each time: the administrator may choose anew while a daemon runs.
func (t *Table) place(ctx context.Context, move bool) (place, error) {
	chosen, missing := program.Find(ctx, t.run, t.candidates)
	recorded, err := t.record.Read()
	if err != nil {
		return place{}, err
	}
	if missing != nil {
		if len(recorded) > 0 {
			if f, err := program.FindBackend(recorded[0], t.candidates); err == nil {
				return place{Family: f}, nil
			}
		}
		return place{missing: missing}, nil
	}
	if !slices.ContainsFunc(recorded, func(b string) bool { return b != chosen.Backend }) {
		return place{Family: chosen, first: len(recorded) == 0}, nil
	}
	if !move && len(recorded) == 1 {
		f, err := program.FindBackend(recorded[0], t.candidates)
		return place{Family: f, missing: err}, nil
	}
	for _, old := range recorded {
		if old == chosen.Backend {
			continue
		}
		if err := t.move(ctx, old, chosen, old == recorded[0]); err != nil {
			return place{}, fmt.Errorf("moving the rules from the %s back end of iptables, which was in use, to %s, which %s is now: %w",
				old, chosen.Backend, chosen.IPTables, err)
		}
	}
	return place{Family: chosen}, t.record.Write(chosen.Backend)
}

// looking is place for who only looks, and may hold no lock: nothing is moved. wrong says
// what is amiss with the back end; empty = nothing.
func (t *Table) looking(ctx context.Context) (p place, wrong string, err error) {
	recorded, err := t.record.Read()
	if err != nil {
		return place{}, "", err
	}
	chosen, missing := program.Find(ctx, t.run, t.candidates)
	if len(recorded) == 2 {
		wrong = fmt.Sprintf("moving the rules from the %s back end of iptables to %s has been broken off", recorded[0], recorded[1])
	}
	if len(recorded) == 0 || missing == nil && slices.Contains(recorded, chosen.Backend) {
		return place{Family: chosen, missing: missing}, wrong, nil
	}
	f, gone := program.FindBackend(recorded[0], t.candidates)
	if wrong == "" && missing == nil {
		wrong = fmt.Sprintf("the rules are in the %s back end of iptables, but %s is %s now", recorded[0], chosen.IPTables, chosen.Backend)
	}
	return place{Family: f, missing: gone}, wrong, nil
}

// readUnasked reads where there are no programs: the back end that has something of
// ours.
func (t *Table) readUnasked(ctx context.Context, p place, level depth, names []string) (*seen, error) {
	if level == text {
		return nil, p.missing
	}
	s, err := t.readBackend(ctx, BackendLegacy, level, names, nil)
	if err != nil || hasOurs(s) {
		return s, err
	}
	return t.readBackend(ctx, BackendNFT, level, names, nil)
}

// orNone turns the error of a kernel without nf_tables into what it holds: nothing.
func orNone(s *seen, err error) (*seen, error) {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return &seen{depth: text, chains: map[string][]seenRule{}}, nil
	}
	return s, err
}

// legacyNames lists the legacy back end's tables of the calling thread's namespace. To
// ask for one that is not there would make it, and load the modules for it.
const legacyNames = "/proc/thread-self/net/ip_tables_names"

// legacyTables returns those of tables that the legacy back end has here.
func legacyTables() ([]string, error) {
	b, err := os.ReadFile(legacyNames)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for tables of the legacy back end: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(b)), func(name string) bool { return !slices.Contains(tables[:], name) }), nil
}

// Ready returns ErrNoProgram if n cannot be without iptables and the node is: Attach would
// fail. It changes nothing and needs no lock.
func (t *Table) Ready(ctx context.Context, n ipam.Network) error {
	if n.Bridge == nil || !needsProgram(Attached{Network: n}) {
		return nil
	}
	p, _, err := t.looking(ctx)
	if err != nil || p.missing == nil {
		return err
	}
	if _, err := program.Find(ctx, t.run, t.candidates); err != nil {
		return err // rather than that of the back end in use
	}
	return p.missing
}

// Installed is Ready without running a program, for any network that needs one: nil if
// iptables is there, or, while it is no alternative, the programs of the back end in use.
func (t *Table) Installed() error {
	missing := program.Installed(t.candidates)
	if missing == nil {
		return nil
	}
	recorded, err := t.record.Read()
	if err != nil || len(recorded) == 0 {
		return missing
	}
	if _, err := program.FindBackend(recorded[0], t.candidates); err != nil {
		return missing
	}
	return nil
}
