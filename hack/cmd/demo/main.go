// Demo shows in half a minute what flatdhcp does, on a controller and two compute hosts made
// of namespaces: each step prints the command it runs and what came back, and each claim is
// checked. It exits with 1 if anything differs from what it says.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// timeout ends a demo that hangs; it takes a third of that.
const timeout = 90 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context) (code int, err error) {
	if code, done, err := lab.Reexec(ctx); done || err != nil {
		return code, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	bin, err := programs()
	if err != nil {
		return 0, err
	}
	l, err := lab.Start(ctx, lab.Options{Bin: bin, CNIBin: filepath.Join(bin, "tools", "cni")})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Build(ctx, lab.Seed(2)); err != nil {
		return 0, err
	}
	s := &story{screen: newScreen(os.Stdout, os.Getenv), outside: l.Host("outside"), controller: l.Host("controller"),
		compute1: l.Host("compute-1"), compute2: l.Host("compute-2")}
	if err := s.tell(ctx); err != nil {
		return 0, err
	}
	return s.conclude(time.Since(start)), nil
}

// programs is the directory that make builds into: the one this program is in.
func programs() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the programs: %w", err)
	}
	dir := filepath.Dir(self)
	for _, p := range []string{"flat-bridge", "flat-dhcpd", "flatctl", "tools/cni/cnitool"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return "", fmt.Errorf("finding the programs: %w; run it by make demo", err)
		}
	}
	return dir, nil
}
