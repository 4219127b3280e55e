package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

var both = []string{"flat-a", "flat-b"}

// program is a script that says what a plugin says.
func program(name, version string) string {
	return fmt.Sprintf("#!/bin/sh\necho 'CNI plugin %s %s' >&2\n", name, version)
}

// fixture is a directory of programs and one that they are installed into.
type fixture struct {
	t         *testing.T
	from, dir string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, from: t.TempDir(), dir: t.TempDir()}
	for _, name := range both {
		f.write(f.from, name, program(name, "v2"), 0o644) // a source need not be executable
	}
	return f
}

func (f *fixture) write(dir, name, text string, mode os.FileMode) {
	f.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		f.t.Fatal(err)
	}
}

// install returns a line for each program, as a person would want to know.
func (f *fixture) install() ([]string, error) {
	programs, err := Programs(f.t.Context(), f.from, f.dir, both)
	var lines []string
	for _, p := range programs {
		lines = append(lines, fmt.Sprintf("%s %s %t", p.Name, p.Version, p.Changed))
	}
	return lines, err
}

// state is everything in the directory: names, kinds, modes, inodes, contents.
func (f *fixture) state() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			f.t.Fatal(err)
		}
		text := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(filepath.Join(f.dir, e.Name()))
			if err != nil {
				f.t.Fatal(err)
			}
			text = string(b)
		}
		out[e.Name()] = fmt.Sprintf("%s %d %s", info.Mode(), info.Sys().(*syscall.Stat_t).Ino, text)
	}
	return out
}

// installed fails the test unless the directory has the programs of version v2, mode
// 0755, and the other names given.
func (f *fixture) installed(others ...string) {
	f.t.Helper()
	got := f.state()
	for _, name := range both {
		if want, s := "-rwxr-xr-x ", got[name]; !strings.HasPrefix(s, want) || !strings.HasSuffix(s, program(name, "v2")) {
			f.t.Errorf("%s is %q", name, s)
		}
		delete(got, name)
	}
	for _, name := range others {
		if _, ok := got[name]; !ok {
			f.t.Errorf("%s is gone", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		f.t.Errorf("left in the directory: %v", got)
	}
}

func TestProgramsAreInstalled(t *testing.T) {
	changed := []string{"flat-a v2 true", "flat-b v2 true"}
	for name, tc := range map[string]struct {
		before func(f *fixture)
		want   []string
		others []string
	}{
		"into an empty directory": {func(*fixture) {}, changed, nil},
		"beside a neighbour":      {func(f *fixture) { f.write(f.dir, "bridge", "x", 0o600) }, changed, []string{"bridge"}},
		"over older ones": {func(f *fixture) {
			f.write(f.dir, "flat-a", program("flat-a", "v1"), 0o755)
			f.write(f.dir, "flat-b", "half a pro", 0o755)
		}, changed, nil},
		"beside one that is the same": {func(f *fixture) { f.write(f.dir, "flat-a", program("flat-a", "v2"), 0o755) },
			[]string{"flat-a v2 false", "flat-b v2 true"}, nil},
		"over one that nobody may execute": {func(f *fixture) {
			f.write(f.dir, "flat-a", program("flat-a", "v2"), 0o600)
		}, changed, nil},
		"with leftovers of a killed run": {func(f *fixture) {
			f.write(f.dir, ".flat-a.new", "#!/bin", 0o600)
			f.write(f.dir, "flat-b", program("flat-b", "v2"), 0o755)
			f.write(f.dir, ".flat-b.new", "", 0o600)
		}, []string{"flat-a v2 true", "flat-b v2 false"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			tc.before(f)
			got, err := f.install()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			f.installed(tc.others...)

			before := f.state()
			got, err = f.install()
			if diff := cmp.Diff([]string{"flat-a v2 false", "flat-b v2 false"}, got); diff != "" || err != nil {
				t.Errorf("the second time: %v, %s", err, diff)
			}
			if diff := cmp.Diff(before, f.state()); diff != "" {
				t.Errorf("the second time changed something: %s", diff)
			}
		})
	}
}

// What has the old program open, or leads to it, keeps it.
func TestOldProgramIsLeftWhole(t *testing.T) {
	f := newFixture(t)
	old := program("flat-a", "v1")
	f.write(f.dir, "flat-a", old, 0o755)
	elsewhere := t.TempDir()
	f.write(elsewhere, "flat-b", "another's", 0o755)
	if err := os.Symlink(filepath.Join(elsewhere, "flat-b"), filepath.Join(f.dir, "flat-b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(f.dir, "flat-a"), filepath.Join(f.dir, "hard-link")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.install(); err != nil {
		t.Fatal(err)
	}
	f.installed("hard-link")
	for path, want := range map[string]string{filepath.Join(f.dir, "hard-link"): old, filepath.Join(elsewhere, "flat-b"): "another's"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
}

func TestRefusalsChangeNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(f *fixture)
		want   string
	}{
		"the second program is missing": {func(f *fixture) { remove(f.t, f.from, "flat-b") },
			"installing flat-b: FROM/flat-b does not exist: --from names the directory that has the programs; no program was replaced"},
		"a source is a directory": {func(f *fixture) {
			remove(f.t, f.from, "flat-b")
			mkdir(f.t, f.from, "flat-b")
		}, "installing flat-b: FROM/flat-b is no file; no program was replaced"},
		"another architecture": {func(f *fixture) { f.write(f.from, "flat-b", "\x7fELF and no more", 0o755) },
			"installing flat-b: FROM/flat-b does not run on this machine: fork/exec DIR/.flat-b.new: exec format error: it is damaged, or built for another architecture; no program was replaced"},
		"another program": {func(f *fixture) { f.write(f.from, "flat-b", program("bridge", "v1.9"), 0o755) },
			`installing flat-b: FROM/flat-b is no flat-b: executed, it says "CNI plugin bridge v1.9"; no program was replaced`},
		"a program that fails": {func(f *fixture) {
			f.write(f.from, "flat-b", "#!/bin/sh\necho first\necho no such symbol\nexit 3\n", 0o755)
		},
			"installing flat-b: executing DIR/.flat-b.new to see whether it runs: exit status 3 (no such symbol); no program was replaced"},
		"a directory in its place": {func(f *fixture) {
			remove(f.t, f.dir, "flat-b")
			mkdir(f.t, f.dir, "flat-b")
		}, "installing flat-b: DIR/flat-b is a directory: remove it; no program was replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, name := range both {
				f.write(f.dir, name, program(name, "v1"), 0o755)
			}
			tc.before(f)
			before := f.state()
			got, err := f.install()
			if err == nil || got != nil {
				t.Fatalf("got %v, %v", got, err)
			}
			text := strings.NewReplacer(f.from, "FROM", f.dir, "DIR").Replace(err.Error())
			if diff := cmp.Diff(tc.want, text); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, f.state()); diff != "" {
				t.Errorf("the directory changed: %s", diff)
			}
		})
	}
}

func TestDirectoryThatCannotBeOne(t *testing.T) {
	f := newFixture(t)
	f.write(f.dir, "file", "", 0o600)
	for path, want := range map[string]string{
		"none":      "there is no such directory: make it (mkdir -p), or mount the node's there",
		"file":      "it is no directory",
		"file/none": "it is no directory",
	} {
		dir := filepath.Join(f.dir, path)
		_, err := Programs(t.Context(), f.from, dir, both)
		if want := fmt.Sprintf("installing into %s: %s", dir, want); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestInstallersWaitForEachOther(t *testing.T) {
	f := newFixture(t)
	lock, err := flock.ExclusiveReadOnly(t.Context(), f.dir)
	if err != nil {
		t.Fatal(err)
	}
	f.write(f.dir, ".flat-a.new", "the other's", 0o600)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = Programs(ctx, f.from, f.dir, both)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for others that install into "+f.dir) {
		t.Errorf("error is %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(f.dir, ".flat-a.new")); err != nil || string(b) != "the other's" {
		t.Errorf("what the other writes became %q, %v", b, err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.install(); err != nil {
		t.Error(err)
	}
	f.installed()
}

// A full disk and one that is read-only, on a file system of its own.
func TestFileSystemThatTakesNoMore(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root, which FLATDHCP_REQUIRE_ROOT=1 promises")
		}
		t.Skip("needs root, to mount a file system")
	}
	f := newFixture(t)
	// Two of these fit beside each other, three do not: the second one fails.
	padding := strings.Repeat("# padding\n", 40<<10)
	for _, name := range both {
		f.write(f.from, name, program(name, "v2")+padding, 0o755)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and the mount with both.
		runtime.LockOSThread()
		mountAt(f)
		if t.Failed() {
			return
		}
		for _, name := range both {
			f.write(f.dir, name, program(name, "v1"), 0o755)
		}
		refused := func(want error, text string) {
			before := f.state()
			got, err := f.install()
			if !errors.Is(err, want) || !strings.HasSuffix(err.Error(), text) || got != nil {
				t.Errorf("got %v, error %v", got, err)
			}
			if diff := cmp.Diff(before, f.state()); diff != "" {
				t.Errorf("%v changed something: %s", want, diff)
			}
		}
		refused(unix.ENOSPC, "no program was replaced: make room in "+f.dir)

		if err := unix.Mount("", f.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Error(err)
			return
		}
		refused(unix.EROFS, "no program was replaced: mount "+f.dir+" writable")

		// Nothing to do is no failure there.
		for _, name := range both {
			f.write(f.from, name, program(name, "v1"), 0o755)
		}
		got, err := f.install()
		if diff := cmp.Diff([]string{"flat-a v1 false", "flat-b v1 false"}, got); diff != "" || err != nil {
			t.Errorf("%v, %s", err, diff)
		}
	}()
	<-done
}

// mountAt mounts a file system of 600 KiB on the fixture's directory, seen by this thread
// alone.
func mountAt(f *fixture) {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a mount namespace", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{"mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"a file system", func() error { return unix.Mount("tmpfs", f.dir, "tmpfs", 0, "size=600k") }},
	} {
		if err := step.do(); err != nil {
			f.t.Errorf("making %s: %v", step.what, err)
			return
		}
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}
