package seed

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// demoPatience bounds a program that takes ten seconds on an idle machine.
const demoPatience = 5 * time.Minute

// What make demo claims is so. (It runs the programs that are installed, as make builds
// them, not those with fault points.)
func TestDemo(t *testing.T) {
	labtest.RequireRoot(t)
	cmd := exec.CommandContext(labtest.Within(t, demoPatience), filepath.Join(labtest.Repository(t), "bin", "demo"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " claims hold, in ") {
		t.Errorf("%v (make build bin/demo builds it):\n%s", err, out)
	}
}
