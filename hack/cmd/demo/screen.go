package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// width is that of a terminal's usual line, for text of ours; what programs print is left
// as it is.
const width = 100

// screen prints the demo: headings, prose, commands, what they printed, and claims.
type screen struct {
	w      io.Writer
	colour bool
	step   int
	passed int
	failed []string
}

// newScreen colours only for a terminal that wants it (https://no-color.org).
func newScreen(f *os.File, getenv func(string) string) screen {
	st, err := f.Stat()
	terminal := err == nil && st.Mode()&os.ModeCharDevice != 0
	return screen{w: f, colour: terminal && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"}
}

// ANSI colours.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (s *screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// title is the first line.
func (s *screen) title(text string) { fmt.Fprintf(s.w, "\n%s\n", s.paint(bold, text)) }

// heading starts a step.
func (s *screen) heading(title string) {
	s.step++
	text := fmt.Sprintf("%d. %s", s.step, title)
	fmt.Fprintf(s.w, "\n%s\n%s\n\n", s.paint(bold, text), s.paint(dim, strings.Repeat("─", len([]rune(text)))))
}

// say prints prose, wrapped.
func (s *screen) say(format string, args ...any) {
	line := ""
	for word := range strings.FieldsSeq(fmt.Sprintf(format, args...)) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			fmt.Fprintln(s.w, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	fmt.Fprintf(s.w, "%s\n\n", line)
}

// command prints what is run, and on which host.
func (s *screen) command(host, line string) {
	fmt.Fprintf(s.w, "  %s%s\n", s.paint(dim, host), s.paint(cyan, "$ "+line))
}

// output prints what came back.
func (s *screen) output(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(s.w, "    %s\n", strings.TrimRight(line, "\r\n"))
	}
}

// gap prints an empty line.
func (s *screen) gap() { fmt.Fprintln(s.w) }

// claim says what must be so, and whether it is.
func (s *screen) claim(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if ok {
		s.passed++
		fmt.Fprintf(s.w, "  %s %s\n", s.paint(green, "✓"), text)
		return
	}
	s.failed = append(s.failed, text)
	fmt.Fprintf(s.w, "  %s %s\n", s.paint(red, "✗ NOT SO:"), text)
}
