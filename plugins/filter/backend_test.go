package filter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakePrograms makes a family of programs called iptables in a new directory, as
// links to a file of that name.
func fakePrograms(t *testing.T, multi string) (iptables string) {
	t.Helper()
	dir := t.TempDir()
	target := filepath.Join(dir, multi)
	if err := os.WriteFile(target, []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	iptables = filepath.Join(dir, "iptables")
	for _, suffix := range []string{"", "-save", "-restore"} {
		if err := os.Symlink(multi, iptables+suffix); err != nil {
			t.Fatal(err)
		}
	}
	return iptables
}

func TestBackendIsReadOffTheFileAndOnlyThenAsked(t *testing.T) {
	for _, c := range []struct {
		multi, version, backend string
		runs                    int
	}{
		{"xtables-nft-multi", "", BackendNFT, 0},
		{"xtables-legacy-multi", "", BackendLegacy, 0},
		{"xtables-multi", "", BackendLegacy, 0},
		{"wrapper", "iptables v1.8.9 (nf_tables)\n", BackendNFT, 1},
		{"wrapper", "iptables v1.8.9 (legacy)\n", BackendLegacy, 1},
		{"wrapper", "iptables v1.6.1\n", BackendLegacy, 1},
	} {
		path := fakePrograms(t, c.multi)
		table, err := New(Options{
			Iptables: []string{filepath.Join(t.TempDir(), "absent"), path},
			Exec: func(_ context.Context, ran string, args []string, _ []byte) ([]byte, error) {
				if ran != path || strings.Join(args, " ") != "--version" {
					t.Errorf("ran %s %q", ran, args)
				}
				return []byte(c.version), nil
			},
		})
		if err != nil {
			t.Errorf("%s: %v", c.multi, err)
			continue
		}
		if table.Backend() != c.backend || table.Runs() != c.runs {
			t.Errorf("%s %q: %s by %d programs", c.multi, c.version, table.Backend(), table.Runs())
		}
	}
}

func TestNoProgramIsSaid(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, "iptables")
	if err := os.WriteFile(half, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	plain := fakePrograms(t, "xtables-nft-multi")
	if err := os.Chmod(filepath.Join(filepath.Dir(plain), "xtables-nft-multi"), 0o644); err != nil {
		t.Fatal(err)
	}
	failing := fakePrograms(t, "wrapper")
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"): "apt-get install iptables",
		half:                         half,
		plain:                        "not an executable file",
		failing:                      "asking " + failing,
	} {
		_, err := New(Options{Iptables: []string{path}})
		if !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", path, err, want)
		}
	}
}
