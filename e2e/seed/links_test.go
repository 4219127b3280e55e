package seed

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

var (
	hyperlink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile("(?m)^#+ (.*)$")
	fenced    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	notInURL  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// Each link of a document to another, or to a heading, leads somewhere.
func TestDocumentsLinks(t *testing.T) {
	root := labtest.Repository(t)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	read := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return fenced.ReplaceAllString(string(text), "") // a comment of a script is no heading
	}
	links := 0
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		for _, found := range hyperlink.FindAllStringSubmatch(read(page), -1) {
			to, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			links++
			file := page
			if to != "" {
				file = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(page), found[1], err)
			} else if anchor != "" && !slices.Contains(anchors(read(file)), anchor) {
				t.Errorf("%s links to %s: there is no such heading", filepath.Base(page), found[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// anchors are what GitHub makes of the headings of a page.
func anchors(text string) []string {
	var all []string
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		title := strings.ToLower(hyperlink.ReplaceAllString(h[1], "]"))
		all = append(all, strings.ReplaceAll(notInURL.ReplaceAllString(title, ""), " ", "-"))
	}
	return all
}
