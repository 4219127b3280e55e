package inject

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// The second of three writes fails, is the program's last moment, or is only seen.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root, which FLATDHCP_REQUIRE_ROOT=1 promises")
		}
		t.Skip("needs root, for a seccomp filter without no_new_privs")
	}
	// What a program that it runs writes is not its own.
	const script = "echo one; busybox echo other; echo two; echo three"
	tests := []struct {
		name           string
		plan           Plan
		stdout, stderr string
		err            string
		calls          func(int) bool
	}{
		{"only watched", Plan{}, "one\nother\ntwo\nthree\n", "", "", exactly(3)},
		{"fails", Plan{At: 2, Errno: unix.ENOSPC}, "one\nother\nthree\n", "I/O error", "", atLeast(3)},
		{"fails from there on", Plan{At: 2, On: true, Errno: unix.EIO}, "one\nother\n", "", "exit status", atLeast(3)},
		{"killed", Plan{At: 2}, "one\nother\n", "", "signal: killed", exactly(2)},
		{"not reached", Plan{At: 9, Errno: unix.EIO}, "one\nother\ntwo\nthree\n", "", "", exactly(3)},
		{"another kind", Plan{At: 1, Errno: unix.EIO, Kinds: []Kind{Sync}}, "one\nother\ntwo\nthree\n", "", "", exactly(0)},
		{"none that counts", Plan{At: 1, Errno: unix.EIO, Only: func(Call) bool { return false }}, "one\nother\ntwo\nthree\n", "", "", exactly(0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.plan.Kinds == nil {
				tt.plan.Kinds = []Kind{Write}
			}
			argv := Argv("/bin/sh", "-c", script)
			cmd := exec.Command(argv[0], argv[1:]...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			report, err := Run(cmd, tt.plan)
			if got := message(err); !strings.Contains(got, tt.err) || (got == "") != (tt.err == "") {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			if stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stdout %q, stderr %q; want %q and %q", stdout.String(), stderr.String(), tt.stdout, tt.stderr)
			}
			if !tt.calls(len(report.Calls)) {
				t.Errorf("calls %v", report.Calls)
			}
			if want := tt.plan.At > 0 && len(report.Calls) >= tt.plan.At; report.Reached != want {
				t.Errorf("reached: %t, want %t", report.Reached, want)
			}
		})
	}
}

func exactly(n int) func(int) bool { return func(got int) bool { return got == n } }

// atLeast is for a shell that complains in as many writes as it likes.
func atLeast(n int) func(int) bool { return func(got int) bool { return got >= n } }

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
