package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCapabilitiesAreGone reads from /proc what the serving daemon's threads can do, and
// has it open its sockets once more with that.
func TestCapabilitiesAreGone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.reserve(t, "web", known, reserved)
	before, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	// The test's own threads are the control: what is gone there was there to lose.
	if have := statusField(t, string(before), "CapEff"); have == wantedCapabilities {
		t.Fatalf("this test has no more than %s itself", have)
	}
	d := n.start(t)
	d.serving(t, 1)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads of the daemon: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		status := string(b)
		for _, field := range []string{"CapEff", "CapPrm", "CapBnd"} {
			if got := statusField(t, status, field); got != wantedCapabilities {
				t.Errorf("%s: %s is %s, want %s", task, field, got, wantedCapabilities)
			}
		}
		for _, field := range []string{"CapInh", "CapAmb"} {
			if got := statusField(t, status, field); strings.Trim(got, "0") != "" {
				t.Errorf("%s: %s is %s, want none", task, field, got)
			}
		}
		if got := statusField(t, status, "NoNewPrivs"); got != "1" {
			t.Errorf("%s: NoNewPrivs is %s", task, got)
		}
		if got := strings.Fields(statusField(t, status, "Uid")); got[0] != "0" || got[1] != "0" {
			t.Errorf("%s: Uid is %v: the store would be unreadable", task, got)
		}
	}
	n.Delete(t, "br100") // the daemon makes it again
	d.serving(t, 2)
	d.stop(t)
}

// wantedCapabilities is NET_BIND_SERVICE (10), NET_ADMIN (12) and NET_RAW (13).
const wantedCapabilities = "0000000000003400"

func statusField(t testing.TB, status, name string) string {
	t.Helper()
	for line := range strings.Lines(status) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in %q", name, status)
	return ""
}

func TestConfined(t *testing.T) {
	const kept = keptCapabilities
	for name, tc := range map[string]struct {
		p    privileges
		want bool
	}{
		"root":                          {privileges{effective: ^uint64(0), permitted: ^uint64(0), bounding: ^uint64(0)}, false},
		"what is kept":                  {privileges{effective: kept, permitted: kept, bounding: kept, noNew: true}, true},
		"less":                          {privileges{noNew: true}, true},
		"may gain new ones":             {privileges{effective: kept, permitted: kept, bounding: kept}, false},
		"one put aside":                 {privileges{permitted: kept | 1<<unix.CAP_SYS_ADMIN, noNew: true}, false},
		"one to hand on":                {privileges{inheritable: 1 << unix.CAP_SYS_ADMIN, noNew: true}, false},
		"a bounding set out of reach":   {privileges{permitted: kept, bounding: ^uint64(0), noNew: true}, true},
		"the highest capability's word": {privileges{permitted: 1 << 40, noNew: true}, false},
	} {
		if got := tc.p.confined(); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
