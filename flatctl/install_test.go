package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// plugins writes scripts that say what the two plugins say. Each is long, and says it at
// its end, so that one that is cut short does not say it.
func plugins(t *testing.T, dir, version string) {
	t.Helper()
	for _, name := range []string{conf.FlatBridge, conf.FlatIPAM} {
		text := "#!/bin/sh\n" + strings.Repeat("# padding\n", 4<<10) + fmt.Sprintf("echo 'CNI plugin %s %s' >&2\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInstallPlugins(t *testing.T) {
	s := newSession(t)
	for _, dir := range []string{"v1", "v2", "bin", "half"} {
		if err := os.Mkdir(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v1, v2, bin := filepath.Join(s.dir, "v1"), filepath.Join(s.dir, "v2"), filepath.Join(s.dir, "bin")
	plugins(t, v1, "v1")
	plugins(t, v2, "v2")
	for _, tc := range []struct {
		want int
		args []string
	}{
		{exitDone, []string{"--help"}},
		{exitUsage, nil},
		{exitUsage, []string{bin, v1}},
		{exitFailed, []string{bin}}, // the test's binary has no plugins beside it
		{exitDone, []string{"--from", v1, bin}},
		{exitDone, []string{"--from", v1, bin}},
		{exitDone, []string{"--from", v2, bin, "-o", "json"}},
		{exitFailed, []string{"--from", filepath.Join(s.dir, "half"), bin}},
		{exitFailed, []string{"--from", filepath.Join(s.dir, "half"), bin, "-o", "json"}},
		{exitFailed, []string{"--from", v1, filepath.Join(s.dir, "none")}},
	} {
		if code, _ := s.run(append([]string{"install-plugins"}, tc.args...)...); code != tc.want {
			t.Errorf("install-plugins %v: exit %d", tc.args, code)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(s.text.String(), filepath.Dir(self), "BESIDE")
	s.text.Reset()
	s.text.WriteString(text)
	s.golden("install.txt")
}

// A runtime that executes a plugin while it is replaced gets all of one version: no
// "text file busy", nothing short. The control, which writes in place, shows that the
// readers would notice.
func TestPluginIsWholeWhileItIsReplaced(t *testing.T) {
	flatctl := filepath.Join(programDir(t), "flatctl")
	sources := map[string]string{"v1": t.TempDir(), "v2": t.TempDir()}
	for version, dir := range sources {
		plugins(t, dir, version)
	}
	// The writer is a process of its own, as flatctl is: in this one, every plugin that
	// a reader starts would inherit the file that is open for writing for a moment.
	byFlatctl := func(dir, version string) error {
		out, err := exec.CommandContext(t.Context(), flatctl, "install-plugins", "--from", sources[version], dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	inPlace := func(dir, version string) error {
		// Refused, too, while a reader is just starting it: then the next try counts.
		_ = exec.CommandContext(t.Context(), "cp", filepath.Join(sources[version], conf.FlatBridge), dir).Run()
		return nil
	}
	t.Run("control", func(t *testing.T) {
		for ran := 0; ; {
			n, err := replacedWhileRead(t, inPlace)
			if err != nil {
				t.Logf("noticed after %d executions: %v", ran+n, err)
				return
			}
			if ran += n; ran > 100000 {
				t.Fatalf("%d executions of a plugin that is written in place went well: the readers see nothing", ran)
			}
		}
	})
	t.Run("flatctl", func(t *testing.T) {
		n, err := replacedWhileRead(t, byFlatctl)
		if err != nil || n == 0 {
			t.Errorf("after %d executions: %v", n, err)
		}
	})
}

// replacedWhileRead replaces a plugin some times while others execute it, and returns how
// often it was executed, and the first execution that went wrong.
func replacedWhileRead(t *testing.T, replace func(dir, version string) error) (int, error) {
	t.Helper()
	dir := t.TempDir()
	plugins(t, dir, "v1")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var readers sync.WaitGroup
	executions := make([]int, 2)
	for i := range executions {
		readers.Go(func() {
			for ctx.Err() == nil {
				cmd := exec.CommandContext(t.Context(), filepath.Join(dir, conf.FlatBridge))
				out, err := cmd.CombinedOutput()
				said := string(out)
				if err == nil && said != "CNI plugin flat-bridge v1\n" && said != "CNI plugin flat-bridge v2\n" {
					err = errors.New("status 0")
				}
				if err != nil {
					cancel(fmt.Errorf("executing it: %w, it says %q", err, said))
					return
				}
				executions[i]++
			}
		})
	}
	for i := 0; i < 6 && ctx.Err() == nil; i++ {
		if err := replace(dir, []string{"v2", "v1"}[i%2]); err != nil {
			cancel(err)
		}
	}
	cancel(nil)
	readers.Wait()
	total := 0
	for _, n := range executions {
		total += n
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return total, err
	}
	return total, nil
}
