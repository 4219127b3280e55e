package ipam

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHundredProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 100 processes")
	}
	// Every writer is to get its share; if the others together get starving many
	// operations before it has, it starves.
	const writers, readers, share, starving = 100, 4, 6, 100 * 6 * 10
	d := testDir(t)
	n := testNet("flat", "10.0.0.0/23")
	n.Pool.ReuseDelay = 0 // so that addresses change hands
	s := mustConfigure(t, d, n)
	claims := t.TempDir()

	var stops []io.WriteCloser
	var waits []func() error
	for range readers {
		cmd := helper("reader", d.Path())
		in, _ := startHelper(t, cmd)
		stops, waits = append(stops, in), append(waits, cmd.Wait)
	}
	held := make([][]string, writers)
	turns := make(chan int)  // one operation of a writer
	over := make(chan error) // of one writer
	for i := range writers {
		cmd := helper("worker", d.Path(), claims, fmt.Sprint(i))
		in, out := startHelper(t, cmd)
		if line, err := out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("writer %d: %q, %v", i, line, err)
		}
		stops, waits = append(stops, in), append(waits, cmd.Wait)
		go func() {
			over <- func() error {
				for { // dots, then a newline
					b, err := out.ReadByte()
					if err != nil {
						return fmt.Errorf("writer %d: %w", i, err)
					}
					if b == '\n' {
						break
					}
					turns <- i
				}
				rest, err := io.ReadAll(out)
				held[i] = strings.Fields(string(rest))
				return err
			}()
		}()
	}
	for _, in := range stops[readers:] {
		if _, err := in.Write([]byte{'!'}); err != nil {
			t.Fatal(err)
		}
	}
	counts := make([]int, writers)
	stopped := false
	for total, served, running := 0, 0, writers; running > 0; {
		select {
		case i := <-turns:
			total++
			if counts[i]++; counts[i] == share {
				served++
			}
		case err := <-over:
			running--
			if err != nil {
				t.Error(err)
			}
		}
		if starved := total >= starving; !stopped && (starved || served == writers || t.Failed()) {
			stopped = true
			for _, in := range stops {
				if err := in.Close(); err != nil {
					t.Error(err)
				}
			}
			least, most := slices.Min(counts), slices.Max(counts)
			t.Logf("operations a writer: %d to %d", least, most)
			if starved {
				t.Errorf("of %d operations %d writers had less than %d each", total, writers-served, share)
			}
		}
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Error(err)
		}
	}

	// None lost, none twice: what the processes hold is what the store has.
	want := make(map[string]bool)
	for _, addrs := range held {
		for _, a := range addrs {
			if want[a] {
				t.Errorf("%s is held twice", a)
			}
			want[a] = true
		}
	}
	snap, err := s.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, r := range snap.Rows {
		got[r.Addr.String()] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("held by processes, in the store (-want +got):\n%s", diff)
	}
}

func TestKilledAtAnyMoment(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	const operations = 500
	d := testDir(t)
	rnd := rand.New(rand.NewSource(1))
	held := make(map[string]bool) // what was acknowledged
	for done, round := 0, 0; done < operations; round++ {
		cmd := helper("churn", d.Path(), fmt.Sprint(round))
		_, out := startHelper(t, cmd)
		lines := bufio.NewScanner(out)
		kill := 1 + rnd.Intn(24) // after so many lines, and a little while
		began := ""
		for i := 0; lines.Scan(); i++ {
			verb, cid, _ := strings.Cut(lines.Text(), " ")
			switch verb {
			case "reserving", "releasing":
				began = cid
			case "reserved":
				held[cid], began = true, ""
				done++
			case "released":
				delete(held, cid)
				began = ""
				done++
			}
			if i == kill {
				time.AfterFunc(time.Duration(rnd.Intn(6000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("round %d ended by itself: %v", round, err)
		}
		if _, err := os.Stat(d.Store("flat").file()); errors.Is(err, os.ErrNotExist) && len(held) == 0 {
			continue // killed while it made the store
		}
		defects, err := d.Check(context.Background())
		if err != nil || len(defects) > 0 {
			t.Fatalf("round %d: %v %v", round, defects, err)
		}
		snap, err := d.Store("flat").Snapshot(context.Background())
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		got := make(map[string]bool)
		for _, r := range snap.Rows {
			got[r.Holder.ContainerID] = true
		}
		// What it was about to do is done or not done.
		if began != "" {
			if got[began] {
				held[began] = true
			} else {
				delete(held, began)
			}
		}
		if diff := cmp.Diff(held, got); diff != "" {
			t.Fatalf("round %d: acknowledged, in the store (-want +got):\n%s", round, diff)
		}
		// Room for the next rounds.
		if _, err := d.Store("flat").GC(context.Background(), func(r Reservation) bool { return len(held) < 100 }); err != nil {
			t.Fatal(err)
		}
		if len(held) >= 100 {
			held = make(map[string]bool)
		}
	}
}

// Whoever is killed while it makes the store leaves none, or a whole one.
func TestKilledWhileMakingTheStore(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	rnd := rand.New(rand.NewSource(2))
	for round := range 15 {
		d := testDir(t)
		cmd := helper("churn", d.Path(), fmt.Sprint(round))
		_, out := startHelper(t, cmd)
		if line, err := out.ReadString('\n'); !strings.HasPrefix(line, "reserving ") {
			t.Fatalf("round %d: %q, %v", round, line, err)
		}
		time.AfterFunc(time.Duration(rnd.Intn(12000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		_, err := io.Copy(io.Discard, out)
		if err := errors.Join(err, cmd.Wait()); cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("round %d ended by itself: %v", round, err)
		}
		n := testNet("flat", "10.0.0.0/24")
		if _, err := d.Store("flat").Reserve(context.Background(), &n, request("after", "after")); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
}

// A writer that finds readers waits for them as they come and go, and is not
// starved by readers that overlap: their locks are shared, but not their queue.
func TestWriterIsNotStarvedByOverlappingReaders(t *testing.T) {
	s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/24"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var reads atomic.Int64
	stop := make(chan struct{})
	done := make(chan error)
	const readers, writes = 8, 50
	for range readers {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				err := s.View(ctx, func(v *View) error {
					// As long as it takes another reader to come in, so that there is never none.
					before := reads.Add(1)
					for end := time.Now().Add(5 * time.Millisecond); reads.Load() == before && time.Now().Before(end); {
						time.Sleep(100 * time.Microsecond)
					}
					_, err := v.Network()
					return err
				})
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for i := range writes {
		cid := fmt.Sprint(i)
		before := reads.Load()
		if _, err := s.Reserve(ctx, nil, request(cid, cid)); err != nil {
			t.Fatal(err)
		}
		// Those before it in the queue go first, and a few that come just when the lock
		// is let go of. Behind shared locks alone there would be no end of them.
		if n := reads.Load() - before; n > 100*readers {
			t.Errorf("%d reads went before write %d", n, i)
		}
	}
	close(stop)
	for range readers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	s := mustConfigure(t, testDir(t, WithDefaultTimeout(20*time.Millisecond)), testNet("flat", "10.0.0.0/24"))
	write := func(ctx context.Context) error {
		_, err := s.Reserve(ctx, nil, request("w", "w"))
		return err
	}
	read := func(ctx context.Context) error {
		return s.View(ctx, func(*View) error { return nil })
	}
	expectLocked := func(t *testing.T, what string, op func(context.Context) error) {
		t.Helper()
		if err := op(context.Background()); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s by default: %v", what, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := op(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", what, err)
		}
	}
	t.Run("directory locked", func(t *testing.T) {
		l, err := s.dir.lock(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		expectLocked(t, "writing", write)
		expectLocked(t, "reading", read)
		if _, err := s.Ident(); err != nil {
			t.Errorf("Ident needs the lock: %v", err)
		}
		if err := l.Unlock(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("being read", func(t *testing.T) {
		err := s.View(context.Background(), func(*View) error {
			expectLocked(t, "writing", write)
			return read(context.Background()) // readers go together
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	// What was given up has left no lock behind.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := write(ctx); err != nil {
		t.Error(err)
	}
}

func TestIdentChangesWithEveryCommit(t *testing.T) {
	s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/24"))
	seen := make(map[Ident]bool)
	for i := range 20 {
		cid := fmt.Sprint(i)
		mustReserve(t, s, request(cid, cid))
		id, err := s.Ident()
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			t.Errorf("the same after another commit: %+v", id)
		}
		seen[id] = true
	}
	before, err := s.Ident()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.View(context.Background(), func(v *View) error { _, err := v.ByAddr(netip.Addr{}); return ignoreNotFound(err) }); err != nil {
		t.Fatal(err)
	}
	if after, err := s.Ident(); err != nil || after != before {
		t.Errorf("reading changed it: %v", err)
	}
	if snap, err := s.Snapshot(context.Background()); err != nil || snap.Ident != before {
		t.Errorf("a snapshot's is another: %v", err)
	}
	// The same bytes with the same times, put in its place: a copy that was restored.
	b, err := os.ReadFile(s.file())
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(s.file())
	if err != nil {
		t.Fatal(err)
	}
	twin := s.file() + ".twin"
	if err := errors.Join(os.WriteFile(twin, b, fileMode), os.Chtimes(twin, fi.ModTime(), fi.ModTime()), os.Rename(twin, s.file())); err != nil {
		t.Fatal(err)
	}
	after, err := s.Ident()
	if err != nil || after == before {
		t.Errorf("a twin in its place is not told: %v", err)
	}
	if after.Ino = before.Ino; after != before {
		t.Errorf("the twin differs in more than the inode: %+v, %+v", after, before)
	}
}

func ignoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// A panic of the caller's own is not taken for a damaged file, and leaves no lock.
func TestCallersPanicPasses(t *testing.T) {
	s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/24"))
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		err := s.View(context.Background(), func(*View) error { panic("mine") })
		t.Errorf("View returned %v", err)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.Reserve(ctx, nil, request("w", "w")); err != nil {
		t.Error(err)
	}
}
