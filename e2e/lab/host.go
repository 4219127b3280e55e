package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// hostPath is the search path in a host. Our programs come first; the reference plugins
// are not in it: one of them is called bridge, as a program of iproute2 is.
const hostPath = "/run/lab/path:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Host is one node: a network and files of its own. Its methods may be called
// concurrently.
type Host struct {
	name     string
	holder   *holder
	isSwitch bool
}

// Name returns the host's name, which is its host name as well.
func (h *Host) Name() string { return h.name }

// NetNS returns the path of the host's network namespace as the machine sees it.
func (h *Host) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", h.holder.pid) }

// RunError tells of a program that did not end with status 0.
type RunError struct {
	Where  string // host, or host/container
	Argv   []string
	Stdout string
	Stderr string
	Err    error // mostly an *exec.ExitError
}

// Error implements error. It carries what the program said, if it said anything.
func (e *RunError) Error() string {
	said := strings.TrimSpace(e.Stderr)
	if said == "" {
		said = strings.TrimSpace(e.Stdout)
	}
	if said != "" {
		said = ": " + said
	}
	return fmt.Sprintf("running %q on %s: %v%s", strings.Join(e.Argv, " "), e.Where, e.Err, said)
}

// Unwrap returns what exec said.
func (e *RunError) Unwrap() error { return e.Err }

// Command prepares a program in the host's namespaces, found by the host's PATH and started
// in /. Its process ID is the program's own, so that signals reach it; when ctx ends it is
// killed. Set further environment with append(cmd.Env, ...).
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return h.command(ctx, h.NetNS(), argv)
}

// command lets nsenter open the namespaces, enter them and become the program: without a
// fork, and without a locked thread of ours whose death would be taken for the program's.
func (h *Host) command(ctx context.Context, netns string, argv []string) *exec.Cmd {
	args := []string{
		fmt.Sprintf("--mount=/proc/%d/ns/mnt", h.holder.pid),
		fmt.Sprintf("--uts=/proc/%d/ns/uts", h.holder.pid),
		"--net=" + netns,
		"--",
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	// Nothing of the caller's environment: a test must not pass on one machine only.
	cmd.Env = []string{"PATH=" + hostPath, "CNI_PATH=/opt/cni/bin", "HOME=/root", "LC_ALL=C", "TERM=" + os.Getenv("TERM")}
	// A child that detached keeps our pipes open; do not wait for it for ever. On a busy
	// machine the readers of the pipes may come seconds after the program's end.
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// Run runs a program on the host and returns what it printed. A status other than 0 is a
// *RunError.
func (h *Host) Run(ctx context.Context, argv ...string) (stdout, stderr string, err error) {
	return run(h.Command(ctx, argv...), h.name, argv)
}

func run(cmd *exec.Cmd, where string, argv []string) (string, string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = &RunError{Where: where, Argv: argv, Stdout: stdout.String(), Stderr: stderr.String(), Err: err}
	}
	return stdout.String(), stderr.String(), err
}

// WriteFile writes a file as the host sees the path, whole or not at all, and makes its
// directory.
func (h *Host) WriteFile(ctx context.Context, name string, perm os.FileMode, data string) error {
	// By a program in the host: from outside, /proc/PID/root would follow an absolute
	// link to the machine's own file.
	const script = `set -e; mkdir -p "$2"; cat >"$1.new"; chmod "$3" "$1.new"; mv "$1.new" "$1"`
	argv := []string{"sh", "-c", script, "sh", name, path.Dir(name), fmt.Sprintf("%04o", perm.Perm())}
	cmd := h.Command(ctx, argv...)
	cmd.Stdin = strings.NewReader(data)
	if _, _, err := run(cmd, h.name, argv[:1]); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// ReadFile returns a file as the host sees the path.
func (h *Host) ReadFile(ctx context.Context, name string) (string, error) {
	out, _, err := h.Run(ctx, "cat", "--", name)
	return out, err
}
