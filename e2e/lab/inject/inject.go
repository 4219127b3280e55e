// Package inject makes one system call of a program fail, kills the program there, or
// only writes down what it calls, without anything in the program for it: the kernel asks
// this process about each call of the kinds that are watched (seccomp's user
// notifications, seccomp_unotify(2)). Calls are counted over all threads, in the order in
// which the kernel reports them.
//
// The program is started by [Exec], which the process executes itself anew for: a main or
// TestMain of its must call it first. It needs root, and Linux 5.6.
package inject

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind is a kind of system call that is watched.
type Kind string

// The kinds. A request is what is sent to a socket, an answer what is about to be
// received from one.
const (
	Request Kind = "request" // sendto, sendmsg
	Answer  Kind = "answer"  // recvfrom, recvmsg
	Socket  Kind = "socket"
	Open    Kind = "open"   // openat
	Write   Kind = "write"  // write, pwrite64, ftruncate
	Sync    Kind = "sync"   // fsync, fdatasync
	Name    Kind = "name"   // mkdirat, renameat, unlinkat, fchmodat: changes of a directory
	Flock   Kind = "flock"  // flock
	Execve  Kind = "execve" // of a program that the program runs
)

// Plan says what is to happen, and where.
type Plan struct {
	Kinds []Kind // that are watched and counted
	// Only, if given, says of a call of these kinds whether it counts.
	Only func(Call) bool
	// At is the number of the call, from 1, at which Act is done; 0 = at none.
	At int
	// On: at all that follow as well.
	On bool
	// Errno is what the call returns, without being made; 0 = the program is killed before
	// it. With Interrupted an answer is delivered with the mark of an interrupted dump.
	Errno       unix.Errno
	Interrupted bool
}

// Call is a system call of the program's.
type Call struct {
	Kind Kind
	// What is the kind of request, as "RTM_NEWLINK" or "nf_tables batch", "to" it for an
	// answer, or the file. (Of answers this is known only if requests are watched.)
	What string
}

func (c Call) String() string { return string(c.Kind) + " " + c.What }

// Report is what the program called, and whether it came to what was planned.
type Report struct {
	Calls   []Call
	Reached bool
}

// env makes a process that executes itself become the program.
const env = "FLATDHCP_INJECT"

// Argv is argv as a program that can be watched: of a command to be given to [Run].
func Argv(argv ...string) []string {
	return append([]string{fmt.Sprintf("/proc/%d/exe", os.Getpid())}, argv...)
}

// Run runs cmd, made of [Argv] and not yet started, and returns when it has ended: with the
// program's own error, as exec gives it, and what it called. The program must not be
// forked off by another one that cmd starts first.
func Run(cmd *exec.Cmd, plan Plan) (Report, error) {
	numbers := numbersOf(plan.Kinds)
	ours, theirs, err := os.Pipe()
	if err != nil {
		return Report{}, fmt.Errorf("watching a program: %w", err)
	}
	defer func() { _ = ours.Close() }() // only read
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d:%s", env, 3+len(cmd.ExtraFiles), strings.Join(numbers, ",")))
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if err := cmd.Start(); err != nil {
		return Report{}, errors.Join(fmt.Errorf("watching a program: %w", err), theirs.Close())
	}
	err = theirs.Close()
	w := &watcher{plan: plan, pid: cmd.Process.Pid, asked: map[uint64]string{}}
	if err == nil {
		err = w.attach(ours)
	}
	if err != nil {
		return Report{}, errors.Join(fmt.Errorf("watching a program: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	watched := make(chan error, 1)
	go func() { watched <- w.watch() }()
	ended := cmd.Wait()
	if err := <-watched; err != nil {
		return w.report, fmt.Errorf("watching a program: %w", err)
	}
	return w.report, ended
}

// attach gets the descriptor on which the kernel asks: the program's side has it and says
// its number.
func (w *watcher) attach(from io.Reader) error {
	line, err := bufio.NewReader(from).ReadString('\n')
	if err != nil {
		return fmt.Errorf("it did not say its descriptor: %w", err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(w.pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(pidfd) }()
	if w.listener, err = unix.PidfdGetfd(pidfd, number, 0); err != nil {
		return fmt.Errorf("getting its descriptor: %w", err)
	}
	return nil
}

// Main becomes the program if the process was executed for that, and then does not return.
func Main() {
	task := os.Getenv(env)
	if task == "" {
		return
	}
	if err := become(task); err != nil {
		fmt.Fprintln(os.Stderr, "becoming a watched program:", err)
		os.Exit(125)
	}
}

func become(task string) error {
	number, list, _ := strings.Cut(task, ":")
	fd, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	var numbers []uint32
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return err
		}
		numbers = append(numbers, uint32(n))
	}
	var environment []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, env+"=") {
			environment = append(environment, e)
		}
	}
	listener := make(chan int)
	told := make(chan error)
	// From another thread than the watched one: what that calls waits for an answer.
	go func() {
		_, err := fmt.Fprintln(os.NewFile(uintptr(fd), "report"), <-listener)
		told <- err
	}()
	l, err := listen(numbers) // locks the thread
	if err != nil {
		return err
	}
	listener <- l
	if err := <-told; err != nil {
		return err
	}
	syscall.CloseOnExec(fd)
	return syscall.Exec(os.Args[1], os.Args[1:], environment)
}
