package conformance

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseKnown(t *testing.T) {
	got, err := ParseKnown("# a list\n\nADD/again: is not looked at\nCHECK/after-add 0.4.0 1.0.0: fails: always\n")
	want := []Known{
		{Case: "ADD/again", Versions: []string{}, Why: "is not looked at"},
		{Case: "CHECK/after-add", Versions: []string{"0.4.0", "1.0.0"}, Why: "fails: always"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, line := range []string{"ADD/again", "ADD/again: ", ": why"} {
		if _, err := ParseKnown(line); err == nil || !strings.Contains(err.Error(), "CASE [VERSION]...: why") {
			t.Errorf("%q: error is %v", line, err)
		}
	}
}

// A list that names what is not there would hide that it is wrong.
func TestKnownFailuresMustExist(t *testing.T) {
	for want, k := range map[string]Known{
		`there is no case "ADD/nothing"`:                  {Case: "ADD/nothing"},
		`GC/list-empty does not apply to version "0.4.0"`: {Case: "GC/list-empty", Versions: []string{"1.1.0", "0.4.0"}},
		`ADD/again does not apply to version "soon"`:      {Case: "ADD/again", Versions: []string{"soon"}},
	} {
		if err := checkKnown([]Known{k}, Cases()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

func TestParseConfig(t *testing.T) {
	config, err := ParseConfig(`{"type": "x", "bridge": "br{{.N}}"{{if .OneAddress}}, "few": true{{end}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[Network]string{
		home: `{"type": "x", "bridge": "br1"}`, small: `{"type": "x", "bridge": "br5", "few": true}`,
	} {
		if got, err := config(n); got != want || err != nil {
			t.Errorf("network %v is %s, %v; want %s", n, got, err, want)
		}
	}
	for text, want := range map[string]string{
		`{{.Nothing}}`:      "can't evaluate field Nothing",
		`{"bridge": "br0"}`: "key type is missing",
		`{"type": "x"`:      "unexpected end",
		`{"type": "x"{{if .OneAddress}},{{end}}}`: "of network 5",
		`{{`: "parsing the configuration's template",
	} {
		if _, err := ParseConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", text, err, want)
		}
	}
}

// Each case is known by its name, has the words it stands on, and can be asked at all.
func TestCasesAreNamedAndFounded(t *testing.T) {
	seen := map[string]bool{}
	form := regexp.MustCompile(`^[A-Z]+/[a-z0-9.-]+$`)
	for _, c := range Cases() {
		if seen[c.Name] || !form.MatchString(c.Name) || len(c.Name) > 36 {
			t.Errorf("the name %q is taken, too long or not of the form VERB/fault", c.Name)
		}
		seen[c.Name] = true
		applies := false
		for _, v := range Versions {
			applies = applies || c.appliesTo(v)
		}
		if c.Clause == "" || !applies {
			t.Errorf("%s has no clause, or no version that it applies to", c.Name)
		}
	}
}

func TestReport(t *testing.T) {
	r := &report{target: Target{}, cells: map[string]map[string]cell{}}
	r.set("VERSION/lists", "0.3.1", cell{verdict: "ok"})
	r.set("VERSION/lists", "1.1.0", cell{verdict: "FAIL", note: "says nothing\nand more"})
	r.set("STATUS/unready", "1.1.0", cell{verdict: "n/a", note: "nobody said how"})
	got := r.String()
	for _, want := range []string{
		strings.Repeat(" ", 37) + "0.3.1  0.4.0  1.0.0  1.1.0\n",
		"\nVERSION/lists                        ok     -      -      FAIL\n",
		"\nSTATUS/unready                       -      -      -      n/a\n",
		"\nVERSION/lists FAIL: says nothing\nSTATUS/unready n/a: nobody said how\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if r.complete() {
		t.Error("three cells are taken for the whole matrix")
	}
	if r.has(Known{Case: "STATUS/unready"}) || !r.has(Known{Case: "VERSION/lists", Versions: []string{"1.1.0"}}) {
		t.Error("a known failure is met where a case was asked, and only there")
	}
}

// A change inside a neighbour is a difference, though the host shows nothing of it.
func TestDiffSeesNeighboursInside(t *testing.T) {
	a, b := snapshot{inside: []string{"web has inside:\nlo\n"}}, snapshot{inside: []string{"web has inside:\nlo\neth0\n"}}
	if got := a.diff(b, nil); got != "before, web has inside:\nlo\nafter, web has inside:\nlo\neth0\n" {
		t.Errorf("the difference is %q", got)
	}
	if got := a.diff(a, nil); got != "" {
		t.Errorf("a snapshot differs from itself by %q", got)
	}
}
