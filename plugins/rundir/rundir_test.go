package rundir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestFromEnvPrefersTheVariable(t *testing.T) {
	env := map[string]string{}
	get := func(k string) string { return env[k] }
	if got := FromEnv(get); got != Default {
		t.Errorf("without %s: %s, want %s", Env, got, Default)
	}
	env[Env] = "/x"
	if got := FromEnv(get); got != "/x" {
		t.Errorf("with %s=/x: %s", Env, got)
	}
}

func TestAttachmentLockExcludesAndLeavesNoFile(t *testing.T) {
	dir := Dir(t.TempDir())
	a := dir.Attachment("c1", "eth0")
	held, err := a.Lock(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := a.TryLock(); ok || err != nil {
		t.Fatalf("TryLock while held: ok=%t err=%v", ok, err)
	}
	if other, ok, err := dir.Attachment("c1", "eth1").TryLock(); !ok || err != nil {
		t.Fatalf("TryLock of another interface: ok=%t err=%v", ok, err)
	} else if err := other.Release(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Lock past its deadline: %v", err)
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, dir)
}

func TestAttachmentLockIsExclusiveAcrossRemovedFiles(t *testing.T) {
	// Each holder removes the file, so waiters keep meeting files without a name.
	a := Dir(t.TempDir()).Attachment("c1", "eth0")
	ctx := within(t)
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			held, err := a.Lock(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d holders at once", n)
			}
			runtime.Gosched()
			inside.Add(-1)
			if err := held.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestLockTellsOfAKilledHolder(t *testing.T) {
	dir := Dir(t.TempDir())
	a := dir.Attachment("c1", "eth0")
	for _, killed := range []bool{false, true, false} {
		held, err := a.Lock(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if !killed {
			if err := held.Release(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if held.Interrupted {
			t.Error("a holder that released is taken for killed")
		}
		if err := held.lock.Unlock(); err != nil { // as the kernel does for a killed one
			t.Fatal(err)
		}
		// A verb of another attachment, which wants to know whether this one is dead,
		// looks first.
		other, ok, err := a.TryLock()
		if err != nil || !ok {
			t.Fatalf("TryLock: ok=%t err=%v", ok, err)
		}
		if err := other.Release(); err != nil {
			t.Fatal(err)
		}
		next, err := a.Lock(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if !next.Interrupted {
			t.Error("a killed holder is not told of")
		}
		if err := next.Release(); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, dir)
}

func TestMarkCancelsWhileItsDELLives(t *testing.T) {
	dir := Dir(t.TempDir())
	a := dir.Attachment("c1", "eth0")
	if a.Cancelled() {
		t.Error("cancelled without a mark")
	}
	first, err := a.Mark()
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Mark()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	if !a.Cancelled() {
		t.Error("the first DEL took the second one's mark with it")
	}
	if dir.Attachment("c2", "eth0").Cancelled() {
		t.Error("the mark cancels another container")
	}
	if err := second.Remove(); err != nil {
		t.Fatal(err)
	}
	if a.Cancelled() {
		t.Error("cancelled after the last mark went")
	}
	wantEmpty(t, dir)
}

func TestDeadMarkCancelsNobody(t *testing.T) {
	dir := Dir(t.TempDir())
	a := dir.Attachment("c1", "eth0")
	m, err := a.Mark()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.file.Close(); err != nil { // as the kernel does for a killed DEL
		t.Fatal(err)
	}
	if a.Cancelled() {
		t.Error("a dead DEL's mark cancels")
	}
	wantEmpty(t, dir)
}

func TestMarkIsSeenHoweverOftenItRaces(t *testing.T) {
	a := Dir(t.TempDir()).Attachment("c1", "eth0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					a.Cancelled()
				}
			}
		})
	}
	for range 300 {
		m, err := a.Mark()
		if err != nil {
			t.Fatal(err)
		}
		if !a.Cancelled() {
			t.Error("a living DEL's mark is not seen")
		}
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func wantEmpty(t *testing.T, dir Dir) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(string(dir), "attach", "*"))
	if err != nil || len(files) != 0 {
		t.Errorf("left behind: %v %v", files, err)
	}
	if _, err := os.Stat(string(dir)); err != nil {
		t.Error(err)
	}
}
