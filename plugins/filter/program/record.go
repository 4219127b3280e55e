package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Record is the path of a file that says in which back ends there may be rules of ours.
// It lives as long as the rules do: it is kept on a file system that a boot clears. Empty
// = no record is kept. Who reads or writes it holds the filter lock.
type Record string

// Read returns the back ends; none if nothing has been recorded. If there are two, rules
// are being moved from the first to the second.
func (r Record) Read() ([]string, error) {
	if r == "" {
		return nil, nil
	}
	b, err := os.ReadFile(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which iptables holds rules: %w", err)
	}
	words := strings.Fields(string(b))
	if len(words) > 2 || slices.ContainsFunc(words, func(w string) bool { return w != NFT && w != Legacy }) {
		return nil, fmt.Errorf("reading which iptables holds rules: %s holds %.40q, neither %s nor %s: remove it", r, b, NFT, Legacy)
	}
	return words, nil
}

// Write records backends, or that there are none. The file is there as a whole or not
// at all.
func (r Record) Write(backends ...string) error {
	if r == "" {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(string(r)), 0o700)
	if err == nil {
		err = os.WriteFile(string(r)+".new", []byte(strings.Join(backends, " ")+"\n"), 0o600)
	}
	if err == nil {
		err = os.Rename(string(r)+".new", string(r))
	}
	if err != nil {
		return fmt.Errorf("recording which iptables holds rules: %w", err)
	}
	return nil
}
