// Package rundir knows what flatdhcp keeps in its run directory: the node's locks
// and, for each attachment, a lock and the mark by which a DEL stops a running ADD.
//
// Lock order: attachment, node, filter, store.
package rundir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// Env names the only variable that flatdhcp reads for itself.
const Env = "FLATDHCP_RUN_DIR"

// Default is the run directory unless Env says otherwise.
const Default = "/run/flatdhcp"

// Dir is the path of a run directory. It is made when something is first put there.
type Dir string

// FromEnv returns the run directory that the environment names, or Default.
func FromEnv(getenv func(string) string) Dir {
	if d := getenv(Env); d != "" {
		return Dir(d)
	}
	return Default
}

// NodeLock is held while the bridge is made ready or removed.
func (d Dir) NodeLock() string { return filepath.Join(string(d), "node.lock") }

// FilterLock is held while chains and guard are planned, compared and applied.
func (d Dir) FilterLock() string { return filepath.Join(string(d), "filter.lock") }

// FirewalldLock is held while firewalld's zones are changed.
func (d Dir) FirewalldLock() string { return filepath.Join(string(d), "firewalld.lock") }

// FilterBackend names the back end of iptables that has rules of ours. (What is in the
// run directory lives as long as they do.)
func (d Dir) FilterBackend() string { return filepath.Join(string(d), "filter.backend") }

// Uplink says what the uplink of a bridge, and the bridge, were before they came together.
func (d Dir) Uplink(bridge string) string { return filepath.Join(string(d), "uplink", bridge+".json") }

// DaemonLock is held by the one flat-dhcpd of the node.
func (d Dir) DaemonLock() string { return filepath.Join(string(d), "flat-dhcpd.lock") }

// DaemonAlive is touched by flat-dhcpd every 10 s; its age is what STATUS looks at.
func (d Dir) DaemonAlive() string { return filepath.Join(string(d), "flat-dhcpd.alive") }

// Writable says why nothing can be put into the run directory, and what to do. It makes
// nothing.
func (d Dir) Writable() error {
	if err := flock.Writable(string(d)); err != nil {
		return fmt.Errorf("run directory %s cannot be written: %w: remount it, or name another in %s", d, err, Env)
	}
	return nil
}

// DaemonSocket is where flat-dhcpd answers flatctl and whoever else root is.
func (d Dir) DaemonSocket() string { return filepath.Join(string(d), "flat-dhcpd.sock") }

// Lock takes the lock file at path, one of d's, exclusively and by ctx's deadline.
func (d Dir) Lock(ctx context.Context, path string) (*flock.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making run directory %s: %w", d, err)
	}
	return flock.Exclusive(ctx, path, 0o600)
}

// TryLock takes the lock file at path, one of d's, if nobody holds it; ok tells.
func (d Dir) TryLock(path string) (l *flock.Lock, ok bool, err error) {
	past, cancel := context.WithCancel(context.Background())
	cancel()
	l, err = d.Lock(past, path)
	if errors.Is(err, context.Canceled) {
		return nil, false, nil
	}
	return l, err == nil, err
}
