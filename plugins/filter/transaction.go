package filter

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// lockWait is how long, in seconds, a program waits for the legacy back end's own
// lock, which others than we hold.
const lockWait = 5

// change reads (names at first, nil = everything), plans and puts in. If what was read
// does not suffice it reads more; if the kernel refuses the transaction, something was
// other than read (somebody flushed, or a stray jump): then it reads everything and tries
// once more.
func (t *Table) change(ctx context.Context, p place, names []string, plan func(*seen) (*batch, error)) (*batch, error) {
	return t.changeBy(ctx, t.run, p, names, plan)
}

// changeBy is change with run in place of t.run, where it puts in.
func (t *Table) changeBy(ctx context.Context, run Exec, p place, names []string, plan func(*seen) (*batch, error)) (*batch, error) {
	level := some
	if names == nil {
		level = whole
	}
	var later closers
	defer func() { later.close() }()
	var refused error
	for {
		s, err := t.read(ctx, p, level, names, &later)
		if err != nil {
			return nil, errors.Join(refused, err)
		}
		b, err := plan(s)
		if errors.Is(err, errReadMore) && s.depth < text {
			level = s.depth + 1
			continue
		}
		if err != nil {
			return nil, errors.Join(refused, err)
		}
		if b.empty() {
			return b, nil
		}
		err = t.putIn(ctx, run, p, b)
		if err == nil {
			return b, nil
		}
		if refused != nil && refused.Error() != err.Error() {
			return nil, errors.Join(refused, err)
		}
		if refused != nil || p.missing != nil || ctx.Err() != nil {
			return nil, err
		}
		refused, level = err, max(level, whole)
	}
}

// read reads at least what level asks for. later: see readNFT.
func (t *Table) read(ctx context.Context, p place, level depth, names []string, later *closers) (*seen, error) {
	if p.missing != nil {
		return t.readUnasked(ctx, p, level, names)
	}
	var unread error
	if level < text {
		s, err := t.readBackend(ctx, p.Backend, level, names, later)
		if err == nil {
			return s, nil
		}
		unread = err // the program may know better
	}
	out, err := t.run(ctx, p.Save, nil, nil)
	if err != nil {
		return nil, errors.Join(unread, err)
	}
	return parseSave(out)
}

// readBackend reads a back end without a program.
func (t *Table) readBackend(ctx context.Context, backend string, level depth, names []string, later *closers) (*seen, error) {
	if backend == BackendLegacy {
		return t.readLegacy(ctx)
	}
	if level == whole {
		names = nil
	}
	return orNone(t.readKernel(ctx, names, later))
}

// putIn carries b out. The back end is recorded before it first has a rule: should we be
// killed between the two, a record without rules does no harm.
func (t *Table) putIn(ctx context.Context, run Exec, p place, b *batch) error {
	if p.missing != nil {
		return p.missing
	}
	if p.first {
		if err := t.record.Write(p.Backend); err != nil {
			return err
		}
	}
	return restore(ctx, run, p.Family, b)
}

func (t *Table) restore(ctx context.Context, f program.Family, b *batch) error {
	return restore(ctx, t.run, f, b)
}

func restore(ctx context.Context, run Exec, f program.Family, b *batch) error {
	input := b.String()
	_, err := run(ctx, f.Restore, []string{"--noflush", "-w", strconv.Itoa(lockWait)}, []byte(input))
	var failed *ProgramError
	if errors.As(err, &failed) {
		if line := blamed(failed.Stderr, input); line != "" {
			return fmt.Errorf("%w (%s)", err, line)
		}
	}
	return err
}

func (t *Table) run(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
	t.runs.Add(1)
	return t.exec(ctx, path, args, stdin)
}

// runBeside returns a run that calls beside while the program runs.
func (t *Table) runBeside(beside func()) Exec {
	return func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
		t.runs.Add(1)
		return t.besides(ctx, path, args, stdin, beside)
	}
}

// blamePattern finds the line that iptables-restore complains of.
const blamePattern = `line:? (\d+)`

func blamed(stderr, input string) string {
	found := regexp.MustCompile(blamePattern).FindStringSubmatch(stderr)
	if found == nil {
		return ""
	}
	number, err := strconv.Atoi(found[1])
	lines := strings.Split(input, "\n")
	if err != nil || number < 1 || number > len(lines) || lines[number-1] == "COMMIT" {
		return ""
	}
	return lines[number-1]
}
