package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// cell is one field of the matrix.
type cell struct {
	verdict string // ok, FAIL, known or n/a
	note    string
}

// report collects the matrix. Its methods may be called concurrently.
type report struct {
	target Target

	mu    sync.Mutex
	cells map[string]map[string]cell // by case, by version
}

func (r *report) set(name, version string, c cell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells[name] == nil {
		r.cells[name] = map[string]cell{}
	}
	r.cells[name][version] = c
}

// has reports whether a known failure was met anywhere.
func (r *report) has(k Known) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for version, c := range r.cells[k.Case] {
		if c.verdict != "n/a" && (len(k.Versions) == 0 || slices.Contains(k.Versions, version)) {
			return true
		}
	}
	return false
}

// complete reports whether every case was asked that could be.
func (r *report) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range Cases() {
		if r.cells[c.Name] == nil && !(r.target.IPAM && c.Links) {
			return false
		}
	}
	return true
}

// String returns the matrix, and below it what needs words: each failure's reason, known
// or not, and why cases were left out.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-36s", "")
	for _, v := range Versions {
		fmt.Fprintf(&b, " %-6s", v)
	}
	b.WriteString("\n")
	notes := []string{}
	for _, c := range Cases() {
		row := r.cells[c.Name]
		fmt.Fprintf(&b, "%-36s", c.Name)
		for _, v := range Versions {
			verdict := row[v].verdict
			if verdict == "" {
				verdict = "-"
			}
			fmt.Fprintf(&b, " %-6s", verdict)
		}
		b.WriteString("\n")
		for _, note := range notesOf(row) {
			notes = append(notes, c.Name+" "+note)
		}
	}
	// Columns are padded to the right as well.
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	text := strings.Join(lines, "\n")
	if len(notes) > 0 {
		text += "\n" + strings.Join(notes, "\n") + "\n"
	}
	return text
}

// notesOf returns a row's remarks, each once.
func notesOf(row map[string]cell) []string {
	seen := map[string]bool{}
	for _, c := range row {
		if c.note != "" {
			first, _, _ := strings.Cut(c.note, "\n")
			seen[c.verdict+": "+first] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
