package rundir

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What killed verbs left goes; what a running verb holds, and what the next verb of a
// living attachment must be told, stays.
func TestSweep(t *testing.T) {
	dir := Dir(t.TempDir())
	kill := func(id string) Attachment {
		a := dir.Attachment(id, "eth0")
		held, err := a.Lock(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := held.lock.Unlock(); err != nil { // as the kernel does for a killed one
			t.Fatal(err)
		}
		return a
	}
	kill("dead")
	living := kill("living")
	running, err := dir.Attachment("running", "eth0").Lock(within(t))
	if err != nil {
		t.Fatal(err)
	}
	mark, err := dir.Attachment("running", "eth0").Mark()
	if err != nil {
		t.Fatal(err)
	}
	deadMark := dir.Attachment("dead", "eth0").base + ".del"
	if err := os.WriteFile(deadMark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dir.Sweep([]Attachment{living}); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(string(dir), "attach", "*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{living.base + ".lock", running.path, mark.path}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	next, err := living.Lock(within(t))
	if err != nil || !next.Interrupted {
		t.Errorf("the next verb of a killed one's attachment: %+v, %v", next, err)
	}
	for _, release := range []func() error{next.Release, mark.Remove, running.Release} {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if err := dir.Sweep(nil); err != nil {
		t.Error(err)
	}
}
