// Package flock takes advisory locks on files (flock(2)) with a deadline.
//
// The kernel hands such a lock to exclusive waiters in the order in which they
// came, which a loop of tries does not: so the wait is a real, blocking one, in a
// goroutine of its own. Neither closing the file nor a signal ends a waiting
// flock. A wait that is given up is therefore left behind: when it finally gets
// the lock it lets go of it at once.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is a held lock. It belongs to its open file: two locks taken in one
// process exclude each other as those of two processes do, and the kernel
// releases it when the process dies.
type Lock struct{ f *os.File }

// Exclusive takes the exclusive lock of the file at path, which it creates with
// mode perm (whatever the umask) if it is missing; the directory must exist. It
// waits until ctx is done; the error then wraps ctx's. A file that is removed or
// replaced while it waits is locked anew, so path may be unlinked by a holder.
func Exclusive(ctx context.Context, path string, perm os.FileMode) (*Lock, error) {
	return exclusive(ctx, path, func() (*os.File, error) { return openOrCreate(path, perm) })
}

// ExclusiveReadOnly is Exclusive for a file that exists and cannot be written, on
// a read-only file system say. (NFS refuses an exclusive lock of such a file.)
func ExclusiveReadOnly(ctx context.Context, path string) (*Lock, error) {
	return exclusive(ctx, path, func() (*os.File, error) { return os.Open(path) })
}

func exclusive(ctx context.Context, path string, open func() (*os.File, error)) (*Lock, error) {
	for {
		f, err := open()
		if err != nil {
			return nil, fmt.Errorf("opening lock file: %w", err)
		}
		if err := File(ctx, f, true); err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		same, err := stillAt(f, path)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("comparing lock file %s: %w", path, err)
		}
		if same {
			return &Lock{f}, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("closing replaced lock file %s: %w", path, err)
		}
	}
}

// Unlock releases the lock. The file stays. A second call is an error.
func (l *Lock) Unlock() error {
	// Closing alone would not do while a child process forked meanwhile still has
	// a copy of the descriptor.
	err := unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	return errors.Join(err, l.f.Close())
}

// File takes an exclusive or a shared lock on f, waiting until ctx is done; the
// error then wraps ctx's. The lock goes when f is closed. On an error f is no
// longer the caller's: it is closed, now or when the abandoned wait ends.
func File(ctx context.Context, f *os.File, exclusive bool) error {
	return file(ctx, f, exclusive, waits)
}

func file(ctx context.Context, f *os.File, exclusive bool, waits chan struct{}) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	fd := int(f.Fd())
	err := retry(func() error { return unix.Flock(fd, how|unix.LOCK_NB) })
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close()
		return err
	}
	if err := ctx.Err(); err != nil {
		_ = f.Close()
		return err
	}
	select {
	case waits <- struct{}{}:
	default:
		return poll(ctx, f, how)
	}
	// Unbuffered and selected against abandoned: exactly one side ends up with f.
	got, abandoned := make(chan error), make(chan struct{})
	go func() {
		defer func() { <-waits }()
		err := retry(func() error { return unix.Flock(fd, how) })
		select {
		case got <- err:
		case <-abandoned:
			_ = unix.Flock(fd, unix.LOCK_UN) // see Unlock
			_ = f.Close()
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			_ = f.Close()
		}
		return err
	case <-ctx.Done():
		close(abandoned)
		return ctx.Err()
	}
}

// waits has a token for each wait, given up or not. Each has a thread of its own, and
// the runtime ends a process that has 10,000: a daemon that tries again and again while
// something that hangs has the lock must not come to that. It is the process's, as
// threads are.
var waits = make(chan struct{}, 1000)

// pollEvery is how often poll tries.
const pollEvery = 10 * time.Millisecond

// poll is File where there are too many waits: without a thread, and without a place in
// the queue.
func poll(ctx context.Context, f *os.File, how int) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := retry(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		_ = f.Close()
		return err
	}
}

// retry repeats call while a signal interrupts it.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func openOrCreate(path string, perm os.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if errors.Is(err, fs.ErrExist) {
			continue // another was faster
		}
		if err != nil {
			return nil, err
		}
		if err := f.Chmod(perm); err != nil {
			_ = f.Close()
			return nil, err
		}
		return f, nil
	}
}

// stillAt reports whether path still names f.
func stillAt(f *os.File, path string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}
