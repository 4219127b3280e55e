package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// asFlatctl makes the test's own binary flatctl, for tests that need it as a program.
const asFlatctl = "FLATCTL_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asFlatctl) != "" {
		main()
	}
	os.Exit(m.Run())
}

// programDir returns a directory with the program flatctl in it, for a PATH.
func programDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asFlatctl, self)
	if err := os.WriteFile(filepath.Join(dir, "flatctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
