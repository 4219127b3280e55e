// Package dropin has bridge conflists that others publish, for tests that change the
// two types in them and nothing else. Only tests import it.
package dropin

import (
	"embed"
	"fmt"
	"path"
	"regexp"
)

//go:embed testdata/*.conf testdata/*.conflist
var files embed.FS

// List is one published file.
type List struct {
	Name string // of the file
	Text []byte // as published
}

// All returns the lists in the order of their names.
func All() ([]List, error) {
	entries, err := files.ReadDir("testdata")
	if err != nil {
		return nil, fmt.Errorf("reading the published conflists: %w", err)
	}
	var lists []List
	for _, e := range entries {
		text, err := files.ReadFile(path.Join("testdata", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the published conflists: %w", err)
		}
		lists = append(lists, List{Name: e.Name(), Text: text})
	}
	return lists, nil
}

var types = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`("type":\s*)"bridge"`), `${1}"flat-bridge"`},
	{regexp.MustCompile(`("type":\s*)"host-local"`), `${1}"flat-ipam"`},
}

// Converted returns the list with the types flat-bridge for bridge and flat-ipam for
// host-local; not a byte else differs.
func (l List) Converted() []byte {
	text := l.Text
	for _, t := range types {
		text = t.from.ReplaceAll(text, []byte(t.to))
	}
	return text
}
