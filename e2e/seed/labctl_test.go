package seed

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// hack/lab up --hosts 3 leaves a network of several hosts, in which what it says works.
func TestLabToPlayIn(t *testing.T) {
	labtest.RequireRoot(t)
	labctl := filepath.Join(labtest.Repository(t), "bin", "labctl")
	if _, err := os.Stat(labctl); err != nil {
		t.Fatalf("%v; run make bin/labctl first", err)
	}
	// It finds the programs where make puts them, and keeps its state beside.
	opts, dir := labtest.Options(t), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin", "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"flat-bridge", "flat-ipam", "flat-dhcpd", "flatctl"} {
		if err := os.Symlink(filepath.Join(opts.Bin, program), filepath.Join(dir, "bin", program)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(opts.CNIBin, filepath.Join(dir, "bin", "tools", "cni")); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, labctl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(labtest.Within(t, patience), args...)
		if err != nil {
			t.Fatalf("labctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out, err := run(t.Context(), "up", "--hosts", "99"); err == nil || !strings.Contains(out, "--hosts 99: ") || !strings.Contains(out, "2 to 8 are accepted") {
		t.Errorf("99 hosts: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		// Whatever of it is up must not outlive the test.
		if out, err := run(context.Background(), "down"); err != nil {
			t.Errorf("labctl down: %v\n%s", err, out)
		}
	})
	must("up", "--hosts", "3")
	if out, err := run(t.Context(), "up"); err == nil || !strings.Contains(out, "a lab is up already") {
		t.Errorf("a second lab: %v\n%s", err, out)
	}
	if out := must("status"); !strings.Contains(out, "host compute-2\n") || !strings.Contains(out, "default/pod:web2/eth0") {
		t.Errorf("the status is without compute-2 and its workload:\n%s", out)
	}
	if out := must("sh", "compute-1", "ip", "netns", "exec", "vm1", "udhcpc", "-f", "-q", "-n", "-t", "20", "-i", "eth0", "-s", "/run/lab/udhcpc.sh"); !strings.Contains(out, "lease: event=bound ip=10.0.0.2 ") {
		t.Errorf("vm1 gets no lease:\n%s", out)
	}
	for _, addr := range []string{"10.0.0.2", "10.0.0.33", "192.168.56.1"} {
		must("sh", "compute-1", "ip", "netns", "exec", "web1", "ping", "-c", "1", "-W", "20", addr)
	}
	if out := must("sh", "flat", "bridge", "link"); !strings.Contains(out, "compute-2-eth2") {
		t.Errorf("the flat switch is without a port of compute-2:\n%s", out)
	}
	must("down")
	if out := must("status"); !strings.Contains(out, "no lab is up") {
		t.Errorf("after down:\n%s", out)
	}
}
