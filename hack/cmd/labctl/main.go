// Labctl leaves a node up to play in, and takes it down. It is run by hack/lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

const usage = `hack/lab up [--hosts N]         make the lab: a node with two containers and a VM port on br100, or
                                a controller and N-1 compute hosts that share a flat network
hack/lab sh HOST [COMMAND...]   a shell on a host, or one command
hack/lab status                 what is up
hack/lab down                   remove it, with whatever runs in it
`

// stateDir is where the lab is remembered, in the directory that hack/lab runs in.
const stateDir = ".lab"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "hack/lab:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch {
	case verb == "up" && len(args) == 1:
		return up(ctx, 1)
	case verb == "up" && len(args) == 3 && args[1] == "--hosts":
		hosts, err := strconv.Atoi(args[2])
		if err != nil {
			return 0, fmt.Errorf("--hosts %s: a number of hosts was expected", args[2])
		}
		return up(ctx, hosts)
	case verb == "down" && len(args) == 1, verb == "status" && len(args) == 1, verb == "sh" && len(args) > 1:
		return inside(ctx, verb, args[1:])
	}
	fmt.Fprint(os.Stderr, usage)
	return 2, nil
}

// inside runs the verbs that need a lab which is up, in its user namespace if it has one.
func inside(ctx context.Context, verb string, args []string) (int, error) {
	dir, err := filepath.Abs(stateDir)
	if err != nil {
		return 0, err
	}
	pid, err := lab.HolderPID(dir, "")
	if errors.Is(err, lab.ErrNoLab) && verb != "sh" {
		fmt.Println("no lab is up; make lab makes one")
		return 0, os.RemoveAll(dir)
	}
	if err != nil {
		return 0, fmt.Errorf("%w; make lab makes one", err)
	}
	l, err := lab.Open(ctx, dir)
	if err != nil {
		return 0, err
	}
	if len(l.Hosts()) > 0 {
		if code, done, err := lab.Rejoin(ctx, pid); done || err != nil {
			return code, err
		}
	}
	switch verb {
	case "down":
		return 0, l.Close()
	case "status":
		return 0, status(ctx, l)
	default:
		return shell(ctx, l, args[0], args[1:])
	}
}

func shell(ctx context.Context, l *lab.Lab, host string, argv []string) (int, error) {
	h := l.Host(host)
	if h == nil {
		var names []string
		for _, h := range l.Hosts() {
			names = append(names, h.Name())
		}
		return 0, fmt.Errorf("the lab has no host %q; it has: %s (a container is entered from there: ip netns exec NAME)", host, strings.Join(names, ", "))
	}
	if len(argv) == 0 {
		argv = []string{"bash", "--norc"}
	}
	cmd := h.Command(ctx, argv...)
	cmd.Env = append(cmd.Env, "PS1="+host+`:\w# `)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func status(ctx context.Context, l *lab.Lab) error {
	if len(l.Hosts()) == 0 {
		fmt.Println("the lab's hosts are gone (a reboot?); make lab-down forgets them")
	}
	for _, h := range l.Hosts() {
		out, _, err := h.Run(ctx, "sh", "-c", "ip -brief address; [ ! -d /var/lib/flatdhcp ] || { echo; flatctl networks; echo; flatctl reservations; }")
		fmt.Printf("host %s\n\n%s", h.Name(), out)
		if err != nil {
			return err
		}
	}
	return nil
}
