// Package labtest gives tests their labs: skipped with a reason where none can be had,
// never skipped under FLATDHCP_REQUIRE_ROOT=1, closed when the test ends.
package labtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// RequireRoot skips a test that cannot run without root; in CI, where
// FLATDHCP_REQUIRE_ROOT=1, it fails it.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
		t.Fatal("needs root, which FLATDHCP_REQUIRE_ROOT=1 promises")
	}
	t.Skip("needs root, for network namespaces")
}

// Options returns where make puts the programs: $FLATDHCP_BIN and $FLATDHCP_CNI_BIN, else
// bin/e2e and bin/tools/cni of the repository.
func Options(t testing.TB) lab.Options {
	t.Helper()
	return lab.Options{Bin: directory(t, "FLATDHCP_BIN", "bin/e2e", "make e2e-bin"), CNIBin: CNIBin(t)}
}

// CNIBin is the part of Options for who needs cnitool and the reference plugins only.
func CNIBin(t testing.TB) string {
	t.Helper()
	return directory(t, "FLATDHCP_CNI_BIN", "bin/tools/cni", "make bin/tools/cni/.built")
}

func directory(t testing.TB, env, inRepository, how string) string {
	t.Helper()
	dir := os.Getenv(env)
	if dir == "" {
		dir = filepath.Join(Repository(t), inRepository)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the programs are missing: %v; run %s first, or make test", err, how)
	}
	return dir
}

// Repository is the directory of go.mod, above that of the test.
func Repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod in any directory above the test's")
	return ""
}

// New returns a lab that ends with the test.
func New(t testing.TB, opts lab.Options) *lab.Lab {
	t.Helper()
	RequireRoot(t)
	l, err := lab.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Host returns the one host of a lab of its own, with our programs.
func Host(t testing.TB, name string) *lab.Host {
	t.Helper()
	RequireRoot(t)
	return AddHost(t, New(t, Options(t)), name)
}

// AddHost adds a host to a lab.
func AddHost(t testing.TB, l *lab.Lab, name string) *lab.Host {
	t.Helper()
	h, err := l.AddHost(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Within returns a context for something that takes milliseconds and may take that long.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
