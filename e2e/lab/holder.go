package lab

import (
	"bufio"
	"bytes"
	"context"
	_ "embed" // the holder's script
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed holder.sh
var holderSource string

// closeTimeout bounds the wait for a host's processes to be gone. They are killed, so
// only one stuck in the kernel can outlast it.
const closeTimeout = 30 * time.Second

// holder is the process that keeps a host's namespaces. It is a child of the lab's
// process (cmd is set), or of nobody in a persistent lab that was opened again.
type holder struct {
	pid   int
	mntNS string // as /proc/PID/ns/mnt reads: tells the holder from a later owner of its PID
	fifo  string // persistent: a line written there ends the holder

	cmd   *exec.Cmd
	stdin io.Closer
	once  sync.Once
	err   error
}

type holderConfig struct {
	name, stage, machineID, bin, cniBin, stateDir string
}

// startHolder makes the namespaces and returns when the host in them is ready.
func startHolder(ctx context.Context, c holderConfig) (_ *holder, err error) {
	h := &holder{}
	if c.stateDir != "" {
		h.fifo = filepath.Join(c.stateDir, c.name+".hold")
		if err := unix.Mkfifo(h.fifo, 0o600); err != nil {
			return nil, fmt.Errorf("making %s: %w", h.fifo, err)
		}
	}
	script, err := scriptPipe(holderSource)
	if err != nil {
		return nil, fmt.Errorf("starting the namespace holder: %w", err)
	}
	defer func() { _ = script.Close() }()
	// The script by descriptor, so that a list of processes shows the host's name and not
	// the script. Not exec.CommandContext: the holder lives on after ctx.
	h.cmd = exec.Command("/bin/sh", "/dev/fd/3", //nolint:noctx // outlives every context
		c.name, c.stage, c.machineID, c.bin, c.cniBin, h.fifo)
	h.cmd.ExtraFiles = []*os.File{script}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{
		// Unshareflags, not Cloneflags: only for these does the runtime stop mounts from
		// propagating to the machine.
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		// Out of reach of the terminal's Ctrl-C: the holder must outlive those it ends.
		Setsid: true,
	}
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting the namespace holder: %w", err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the namespace holder: %w", err)
	}
	var stderr bytes.Buffer
	h.cmd.Stderr = &stderr
	if err := h.cmd.Start(); err != nil {
		if os.Getenv(inUserNS) != "" {
			// Some systems let anybody make a user namespace, but one without rights.
			return nil, fmt.Errorf("needs root here: %s", whyNoUserNS(err))
		}
		return nil, fmt.Errorf("making network and mount namespaces: %w", err)
	}
	h.pid = h.cmd.Process.Pid

	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err == nil && line != "ready\n" {
			err = fmt.Errorf("unexpected %q", line)
		}
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		h.mntNS, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", h.pid))
	}
	if err != nil {
		_ = h.cmd.Process.Kill() // already gone when it failed by itself
		_ = h.cmd.Wait()
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			err = errors.New(msg)
		}
		return nil, fmt.Errorf("preparing its namespaces: %w", err)
	}
	return h, nil
}

// scriptPipe returns a pipe from which text is read; it fits the pipe's buffer.
func scriptPipe(text string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(text)
	return r, errors.Join(err, w.Close())
}

// alive reports whether the process is still the one that was started.
func (h *holder) alive() bool {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", h.pid))
	return err == nil && ns == h.mntNS
}

// close ends the host and waits until its processes are gone.
func (h *holder) close() error {
	h.once.Do(func() { h.err = h.end() })
	return h.err
}

func (h *holder) end() error {
	if h.fifo != "" {
		if !h.alive() {
			return nil
		}
		// The holder has the FIFO open for both, so this never blocks.
		if err := os.WriteFile(h.fifo, []byte("end\n"), 0o600); err != nil {
			return fmt.Errorf("telling holder %d to end: %w", h.pid, err)
		}
	} else if err := h.stdin.Close(); err != nil {
		return fmt.Errorf("telling holder %d to end: %w", h.pid, err)
	}
	if h.cmd == nil {
		for end := time.Now().Add(closeTimeout); h.alive(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("holder %d did not end within %v", h.pid, closeTimeout)
			}
		}
		return nil
	}
	timer := time.AfterFunc(closeTimeout, func() { _ = h.cmd.Process.Kill() })
	defer timer.Stop()
	if err := h.cmd.Wait(); err != nil {
		return fmt.Errorf("ending holder %d: %w", h.pid, err)
	}
	return nil
}
