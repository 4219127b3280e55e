package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// inUserNS in the environment marks the process that Reexec started.
const inUserNS = "FLATDHCP_LAB_USERNS"

// Reexec makes the calling program fit to start a lab. As root, or in the child that an
// earlier call started, it returns done == false: go on. Otherwise it runs the program
// again, with the same arguments, as root of a user, network and mount namespace of its
// own, and returns done == true and that child's exit code: the caller exits with it.
//
// The error says in one line why user namespaces are not to be had here.
func Reexec(ctx context.Context) (code int, done bool, err error) {
	if os.Geteuid() == 0 || os.Getenv(inUserNS) != "" {
		return 0, false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, fmt.Errorf("re-executing in a user namespace: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inUserNS+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		// Who is not root may map one ID, their own, and must give up setgroups for it.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return runChild(cmd)
}

// Rejoin is Reexec for a persistent lab: it runs the program again in the user namespace
// of the process pid, which must be the caller's own.
func Rejoin(ctx context.Context, pid int) (code int, done bool, err error) {
	if os.Geteuid() == 0 || os.Getenv(inUserNS) != "" {
		return 0, false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, fmt.Errorf("joining the lab's user namespace: %w", err)
	}
	// A Go program has several threads, which setns(2) refuses for user namespaces.
	args := append([]string{fmt.Sprintf("--user=/proc/%d/ns/user", pid), "--preserve-credentials", "--", self}, os.Args[1:]...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), inUserNS+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return runChild(cmd)
}

func runChild(cmd *exec.Cmd) (code int, done bool, err error) {
	// The terminal sends these to the child as well, which cleans up; we only wait.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("needs root here: %s", whyNoUserNS(err))
	}
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM { // kill sends it to us alone
					_ = cmd.Process.Signal(s)
				}
			case <-finished:
				return
			}
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code >= 0 {
			return code, true, nil
		}
		return 1, true, nil // by a signal
	}
	return 0, true, err
}

// whyNoUserNS turns the kernel's bare errno into what a person can change.
func whyNoUserNS(err error) string {
	for _, s := range []struct{ path, bad, reason string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "user namespaces are off (sysctl kernel.unprivileged_userns_clone=0)"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=1)"},
		{"/proc/sys/user/max_user_namespaces", "0", "user namespaces are off (sysctl user.max_user_namespaces=0)"},
	} {
		if v, readErr := os.ReadFile(s.path); readErr == nil && strings.TrimSpace(string(v)) == s.bad {
			return s.reason
		}
	}
	return fmt.Sprintf("making a user namespace is refused (%v)", err)
}
