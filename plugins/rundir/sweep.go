package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Sweep removes the locks and marks that killed verbs left, but for those of living:
// the next verb of an attachment that may be half made must be told. What a running
// verb holds stays.
func (d Dir) Sweep(living []Attachment) error {
	var errs []error
	for _, path := range d.left(".lock") {
		if slices.ContainsFunc(living, func(a Attachment) bool { return a.base+".lock" == path }) {
			continue
		}
		lock, free, err := d.TryLock(path)
		if err == nil && free {
			// By its holder, as always; whoever waits for it takes a new one.
			if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			err = errors.Join(err, lock.Unlock())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("removing a killed verb's lock: %w", err))
		}
	}
	for _, path := range d.left(".del") {
		Attachment{dir: d, base: strings.TrimSuffix(path, ".del")}.Cancelled() // removes a dead one's
	}
	return errors.Join(errs...)
}

func (d Dir) left(suffix string) []string {
	found, err := filepath.Glob(filepath.Join(string(d), "attach", "*"+suffix))
	if err != nil { // a run directory that is no pattern
		return nil
	}
	return found
}
