package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// Store is one network's reservations in one bbolt file. It keeps nothing open:
// each operation locks, opens, runs one transaction and closes, so that plugins,
// daemon and command line can share the file. It is safe for concurrent use, by
// processes as by goroutines.
//
// Every operation waits for locks until its context is done, or for 10 s if that
// has no deadline, and then fails with ErrLocked. A missing store is ErrNoNetwork.
type Store struct {
	dir  *Dir
	name string
}

// Name returns the network's name.
func (s *Store) Name() string { return s.name }

func (s *Store) file() string { return filepath.Join(s.dir.path, s.name+storeSuffix) }

// deadline makes sure that no wait for a lock is endless.
func (s *Store) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.dir.timeout)
}

// exists says what is wrong if the network has no store. Asked before the lock, so
// that readers create nothing.
func (s *Store) exists() error {
	if !isNetworkName(s.name) {
		return fmt.Errorf("%w: network name %q: letters, digits, dots, dashes and underscores "+
			"are accepted, the first a letter or digit, 200 at most", ErrConfig, s.name)
	}
	_, err := os.Stat(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s in %s", ErrNoNetwork, s.name, s.dir.path)
	}
	if err != nil {
		return fmt.Errorf("looking for the store of network %s: %w", s.name, explain(err))
	}
	return nil
}

// locked runs fn under the directory's lock if the store exists.
func (s *Store) locked(ctx context.Context, fn func(context.Context) error) (err error) {
	if err := s.exists(); err != nil {
		return err
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l, err := s.dir.lock(ctx)
	if err != nil {
		return fmt.Errorf("opening network %s: %w", s.name, err)
	}
	defer func() { err = errors.Join(err, l.Unlock()) }()
	return fn(ctx)
}

// View runs fn in one read transaction. Writers wait until fn returns, so it must
// be brief, must not wait for anything, run programs or call other methods of a
// Store. The View is of no use after fn has returned.
func (s *Store) View(ctx context.Context, fn func(*View) error) error {
	if err := s.exists(); err != nil {
		return err
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l, err := s.dir.lock(ctx)
	if err != nil {
		return fmt.Errorf("reading network %s: %w", s.name, err)
	}
	d, err := s.dir.openFile(ctx, s.file(), false)
	// The next in the queue may go on: a writer will wait for our shared lock.
	err = errors.Join(err, l.Unlock())
	if d == nil {
		return s.readError(err)
	}
	return s.readError(errors.Join(err, s.viewFile(d, fn)))
}

// read is View for who holds the directory's lock already, and keeps it.
func (s *Store) read(ctx context.Context, fn func(*View) error) error {
	d, err := s.dir.openFile(ctx, s.file(), false)
	if err != nil {
		return s.readError(err)
	}
	return s.readError(s.viewFile(d, fn))
}

func (s *Store) readError(err error) error {
	if errors.Is(err, fs.ErrNotExist) { // removed while we waited
		return fmt.Errorf("%w: %s in %s", ErrNoNetwork, s.name, s.dir.path)
	}
	return err
}

// viewFile runs fn in a read transaction of d and closes d.
func (s *Store) viewFile(d *dbFile, fn func(*View) error) (err error) {
	defer func() { err = errors.Join(err, d.close()) }()
	return d.guard(func() error {
		v, err := newView(d, s.name)
		if err != nil {
			return err
		}
		return fn(v)
	})
}

// update runs fn in one write transaction, which is committed if fn reports that
// it changed something.
func (s *Store) update(ctx context.Context, fn func(*txn) (bool, error)) error {
	return s.locked(ctx, func(ctx context.Context) error { return s.write(ctx, s.file(), fn) })
}

// write is update on the file at path, for who holds the directory's lock.
func (s *Store) write(ctx context.Context, path string, fn func(*txn) (bool, error)) (err error) {
	d, err := s.dir.openFile(ctx, path, true)
	if err != nil {
		return s.readError(err)
	}
	defer func() { err = errors.Join(err, d.close()) }()
	return d.guard(func() (err error) {
		t, err := s.begin(ctx, d)
		if err != nil {
			return err
		}
		defer t.rollback() // without effect once committed
		defer func() { err = errors.Join(err, t.closeNeighbours()) }()
		changed, err := fn(t)
		if err != nil || !changed {
			return err
		}
		return t.commit()
	})
}

// upsert is update for operations that may make the store: it then is filled
// beside its final name, so that no half-made store is ever seen and a refused
// first request leaves none.
func (s *Store) upsert(ctx context.Context, fn func(*txn) (bool, error)) (err error) {
	if err := s.exists(); !errors.Is(err, ErrNoNetwork) {
		if err == nil {
			err = s.update(ctx, fn)
		}
		return err
	}
	if err := s.dir.make(); err != nil {
		return explain(err)
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l, err := s.dir.lock(ctx)
	if err != nil {
		return fmt.Errorf("creating network %s: %w", s.name, err)
	}
	defer func() { err = errors.Join(err, l.Unlock()) }()
	if err := s.exists(); !errors.Is(err, ErrNoNetwork) {
		if err == nil { // another was faster
			err = s.write(ctx, s.file(), fn)
		}
		return err
	}
	return s.create(ctx, fn)
}

// create makes the store under the directory's lock: whatever stands under the
// temporary name is left over from a process that died.
func (s *Store) create(ctx context.Context, fn func(*txn) (bool, error)) (err error) {
	tmp := filepath.Join(s.dir.path, s.name+newSuffix)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a half-made store: %w", explain(err))
	}
	defer func() {
		if err != nil {
			if rerr := os.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	if err := initFile(tmp); err != nil {
		return fmt.Errorf("creating the store of network %s: %w", s.name, explain(err))
	}
	if err := s.write(ctx, tmp, fn); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.file()); err != nil {
		return fmt.Errorf("creating the store of network %s: %w", s.name, explain(err))
	}
	return syncDir(s.dir.path)
}

// initFile writes an empty store of the current schema.
func initFile(path string) error {
	db, err := bbolt.Open(path, fileMode, nil) // nobody else looks at the temporary name
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySchema), fmt.Append(nil, schemaVersion))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return os.Chmod(path, fileMode) // whatever the umask
}
