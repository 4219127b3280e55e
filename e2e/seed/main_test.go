// Package seed drives the whole network that the project re-creates: a controller, two
// compute hosts and a host outside, with every acceptance case of it, in each shape that
// the network can have. What came of each case is a row of a table.
package seed

import (
	"fmt"
	"os"
	"testing"
)

// tableEnv names a file for the table: who runs make sees no log of a test that passes.
const tableEnv = "FLATDHCP_ACCEPTANCE"

func TestMain(m *testing.M) {
	code := m.Run()
	if file := os.Getenv(tableEnv); file != "" {
		if err := os.WriteFile(file, []byte(results.String()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "writing the table:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}
