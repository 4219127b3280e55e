package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxOutput bounds what of the program's output is kept for the log, in bytes.
	maxOutput = 1024
	// lingers is how long children of the program may keep its output open after its end.
	lingers = time.Second
)

// environment is all that the program gets beside the lease's.
var environment = []string{"LC_ALL=C", "PATH=/usr/sbin:/sbin:/usr/bin:/bin"}

// execute runs the program, without a shell, without capabilities, and kills it with
// its children when ctx ends.
//
// The daemon has given up what it takes to drop the bounding set or to change its user.
// But no_new_privs is set: what a program executed by user 0 gets is at most what the
// executing thread has, so that thread, which serves nothing else and ends with it, has
// nothing.
func execute(ctx context.Context, path string, r Run) (output string, err error) {
	var out limited
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: its lack of capabilities must not spread
		if err := giveUpAll(); err != nil {
			done <- err
			return
		}
		cmd := exec.CommandContext(ctx, path, r.Args...)
		cmd.Env = append(append([]string{}, environment...), r.Env...)
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = lingers
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		err := cmd.Run()
		if errors.Is(err, exec.ErrWaitDelay) { // it ended well and left something running
			err = nil
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("it was killed: %w", context.Cause(ctx))
		}
		done <- err
	}()
	err = <-done
	return out.String(), err
}

// giveUpAll takes every capability from the calling thread, for good.
func giveUpAll() error {
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || noNew != 1 {
		return errors.Join(errors.New("no_new_privs is not set: a program would get capabilities"), err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), maxOutput-l.b.Len())])
	return len(p), nil
}

func (l *limited) String() string { return l.b.String() }
