package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// dbFile is an open store file, locked for writing or shared for reading.
type dbFile struct {
	path string
	f    *os.File
	meta metaPage
	db   *bbolt.DB // nil of a reader
	// stuck: bbolt panicked with a lock of its own held, so that its Close would
	// wait for ever. Only the descriptor is closed then.
	stuck bool
}

// openFile opens and locks an existing file. The lock is waited for until ctx is
// done; it must have a deadline.
//
// bbolt would wait for its lock by polling every 50 ms. It is handed a descriptor
// that has the lock already: taking it again is then a success at once, since a
// flock belongs to the open file. As a further gain the file verified, the file
// locked and the file mapped are the same one, and bbolt, which silently makes a
// store out of nothing and out of an empty file, never gets to open one. Readers do
// without bbolt (see tree.go).
func (d *Dir) openFile(ctx context.Context, path string, write bool) (_ *dbFile, err error) {
	if fi, err := os.Stat(path); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() { // a FIFO would block in open
		return nil, damaged(path, errors.New("it is no regular file"))
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, explain(err)
	}
	if err := flock.File(ctx, f, write); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	db := &dbFile{path: path, f: f}
	if err = db.verify(write); err == nil && write {
		err = db.openBolt(f, &bbolt.Options{NoSync: d.noSync, NoGrowSync: d.noSync})
	}
	if err != nil {
		_ = f.Close() // bbolt may have closed it already
		return nil, err
	}
	return db, nil
}

// verify looks at what is cheap to look at; at the free list only for bbolt.
func (d *dbFile) verify(freelist bool) error {
	fi, err := d.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return damaged(d.path, errors.New("it is empty"))
	}
	if d.meta, err = readMeta(d.f); err == nil {
		err = d.meta.verify(fi.Size())
	}
	if err == nil && freelist {
		err = d.meta.verifyFreelist(d.f)
	}
	if err != nil {
		return damaged(d.path, err)
	}
	return nil
}

// openBolt hands bbolt the descriptor f, which has the lock.
func (d *dbFile) openBolt(f *os.File, o *bbolt.Options) error {
	o.Timeout = time.Nanosecond // should the lock be taken after all: fail, never poll
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	o.FreelistType = bbolt.FreelistMapType
	o.NoStatistics = true
	return d.guard(func() (err error) {
		if d.db, err = bbolt.Open(d.path, fileMode, o); err != nil {
			return fmt.Errorf("opening %s: %w", d.path, err)
		}
		return nil
	})
}

// close releases the lock.
func (d *dbFile) close() error {
	if d.db == nil || d.stuck {
		return d.f.Close()
	}
	return d.guard(d.db.Close)
}

// begin starts a write transaction.
func (d *dbFile) begin() (*bbolt.Tx, error) {
	d.stuck = true
	tx, err := d.db.Begin(true)
	d.stuck = false
	return tx, err
}

// guard runs fn and turns what a damaged file does to its readers into an error: a
// pageError of ours, or bbolt's panic, or its fault at a page that is not there (the
// file shrank under the mapping, a page number points to nowhere). Any other panic
// is a bug, passed on.
func (d *dbFile) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			bad, ok := p.(pageError)
			if !ok && !fromBolt(p) {
				panic(p)
			}
			if !ok {
				bad.error = fmt.Errorf("%v", p)
			}
			err = damaged(d.path, bad.error)
		}
	}()
	return fn()
}

// fromBolt reports whether a panic being recovered is a memory fault or was raised
// in bbolt's code. To be called in the deferred function.
func fromBolt(p any) bool {
	if _, fault := p.(interface{ Addr() uintptr }); fault {
		return true
	}
	pc := make([]uintptr, 64)
	frames := runtime.CallersFrames(pc[:runtime.Callers(1, pc)])
	panicking := false
	for {
		fr, more := frames.Next()
		switch {
		case fr.Function == "runtime.gopanic":
			panicking = true // the frames below it raised the panic
		case panicking && !strings.HasPrefix(fr.Function, "runtime."):
			return strings.HasPrefix(fr.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}

// damaged says what is wrong with a store and what a person can do about it.
func damaged(path string, why error) error {
	return fmt.Errorf("%w: %s: %w; nothing was written to it: restore it from a copy, or move it away "+
		"and recreate the network's workloads, whose addresses only it knows", ErrDamaged, path, why)
}

// explain adds to an error of the file system what a person can do about it.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), strings.Contains(errText(err), unix.ENOSPC.Error()):
		// bbolt passes some of its errors on as text only.
		return fmt.Errorf("%w: nothing was changed: make room and try again", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: the data directory must be writable: remount it, or name another dataDir", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: the store belongs to another user: run as its owner (root)", err)
	}
	return err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
