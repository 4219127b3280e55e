package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// watches keeps an inotify watch on every directory that exists and, for one that
// does not, on its deepest ancestor that does: there its creation will show.
type watches struct {
	watcher *fsnotify.Watcher // nil until the kernel gives one
	log     *slog.Logger
	failing string
}

// arm brings the watches in line with what exists now. It is to be called after
// every event that is not a store's, and from time to time.
func (w *watches) arm(dirs []Dir) {
	if w.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			w.complain(fmt.Errorf("watching the data directories (is fs.inotify.max_user_instances too low?): %w", err))
			return
		}
		w.watcher = watcher
	}
	var want []string
	var failed error
	for _, d := range dirs {
		path, err := w.deepest(filepath.Clean(d.Path()))
		// What was missing may have been made just before the watch above it was.
		for path != filepath.Clean(d.Path()) {
			deeper, e := w.deepest(filepath.Clean(d.Path()))
			if deeper == path {
				break
			}
			path, err = deeper, e
		}
		want = append(want, path)
		if err != nil {
			failed = err
		}
	}
	for _, path := range w.watcher.WatchList() {
		if !slices.Contains(want, path) {
			// An error means that the watch went with its directory.
			_ = w.watcher.Remove(path)
		}
	}
	w.complain(failed)
}

// complain logs an error that is not the last one; nil = all is well.
func (w *watches) complain(err error) {
	if err == nil {
		w.failing = ""
		return
	}
	if err.Error() != w.failing {
		w.failing = err.Error()
		w.log.Error(fmt.Sprintf("%v; changes are seen only every %s", err, rescanEvery))
	}
}

// events and errors return channels on which nothing comes while there is no watcher.
func (w *watches) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watches) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *watches) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// deepest watches path or its deepest ancestor that can be watched and returns it.
func (w *watches) deepest(path string) (string, error) {
	var failed error
	for {
		// Added anew each time: a directory that was removed and made again has lost
		// its watch although its path is still listed.
		err := w.watcher.Add(path)
		if err == nil || path == filepath.Dir(path) {
			return path, failed
		}
		if !errors.Is(err, fs.ErrNotExist) && failed == nil {
			failed = fmt.Errorf("watching %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
}
