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
	watcher *fsnotify.Watcher
	log     *slog.Logger
	failing string
}

// arm brings the watches in line with what exists now. It is to be called after
// every event that is not a store's, and from time to time.
func (w *watches) arm(dirs []Dir) {
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
	if failed == nil {
		w.failing = ""
	} else if failed.Error() != w.failing {
		w.failing = failed.Error()
		w.log.Error(fmt.Sprintf("%v; changes there are seen only every %s", failed, rescanEvery))
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
