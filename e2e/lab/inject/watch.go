package inject

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification and response are struct seccomp_notif and seccomp_notif_resp
// (linux/seccomp.h).
type notification struct {
	id     uint64
	thread uint32
	flags  uint32
	number int32
	arch   uint32
	ip     uint64
	args   [6]uint64
}

type response struct {
	id    uint64
	value int64
	error int32
	flags uint32
}

// watcher answers the kernel's questions about one program.
type watcher struct {
	plan     Plan
	pid      int // of the program
	listener int
	started  bool // the program itself runs
	counted  int
	asked    map[uint64]string // by descriptor, the last request
	report   Report
}

// watch answers until nobody is left who could ask.
func (w *watcher) watch() error {
	defer func() { _ = unix.Close(w.listener) }()
	for {
		fds := []unix.PollFd{{Fd: int32(w.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil // POLLHUP
		}
		var n notification
		if err := w.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
				continue // it died meanwhile
			}
			return fmt.Errorf("receiving a question: %w", err)
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		w.answer(n, &r)
		if err := w.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("answering: %w", err)
		}
	}
}

func (w *watcher) ioctl(request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.listener), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// answer counts the call and decides what comes of it.
func (w *watcher) answer(n notification, r *response) {
	kind := kindOf(uint32(n.number))
	own := w.own(n.thread)
	switch {
	case !w.started: // the process that becomes the program
		w.started = kind == Execve
		return
	case kind == Execve && own || kind != Execve && !own:
		return // a program that it runs
	case !slices.Contains(w.plan.Kinds, kind):
		return
	}
	c := Call{Kind: kind, What: describe(n)}
	switch kind {
	case Request:
		w.asked[n.args[0]] = c.What
	case Answer:
		c.What = "to " + w.asked[n.args[0]]
	case Execve, Flock, Name, Open, Socket, Sync, Write:
	}
	if w.plan.Only != nil && !w.plan.Only(c) {
		return
	}
	w.report.Calls = append(w.report.Calls, c)
	w.counted++
	if w.plan.At == 0 || w.counted < w.plan.At || w.counted > w.plan.At && !w.plan.On {
		return
	}
	w.report.Reached = true
	switch {
	case w.plan.Interrupted:
		w.interrupt(n, r)
	case w.plan.Errno == 0:
		_ = unix.Kill(w.pid, unix.SIGKILL) // it is there: it waits for the answer
		// Which it does not live to see; "go on" might be faster than its end.
		r.flags, r.error = 0, -int32(unix.EINTR)
	default:
		r.flags, r.error = 0, -int32(w.plan.Errno)
	}
}

// own reports whether a thread is the program's and not that of one it runs. A child that
// has not executed anything yet is none of its threads.
func (w *watcher) own(thread uint32) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", w.pid, thread))
	return err == nil
}
