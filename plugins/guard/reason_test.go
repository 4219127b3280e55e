package guard

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReasonsAreDocumented: docs/guard.md has a row for each, with these words, and no
// other.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, r := range Reasons() {
		hostile := "no"
		if r.Hostile {
			hostile = "yes"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", r.Counter, r.Why, hostile))
		if Why(r.Counter) != r.Why {
			t.Errorf("Why(%s) is %q", r.Counter, Why(r.Counter))
		}
	}
	var got []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("docs/guard.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
