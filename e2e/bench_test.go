package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// `make bench` works, on a small scale: what it measures is no test's to judge.
func TestBench(t *testing.T) {
	labtest.RequireRoot(t)
	scratch := t.TempDir()
	cmd := exec.CommandContext(labtest.Within(t, imagePatience), filepath.Join(labtest.Repository(t), "bin", "bench"),
		"-workloads", "0,3", "-pairs", "2", "-counts", "0", "-json", "-data", scratch)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v (make bin/bench builds it): %s", err, out)
	}
	type figure struct{ Milliseconds, FastestMilliseconds, CPUMilliseconds float64 }
	var report struct {
		Machine     string
		Populations []struct {
			Workloads  int
			Contenders []struct {
				Name  string
				Verbs map[string]figure
			}
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("decoding %s: %v", out, err)
	}
	if report.Machine == "" || len(report.Populations) != 2 || report.Populations[1].Workloads != 3 {
		t.Fatalf("it reports %s", out)
	}
	for _, p := range report.Populations {
		if len(p.Contenders) != 3 {
			t.Fatalf("it reports %s", out)
		}
		for _, c := range p.Contenders {
			for _, verb := range []string{"ADD", "DEL"} {
				if f := c.Verbs[verb]; f.FastestMilliseconds <= 0 || f.Milliseconds < f.FastestMilliseconds || f.CPUMilliseconds <= 0 {
					t.Errorf("%s of %s with %d workloads takes %+v", verb, c.Name, p.Workloads, f)
				}
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(scratch, "*")); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
