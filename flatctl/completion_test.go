package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Cobra's default completes with file names, which is wrong for nearly everything: each
// argument and each flag must have an answer of its own.
func TestEverythingHasACompletion(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	complete := func(words ...string) string {
		_, out := s.run(append([]string{"__complete"}, words...)...)
		return out
	}
	const files = ":0\n" // ShellCompDirectiveDefault
	checked := 0
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		if out := complete(append(path, "")...); strings.HasSuffix(out, files) {
			t.Errorf("flatctl %s completes with any file", strings.Join(path, " "))
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "bool" {
				return
			}
			checked++
			if out := complete(append(path, "--"+f.Name, "")...); strings.HasSuffix(out, files) {
				t.Errorf("flatctl %s --%s completes with any file", strings.Join(path, " "), f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub, append(append([]string{}, path...), sub.Name()))
		}
	}
	walk((&control{}).rootCommand(), nil)
	if checked < 5 {
		t.Errorf("only %d flags were looked at", checked)
	}
}

// What a person at a prompt gets: bash itself, interactive on a terminal, with the script
// that `flatctl completion bash` prints.
func TestCompletionInBash(t *testing.T) {
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatalf("%v: hack/deps test installs it", err)
		}
		t.Skipf("%v: hack/deps test installs it", err)
	}
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("apply", s.file("storage", "10.5.0.0/24", ""))
	s.attach("flat", pod("default", "web-0"), dead("c1"))
	s.write("notes.txt", "")
	if err := os.MkdirAll(filepath.Join(s.dir, "opt", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := startBash(t, s.dir, programDir(t), library)
	const all = "\x1b*" // insert-completions: every one there is
	for _, tc := range []struct{ typed, want string }{
		{"flatctl appl\t", "flatctl apply"},
		{"flatctl apply " + all, "flatctl apply data flat.conflist opt storage.conflist"},
		{"flatctl config v\tflat.\t", "flatctl config validate flat.conflist"},
		{"flatctl config validate flat.conflist s\t", "flatctl config validate flat.conflist storage.conflist"},
		{"flatctl install-plugins --from op\tb\t da\t", "flatctl install-plugins --from opt/bin/ data/"},
		{"flatctl --data-dir da\t networks -o j\t", "flatctl --data-dir data/ networks -o json"},
		{"flatctl --data-dir=data networks --output=j\t", "flatctl --data-dir=data networks --output=json"},
		{"flatctl --data-dir data reservations " + all, "flatctl --data-dir data reservations flat storage"},
		{"flatctl --data-dir data check storage f\t", "flatctl --data-dir data check storage flat"},
		{"flatctl --data-dir data network rm st\t", "flatctl --data-dir data network rm storage"},
		{"flatctl --data-dir data rules def\t", "flatctl --data-dir data rules default/web-0"},
		{"flatctl --data-dir data release 10.\t", "flatctl --data-dir data release 10.0.0.2"},
		{"flatctl --data-dir data reserve flat --work\t de\t", "flatctl --data-dir data reserve flat --workload default/web-0"},
		{"flatctl completion ba\t", "flatctl completion bash"},
		{"flatctl help rel\t", "flatctl help release"},
		// Nothing to offer: neither words nor files.
		{"flatctl apply flat.conflist not\t", "flatctl apply flat.conflist not"},
		{"flatctl --data-dir data rules nob\t", "flatctl --data-dir data rules nob"},
		{"flatctl --data-dir data reserve flat --ip not\t", "flatctl --data-dir data reserve flat --ip not"},
	} {
		if got := b.typed(tc.typed); got != tc.want {
			t.Errorf("typed %q: got %q, want %q", tc.typed, got, tc.want)
		}
	}
}

// bash is an interactive shell on a terminal of its own.
type bash struct {
	t     *testing.T
	stdin io.Writer
	lines chan string
	count int
}

func startBash(t *testing.T, dir, path, library string) *bash {
	t.Helper()
	rc := filepath.Join(path, "rc")
	text := fmt.Sprintf(`PATH=%s:$PATH PS1='> ' PS2=
bind 'set bell-style none' 'set enable-bracketed-paste off' 'set completion-query-items -1' 'set horizontal-scroll-mode on'
. %s
. <(flatctl completion bash)
words() { local n=$1; shift; echo; echo "<$n> $*"; }
`, path, library)
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a shell that hangs
	t.Cleanup(cancel)
	// script(1) has the terminal.
	cmd := exec.CommandContext(ctx, "script", "-qec", "stty cols 500 && exec bash --noprofile --rcfile "+rc+" -i", "/dev/null")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=dumb", "LC_ALL=C", "SHELL=/bin/bash", "HOME=" + dir, "HISTFILE="}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &bash{t: t, stdin: stdin, lines: make(chan string)}
	go func() {
		defer close(b.lines)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			select {
			case b.lines <- sc.Text():
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close() // end of input: bash exits
		for range b.lines {
		}
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			t.Logf("bash: %v", err)
		}
	})
	return b
}

// typed types keys at the prompt and returns the words that the line then has.
func (b *bash) typed(keys string) string {
	b.t.Helper()
	b.count++
	// At the beginning of the line (Ctrl-A) goes what prints the words, then Return.
	if _, err := fmt.Fprintf(b.stdin, "%s\x01words %d \r", keys, b.count); err != nil {
		b.t.Fatal(err)
	}
	var seen []string
	for line := range b.lines {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("<%d> ", b.count)); ok {
			return words
		}
		seen = append(seen, line)
	}
	b.t.Fatalf("typed %q: bash ended; it printed:\n%s", keys, strings.Join(seen, "\n"))
	return ""
}
