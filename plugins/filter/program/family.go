// Package program finds and runs the programs of iptables, and keeps the record of which
// back end holds rules of ours.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The two implementations behind the name iptables. They keep their rules apart, and
// both are in force: mixing them means rules that nobody sees. What is used is the one
// that the node's administrator has chosen (update-alternatives).
const (
	NFT    = "nft"
	Legacy = "legacy"
)

// Other is the other back end.
func Other(backend string) string {
	if backend == NFT {
		return Legacy
	}
	return NFT
}

// ErrMissing says that iptables, iptables-save or iptables-restore is missing or cannot
// be run.
var ErrMissing = errors.New("no usable iptables program")

// dirs are where distributions keep iptables. PATH is not asked: a runtime may run
// plugins without one.
var dirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"}

func defaults(candidates []string) []string {
	if candidates == nil {
		for _, dir := range dirs {
			candidates = append(candidates, filepath.Join(dir, "iptables"))
		}
	}
	return candidates
}

// Family is iptables with the programs beside it, named with -save and -restore.
type Family struct {
	IPTables, Save, Restore string
	Backend                 string // NFT or Legacy
}

func familyAt(path, backend string) (Family, error) {
	f := Family{IPTables: path, Save: path + "-save", Restore: path + "-restore", Backend: backend}
	return f, errors.Join(executable(f.IPTables), executable(f.Save), executable(f.Restore))
}

// Find takes the first candidate that exists with its -save and -restore (nil = iptables
// where distributions keep it), and finds out its back end, for which it runs a program
// only if the file's name does not tell. The error wraps ErrMissing.
func Find(ctx context.Context, run Exec, candidates []string) (Family, error) {
	candidates = defaults(candidates)
	var problems []error
	for _, path := range candidates {
		f, err := familyAt(path, "")
		if err == nil {
			f.Backend, err = findBackend(ctx, run, path)
		}
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	err := fmt.Errorf("%w: none of %s is one with its -save and -restore beside it (Debian: apt-get install iptables)",
		ErrMissing, strings.Join(candidates, ", "))
	if len(problems) > 0 {
		err = fmt.Errorf("%w: %w", err, errors.Join(problems...))
	}
	return Family{}, err
}

// FindBackend finds the programs of one back end by their names, iptables-nft or
// iptables-legacy, beside candidates. The error wraps ErrMissing.
func FindBackend(backend string, candidates []string) (Family, error) {
	var tried []string
	for _, path := range defaults(candidates) {
		path = filepath.Join(filepath.Dir(path), "iptables-"+backend)
		f, err := familyAt(path, backend)
		if err == nil {
			return f, nil
		}
		tried = append(tried, path)
	}
	return Family{}, fmt.Errorf("%w of the %s back end: none of %s is one with its -save and -restore beside it",
		ErrMissing, backend, strings.Join(tried, ", "))
}

// Installed reports whether Find would look further into a candidate, without running
// anything. The error wraps ErrMissing.
func Installed(candidates []string) error {
	candidates = defaults(candidates)
	for _, path := range candidates {
		if _, err := familyAt(path, ""); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: none of %s has its -save and -restore beside it (Debian: apt-get install iptables)",
		ErrMissing, strings.Join(candidates, ", "))
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0) {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return err
}

// versionTime bounds the asking for a version: a program that hangs must leave its caller
// the time to do without it, where the back end is recorded.
const versionTime = 2 * time.Second

// findBackend reads the back end off the file that path leads to; only if its name does
// not tell is the program asked.
func findBackend(ctx context.Context, run Exec, path string) (backend string, err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	switch filepath.Base(target) {
	case "xtables-nft-multi":
		return NFT, nil
	case "xtables-legacy-multi", "xtables-multi":
		return Legacy, nil
	}
	// go-iptables finds the mode out as well, but does not tell it.
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	version, err := run(ctx, path, []string{"--version"}, nil)
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	if !strings.HasPrefix(string(version), "iptables v") {
		return "", fmt.Errorf("%s is no iptables: asked for its version it says %.80q", path, version)
	}
	if strings.Contains(string(version), "(nf_tables)") {
		return NFT, nil
	}
	return Legacy, nil // which says so, or before 1.8 nothing
}
