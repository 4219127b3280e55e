package rundir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// Attachment is the lock and the mark of one interface of one container.
//
// A DEL wins over a running ADD of the same attachment: it leaves its mark, then
// waits for the lock. The ADD looks for the mark at every step, undoes itself and
// lets the lock go. A mark counts only while the DEL that left it lives, so that a
// killed DEL stops nobody.
type Attachment struct {
	dir  Dir
	base string // path without suffix
}

// Attachment returns the attachment (containerID, ifName). No I/O.
func (d Dir) Attachment(containerID, ifName string) Attachment {
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifName))
	return Attachment{dir: d, base: filepath.Join(string(d), "attach", hex.EncodeToString(sum[:8]))}
}

// Held is an attachment's lock, taken.
type Held struct {
	// Interrupted says that the last verb that held the lock was killed: what it made
	// may be half made.
	Interrupted bool

	lock *flock.Lock
	path string
	keep bool // the file stays: another's lock
}

// Lock waits for the attachment's lock until ctx's deadline.
func (a Attachment) Lock(ctx context.Context) (*Held, error) {
	path := a.base + ".lock"
	l, err := a.dir.Lock(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("waiting for the attachment's lock: %w", err)
	}
	// A holder writes into the file and removes it when it is done.
	h := &Held{lock: l, path: path}
	if st, err := os.Stat(path); err == nil {
		h.Interrupted = st.Size() > 0
	}
	if err := os.WriteFile(path, []byte("held\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("marking the attachment as held: %w", err), h.Release())
	}
	return h, nil
}

// TryLock takes the lock if no verb is running for the attachment; ok tells. It is for
// verbs of other attachments: that the last one of its own was killed its next one
// will still be told.
func (a Attachment) TryLock() (h *Held, ok bool, err error) {
	past, cancel := context.WithCancel(context.Background())
	cancel()
	h, err = a.Lock(past)
	if errors.Is(err, context.Canceled) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	h.keep = h.Interrupted
	return h, true, nil
}

// Settled says that whatever a killed verb left half made is gone: its own next verb
// need not be told.
func (h *Held) Settled() { h.keep = false }

// Release removes the lock file and lets the lock go.
func (h *Held) Release() error {
	if h.keep {
		return h.lock.Unlock()
	}
	err := os.Remove(h.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, h.lock.Unlock())
}

// Mark is a living DEL's request that a running ADD of its attachment give up.
type Mark struct {
	file *os.File
	path string
}

// Mark leaves the mark. Several DELs may hold it at once.
func (a Attachment) Mark() (*Mark, error) {
	path := a.base + ".del"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making run directory %s: %w", a.dir, err)
	}
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("leaving the mark of a DEL: %w", err)
		}
		// Waits an instant at most: it is only ever taken exclusively to be removed.
		if err := flock.File(context.Background(), f, false); err != nil {
			return nil, fmt.Errorf("leaving the mark of a DEL: %w", err)
		}
		if sameFile(f, path) {
			return &Mark{file: f, path: path}, nil
		}
		if err := f.Close(); err != nil { // removed as a dead DEL's before it was ours
			return nil, err
		}
	}
}

// Remove takes the mark away, unless another DEL still needs it.
func (m *Mark) Remove() error {
	err := removeIfAlone(m.file, m.path)
	if errors.Is(err, errNotAlone) {
		err = nil
	}
	return errors.Join(err, m.file.Close())
}

// Cancelled reports whether a living DEL has left its mark. A dead one's is removed.
func (a Attachment) Cancelled() bool {
	path := a.base + ".del"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false // no mark; one that cannot be opened stops nobody
	}
	defer func() { _ = f.Close() }() // nothing was written
	err = removeIfAlone(f, path)
	return errors.Is(err, errNotAlone)
}

var errNotAlone = errors.New("another process holds the file")

// removeIfAlone removes the file that f has open at path if nobody else has it locked.
func removeIfAlone(f *os.File, path string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errNotAlone
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	if !sameFile(f, path) {
		return nil
	}
	return os.Remove(path)
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
