package conformance

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// Target is a plugin to be asked, and what has to be known about it.
type Target struct {
	// Name heads the report.
	Name string
	// Plugin is the binary's file name.
	Plugin string
	// IPAM says that it is an IPAM plugin, which is executed by others and makes no interface.
	IPAM bool
	// Lab says where the binary and those it delegates to are.
	Lab lab.Options
	// Config makes a network's configuration, as [ParseConfig] returns it.
	Config func(Network) (string, error)
	// Unready is a shell command that makes every ADD on a host impossible, which STATUS
	// must then say. Empty: that case is left out.
	Unready string
	// Memory matches lines of a state's difference that are a plugin's memory of the past and
	// no leftover: the address that was given last, say. Nil: nothing is.
	Memory *regexp.Regexp
	// Known are failures that somebody has decided to live with.
	Known []Known
}

// Network says which configuration is wanted.
type Network struct {
	// N numbers networks. Each needs its own bridge and subnet; its name is net<N>.
	N int
	// OneAddress wants a network with a single address to give.
	OneAddress bool
}

func (n Network) name() string { return fmt.Sprintf("net%d", n.N) }

// The networks of a host.
var (
	home  = Network{N: 1} // where most cases happen; a neighbour is attached
	other = Network{N: 2} // where another neighbour is
	spare = Network{N: 3} // used before, nobody on it
	cold  = Network{N: 4} // never used
	small = Network{N: 5, OneAddress: true}
)

// ParseConfig reads a plugin's configuration in the form a conflist's "plugins" has it:
// JSON, as a template (text/template) of a [Network]. cniVersion and name are added.
//
//	{"type": "bridge", "bridge": "br{{.N}}",
//	 "ipam": {"type": "host-local", "subnet": "10.{{.N}}.0.0/24"{{if .OneAddress}},
//	          "rangeStart": "10.{{.N}}.0.9", "rangeEnd": "10.{{.N}}.0.9"{{end}}}}
//
// Cases that need what a template does not tell apart are left out.
func ParseConfig(text string) (func(Network) (string, error), error) {
	tmpl, err := template.New("configuration").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parsing the configuration's template: %w", err)
	}
	config := func(n Network) (string, error) {
		var b strings.Builder
		if err := tmpl.Execute(&b, n); err != nil {
			return "", fmt.Errorf("filling in the configuration's template: %w", err)
		}
		return b.String(), nil
	}
	for _, n := range []Network{home, small} {
		filled, err := config(n)
		if err != nil {
			return nil, err
		}
		var o map[string]any
		if err := json.Unmarshal([]byte(filled), &o); err != nil {
			return nil, fmt.Errorf("parsing the configuration of network %d: %w:\n%s", n.N, err, filled)
		}
		if o["type"] == nil {
			return nil, fmt.Errorf("parsing the configuration: key type is missing:\n%s", filled)
		}
	}
	return config, nil
}

// Known is one failure that is accepted, and why.
type Known struct {
	Case     string
	Versions []string // empty: all that the case applies to
	Why      string
}

// ParseKnown reads a list of known failures, one a line: "CASE [VERSION]...: why". Empty
// lines and those that begin with # are left out.
func ParseKnown(text string) ([]Known, error) {
	var list []Known
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		what, why, ok := strings.Cut(line, ": ")
		words := strings.Fields(what)
		if !ok || len(words) == 0 || strings.TrimSpace(why) == "" {
			return nil, fmt.Errorf(`parsing a known failure: %q is not "CASE [VERSION]...: why"`, line)
		}
		list = append(list, Known{Case: words[0], Versions: words[1:], Why: strings.TrimSpace(why)})
	}
	return list, nil
}

// checkKnown refuses a list that names what does not exist.
func checkKnown(list []Known, cases []Case) error {
	for _, k := range list {
		i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == k.Case })
		if i < 0 {
			return fmt.Errorf("reading the known failures: there is no case %q", k.Case)
		}
		for _, v := range k.Versions {
			if !slices.Contains(Versions, v) || !cases[i].appliesTo(v) {
				return fmt.Errorf("reading the known failures: %s does not apply to version %q", k.Case, v)
			}
		}
	}
	return nil
}

// known returns the failure that is listed for a cell, nil if none is.
func (t Target) known(name, version string) *Known {
	for i, k := range t.Known {
		if k.Case == name && (len(k.Versions) == 0 || slices.Contains(k.Versions, version)) {
			return &t.Known[i]
		}
	}
	return nil
}
