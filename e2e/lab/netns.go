package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that is in the host's network namespace: for netlink and sockets,
// which stay there when opened there. It does not change files or mounts. f must not start
// goroutines that rely on it.
func (h *Host) Do(f func() error) error { return inNetNS(h.NetNS(), f) }

// Do is as [Host.Do], in the container's network.
func (c *Container) Do(f func() error) error { return inNetNS(c.NetNS(), f) }

func inNetNS(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	// A goroutine of its own: if the way back fails, it ends with its thread locked, and
	// the runtime then ends the thread instead of giving it to others.
	result := make(chan error, 1)
	go func() { result <- onThread(int(ns.Fd()), path, f) }()
	return <-result
}

func onThread(ns int, path string, f func() error) (err error) {
	runtime.LockOSThread()
	// Not /proc/self, which is the main thread's.
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening own network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering network namespace %s: %w", path, err)
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leaving network namespace %s: %w", path, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}
