package seed

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

var span = regexp.MustCompile("`([^`]+)`")

// document is a page of docs/.
func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(labtest.Repository(t), "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// novaRow is a row of docs/from-nova.md.
type novaRow struct {
	names      []string // nova's
	here, rest string
}

func novaRows(t *testing.T) []novaRow {
	t.Helper()
	var rows []novaRow
	for line := range strings.Lines(document(t, "from-nova.md")) {
		cells := strings.Split(strings.TrimSpace(line), " |")
		if !strings.HasPrefix(line, "| `") || len(cells) != 4 {
			continue
		}
		r := novaRow{here: strings.TrimSpace(cells[1]), rest: strings.TrimSpace(cells[2])}
		for _, s := range span.FindAllStringSubmatch(cells[0], -1) {
			r.names = append(r.names, s[1])
		}
		rows = append(rows, r)
	}
	return rows
}

// Each name of nova's has a row, once, and no row is about another.
func TestFromNovaIsComplete(t *testing.T) {
	list, err := os.ReadFile("testdata/nova-names.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			want = append(want, line)
		}
	}
	for _, r := range novaRows(t) {
		got = append(got, r.names...)
	}
	for _, name := range want {
		switch n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != name })); n {
		case 0:
			t.Errorf("docs/from-nova.md has no row for %s", name)
		case 1:
		default:
			t.Errorf("docs/from-nova.md has %d rows for %s", n, name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("docs/from-nova.md has a row for %s, which testdata/nova-names.txt does not have", name)
		}
	}
}

// What a row says we have is there: keys are accepted as written, flags exist. A row without
// any says in so many words that there is none.
func TestFromNovaNamesWhatIsThere(t *testing.T) {
	for _, r := range novaRows(t) {
		spans := span.FindAllStringSubmatch(r.here, -1)
		if len(spans) == 0 && r.here != "always" && r.here != "none" {
			t.Errorf("%s: %q names no key, nor says always or none", r.names, r.here)
		}
		if r.here == "none" && r.rest == "" && r.names[0] != "send_arp_for_ha_count" {
			t.Errorf("%s: why there is none is not said", r.names)
		}
		for _, s := range append(spans, span.FindAllStringSubmatch(r.rest, -1)...) {
			text := s[1]
			switch {
			case strings.HasPrefix(text, `"`):
				if err := acceptsMembers(text); err != nil {
					t.Errorf("%s: %s: %v", r.names, text, err)
				}
			case strings.HasPrefix(text, "flatctl ") || strings.HasPrefix(text, "flat-dhcpd "):
				programHas(t, text)
			}
		}
		for _, s := range spans {
			if !strings.HasPrefix(s[1], `"`) && !strings.HasPrefix(s[1], "flat") {
				t.Errorf("%s: %s is neither a key nor a program of ours", r.names, s[1])
			}
		}
	}
}

// The page's conflists are the network that the seed's tests run on.
func TestFromNovaExamples(t *testing.T) {
	_, rest, found := strings.Cut(document(t, "from-nova.md"), "```json\n")
	for n := 0; ; n++ {
		if !found {
			if n != 2 {
				t.Errorf("there are %d conflists, want 2", n)
			}
			return
		}
		list, after, _ := strings.Cut(rest, "```\n")
		if _, err := conf.ParseList([]byte(list)); err != nil {
			t.Errorf("conflist %d: %v", n+1, err)
		}
		_, rest, found = strings.Cut(after, "```json\n")
	}
}

// acceptsMembers puts members of a JSON object into the shortest conflist.
func acceptsMembers(members string) error {
	plugin := map[string]any{"type": "flat-bridge"}
	ipam := map[string]any{"type": "flat-ipam", "subnet": "10.0.0.0/24"}
	var given map[string]any
	if err := json.Unmarshal([]byte("{"+members+"}"), &given); err != nil {
		return err
	}
	if own, ok := given["ipam"].(map[string]any); ok {
		maps.Copy(ipam, own)
	}
	maps.Copy(plugin, given)
	plugin["ipam"] = ipam
	list, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": network, "plugins": []any{plugin}})
	if err != nil {
		return err
	}
	_, err = conf.ParseList(list)
	return err
}

// programHas looks for the flags of a command line, and its subcommand, in what the program
// says of itself.
func programHas(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	argv := []string{filepath.Join(labtest.Options(t).Bin, words[0])}
	var flags []string
	for _, w := range words[1:] {
		switch {
		case strings.HasPrefix(w, "-"):
			flags = append(flags, w)
		case len(flags) == 0 && w == strings.ToLower(w):
			argv = append(argv, w)
		}
	}
	// flat-dhcpd prints its flags with one hyphen, as Go's package flag does.
	var out bytes.Buffer
	cmd := exec.Command(argv[0], append(argv[1:], "--help")...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%s --help: %v\n%s", strings.Join(argv, " "), err, &out)
	}
	usage := strings.Join(append([]string{words[0]}, argv[1:]...), " ")
	if len(argv) > 1 && !strings.Contains(out.String(), usage) {
		t.Errorf("%s: there is no such command:\n%s", line, &out)
	}
	for _, f := range flags {
		name := regexp.QuoteMeta(strings.TrimLeft(f, "-"))
		if !regexp.MustCompile(`(^|[ ,])--?` + name + `\b`).MatchString(out.String()) {
			t.Errorf("%s: %s has no flag %s:\n%s", line, words[0], f, &out)
		}
	}
}
