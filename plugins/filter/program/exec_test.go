package program

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A program that waits for what is done beside it ends only if both run at once.
func TestBesideIsCalledWhileTheProgramRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "done")
	wait := []string{"-c", "read line; until [ -e " + file + " ]; do sleep 0.01; done; echo $line"}
	out, err := Beside(t.Context(), "/bin/sh", wait, []byte("input\n"), func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Error(err)
		}
	})
	if err != nil || string(out) != "input\n" {
		t.Errorf("it wrote %q, %v", out, err)
	}
}

func TestBesideIsCalledWhateverTheProgram(t *testing.T) {
	for path, want := range map[string]string{"/bin/false": "exit status 1", filepath.Join(t.TempDir(), "absent"): "no such file"} {
		calls := 0
		_, err := Beside(t.Context(), path, nil, nil, func() { calls++ })
		var failed *Error
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), want) || calls != 1 {
			t.Errorf("%s: error %v after %d calls", path, err, calls)
		}
	}
}
