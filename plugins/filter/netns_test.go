package filter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// requireRoot skips a test that needs namespaces; FLATDHCP_REQUIRE_ROOT (CI) makes
// that a failure.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
		t.Fatal("this test needs root, and FLATDHCP_REQUIRE_ROOT says that it must run")
	}
	t.Skip("needs root: it makes network namespaces")
}

// netns is a network namespace that ends with its test. Nobody but the goroutines
// that run do is in it, so nothing of the machine's can be touched.
type netns struct{ fd int }

func newNetNS(t testing.TB) netns {
	t.Helper()
	requireRoot(t)
	made := make(chan error)
	var ns netns
	go func() {
		// The thread is never unlocked: it dies with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- fmt.Errorf("unsharing the network namespace: %w", err)
			return
		}
		var err error
		ns.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Close(ns.fd); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// do runs f in the namespace, programs that f starts included.
func (ns netns) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// kernel is a network namespace, one back end in it and a lock file.
type kernel struct {
	t       testing.TB
	ns      netns
	backend string
	lock    string
	record  string // of the back end
	xtables string // XTABLES_LOCKFILE
}

// onBothBackends runs f as a sub-test for iptables-nft and for iptables-legacy,
// each in a namespace of its own.
func onBothBackends(t *testing.T, f func(t *testing.T, k kernel)) {
	t.Helper()
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) { f(t, newKernel(t, backend)) })
	}
}

func newKernel(t testing.TB, backend string) kernel {
	t.Helper()
	dir := t.TempDir()
	return kernel{t, newNetNS(t), backend, filepath.Join(dir, "filter.lock"), filepath.Join(dir, "filter.backend"), filepath.Join(dir, "xtables.lock")}
}

func (k kernel) iptables() string { return "/usr/sbin/iptables-" + k.backend }

func (k kernel) exec(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
	return program.WithEnv("XTABLES_LOCKFILE="+k.xtables)(ctx, path, args, stdin)
}

func (k kernel) table() *Table {
	return k.with(k.exec)
}

// with returns a table that runs programs in its own way.
func (k kernel) with(exec Exec) *Table {
	return New(Options{Iptables: []string{k.iptables()}, LockPath: k.lock, RecordPath: k.record, Exec: exec})
}

// place is where the kernel's own back end is changed.
func (k kernel) place() place {
	k.t.Helper()
	f, err := program.FindBackend(k.backend, []string{k.iptables()})
	if err != nil {
		k.t.Fatal(err)
	}
	return place{Family: f}
}

// testDeadline ends what hangs; a slow machine is not to meet it.
const testDeadline = 3 * time.Minute

func (k kernel) try(f func(ctx context.Context) error) error {
	return k.ns.do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
		defer cancel()
		return f(ctx)
	})
}

func (k kernel) must(f func(ctx context.Context) error) {
	k.t.Helper()
	if err := k.try(f); err != nil {
		k.t.Fatal(err)
	}
}

func (k kernel) attach(table *Table, networks Networks, n ipam.Network, rows ...ipam.Reservation) {
	k.t.Helper()
	for _, r := range rows {
		k.must(func(ctx context.Context) error { return table.Attach(ctx, networks, n, r) })
	}
}

func (k kernel) detach(table *Table, n ipam.Network, rows ...ipam.Reservation) {
	k.t.Helper()
	for _, r := range rows {
		k.must(func(ctx context.Context) error { return table.Detach(ctx, n, r) })
	}
}

// ipt runs iptables with words of args, restore feeds iptables-restore --noflush.
func (k kernel) ipt(args string) {
	k.t.Helper()
	k.must(func(ctx context.Context) error {
		_, err := k.exec(ctx, k.iptables(), append([]string{"-w", "5"}, strings.Fields(args)...), nil)
		return err
	})
}

// save returns iptables-save's tables nat and filter without counters, dates and
// policies' numbers; "" if they have never been used.
func (k kernel) save() string {
	k.t.Helper()
	var out []byte
	k.must(func(ctx context.Context) error {
		for _, table := range tables {
			saved, err := k.exec(ctx, k.iptables()+"-save", []string{"-t", table}, nil)
			if err != nil {
				return err
			}
			out = append(out, saved...)
		}
		return nil
	})
	var kept []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, ":") {
			line, _, _ = strings.Cut(line, " [")
			line += "\n"
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// ours splits a saved table into our part, normalised, and all the rest.
func ours(saved string) (own, rest string) {
	chains := map[string]string{}
	var others strings.Builder
	for line := range strings.Lines(saved) {
		name := strings.Fields(strings.TrimPrefix(line, ":"))[0]
		isRule := strings.HasPrefix(line, "-A ")
		if isRule {
			name = strings.Fields(line)[1]
		}
		switch {
		case strings.HasPrefix(name, ourPrefix) && isRule:
			chains[name] += line
		case strings.HasPrefix(name, ourPrefix):
			chains[name] += ""
		case isRule && strings.Contains(line, " -j FLAT-") && len(strings.Fields(line)) == 4:
			chains[name] += line
		default:
			others.WriteString(line)
		}
	}
	var b strings.Builder
	for _, name := range sortedKeys(chains) {
		b.WriteString(":" + name + "\n" + chains[name])
	}
	return b.String(), others.String()
}

// planned is a plan in the words of ours.
func planned(held ...Held) string {
	var b strings.Builder
	for name, rules := range plannedChains(held...) {
		b.WriteString(":" + name + "\n" + rules)
	}
	return b.String()
}

// plannedChains are the chains of a plan and the built-in ones, by name.
func plannedChains(held ...Held) iter.Seq2[string, string] {
	chains := map[string]string{}
	for _, c := range PlanAll(held).Chains {
		chains[c.Name] = c.String()
	}
	for _, builtin := range builtins {
		chains[builtin.chain] = "-A " + builtin.chain + " -j " + builtin.jump + "\n"
	}
	return func(yield func(string, string) bool) {
		for _, name := range sortedKeys(chains) {
			if !yield(name, chains[name]) {
				return
			}
		}
	}
}

// holds fails unless the kernel holds exactly the plan of what is ours.
func (k kernel) holds(held ...Held) {
	k.t.Helper()
	own, _ := ours(k.save())
	if diff := cmp.Diff(planned(held...), own); diff != "" {
		k.t.Errorf("the kernel does not hold the plan (-plan +kernel):\n%s", diff)
	}
}

// inParallel runs f(0..count-1) at once, each in the namespace.
func (k kernel) inParallel(count int, f func(ctx context.Context, i int) error) {
	k.t.Helper()
	errs := make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { errs[i] = k.try(func(ctx context.Context) error { return f(ctx, i) }) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		k.t.Fatal(err)
	}
}
