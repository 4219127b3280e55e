package filter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// exits is how the operating system tells a program's end, with what it said.
func exits(t *testing.T, script, said string) func(path string) error {
	t.Helper()
	return func(path string) error {
		err := exec.Command("/bin/sh", "-c", script).Run()
		if err == nil {
			t.Fatalf("%q does not fail", script)
		}
		return &ProgramError{Path: path, Stderr: said, Err: err}
	}
}

// TestEveryFailureOfAProgram lets -restore or -save end in each way that it can. Each
// time the error names the program, what it said and the network, and the kernel is as
// it was: the next call works.
func TestEveryFailureOfAProgram(t *testing.T) {
	flat := everything()
	cases := []struct {
		name string
		fail func(path string) error
		out  string // printed instead, by -save alone
		want []string
	}{
		{"missing", func(path string) error {
			return &ProgramError{Path: path, Err: &os.PathError{Op: "fork/exec", Path: path, Err: unix.ENOENT}}
		}, "", []string{"no such file or directory"}},
		{"not permitted", exits(t, "exit 4", "iptables: Permission denied (you must be root)"), "", []string{"exit status 4", "you must be root"}},
		{"killed", exits(t, "kill -9 $$", ""), "", []string{"signal: killed"}},
		{"exit 1", exits(t, "exit 1", "iptables-restore: line 3 failed"), "", []string{"exit status 1", "line 3 failed"}},
		{"exit 2", exits(t, "exit 2", "Error occurred at line: 3"), "", []string{"exit status 2", "line: 3"}},
		{"exit 3", exits(t, "exit 3", "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id"), "", []string{"exit status 3", "generation id"}},
		{"somebody holds xtables' lock", exits(t, "exit 4", "Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock..."), "",
			[]string{"exit status 4", "currently holding the xtables lock"}},
		{"garbage", nil, "Segmentation fault\n", []string{`unknown line "Segmentation fault"`}},
		{"cut off", nil, "*filter\n-A FLAT-FORWARD -j ACC", []string{"rule for undeclared chain FLAT-FORWARD"}},
		{"cut off at a chain", nil, "*filter\n:FLAT-FORWARD - [0:0]\n-A FLAT-FORWARD -j FLAT-", []string{"ends without its COMMIT"}},
	}
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		for _, failing := range []string{"-restore", "-save"} {
			for _, c := range cases {
				if failing == "-restore" && c.fail == nil || failing == "-save" && backend == BackendNFT {
					continue
				}
				t.Run(fmt.Sprintf("%s %s %s", backend, failing, c.name), func(t *testing.T) {
					f := newFakeKernel()
					table := f.table(t, backend)
					ctx := context.Background()
					if err := table.Attach(ctx, networksOf(flat), flat, row("10.0.0.2")); err != nil {
						t.Fatal(err)
					}
					works := table.exec
					if failing == "-save" { // which is asked where the kernel cannot be
						table.readLegacy = func(context.Context) (*seen, error) { return nil, errors.ErrUnsupported }
					}
					table.exec = func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
						switch {
						case !strings.HasSuffix(path, failing):
							return works(ctx, path, args, stdin)
						case c.fail != nil:
							return nil, c.fail(path)
						}
						return []byte(c.out), nil
					}
					before, open := f.save(), network("flat", "10.0.0.0/24", "br100")
					for verb, call := range map[string]func() error{
						"attach": func() error { return table.Attach(ctx, networksOf(flat), flat, row("10.0.0.3")) },
						"detach": func() error { return table.Detach(ctx, flat, row("10.0.0.2")) },
						"apply": func() error {
							_, err := table.Apply(ctx, networksOf(open), "flat", aliveRows(row("10.0.0.2")))
							return err
						},
						"remove": func() error { return table.Remove(ctx, networksOf(), flat) },
					} {
						err := call()
						if err == nil {
							t.Errorf("%s: no error", verb)
							continue
						}
						for _, want := range append([]string{"network flat", "iptables" + failing}, c.want...) {
							if !strings.Contains(err.Error(), want) {
								t.Errorf("%s: error %v does not say %q", verb, err, want)
							}
						}
						if after := f.save(); after != before {
							t.Errorf("%s changed:\n%s", verb, cmp.Diff(before, after))
						}
					}
					table.exec = works
					if err := table.Attach(ctx, networksOf(flat), flat, row("10.0.0.3")); err != nil {
						t.Error(err)
					}
					assertOwn(t, f, flat, row("10.0.0.3"))
				})
			}
		}
	}
}

// If nat is in and filter is refused, what is in is the network's alone, and the next
// call goes on from there.
func TestFilterRefusedAfterNAT(t *testing.T) {
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			flat, f := network("flat", "10.0.0.0/24", "br100", ipMasq), newFakeKernel()
			table := f.table(t, backend)
			works := table.exec
			table.exec = func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
				return works(ctx, path, args, []byte(strings.Replace(string(stdin), "-A FLAT-DROP", "-A FLAT-DROP -j FLAT-ABSENT\n-A FLAT-DROP", 1)))
			}
			attach := func() error {
				return table.Attach(context.Background(), networksOf(flat), flat, row("10.0.0.2"))
			}
			err := attach()
			var failed *ProgramError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), "FLAT-ABSENT") {
				t.Errorf("error %v", err)
			}
			own, _ := ours(bare(f.save()))
			var nat strings.Builder
			for name, rules := range plannedChains(Held{flat, nil}) {
				if tableOf(name) == natTable {
					nat.WriteString(":" + name + "\n" + rules)
				}
			}
			if diff := cmp.Diff(nat.String(), own); diff != "" {
				t.Errorf("in the kernel (-nat +kernel):\n%s", diff)
			}
			table.exec = works
			if err := attach(); err != nil {
				t.Fatal(err)
			}
			assertOwn(t, f, flat, row("10.0.0.2"))
		})
	}
}

func TestLockOfOthersIsWaitedForAndThenNamed(t *testing.T) {
	k := newKernel(t, BackendLegacy)
	flat := network("flat", "10.0.0.0/24", "br100")
	k.attach(k.table(), networksOf(flat), flat, row("10.0.0.2"))
	before := k.save()
	lock, err := lockFile(k.xtables)
	if err != nil {
		t.Fatal(err)
	}
	impatient := k.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
		for i, arg := range args {
			if arg == "-w" { // the wait, cut short
				args[i+1] = "1"
			}
		}
		return k.exec(ctx, path, args, stdin)
	})
	err = k.try(func(ctx context.Context) error { return impatient.Attach(ctx, networksOf(flat), flat, row("10.0.0.3")) })
	if err == nil || !strings.Contains(err.Error(), "xtables lock") {
		t.Errorf("error %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if after := k.save(); after != before {
		t.Errorf("it changed:\n%s", cmp.Diff(before, after))
	}
	k.attach(impatient, networksOf(flat), flat, row("10.0.0.3"))
	k.holds(Held{flat, rowsOf("10.0.0.2", "10.0.0.3")})
}

func TestContextEndsWhileAProgramRuns(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/24", "br100")
		k.attach(k.table(), networksOf(flat), flat, row("10.0.0.2"))
		before := k.save()
		err := k.try(func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			table := k.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
				if !strings.HasSuffix(path, "-restore") {
					return k.exec(ctx, path, args, stdin)
				}
				fifo := filepath.Join(t.TempDir(), "started")
				if err := mkfifo(fifo); err != nil {
					return nil, err
				}
				go func() {
					if f, err := os.Open(fifo); err == nil {
						_, _ = f.Read(make([]byte, 1)) // until the program has said so, whom the fifo's end would kill
						_ = f.Close()
					}
					cancel()
				}()
				return program.Run(ctx, "/bin/sh", []string{"-c", "echo >" + fifo + "; while :; do :; done"}, stdin)
			})
			return table.Attach(ctx, networksOf(flat), flat, row("10.0.0.3"))
		})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "signal: killed") {
			t.Errorf("error %v", err)
		}
		if after := k.save(); after != before {
			t.Errorf("it changed:\n%s", cmp.Diff(before, after))
		}
	})
}

// lockFile takes a lock as xtables does.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
