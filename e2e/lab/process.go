package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long Stop waits for a process to end by itself.
const stopTimeout = 30 * time.Second

// Process is a program that goes on running: a daemon, a ping, a DHCP client. What it
// prints on either stream is kept line by line.
type Process struct {
	cmd   *exec.Cmd
	where string
	argv  []string
	done  chan struct{}
	err   error // of Wait; valid when done is closed

	mu      sync.Mutex
	partial []byte
	lines   []string
	changed chan struct{} // closed and replaced with every line
}

// Start starts a program on the host. It ends with the host at the latest.
func (h *Host) Start(argv ...string) (*Process, error) {
	return start(h.Command(context.Background(), argv...), h.name, argv)
}

// Start starts a program in the container's network.
func (c *Container) Start(argv ...string) (*Process, error) {
	return start(c.Command(context.Background(), argv...), c.where(), argv)
}

// StartDaemon starts flat-dhcpd on the host. It does not wait for it to serve: wait for
// a line of its log, or retry what needs it.
func (h *Host) StartDaemon(args ...string) (*Process, error) {
	return h.Start(append([]string{"flat-dhcpd"}, args...)...)
}

func start(cmd *exec.Cmd, where string, argv []string) (*Process, error) {
	p := &Process{cmd: cmd, where: where, argv: argv, done: make(chan struct{}), changed: make(chan struct{})}
	// Its children are not waited for: they may hold the streams for as long as they live.
	cmd.WaitDelay = 2 * time.Second
	// One writer for both streams: exec then writes to it from one goroutine.
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		return nil, &RunError{Where: where, Argv: argv, Err: err}
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Write implements io.Writer for the program's output.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = append(p.partial, b...)
	for {
		line, rest, ok := bytes.Cut(p.partial, []byte("\n"))
		if !ok {
			break
		}
		p.lines = append(p.lines, string(line))
		p.partial = rest
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return len(b), nil
}

// PID returns the program's process ID as the machine sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Lines returns what it printed so far.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// Mark returns a position in the output, for WaitLine: the lines printed after now.
func (p *Process) Mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// WaitLine waits for the first line from position since on that contains text, and
// returns it and the position after it. It fails when ctx ends or the program did, and
// then tells what was printed.
func (p *Process) WaitLine(ctx context.Context, since int, text string) (string, int, error) {
	for {
		// Seen before looking: a process that ended has no more to say.
		ended := false
		select {
		case <-p.done:
			ended = true
		default:
		}
		p.mu.Lock()
		lines, changed := p.lines, p.changed
		p.mu.Unlock()
		for ; since < len(lines); since++ {
			if strings.Contains(lines[since], text) {
				return lines[since], since + 1, nil
			}
		}
		var reason error
		if ended {
			reason = fmt.Errorf("it ended: %w", cmpErr(p.err))
		} else {
			select {
			case <-changed:
				continue
			case <-p.done:
				continue
			case <-ctx.Done():
				reason = ctx.Err()
			}
		}
		return "", since, fmt.Errorf("waiting for %q from %q on %s: %w; it printed:\n%s",
			text, strings.Join(p.argv, " "), p.where, reason, strings.Join(lines, "\n"))
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("status 0")
	}
	return err
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Running reports whether the program has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait returns when the program has ended, with its error as exec gives it.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %q on %s to end: %w", strings.Join(p.argv, " "), p.where, ctx.Err())
	}
}

// Stop ends the program with SIGTERM and returns how it ended: nil for status 0. One that
// does not end is killed, which is an error. A program that had ended already is no error of
// Stop's: its own error is returned.
func (p *Process) Stop() error {
	_ = p.Signal(syscall.SIGTERM) // it may be gone already
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := p.Wait(ctx)
	if ctx.Err() != nil && p.Running() {
		return errors.Join(err, p.Kill())
	}
	return err
}

// Kill ends the program with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	_ = p.cmd.Process.Kill() // it may be gone already
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := p.Wait(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil // killed is what it was meant to be
	}
	return err
}
