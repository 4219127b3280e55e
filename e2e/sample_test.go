package e2e

import (
	"fmt"
	"os"
	"testing"
)

// soakEnv is set for the whole of what CI runs a sample of (make soak).
const soakEnv = "FLATDHCP_SOAK"

// sampleEnv names a file in which the tests say what sample they ran.
const sampleEnv = "FLATDHCP_SAMPLES"

// sample returns all cells in a soak, else every n-th, and says so.
func sample[T any](t *testing.T, what string, n int, cells []T) []T {
	t.Helper()
	if os.Getenv(soakEnv) != "" || n <= 1 {
		say(t, fmt.Sprintf("%s: all %d", what, len(cells)))
		return cells
	}
	var some []T
	for i := n / 2; i < len(cells); i += n {
		some = append(some, cells[i])
	}
	say(t, fmt.Sprintf("%s: %d of %d, every %d. (the whole: make soak)", what, len(some), len(cells), n))
	return some
}

// rounds is how often a test tries its luck: all times in a soak, else few, and says so.
func rounds(t *testing.T, what string, few, all int) int {
	t.Helper()
	if os.Getenv(soakEnv) != "" {
		say(t, fmt.Sprintf("%s: all %d", what, all))
		return all
	}
	say(t, fmt.Sprintf("%s: %d rounds of %d (the whole: make soak)", what, few, all))
	return few
}

// say tells whoever ran make, who sees no test's log if it passes.
func say(t *testing.T, line string) {
	t.Helper()
	t.Log(line)
	file := os.Getenv(sampleEnv)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s: %s\n", t.Name(), line)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Error(err)
	}
}
