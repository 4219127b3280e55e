package seed

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

var update = flag.Bool("update", false, "write the listings of docs/tour.md and docs/packet-flow.md anew")

// page is a document whose listings a test makes: what stands between a line
// "<!-- listing NAME -->" and a line "<!-- end -->". Each listing is made once, and what was
// made is compared with what is there, or with -update put there.
type page struct {
	t    *testing.T
	file string
	text string
	made []string
}

var listing = regexp.MustCompile("(?s)<!-- listing ([a-z0-9-]+) -->\n(?:```\n(.*?)```\n)?<!-- end -->\n")

func openPage(t *testing.T, name string) *page {
	t.Helper()
	p := &page{t: t, file: filepath.Join(labtest.Repository(t), "docs", name)}
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	p.text = string(text)
	return p
}

// set makes a listing: lines without blanks at their ends.
func (p *page) set(name, got string) {
	p.t.Helper()
	if slices.Contains(p.made, name) {
		p.t.Fatalf("listing %s is made twice", name)
	}
	p.made = append(p.made, name)
	var lines strings.Builder
	for line := range strings.Lines(got) {
		lines.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	got = lines.String()
	for _, at := range listing.FindAllStringSubmatchIndex(p.text, -1) {
		if p.text[at[2]:at[3]] != name {
			continue
		}
		was := ""
		if at[4] >= 0 {
			was = p.text[at[4]:at[5]]
		}
		if *update {
			p.text = p.text[:at[0]] + "<!-- listing " + name + " -->\n```\n" + got + "```\n<!-- end -->\n" + p.text[at[1]:]
		} else if diff := cmp.Diff(was, got); diff != "" {
			p.t.Errorf("listing %s of %s is out of date (-there +made; -update writes it anew):\n%s", name, filepath.Base(p.file), diff)
		}
		return
	}
	p.t.Errorf("%s has no listing %s:\n%s", filepath.Base(p.file), name, got)
}

// close says which listings of the page nobody made, and writes the page with -update.
func (p *page) close() {
	p.t.Helper()
	for _, found := range listing.FindAllStringSubmatch(p.text, -1) {
		if !slices.Contains(p.made, found[1]) {
			p.t.Errorf("%s has a listing %s, which nothing makes", filepath.Base(p.file), found[1])
		}
	}
	if begun := strings.Count(p.text, "<!-- listing "); begun != len(p.made) {
		p.t.Errorf("%s begins %d listings, %d were made: an end is missing, or a name is there twice", filepath.Base(p.file), begun, len(p.made))
	}
	if *update && !p.t.Failed() {
		if err := os.WriteFile(p.file, []byte(p.text), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

// regular takes out of what programs print what is another each time: numbers of links, times,
// versions, counters.
func regular(text string) string {
	for _, r := range []struct {
		what *regexp.Regexp
		to   string
	}{
		{regexp.MustCompile(`(?m)^\d+: (\S+?)(@\w+)?: `), "N: $1: "},
		{regexp.MustCompile(` link-netns(id)? \S+`), ""},
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\S+ `), ""},
		{regexp.MustCompile(`(?m)^time=\S+ `), ""},
		{regexp.MustCompile(` -m comment --comment ("[^"]*"|\S+)`), ""},
		{regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d`), "DATE TIME"},
		{regexp.MustCompile(`\[\d+ packets, \d+ bytes\]`), "[N packets]"},
		{regexp.MustCompile(`(?m)^  dropped so far, .*\n`), ""},
		{regexp.MustCompile(`EXPIRES +LAST SEEN +`), "EXPIRES  LAST SEEN  "},
		{regexp.MustCompile(`in \S+ +\S+ ago +`), "in TIME  TIME ago   "},
		{regexp.MustCompile(`udhcp [\d.]+`), "udhcp VERSION"},
		{regexp.MustCompile(`started, v\S+`), "started"},
		{regexp.MustCompile(`time=[\d.]+ ms`), "time=T ms"},
		{regexp.MustCompile(`(?m)^rtt .*\n`), ""},
		{regexp.MustCompile(`time \d+ms`), "time T"},
	} {
		text = r.what.ReplaceAllString(text, r.to)
	}
	return text
}
