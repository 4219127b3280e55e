package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing must happen in the directory before it is read: editors
	// and package managers write in several steps.
	quiet = 100 * time.Millisecond
	// atMost is how long an edit is kept waiting if it never gets quiet.
	atMost = 400 * time.Millisecond
)

// Run steps until ctx is done: at once, after every edit of a conflist, after every
// token of changed (a record, a bridge or an address changed) or Flushed, and every ten
// seconds.
func (k *Keeper) Run(ctx context.Context, changed <-chan struct{}) {
	w := watch{keeper: k}
	defer w.close()
	tick := time.NewTicker(againAfter)
	defer tick.Stop()
	for {
		w.arm() // before the look: what changes after it is notified
		k.step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-w.events():
			w.settle(ctx)
		case err := <-w.errors():
			k.Log.Warn(fmt.Sprintf("watching %s: %v; looking at it anew", k.ConfDir, err))
		case <-k.Flushed:
			clear(k.applied)
		case <-tick.C:
		}
	}
}

// watch is an inotify watch on the directory of conflists.
type watch struct {
	keeper  *Keeper
	watcher *fsnotify.Watcher // nil until the kernel gives one, or if there is no directory
	failing string
}

// arm renews the watch: a directory that was removed and made again has lost it.
func (w *watch) arm() {
	if w.keeper.ConfDir == "" {
		return
	}
	err := w.add()
	if err == nil || errors.Is(err, fs.ErrNotExist) { // the step says the latter
		w.failing = ""
		return
	}
	if err.Error() != w.failing {
		w.failing = err.Error()
		w.keeper.Log.Error(fmt.Sprintf("watching %s: %v; edits are seen only every %s", w.keeper.ConfDir, err, againAfter))
	}
}

func (w *watch) add() (err error) {
	if w.watcher == nil {
		if w.watcher, err = fsnotify.NewWatcher(); err != nil {
			w.watcher = nil
			return fmt.Errorf("(is fs.inotify.max_user_instances too low?): %w", err)
		}
	}
	return w.watcher.Add(w.keeper.ConfDir)
}

// settle waits until the directory is quiet.
func (w *watch) settle(ctx context.Context) {
	end := time.NewTimer(atMost)
	defer end.Stop()
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for {
		select {
		case <-w.events():
			calm.Reset(quiet)
		case <-ctx.Done():
			return
		case <-calm.C:
			return
		case <-end.C:
			return
		}
	}
}

// events and errors return channels on which nothing comes while there is no watcher.
func (w *watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
