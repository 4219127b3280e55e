package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// patience bounds the wait for something that takes milliseconds.
const patience = 20 * time.Second

// shell prints a command line, runs exactly that on a host, prints what came back and
// returns it. A command that fails ends the demo.
func (s *story) shell(ctx context.Context, on *lab.Host, line string) (string, error) {
	return s.shellShowing(ctx, on, line, func(out string) string { return out })
}

// shellShowing prints what show makes of the output: nil means nothing.
func (s *story) shellShowing(ctx context.Context, on *lab.Host, line string, show func(string) string) (string, error) {
	s.command(on.Name(), line)
	out, err := s.look(ctx, on, line)
	if err != nil {
		return out, err
	}
	if show != nil {
		s.output(show(out))
	}
	return out, nil
}

// failing is shell for a command that must not succeed; it returns what that complained of.
func (s *story) failing(ctx context.Context, on *lab.Host, line string, show func(string) string) (string, error) {
	s.command(on.Name(), line)
	out, stderr, err := on.Run(ctx, "sh", "-c", line)
	var failed *lab.RunError
	if err != nil && !errors.As(err, &failed) {
		return "", err
	}
	s.output(show(out + stderr))
	if err == nil {
		s.claim(false, "%q fails", line)
	}
	return out + stderr, nil
}

// look runs a command line without showing it.
func (s *story) look(ctx context.Context, on *lab.Host, line string) (string, error) {
	out, _, err := on.Run(ctx, "sh", "-c", line)
	return out, err
}

// lookJSON runs a command line without showing it and decodes what it prints.
func (s *story) lookJSON(ctx context.Context, on *lab.Host, into any, line string) error {
	out, err := s.look(ctx, on, line)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("reading what %q printed: %w", line, err)
	}
	return nil
}

// until repeats look until it says yes.
func until(ctx context.Context, what string, look func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := look()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitLine waits for a line of a running program.
func waitLine(ctx context.Context, p *lab.Process, since int, text string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.WaitLine(ctx, since, text)
}

// grep keeps the lines that contain one of the words.
func grep(words ...string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for line := range strings.Lines(text) {
			for _, w := range words {
				if strings.Contains(line, w) {
					b.WriteString(line)
					break
				}
			}
		}
		return b.String()
	}
}
