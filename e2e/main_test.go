package e2e

import (
	"os"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/inject"
)

func TestMain(m *testing.M) {
	inject.Main() // the process may be here to become a program under test
	os.Exit(m.Run())
}
