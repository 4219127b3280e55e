package seed

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// row is one case in one shape of the network, with the toggle on or off.
type row struct {
	id, action string
	shape      string
	open       bool
	expected   string
	observed   string
	decided    string // the rule that decided, and how that is known
	verdict    string
}

// table collects the rows of all tests.
type table struct {
	mu   sync.Mutex
	rows []row
}

// results is the table of this run. Tests add to it, TestMain prints it.
var results table

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// String is the table by case, then shape, then toggle.
func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := slices.Clone(t.rows)
	slices.SortStableFunc(rows, func(a, b row) int { return strings.Compare(a.id, b.id) })
	lines := [][]string{{"case", "shape", "toggle", "expected", "observed", "verdict", "rule that decided"}}
	for _, r := range rows {
		toggle := "on"
		if !r.open {
			toggle = "off"
		}
		lines = append(lines, []string{r.id + " " + r.action, r.shape, toggle, r.expected, r.observed, r.verdict, r.decided})
	}
	widths := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, cell := range l {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		line := ""
		for i, cell := range l {
			line += cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
		}
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
	}
	return b.String()
}

func TestTableIsSortedAndAligned(t *testing.T) {
	var tab table
	tab.add(row{id: "B1", action: "ping", shape: "single-host", open: true, expected: "answered", observed: "answered", decided: "a rule", verdict: "ok"})
	tab.add(row{id: "A1", action: "boot", shape: "multi-host", expected: "no lease", observed: "lease", verdict: "FAILED"})
	want := "case     shape        toggle  expected  observed  verdict  rule that decided\n" +
		"A1 boot  multi-host   off     no lease  lease     FAILED\n" +
		"B1 ping  single-host  on      answered  answered  ok       a rule\n"
	if got := tab.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
