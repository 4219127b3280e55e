package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec runs path with args and stdin, and returns what it wrote to stdout. A
// program that fails is an *Error.
type Exec func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error)

// Error is a program that could not be run, or ended with something else than 0.
type Error struct {
	Path   string
	Stderr string
	Err    error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("running %s: %v", e.Path, e.Err)
	if said := strings.TrimSpace(e.Stderr); said != "" {
		text += ": " + said
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// environment is all that the programs see: their messages are read, and they look up
// modprobe and the like.
var environment = []string{"LC_ALL=C", "PATH=/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"}

// Run runs programs with LC_ALL=C and nothing of the caller's environment. It kills the
// program when ctx ends.
func Run(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
	return run(ctx, environment, path, args, stdin, func() {})
}

// WithEnv is Run with more in the environment.
func WithEnv(more ...string) Exec {
	env := slices.Concat(environment, more)
	return func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
		return run(ctx, env, path, args, stdin, func() {})
	}
}

// Beside is Run that calls beside while the program runs, and waits for both.
func Beside(ctx context.Context, path string, args []string, stdin []byte, beside func()) ([]byte, error) {
	return run(ctx, environment, path, args, stdin, beside)
}

// run ties the program's life to this process: a plugin killed by its runtime lets go
// of the filter lock, and its iptables-restore must not come after that.
func run(ctx context.Context, env []string, path string, args []string, stdin []byte, beside func()) (out []byte, err error) {
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
	err = cmd.Start()
	beside()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		said, unread := readAll(stderr)
		return nil, &Error{Path: path, Stderr: string(said), Err: errors.Join(err, ctx.Err(), unread)}
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
