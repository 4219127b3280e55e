package filter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// helperEnv makes this test binary a plugin: it carries out the orders that it
// reads from stdin, one JSON value a line, and writes a line for each.
const helperEnv = "FLATDHCP_FILTER_TEST_HELPER"

// order is one ADD or DEL for the helper.
type order struct {
	Backend, Lock, Record, Xtables string
	Network                        ipam.Network
	Row                            ipam.Reservation
	Detach                         bool
}

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(runTests(m))
	}
	if err := obey(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runTests keeps the programs that go-iptables runs off the machine's own lock file.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "flatdhcp-filter-")
	if err == nil {
		err = os.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "xtables.lock"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.Run()
}

func obey(in io.Reader, out io.Writer) error {
	orders := json.NewDecoder(in)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := o.carryOut(); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, "done"); err != nil {
			return err
		}
	}
}

func (o order) carryOut() error {
	table := kernel{backend: o.Backend, lock: o.Lock, record: o.Record, xtables: o.Xtables}.table()
	ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
	defer cancel()
	if o.Detach {
		return table.Detach(ctx, o.Network, o.Row)
	}
	return table.Attach(ctx, networksOf(o.Network), o.Network, o.Row)
}

// helper starts a helper in the namespace. The caller kills it or closes in.
func (k kernel) helper() (cmd *exec.Cmd, in io.WriteCloser, out *bufio.Reader, err error) {
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = []string{helperEnv + "=1"}
	cmd.Stderr = os.Stderr
	if in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, nil, err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	return cmd, in, bufio.NewReader(pipe), k.ns.do(cmd.Start)
}

func (k kernel) order(n ipam.Network, r ipam.Reservation, detach bool) order {
	return order{k.backend, k.lock, k.record, k.xtables, n, r, detach}
}

// leaf returns rows that all live in one /28 of n's tree.
func leaf(count int) (rows []ipam.Reservation) {
	for i := range count {
		rows = append(rows, row(fmt.Sprintf("10.0.1.%d", 16+i)))
	}
	return rows
}

// Two hundred at once, each with a Table of its own, in one /28: eight rows leave,
// eight come, every one of them many times over.
func TestParallelAttachAndDetachEndInThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/16", "br100")
		all := leaf(16)
		leaving, coming := all[:8], all[8:]
		k.attach(k.table(), networksOf(flat), flat, leaving...)
		for range 2 {
			k.inParallel(200, func(ctx context.Context, i int) error {
				table := k.table()
				r := all[i%len(all)]
				if i%len(all) < 8 == (leaving[0].Addr == all[0].Addr) {
					return table.Detach(ctx, flat, r)
				}
				return table.Attach(ctx, networksOf(flat), flat, r)
			})
			k.holds(Held{flat, coming})
			leaving, coming = coming, leaving
		}
	})
}

// Addresses that change hands: the late DEL of the old container runs at the same
// time as the ADD of its heir.
func TestParallelHeirsEndInThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		const heirs = 4
		flat := network("flat", "10.0.0.0/16", "br100")
		rows := leaf(16)
		last := make([]ipam.Reservation, len(rows))
		k.inParallel(len(rows), func(ctx context.Context, i int) error {
			table := k.table()
			late := make(chan error, heirs)
			for h := range heirs {
				r := rows[i]
				r.Holder = &ipam.Holder{ContainerID: fmt.Sprintf("c%d-%d", i, h), IfName: "eth0"}
				if err := table.Attach(ctx, networksOf(flat), flat, r); err != nil {
					return err
				}
				if last[i] = r; h == heirs-1 {
					break
				}
				go func() {
					late <- k.try(func(ctx context.Context) error { return k.table().Detach(ctx, flat, r) })
				}()
			}
			for range heirs - 1 {
				if err := <-late; err != nil {
					return err
				}
			}
			return nil
		})
		k.holds(Held{flat, last})
	})
}

func TestParallelProcessesEndInThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		const count = 64
		flat := network("flat", "10.0.0.0/16", "br100")
		all := leaf(16)
		k.attach(k.table(), networksOf(flat), flat, all[:8]...)
		k.inParallel(count, func(_ context.Context, i int) error {
			at := i % len(all)
			return k.runHelper(k.order(flat, all[at], at < 8))
		})
		k.holds(Held{flat, all[8:]})
	})
}

func (k kernel) runHelper(o order) error {
	cmd, in, _, err := k.helper()
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(in).Encode(o), in.Close(), cmd.Wait())
}

// Whatever a killed plugin left is repaired by the verbs that a runtime sends
// next: neighbours keep their way throughout, and nothing is left in the end.
func TestKilledAtAnyMoment(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		const kills = 16
		flat := network("flat", "10.0.0.0/16", "br100")
		neighbours := rowsOf("10.0.1.17", "10.0.1.30")
		victims := rowsOf("10.0.1.16", "10.0.1.18", "10.0.2.5")
		table := k.table()
		k.attach(table, networksOf(flat), flat, neighbours...)
		for i := range kills {
			if err := k.killHelper(flat, victims, time.Duration(i)*700*time.Microsecond); err != nil {
				t.Fatal(err)
			}
			for _, r := range neighbours {
				// Nobody waits for the lock here: the dead have let go of it.
				if err := k.reachable(flat, r); err != nil {
					t.Fatalf("kill %d: %v", i, err)
				}
			}
			if i%4 == 0 {
				k.attach(table, networksOf(flat), flat, victims...)
				k.holds(Held{flat, append(victims[:len(victims):len(victims)], neighbours...)})
			}
			k.detach(table, flat, victims...)
			k.holds(Held{flat, neighbours})
		}
	})
}

// killHelper lets a helper attach and detach victims for a while and kills it in
// the midst of it.
func (k kernel) killHelper(n ipam.Network, victims []ipam.Reservation, after time.Duration) error {
	cmd, in, out, err := k.helper()
	if err != nil {
		return err
	}
	go func() {
		orders := json.NewEncoder(in)
		for i := 0; ; i++ {
			if orders.Encode(k.order(n, victims[i%len(victims)], i/len(victims)%2 == 1)) != nil {
				return // killed
			}
		}
	}()
	if _, err := out.ReadString('\n'); err != nil { // it is at work
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	// Not a wait for a condition: the moment of the kill is what is varied.
	<-time.After(after)
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) {
		return fmt.Errorf("the helper was not killed: %w", err)
	}
	return nil
}

// reachable follows the kernel's dispatch to r's chain.
func (k kernel) reachable(n ipam.Network, r ipam.Reservation) error {
	own, _ := ours(k.save())
	var s *seen
	err := k.try(func(ctx context.Context) (err error) {
		s, err = k.table().read(ctx, k.place(), text, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	ways, err := collect(s)
	if err != nil {
		return err
	}
	want := WorkloadChain(n, r)
	if ways[r.Addr] != want.Name || !inPlace(s, want) || !baseInPlace(s, []ipam.Network{n}) {
		return fmt.Errorf("%s leads to %q; kernel:\n%s", r.Addr, ways[r.Addr], own)
	}
	return nil
}
