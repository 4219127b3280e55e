package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec runs path with args and stdin, and returns what it wrote to stdout. A
// program that fails is a *ProgramError.
type Exec func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error)

// ProgramError is a program that ended with something else than 0.
type ProgramError struct {
	Path   string
	Stderr string
	Err    error
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("running %s: %v: %s", e.Path, e.Err, strings.TrimSpace(e.Stderr))
}

func (e *ProgramError) Unwrap() error { return e.Err }

// programEnv is all that the programs see: their messages are read, and they look
// up modprobe and the like.
var programEnv = []string{"LC_ALL=C", "PATH=/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"}

// runProgram is the Exec of a Table that is given none. It kills the program when
// ctx ends.
func runProgram(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
	return runWith(ctx, programEnv, path, args, stdin)
}

// runWith ties the program's life to this process: a plugin killed by its runtime
// lets go of the filter lock, and its iptables-restore must not come after that.
func runWith(ctx context.Context, env []string, path string, args []string, stdin []byte) (out []byte, err error) {
	// The kernel sends it when the thread dies that started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var files []*os.File // stdin, stdout, stderr
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, content := range [][]byte{stdin, nil, nil} {
		f, err := memoryFile(content)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	stdout, stderr := files[1], files[2]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], stdout, stderr
	if err := cmd.Run(); err != nil {
		said, unread := readAll(stderr)
		return nil, &ProgramError{Path: path, Stderr: string(said), Err: errors.Join(err, ctx.Err(), unread)}
	}
	return readAll(stdout)
}

// memoryFile is a file without a name. Programs get these instead of pipes: a pipe
// has to be read by a goroutine beside the one that waits, which on a node under
// load was seen to come seconds too late, and it stays open in the hands of a
// child of the program's.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("flatdhcp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("writing a file in memory: %w", err), f.Close())
	}
	return f, nil
}

func readAll(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
}
