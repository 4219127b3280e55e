package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
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

// pipeDelay is how long a program's pipes may stay open when it has ended (in the
// hands of a child of its own). On a busy node our own reading may take part of it.
const pipeDelay = 5 * time.Second

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
func runWith(ctx context.Context, env []string, path string, args []string, stdin []byte) ([]byte, error) {
	// The kernel sends it when the thread dies that started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = pipeDelay
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, &ProgramError{Path: path, Stderr: stderr.String(), Err: errors.Join(err, ctx.Err())}
	}
	return stdout.Bytes(), nil
}
