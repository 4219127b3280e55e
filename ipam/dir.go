package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

const (
	dirMode  = 0o700
	fileMode = 0o600

	lockName    = "lock"
	storeSuffix = ".db"
	newSuffix   = ".db.new" // a store being made; never ends in storeSuffix

	leasesSuffix = ".leases" // the daemon's lease state

	// defaultTimeout bounds the wait for locks if the caller's context has no
	// deadline: that of ADD and DEL.
	defaultTimeout = 10 * time.Second
)

// maxNetworkName keeps the file names made from a network's name below NAME_MAX.
const maxNetworkName = 200

// isNetworkName is the CNI specification's rule for names, bounded. No regular expression:
// to compile this one takes a plugin a third of a millisecond each time that it starts.
func isNetworkName(name string) bool {
	for i, r := range name {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alphanumeric && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return false
		}
	}
	return name != "" && len(name) <= maxNetworkName
}

// Dir is a data directory: one store a network, and one lock for all of them, so
// that subnets, bridges and MACs can be compared across networks. It holds nothing
// open and is safe for concurrent use.
type Dir struct {
	path    string
	now     func() time.Time
	timeout time.Duration
	// Of tests only: no fsync for thousands of transactions; a smaller HistoryCap.
	noSync     bool
	historyCap uint64
}

// Option changes what OpenDir returns.
type Option func(*Dir)

// WithClock sets the clock of releases, quarantine and retention.
func WithClock(now func() time.Time) Option { return func(d *Dir) { d.now = now } }

// WithDefaultTimeout sets how long operations wait for locks if their context has
// no deadline; 10 s if not given.
func WithDefaultTimeout(t time.Duration) Option { return func(d *Dir) { d.timeout = t } }

// OpenDir names a data directory. It does no I/O: the first Configure or Reserve
// makes the directory.
func OpenDir(path string, opts ...Option) *Dir {
	d := &Dir{path: path, now: time.Now, timeout: defaultTimeout, historyCap: HistoryCap}
	for _, o := range opts {
		o(d)
	}
	return d
}

// Path returns the directory's path as it was given.
func (d *Dir) Path() string { return d.path }

// Store names the store of a network, which need not exist.
func (d *Dir) Store(network string) *Store { return &Store{dir: d, name: network} }

// Names returns the networks that have a store, sorted. A missing directory has
// none.
func (d *Dir) Names(context.Context) ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing data directory: %w", err)
	}
	var names []string
	for _, e := range entries { // sorted by file name: "a-b.db" comes before "a.db"
		if name, ok := strings.CutSuffix(e.Name(), storeSuffix); ok && isNetworkName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Networks returns every network record that can be read, sorted by name, and an
// error that joins why others could not: the result is of use even then.
func (d *Dir) Networks(ctx context.Context) ([]Network, error) {
	names, err := d.Names(ctx)
	if err != nil {
		return nil, err
	}
	var nets []Network
	var errs []error
	for _, name := range names {
		err := d.Store(name).View(ctx, func(v *View) error {
			n, err := v.Network()
			if err == nil {
				nets = append(nets, n)
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrNoNetwork) { // removed meanwhile
			errs = append(errs, err)
		}
	}
	return nets, errors.Join(errs...)
}

// Remove deletes a network's store. It is refused with *InUseError while an
// attachment holds a row; administrator's reservations without a holder, and what
// is retained, go with it.
func (d *Dir) Remove(ctx context.Context, network string) error {
	s := d.Store(network)
	return s.locked(ctx, func(ctx context.Context) error {
		var held []Reservation
		err := s.read(ctx, func(v *View) error {
			for r, err := range v.All() {
				if err != nil {
					return err
				}
				if r.Holder != nil {
					held = append(held, r)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("removing network %s: %w", network, err)
		}
		if len(held) > 0 {
			return &InUseError{Network: network, Rows: held}
		}
		if err := os.Remove(s.file()); err != nil {
			return fmt.Errorf("removing network %s: %w", network, err)
		}
		// What the daemon keeps beside it for people; one that runs does the same.
		if err := os.Remove(filepath.Join(d.path, network+leasesSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing network %s: its lease state: %w", network, err)
		}
		return syncDir(d.path)
	})
}

// lock takes the directory's lock. Whoever writes keeps it for the transaction,
// whoever reads until bbolt's shared lock is held: shared locks alone would let
// overlapping readers starve writers.
func (d *Dir) lock(ctx context.Context) (*flock.Lock, error) {
	path := filepath.Join(d.path, lockName)
	l, err := flock.Exclusive(ctx, path, fileMode)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		// The kernel locks through a read-only descriptor as well, which is all that a
		// reader of a read-only file system needs.
		var again error
		if l, again = flock.ExclusiveReadOnly(ctx, path); !errors.Is(again, fs.ErrNotExist) {
			err = again
		}
	}
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	case errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("%w: the data directory is on a read-only file system and has no lock file: "+
			"make it writable once, or name another dataDir", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: the data directory belongs to another user: run as its owner (root)", err)
	}
	return nil, explain(err)
}

// make creates the directory if it is missing, with its mode whatever the umask.
func (d *Dir) make() error {
	if _, err := os.Stat(d.path); err == nil {
		return nil
	}
	if err := os.MkdirAll(d.path, dirMode); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	if err := os.Chmod(d.path, dirMode); err != nil {
		return fmt.Errorf("creating data directory: %w", err)
	}
	return nil
}

// syncDir makes renames and removals in a directory durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing data directory: %w", err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("syncing data directory: %w", err)
	}
	return nil
}
