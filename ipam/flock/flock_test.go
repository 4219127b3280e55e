package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func mustLock(t *testing.T, path string) *Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := Exclusive(ctx, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustUnlock(t *testing.T, l *Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
}

// waiters counts who waits for the lock of the file at path.
func waiters(t *testing.T, path string) int {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", fi.Sys().(*syscall.Stat_t).Ino)
	n := 0
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "->") && strings.Contains(line, inode) {
			n++
		}
	}
	return n
}

func waitFor(t *testing.T, path string, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); waiters(t, path) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d wait for %s, want %d", waiters(t, path), path, n)
			return
		}
	}
}

func TestExclusiveWaitsUntilDeadline(t *testing.T) {
	for name, begin := range map[string]func(path string) (context.Context, context.CancelFunc, error){
		"deadline": func(string) (context.Context, context.CancelFunc, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			return ctx, cancel, context.DeadlineExceeded
		},
		"cancelled while it waits": func(path string) (context.Context, context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer cancel()
				waitFor(t, path, 1)
			}()
			return ctx, cancel, context.Canceled
		},
		"cancelled before": func(string) (context.Context, context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel, context.Canceled
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			held := mustLock(t, path)
			ctx, cancel, want := begin(path)
			defer cancel()
			_, err := Exclusive(ctx, path, 0o600)
			if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "locking "+path+": ") {
				t.Errorf("err = %v, want %v", err, want)
			}
			if name != "cancelled before" {
				waitFor(t, path, 1) // the abandoned one, which lets go when it gets it
			}
			mustUnlock(t, held)
			mustUnlock(t, mustLock(t, path))
		})
	}
}

// Whoever tries again and again while the lock's holder hangs must not gather threads.
func TestWaitsGivenUpAreBounded(t *testing.T) {
	waits := make(chan struct{}, 3)
	path := filepath.Join(t.TempDir(), "lock")
	held := mustLock(t, path)
	try := func(timeout time.Duration) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := file(ctx, f, true, waits); err != nil {
			return err
		}
		return f.Close()
	}
	for range 2 * cap(waits) {
		if err := try(time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	waitFor(t, path, cap(waits))
	// One more has its turn all the same.
	got := make(chan error)
	go func() { got <- try(time.Minute) }()
	mustUnlock(t, held)
	if err := <-got; err != nil {
		t.Error(err)
	}
	for range cap(waits) { // those given up let go of lock and place
		waits <- struct{}{}
	}
	waitFor(t, path, 0)
}

func TestExclusiveIsFirstComeFirstServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held := mustLock(t, path)
	order := make(chan int)
	const n = 10
	for i := range n {
		go func() {
			l, err := Exclusive(context.Background(), path, 0o600)
			if err != nil {
				t.Error(err)
			}
			order <- i
			if err := l.Unlock(); err != nil {
				t.Error(err)
			}
		}()
		waitFor(t, path, i+1)
	}
	mustUnlock(t, held)
	for i := range n {
		if got := <-order; got != i {
			t.Errorf("turn %d went to waiter %d", i, got)
		}
	}
}

func TestSharedLocksGoTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var shared []*os.File
	for range 2 {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := File(ctx, f, false); err != nil {
			t.Fatal(err)
		}
		shared = append(shared, f)
	}
	done := make(chan error)
	go func() {
		l, err := ExclusiveReadOnly(ctx, path)
		if err == nil {
			err = l.Unlock()
		}
		done <- err
	}()
	waitFor(t, path, 1)
	for _, f := range shared {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExclusiveFollowsReplacedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	old := mustLock(t, path)
	got := make(chan *Lock)
	go func() {
		l, err := Exclusive(context.Background(), path, 0o600)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	waitFor(t, path, 1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now := mustLock(t, path) // another file
	mustUnlock(t, old)
	waitFor(t, path, 1) // it noticed, and waits for the one at the path now
	mustUnlock(t, now)
	l := <-got
	if same, err := stillAt(l.f, path); err != nil || !same {
		t.Errorf("it holds the lock of a file that is gone (%v)", err)
	}
	mustUnlock(t, l)
}

func TestExclusiveErrors(t *testing.T) {
	if _, err := Exclusive(context.Background(), filepath.Join(t.TempDir(), "none", "lock"), 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := ExclusiveReadOnly(context.Background(), filepath.Join(t.TempDir(), "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	l := mustLock(t, filepath.Join(t.TempDir(), "lock"))
	mustUnlock(t, l)
	if err := l.Unlock(); err == nil {
		t.Error("a second Unlock succeeds")
	}
}

// Not parallel to anything: the umask is the process's.
func TestExclusiveModeWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o777} {
		path := filepath.Join(t.TempDir(), "lock")
		old := syscall.Umask(mask)
		l := mustLock(t, path)
		syscall.Umask(old)
		mustUnlock(t, l)
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != 0o600 {
			t.Errorf("umask %03o: mode %s", mask, fi.Mode())
		}
	}
}
