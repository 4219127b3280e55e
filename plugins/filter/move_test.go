package filter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// switched is the same namespace after update-alternatives.
func (k kernel) switched() kernel {
	k.backend = program.Other(k.backend)
	return k
}

func (k kernel) recorded() string {
	k.t.Helper()
	b, err := os.ReadFile(k.record)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		k.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// oursIs compares what is ours with a plan.
func (k kernel) oursIs(want string) {
	k.t.Helper()
	own, _ := ours(k.save())
	if diff := cmp.Diff(want, own); diff != "" {
		k.t.Errorf("ours in %s (-want +got):\n%s", k.backend, diff)
	}
}

func TestAChangeOfBackEndTakesTheRulesAlong(t *testing.T) {
	flat, other := everything(), network("elsewhere", "172.16.0.0/24", "br1", ipMasq)
	rows := rowsOf("10.0.0.2", "10.0.0.3")
	for name, verb := range map[string]func(context.Context, *Table) error{
		"attach": func(ctx context.Context, table *Table) error {
			return table.Attach(ctx, networksOf(flat), flat, rows[1])
		},
		"apply": func(ctx context.Context, table *Table) error {
			_, err := table.Apply(ctx, networksOf(flat), "flat", aliveRows(rows...))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, k kernel) {
				k.attach(k.table(), networksOf(other), other, row("172.16.0.2"))
				k.attach(k.table(), networksOf(flat), flat, rows[0])
				k.ipt("-A FLAT-PROVIDER-USER -s 192.0.2.66/32 -j FLAT-DROP")
				for _, rule := range foreignRules {
					k.ipt(rule)
				}
				if k.recorded() != k.backend {
					t.Errorf("the record says %q", k.recorded())
				}
				_, before := ours(k.save())
				now := k.switched()
				now.must(func(ctx context.Context) error { return verb(ctx, now.table()) })
				own, _ := ours(now.save())
				for _, line := range strings.SplitAfter(planned(Held{flat, rows}, Held{other, rowsOf("172.16.0.2")}), "\n") {
					if !strings.HasPrefix(line, ":") && !strings.Contains(own, line) {
						t.Errorf("missing: %s", line)
					}
				}
				if !strings.Contains(own, "-A FLAT-PROVIDER-USER -s 192.0.2.66/32 -j FLAT-DROP\n") {
					t.Errorf("the operator's rule was left behind:\n%s", own)
				}
				left, rest := ours(k.save())
				if left != "" || rest != before {
					t.Errorf("left in the old back end:\n%s\nothers':\n%s", left, cmp.Diff(before, rest))
				}
				if now.recorded() != now.backend {
					t.Errorf("the record says %q", now.recorded())
				}
			})
		})
	}
}

func TestDetachTakesTheRulesOutWhereTheyAre(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, rows := network("flat", "10.0.0.0/24", "br100"), rowsOf("10.0.0.2", "10.0.0.3")
		k.attach(k.table(), networksOf(flat), flat, rows...)
		now := k.switched()
		now.detach(now.table(), flat, rows[0])
		k.holds(Held{flat, rows[1:]})
		now.oursIs("")
		if now.recorded() != k.backend {
			t.Errorf("the record says %q", now.recorded())
		}
	})
}

// errKilled is what Exec returns once a process is no more.
var errKilled = errors.New("killed")

// TestMoveBrokenOffAnywhere lets a move end before and after each program that it runs,
// and the next verb come with either back end chosen. At no moment is a workload without
// its rules, and in the end they are in one place.
func TestMoveBrokenOffAnywhere(t *testing.T) {
	flat := everything()
	rows := rowsOf("10.0.0.2", "10.0.0.3")
	plan := planned(Held{flat, rows})
	onBothBackends(t, func(t *testing.T, k kernel) {
		protected := func(when string) {
			t.Helper()
			old, _ := ours(k.save())
			now, _ := ours(k.switched().save())
			for _, chain := range []string{"-A FORWARD -j FLAT-FORWARD", "-j " + dispatchTo(flat, rows[0]).Chain} {
				if !strings.Contains(old, chain) && !strings.Contains(now, chain) {
					t.Errorf("%s: no %q anywhere", when, chain)
				}
			}
		}
		broken := 0
		for _, back := range []bool{false, true} {
			for stop := 1; ; stop++ {
				k.attach(k.table(), networksOf(flat), flat, rows...)
				now := k.switched()
				ran, ended := 0, false
				table := now.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
					if strings.HasSuffix(path, "-restore") {
						ran++
						if ran > (stop+1)/2 || ran == (stop+1)/2 && stop%2 == 1 {
							ended = true
							return nil, errKilled
						}
						out, err := now.exec(ctx, path, args, stdin)
						if ran == (stop+1)/2 {
							ended = true
							return nil, errors.Join(errKilled, err)
						}
						return out, err
					}
					return now.exec(ctx, path, args, stdin)
				})
				err := now.try(func(ctx context.Context) error { return table.Attach(ctx, networksOf(flat), flat, rows[0]) })
				if ended && !errors.Is(err, errKilled) {
					t.Errorf("stop %d: error %v", stop, err)
				}
				protected("broken off")
				next := now
				if back {
					next = k
				}
				next.attach(next.table(), networksOf(flat), flat, rows[0])
				protected("gone on")
				next.oursIs(plan)
				next.switched().oursIs("")
				if next.recorded() != next.backend {
					t.Errorf("stop %d: the record says %q", stop, next.recorded())
				}
				next.must(func(ctx context.Context) error { return next.table().Remove(ctx, networksOf(), flat) })
				if !ended {
					break
				}
				broken++
			}
		}
		if broken < 8 {
			t.Errorf("only %d moves were broken off", broken)
		}
	})
}

func TestOperatorsRuleThatCannotMoveStopsTheMove(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, rows := network("flat", "10.0.0.0/24", "br100"), rowsOf("10.0.0.2")
		k.attach(k.table(), networksOf(flat), flat, rows...)
		k.ipt("-N MY-OWN")
		k.ipt("-A FLAT-PROVIDER-USER -j MY-OWN")
		before := k.save()
		now := k.switched()
		err := now.try(func(ctx context.Context) error {
			return now.table().Attach(ctx, networksOf(flat), flat, row("10.0.0.3"))
		})
		for _, want := range []string{"MY-OWN", "nothing has been taken out of the old one", now.iptables()} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v does not say %q", err, want)
			}
		}
		if after := k.save(); after != before {
			t.Errorf("the old back end changed:\n%s", cmp.Diff(before, after))
		}
		now.ipt("-N MY-OWN")
		now.attach(now.table(), networksOf(flat), flat, row("10.0.0.3"))
		if own, _ := ours(k.save()); own != "" {
			t.Errorf("left:\n%s", own)
		}
	})
}

func TestOldProgramsAreGone(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/24", "br100")
		now := k.switched()
		dir := t.TempDir()
		for _, suffix := range []string{"", "-save", "-restore"} {
			if err := os.Symlink(now.iptables()+suffix, filepath.Join(dir, "iptables"+suffix)); err != nil {
				t.Fatal(err)
			}
		}
		lonely := New(Options{Iptables: []string{filepath.Join(dir, "iptables")}, RecordPath: k.record, Exec: k.exec})
		attach := func(ctx context.Context) error { return lonely.Attach(ctx, networksOf(flat), flat, row("10.0.0.3")) }
		if err := program.Record(k.record).Write(k.backend); err != nil {
			t.Fatal(err)
		}
		k.must(attach) // there was nothing in the old one
		now.holds(Held{flat, rowsOf("10.0.0.3")})
		k.must(func(ctx context.Context) error { return lonely.Remove(ctx, networksOf(), flat) })

		if err := program.Record(k.record).Write(k.backend); err != nil {
			t.Fatal(err)
		}
		k.attach(k.table(), networksOf(flat), flat, row("10.0.0.2"))
		before := k.save()
		err := k.try(attach)
		if !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), "iptables-"+k.backend) || !strings.Contains(err.Error(), "install it again") {
			t.Errorf("error %v", err)
		}
		if err := k.try(func(ctx context.Context) error { return lonely.Detach(ctx, flat, row("10.0.0.2")) }); !errors.Is(err, ErrNoProgram) {
			t.Errorf("detach: error %v", err)
		}
		if after := k.save(); after != before {
			t.Errorf("it changed:\n%s", cmp.Diff(before, after))
		}
	})
}

// Where iptables is not installed, what needs nothing of it works, and the rest says so
// and changes nothing.
func TestWithoutIptables(t *testing.T) {
	k := newKernel(t, BackendNFT)
	table := New(Options{Iptables: []string{filepath.Join(t.TempDir(), "iptables")}, LockPath: k.lock, RecordPath: k.record, Exec: k.exec})
	bridge := func(n *ipam.Network) { n.Bridge.IsGateway = false }
	cases := []struct {
		name  string
		n     ipam.Network
		needs bool
	}{
		{"filtered", network("flat", "10.0.0.0/24", "br100"), true},
		{"unfiltered, NAT", network("flat", "10.0.0.0/24", "br100", unfiltered, ipMasq), true},
		{"unfiltered gateway", network("flat", "10.0.0.0/24", "br100", unfiltered), false},
		{"unfiltered bridge", network("flat", "10.0.0.0/24", "br100", unfiltered, bridge), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			verbs := map[string]func(context.Context) error{
				"attach": func(ctx context.Context) error { return table.Attach(ctx, networksOf(c.n), c.n, row("10.0.0.2")) },
				"apply": func(ctx context.Context) error {
					_, err := table.Apply(ctx, networksOf(c.n), "flat", aliveRows(row("10.0.0.2")))
					return err
				},
			}
			for name, f := range verbs {
				if err := k.try(f); errors.Is(err, ErrNoProgram) != c.needs || (err != nil) != c.needs {
					t.Errorf("%s: error %v", name, err)
				}
			}
			k.must(func(ctx context.Context) error { return table.Detach(ctx, c.n, row("10.0.0.2")) })
			k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), c.n) })
		})
	}
	if saved, _ := ours(k.save()); saved != "" || table.Runs() != 0 || k.recorded() != "" {
		t.Errorf("%d programs ran, recorded %q, kernel:\n%s", table.Runs(), k.recorded(), saved)
	}
	flat := network("flat", "10.0.0.0/24", "br100")
	k.attach(k.table(), networksOf(flat), flat, row("10.0.0.2"))
	if err := k.try(func(ctx context.Context) error { return table.Detach(ctx, flat, row("10.0.0.2")) }); !errors.Is(err, ErrNoProgram) {
		t.Errorf("with rules to take out: error %v", err)
	}
}
