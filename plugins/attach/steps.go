package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// step is one line of a verb's table. do must leave what it makes in a state that
// undo can take back, and undo must bear that do never ran or stopped half-way.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error // nil: nothing to take back
}

// undoTime bounds a roll-back. It has a deadline of its own, since what calls for
// one is often that the verb's own has passed.
const undoTime = 5 * time.Second

// ErrCancelled ends an ADD whose DEL came while it ran.
var ErrCancelled = errors.New("a DEL for this attachment arrived while its ADD was running")

// run does the steps in order. If one fails, or stop says so between two, it undoes
// the failed one and all before it, in reverse, and returns the reason together with
// whatever could not be undone.
func run(ctx context.Context, verb string, steps []step, stop func() error) error {
	for i, s := range steps {
		err := stop()
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = fault(verb, s.name, before)
		}
		if err == nil {
			err = s.do(ctx)
		}
		if err == nil {
			err = fault(verb, s.name, after)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %s: %w", verb, s.name, err), undo(ctx, verb, steps[:i+1]))
		}
	}
	if err := stop(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", verb, err), undo(ctx, verb, steps))
	}
	return nil
}

func undo(ctx context.Context, verb string, steps []step) error {
	ctx, cancel := context.WithTimeout(link.WithoutSession(context.WithoutCancel(ctx)), undoTime)
	defer cancel()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].undo == nil {
			continue
		}
		if err := steps[i].undo(ctx); err != nil {
			// What is below must stay: a port may not outlive its rules, nor a row its port.
			errs = append(errs, fmt.Errorf("%s: undoing %s (left for DEL): %w", verb, steps[i].name, err))
			break
		}
	}
	return errors.Join(errs...)
}

// never is the stop of verbs that nothing cancels.
func never() error { return nil }
