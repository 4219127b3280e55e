package lab_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

func TestProcess(t *testing.T) {
	h := labtest.AddHost(t, labtest.New(t, lab.Options{}), "node1")
	ctx := labtest.Within(t, patience)
	begin := func(t *testing.T, script string) *lab.Process {
		t.Helper()
		p, err := h.Start("sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	t.Run("lines are found from a position on", func(t *testing.T) {
		p := begin(t, "echo one; echo two >&2; echo one more; exec sleep 60")
		line, next, err := p.WaitLine(ctx, 0, "one")
		if err != nil || line != "one" {
			t.Fatalf("got %q, %v", line, err)
		}
		if line, _, err = p.WaitLine(ctx, next, "one"); err != nil || line != "one more" {
			t.Errorf("got %q, %v", line, err)
		}
		if got := p.Mark(); got != 3 {
			t.Errorf("mark is %d", got)
		}
	})
	t.Run("waiting ends with the program, and tells its output", func(t *testing.T) {
		p := begin(t, "echo dying; exit 4")
		_, _, err := p.WaitLine(ctx, 0, "never")
		if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "dying") {
			t.Errorf("error is %v", err)
		}
		if p.Running() {
			t.Error("said to be running")
		}
	})
	t.Run("waiting ends with its context", func(t *testing.T) {
		p := begin(t, "exec sleep 60")
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		if _, _, err := p.WaitLine(short, 0, "never"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("stop lets it end by itself", func(t *testing.T) {
		p := begin(t, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
		if _, _, err := p.WaitLine(ctx, 0, "up"); err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if lines := p.Lines(); lines[len(lines)-1] != "bye" {
			t.Errorf("output is %q", lines)
		}
	})
	t.Run("kill does not", func(t *testing.T) {
		p := begin(t, "trap '' TERM; echo up; while :; do sleep 0.01; done")
		if _, _, err := p.WaitLine(ctx, 0, "up"); err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil || p.Running() {
			t.Errorf("after Kill: running %v, %v", p.Running(), err)
		}
	})
}
