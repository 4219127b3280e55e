package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds how often a dump is asked for again. The kernel marks a dump
// interrupted (NLM_F_DUMP_INTR) when the table changed between two of its parts;
// while 200 ports come and go a long dump loses several times in a row.
const dumpTries = 40

// dump runs a netlink dump until the kernel says that it was consistent.
func dump[T any](ctx context.Context, what string, list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		all, err := list()
		switch {
		case err == nil:
			return all, nil
		case !errors.Is(err, netlink.ErrDumpInterrupted):
			return nil, fmt.Errorf("listing %s: %w", what, err)
		case try == dumpTries:
			return nil, fmt.Errorf("listing %s: changed while being read, %d times in a row: %w", what, try, err)
		}
		if err := pause(ctx, time.Duration(try)*100*time.Microsecond); err != nil {
			return nil, fmt.Errorf("listing %s: %w", what, err)
		}
	}
}

// pause waits for d or until the context ends, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
