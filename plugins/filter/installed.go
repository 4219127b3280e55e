package filter

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Installed reports whether iptables and the programs beside it can be executed,
// without executing any: ErrNoProgram says what was looked for. nil = the places that
// New looks in.
func Installed(candidates []string) error {
	if candidates == nil {
		for _, dir := range programDirs {
			candidates = append(candidates, filepath.Join(dir, "iptables"))
		}
	}
	for _, path := range candidates {
		if errors.Join(executable(path), executable(path+"-save"), executable(path+"-restore")) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: none of %s has its -save and -restore beside it (Debian: apt-get install iptables)",
		ErrNoProgram, strings.Join(candidates, ", "))
}
