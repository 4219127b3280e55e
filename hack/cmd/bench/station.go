package main

import (
	"fmt"
	"os"
	"path"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// station is a thread that lives in a host's namespaces. A program started from it starts
// there, as from a runtime on that host: without an nsenter before it that would be
// measured as well.
type station struct{ work chan func() }

// newStation enters the host. It ends with close.
func newStation(h *lab.Host) (*station, error) {
	s := &station{work: make(chan func())}
	entered := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, for it fits no other.
		runtime.LockOSThread()
		err := enter(h)
		entered <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("entering host %s: %w", h.Name(), err)
	}
	return s, nil
}

func (s *station) close() { close(s.work) }

// do runs f on the thread and returns when it is done.
func (s *station) do(f func()) {
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

func enter(h *lab.Host) error {
	// A thread that shares its working directory with others may not change mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	dir := path.Dir(h.NetNS())
	// Opened first: in the host's /proc the paths may mean something else.
	var spaces []*os.File
	for _, name := range []string{"net", "uts", "mnt"} {
		f, err := os.Open(path.Join(dir, name))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		spaces = append(spaces, f)
	}
	for _, f := range spaces {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("joining %s: %w", f.Name(), err)
		}
	}
	return nil
}
