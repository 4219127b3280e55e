package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programDir returns a directory with the program flatctl in it, for a PATH. It is built
// without the race detector, with which each start takes half a second.
func programDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "flatctl"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building flatctl: %v\n%s", err, out)
	}
	return dir
}
