package link

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// NetNSInode returns the inode number of the network namespace at path: with the
// boot ID it tells a namespace from a later one at the same path.
func NetNSInode(path string) (uint64, error) {
	st, err := statNetNS(path)
	return st.Ino, err
}

// SameNetNS reports whether path is the network namespace of the calling thread.
// A runtime that hands a plugin the host's namespace as the container's would
// have it rewire the host.
func SameNetNS(path string) (bool, error) {
	there, err := statNetNS(path)
	if err != nil {
		return false, err
	}
	// /proc/self would be the main thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := statNetNS("/proc/thread-self/ns/net")
	if err != nil {
		return false, err
	}
	return here.Dev == there.Dev && here.Ino == there.Ino, nil
}

func statNetNS(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := ns.IsNSorErr(path); err != nil {
		return st, fmt.Errorf("looking at network namespace %s: %w", path, err)
	}
	if err := unix.Stat(path, &st); err != nil {
		return st, fmt.Errorf("looking at network namespace %s: %w", path, &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return st, nil
}

// dialAt returns a conn in the network namespace at path: the session's, or a new one.
// Only the opening of the sockets happens on a thread that was moved there; ns.Do never
// gives such a thread back if it cannot return.
func dialAt(ctx context.Context, path string) (*conn, error) {
	return connect(ctx, path, func() (c *conn, err error) {
		err = within(path, func() (err error) {
			c, err = open(ctx)
			return err
		})
		return c, err
	})
}

// within runs f on a thread inside the network namespace at path.
func within(path string, f func() error) error {
	err := ns.WithNetNSPath(path, func(ns.NetNS) error { return f() })
	if err != nil {
		return fmt.Errorf("working in network namespace %s: %w", path, err)
	}
	return nil
}
