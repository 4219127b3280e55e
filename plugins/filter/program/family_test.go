package program

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
		{"xtables-nft-multi", "", NFT, 0},
		{"xtables-legacy-multi", "", Legacy, 0},
		{"xtables-multi", "", Legacy, 0},
		{"wrapper", "iptables v1.8.9 (nf_tables)\n", NFT, 1},
		{"wrapper", "iptables v1.8.9 (legacy)\n", Legacy, 1},
		{"wrapper", "iptables v1.6.1\n", Legacy, 1},
	} {
		path := fakePrograms(t, c.multi)
		runs := 0
		f, err := Find(context.Background(), func(_ context.Context, ran string, args []string, _ []byte) ([]byte, error) {
			runs++
			if ran != path || strings.Join(args, " ") != "--version" {
				t.Errorf("ran %s %q", ran, args)
			}
			return []byte(c.version), nil
		}, []string{filepath.Join(t.TempDir(), "absent"), path})
		if err != nil {
			t.Errorf("%s: %v", c.multi, err)
			continue
		}
		if f.Backend != c.backend || runs != c.runs {
			t.Errorf("%s %q: %s by %d programs", c.multi, c.version, f.Backend, runs)
		}
	}
}

// What is no iptables must not be taken for an old one, whose back end is legacy: the rules
// would be moved there.
func TestWhatIsNoIPTablesHasNoBackend(t *testing.T) {
	path := fakePrograms(t, "wrapper")
	_, err := Find(t.Context(), func(context.Context, string, []string, []byte) ([]byte, error) { return []byte("garbage\n"), nil }, []string{path})
	if want := path + ` is no iptables: asked for its version it says "garbage\n"`; !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one that says %s", err, want)
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
		_, err := Find(context.Background(), Run, []string{path})
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", path, err, want)
		}
	}
}

func TestBackendIsFoundByNameBesideTheOther(t *testing.T) {
	path := fakePrograms(t, "xtables-nft-multi")
	dir := filepath.Dir(path)
	if _, err := FindBackend(Legacy, []string{path}); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), dir+"/iptables-legacy") {
		t.Errorf("error %v", err)
	}
	for _, suffix := range []string{"", "-save", "-restore"} {
		if err := os.Symlink("xtables-nft-multi", filepath.Join(dir, "iptables-legacy"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := FindBackend(Legacy, []string{filepath.Join(t.TempDir(), "iptables"), path})
	want := Family{dir + "/iptables-legacy", dir + "/iptables-legacy-save", dir + "/iptables-legacy-restore", Legacy}
	if err != nil || f != want {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "filter.backend")
	record := Record(path)
	for _, backends := range [][]string{nil, {NFT}, {NFT, Legacy}, {Legacy}} {
		if backends != nil {
			if err := record.Write(backends...); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := record.Read(); err != nil || !slices.Equal(got, backends) {
			t.Errorf("%q, %v; want %q", got, err, backends)
		}
	}
	if err := os.WriteFile(path, []byte("nft or so"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := record.Read(); err == nil || !strings.Contains(err.Error(), path+" holds \"nft or so\"") {
		t.Errorf("error %v", err)
	}
	if got, err := Record("").Read(); got != nil || err != nil || Record("").Write(NFT) != nil {
		t.Errorf("no record: %q, %v", got, err)
	}
}
