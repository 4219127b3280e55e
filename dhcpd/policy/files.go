package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// maxFile bounds what is read of one file, in bytes; no configuration is that long.
const maxFile = 1 << 20

// extensions are those by which runtimes know a configuration (libcni.ConfFiles).
var extensions = []string{".conf", ".conflist", ".json"}

// file is one configuration of ours as it was found.
type file struct {
	path   string
	text   []byte
	config *conf.Config // nil if err is set
	err    error
}

// readDir returns the files of dir that name one of our plugins, in the order in which
// runtimes take them: by name. Of two for one network the second is refused, since
// runtimes use the first. Files of other plugins are nobody's business here, and one
// that is no JSON is ours if it has our name in it, or did when it was known.
func readDir(dir string, known func(path string) bool) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for conflists: %w", err)
	}
	var files []file
	first := map[string]string{} // network -> path
	for _, e := range entries {  // sorted
		path := filepath.Join(dir, e.Name())
		if !slices.Contains(extensions, filepath.Ext(path)) {
			continue
		}
		// Through links: a ConfigMap is a directory of them.
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := readFile(path)
		if err != nil {
			files = append(files, file{path: path, err: err})
			continue
		}
		if !ours(text) && (json.Valid(text) || !known(path)) {
			continue
		}
		f := file{path: path, text: text}
		if f.config, f.err = conf.ParseList(text); f.err == nil {
			if other, ok := first[f.config.Name]; ok {
				f.config, f.err = nil, fmt.Errorf("network %s is in %s already, which comes first: give one of them another name", f.config.Name, other)
			} else {
				first[f.config.Name] = path
			}
		}
		files = append(files, f)
	}
	return files, nil
}

func readFile(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, err
}

// ours reports whether a file is for one of our plugins, as far as that can be told.
func ours(text []byte) bool {
	type plugin struct {
		Type string
		IPAM struct{ Type string }
	}
	var list struct {
		plugin
		Plugins []plugin
	}
	if json.Unmarshal(text, &list) != nil {
		return bytes.Contains(text, []byte(`"`+conf.FlatBridge+`"`)) || bytes.Contains(text, []byte(`"`+conf.FlatIPAM+`"`))
	}
	return slices.ContainsFunc(append(list.Plugins, list.plugin), func(p plugin) bool {
		return p.Type == conf.FlatBridge || p.IPAM.Type == conf.FlatIPAM
	})
}
