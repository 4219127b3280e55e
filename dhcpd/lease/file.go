package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	suffix      = ".leases"
	storeSuffix = ".db"
	// fileVersion is that of the format; another one is not read.
	fileVersion = 1
	// maxFile bounds what is read, in bytes: maxLeases of the longest entries.
	maxFile = 16 << 20
)

// content is a file's.
type content struct {
	Version int     `json:"version"`
	Leases  []Lease `json:"leases"`
}

// path returns the file of a network's lease state.
func path(dataDir, network string) string { return filepath.Join(dataDir, network+suffix) }

// ReadDir returns the lease state that is kept in a data directory, as it is at now;
// networks that have none are left out. The error joins those of files that cannot be
// read: what could is returned even then.
func ReadDir(dataDir string, now time.Time) ([]Lease, error) {
	names, err := filepath.Glob(filepath.Join(dataDir, "*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("looking for lease state: %w", err)
	}
	var all []Lease
	var errs []error
	for _, name := range names { // sorted
		t, err := load(dataDir, strings.TrimSuffix(filepath.Base(name), suffix))
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, t.list(now)...)
	}
	return all, errors.Join(errs...)
}

// load reads a network's file. A table comes back whatever is wrong: an empty one then.
func load(dataDir, network string) (*table, error) {
	t := &table{leases: map[ipam.MAC]Lease{}}
	f, err := os.Open(path(dataDir, network))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("reading lease state: %w", err)
	}
	defer func() { _ = f.Close() }()
	var c content
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
	case len(text) > maxFile:
		err = fmt.Errorf("longer than %d bytes", maxFile)
	default:
		err = json.Unmarshal(text, &c)
	}
	switch {
	case err != nil:
	case c.Version != fileVersion:
		err = fmt.Errorf("version %d of its format: this program reads %d", c.Version, fileVersion)
	case len(c.Leases) > maxLeases:
		err = fmt.Errorf("%d leases: %d at most", len(c.Leases), maxLeases)
	}
	if err != nil {
		return t, fmt.Errorf("reading lease state from %s: %w", f.Name(), err)
	}
	for _, l := range c.Leases {
		l.Network = network
		t.leases[l.MAC] = l
	}
	return t, nil
}

// save writes leases over a network's file in one step. It is not synced: after a power
// cut there is the old one, or none, or an unreadable one, which is no harm. Where
// the store is gone nothing is written.
func save(dataDir, network string, leases []Lease) (err error) {
	if _, err := os.Stat(filepath.Join(dataDir, network+storeSuffix)); err != nil {
		return fmt.Errorf("writing lease state: %w", err)
	}
	text, err := json.Marshal(content{fileVersion, leases})
	if err != nil {
		return fmt.Errorf("writing lease state: %w", err)
	}
	to := path(dataDir, network)
	if err := os.WriteFile(to+".new", text, 0o600); err != nil {
		return fmt.Errorf("writing lease state: %w", errors.Join(err, os.Remove(to+".new")))
	}
	if err := os.Rename(to+".new", to); err != nil {
		return fmt.Errorf("writing lease state: %w", err)
	}
	return nil
}
