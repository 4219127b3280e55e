package filter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The two implementations behind the name iptables. They keep their rules apart:
// mixing them means rules that nobody sees. This package follows the program that
// the node's administrator has chosen (update-alternatives).
const (
	BackendNFT    = "nft"
	BackendLegacy = "legacy"
)

// ErrNoProgram says that iptables, iptables-save or iptables-restore is missing or
// cannot be run.
var ErrNoProgram = errors.New("no usable iptables program")

// programDirs are where distributions keep iptables. PATH is not asked: a runtime
// may run plugins without one.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"}

// programs are the members of one iptables family.
type programs struct {
	iptables, save, restore string
	backend                 string
}

// findPrograms takes the first candidate that exists with its -save and -restore.
func findPrograms(ctx context.Context, run Exec, candidates []string) (programs, error) {
	if candidates == nil {
		for _, dir := range programDirs {
			candidates = append(candidates, filepath.Join(dir, "iptables"))
		}
	}
	var problems []error
	for _, path := range candidates {
		p := programs{iptables: path, save: path + "-save", restore: path + "-restore"}
		err := errors.Join(executable(p.iptables), executable(p.save), executable(p.restore))
		if err == nil {
			p.backend, err = findBackend(ctx, run, path)
		}
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return programs{}, fmt.Errorf("%w: tried %s (Debian: apt-get install iptables): %w",
		ErrNoProgram, strings.Join(candidates, ", "), errors.Join(problems...))
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0) {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return err
}

// findBackend reads the back end off the file that path leads to; only if its name
// does not tell is the program asked.
func findBackend(ctx context.Context, run Exec, path string) (backend string, err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	switch filepath.Base(target) {
	case "xtables-nft-multi":
		return BackendNFT, nil
	case "xtables-legacy-multi", "xtables-multi":
		return BackendLegacy, nil
	}
	// go-iptables finds the mode out as well, but does not tell it.
	version, err := run(ctx, path, []string{"--version"}, nil)
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	if strings.Contains(string(version), "(nf_tables)") {
		return BackendNFT, nil
	}
	return BackendLegacy, nil
}
