package filter

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fakeKernel is the tables with the kernel's manners: a transaction that jumps to
// nowhere, deletes what is not there or removes what is in use fails as a whole, but
// what was committed before it stays.
type fakeKernel map[string][]string

func newFakeKernel() fakeKernel {
	return fakeKernel{"INPUT": nil, "FORWARD": nil, "OUTPUT": nil, "PREROUTING": nil, "POSTROUTING": nil}
}

func (f fakeKernel) clone() fakeKernel {
	c := maps.Clone(f)
	for name, rules := range c {
		c[name] = slices.Clone(rules)
	}
	return c
}

func (f fakeKernel) save() string {
	var b strings.Builder
	for _, table := range []string{filterTable, natTable} {
		b.WriteString("*" + table + "\n")
		names := slices.DeleteFunc(sortedKeys(f), func(name string) bool { return tableOf(name) != table })
		for _, name := range names {
			b.WriteString(":" + name + " - [0:0]\n")
		}
		for _, name := range names {
			for _, spec := range f[name] {
				b.WriteString("-A " + name + " " + spec + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// restore is iptables-restore --noflush.
func (f fakeKernel) restore(input string) error {
	next, table := f.clone(), ""
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
			continue
		}
		if line == "COMMIT" {
			if err := next.whole(); err != nil {
				return err
			}
			clear(f)
			maps.Copy(f, next.clone())
			continue
		}
		if err := next.do(table, line); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// whole says whether every jump leads to a chain of its own table.
func (f fakeKernel) whole() error {
	for name, rules := range f {
		for _, spec := range rules {
			to := target(spec)
			if strings.HasPrefix(to, ourPrefix) && (!f.has(to) || tableOf(to) != tableOf(name)) {
				return fmt.Errorf("%s jumps to %s, which does not exist", name, to)
			}
		}
	}
	return nil
}

func (f fakeKernel) has(chain string) bool {
	_, ok := f[chain]
	return ok
}

func target(spec string) string {
	words, _ := splitWords(spec)
	i := slices.Index(words, "-j")
	return words[i+1]
}

func (f fakeKernel) do(table, line string) error {
	words := strings.SplitN(line, " ", 3)
	name, declares := strings.CutPrefix(words[0], ":")
	chain := words[1]
	if declares {
		chain = name
	}
	if tableOf(chain) != table {
		return fmt.Errorf("%s is not of table %s", chain, table)
	}
	if declares {
		f[chain] = nil
		return nil
	}
	if words[0] == "-N" {
		if f.has(chain) {
			return fmt.Errorf("it exists")
		}
		f[chain] = nil
		return nil
	}
	if !f.has(chain) {
		return fmt.Errorf("no chain %s", chain)
	}
	switch words[0] {
	case "-A":
		f[chain] = append(f[chain], words[2])
	case "-I":
		number, spec, _ := strings.Cut(words[2], " ")
		at, err := strconv.Atoi(number)
		if err != nil || at < 1 || at > len(f[chain])+1 {
			return fmt.Errorf("no place %s", number)
		}
		f[chain] = slices.Insert(f[chain], at-1, spec)
	case "-D":
		i := slices.Index(f[chain], words[2])
		if i < 0 {
			return fmt.Errorf("no such rule")
		}
		f[chain] = slices.Delete(f[chain], i, i+1)
	case "-X":
		if len(f[chain]) > 0 {
			return fmt.Errorf("not empty")
		}
		for name, rules := range f {
			if slices.ContainsFunc(rules, func(spec string) bool { return target(spec) == chain }) {
				return fmt.Errorf("%s jumps to it", name)
			}
		}
		delete(f, chain)
	default:
		return fmt.Errorf("unknown line")
	}
	return nil
}

// fakePrograms makes a family of programs called iptables in a new directory, as
// links to a file of that name; none of them can run.
func fakePrograms(t *testing.T, multi string) (iptables string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, multi), []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	iptables = filepath.Join(dir, "iptables")
	for _, suffix := range []string{"", "-save", "-restore"} {
		if err := os.Symlink(multi, iptables+suffix); err != nil {
			t.Fatal(err)
		}
	}
	return iptables
}

// table returns a Table over f, which reads as that back end's reader does: without
// text, and with nft only what is asked for.
func (f fakeKernel) table(t *testing.T, backend string) *Table {
	t.Helper()
	table := New(Options{
		Iptables: []string{fakePrograms(t, "xtables-"+backend+"-multi")},
		Exec: func(_ context.Context, path string, _ []string, stdin []byte) ([]byte, error) {
			if strings.HasSuffix(path, "-save") {
				return []byte(f.save()), nil
			}
			if err := f.restore(string(stdin)); err != nil {
				return nil, &ProgramError{Path: path, Stderr: err.Error(), Err: err}
			}
			return nil, nil
		},
	})
	table.readLegacy = func(context.Context) (*seen, error) {
		if backend == BackendNFT {
			return &seen{depth: whole}, nil
		}
		return f.read(nil)
	}
	table.readKernel = func(_ context.Context, chains []string, _ *closers) (*seen, error) {
		if backend == BackendLegacy {
			return &seen{depth: whole}, nil
		}
		return f.read(chains)
	}
	return table
}

// read is what a reader without a program returns.
func (f fakeKernel) read(chains []string) (*seen, error) {
	s, err := parseSave([]byte(f.save()))
	if err != nil {
		return nil, err
	}
	s.depth = whole
	for name, rules := range s.chains {
		for i := range rules {
			rules[i].spec = ""
		}
		if chains != nil && !slices.Contains(chains, name) {
			delete(s.chains, name)
		}
	}
	if chains != nil {
		s.depth = some
	}
	return s, nil
}
