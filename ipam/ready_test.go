package ipam

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadyMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	stats, err := OpenDir(dir).Store("flat").Ready(t.Context())
	if err != nil || stats != (Stats{}) || stats.Exhausted() {
		t.Errorf("got %+v, %v; want nothing", stats, err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Errorf("%s was made", filepath.Dir(dir))
	}
}

func TestReadySaysWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "data")} {
		_, err := OpenDir(dir).Store("flat").Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "data directory "+dir+" cannot be written") {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}

func TestExhausted(t *testing.T) {
	for _, tt := range []struct {
		stats Stats
		want  bool
	}{
		{Stats{}, false},
		{Stats{Size: 3, Used: 2, Free: 1}, false},
		{Stats{Size: 3, Used: 2, Retained: 1}, false},
		{Stats{Size: 3, Used: 2, Reserved: 1}, true},
	} {
		if got := tt.stats.Exhausted(); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.stats, got, tt.want)
		}
	}
}
