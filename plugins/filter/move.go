package filter

import (
	"context"
	"fmt"
	"slices"

	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// move takes all that is ours out of one back end into another: first in there, then
// out here, so that there is no moment without rules. Both are in force meanwhile, and
// equal. The rules move as text, with what the operator wrote in FLAT-PROVIDER-USER and
// with those of networks that the caller does not know.
//
// Killed in between, the record says so and the next call goes on. truth says that the
// old back end has all that there should be; if not, a move the other way was broken off,
// and only what the new one lacks is taken.
func (t *Table) move(ctx context.Context, old string, to program.Family, truth bool) error {
	s, from, err := t.readOld(ctx, old)
	if err != nil {
		return err
	}
	if !hasOurs(s) {
		return nil
	}
	record := []string{old, to.Backend}
	if !truth {
		slices.Reverse(record)
	}
	if err := t.record.Write(record...); err != nil {
		return err
	}
	there, err := t.read(ctx, place{Family: to}, whole, nil, nil)
	if err != nil {
		return err
	}
	in, operators := planCopy(s, there, truth)
	if !in.empty() {
		if err := t.restore(ctx, to, in); err != nil {
			return fmt.Errorf("%w: nothing has been taken out of the old one", err)
		}
	}
	if operators {
		delete(s.chains, chainProviderUser)
	}
	out := newBatch()
	dismantle(out, s)
	if operators {
		out.remove(chainProviderUser)
	}
	return t.restore(ctx, from, out)
}

// stray looks for rules of ours in the back end that is not used: what somebody fed to
// the other one's restore, say.
func (t *Table) stray(ctx context.Context, p place) (other string, there bool, err error) {
	if p.Backend == "" { // no programs, so no use either
		return "", false, nil
	}
	other = program.Other(p.Backend)
	s, err := t.readBackend(ctx, other, some, []string{chainForward}, nil)
	return other, err == nil && s.has(chainForward), err
}

// clear takes out what is ours in a back end that is not in use, but for what the
// operator wrote.
func (t *Table) clear(ctx context.Context, backend string) (changes []string, err error) {
	s, f, err := t.readOld(ctx, backend)
	if err != nil || !hasOurs(s) {
		return nil, err
	}
	out := newBatch()
	if dismantle(out, s); out.empty() {
		return nil, nil
	}
	for _, change := range out.changes {
		changes = append(changes, change+", in the "+backend+" back end")
	}
	return changes, t.restore(ctx, f, out)
}

// readOld reads the back end that was in use, its text included. If its programs are
// gone, that is an error only if there is something of ours in it.
func (t *Table) readOld(ctx context.Context, old string) (*seen, program.Family, error) {
	f, missing := program.FindBackend(old, t.candidates)
	// Cheap, and nothing is the usual answer when a move was broken off at its end.
	if s, err := t.readBackend(ctx, old, whole, nil, nil); err == nil && !hasOurs(s) {
		return s, f, nil
	}
	if missing != nil {
		return nil, f, fmt.Errorf("the old rules stay in force and can only be taken out with the program that put them in; install it again: %w", missing)
	}
	s, err := t.read(ctx, place{Family: f}, text, nil, nil)
	return s, f, err
}

// hasOurs says whether there is a chain of ours in s.
func hasOurs(s *seen) bool {
	for chain := range s.chains {
		if isOurs(chain) {
			return true
		}
	}
	return false
}

// planCopy makes a back end that holds there hold what another holds. operators says
// that the operator's chain goes along: where he has written one already, his counts.
func planCopy(s, there *seen, truth bool) (b *batch, operators bool) {
	b = newBatch()
	for _, chain := range sortedKeys(s.chains) {
		switch {
		case !isOurs(chain):
		case chain == chainProviderUser:
			if operators = len(there.chains[chain]) == 0; operators {
				put(b, there, chain, ruleSpecs(s.chains[chain]))
			}
		case truth || !there.has(chain):
			put(b, there, chain, ruleSpecs(s.chains[chain]))
		}
	}
	if truth {
		for _, chain := range sortedKeys(there.chains) {
			if isOurs(chain) && !s.has(chain) && chain != chainProviderUser {
				b.remove(chain)
			}
		}
	}
	for _, builtin := range builtins {
		before, _ := s.jumps(builtin.chain, builtin.jump)
		count, first := there.jumps(builtin.chain, builtin.jump)
		if before > 0 && (count != 1 || !first) {
			b.jumpFirst(builtin.chain, builtin.jump, count)
		}
	}
	return b, operators
}

func ruleSpecs(rules []seenRule) []string {
	specs := make([]string, len(rules))
	for i, r := range rules {
		specs[i] = r.spec
	}
	return specs
}
