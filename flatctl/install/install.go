// Package install puts programs into a directory from which a runtime executes them
// meanwhile, as plugins in /opt/cni/bin are.
//
// A program that is written in place can be executed half-written, and while it is open
// for writing not at all (ETXTBSY, "text file busy"). So each is written beside its place
// under a name that no runtime asks for, made durable, executed once, and renamed: who
// executes it gets all of the old one or all of the new one.
package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// mode is what an installed program has, whatever the umask.
const mode = 0o755

// Program is one installed program. Its JSON names are for programs: they stay.
type Program struct {
	Name    string `json:"program"`
	Path    string `json:"path"`
	Version string `json:"version"` // as it says itself
	Changed bool   `json:"changed"` // false: it was there, byte for byte
}

// Programs installs the named programs of directory from into directory dir, which must
// exist: where dir is a volume of the node in a container, making a missing one would
// install to nowhere.
//
// None is replaced before all are written and have run, so that a full disk or a wrong
// machine leaves every old one. The programs in place are returned with an error as well;
// those then missing are as they were. What an earlier call that was killed left behind
// is removed. Calls for one directory wait for each other until ctx is done.
func Programs(ctx context.Context, from, dir string, names []string) (_ []Program, err error) {
	if err := checkDirectory(dir); err != nil {
		return nil, err
	}
	lock, err := flock.ExclusiveReadOnly(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("waiting for others that install into %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	var todo []*file
	defer func() {
		for _, f := range todo {
			err = errors.Join(err, f.removeStaged())
		}
	}()
	for _, name := range names {
		f := &file{name: name, from: filepath.Join(from, name), place: filepath.Join(dir, name), staged: filepath.Join(dir, "."+name+".new")}
		todo = append(todo, f)
		if err := f.stage(ctx); err != nil {
			return nil, explained(fmt.Errorf("installing %s: %w; no program was replaced", name, err), dir)
		}
	}
	var done []Program
	for _, f := range todo {
		if err := f.put(); err != nil {
			return done, explained(fmt.Errorf("installing %s: %w", f.name, err), dir)
		}
		done = append(done, Program{Name: f.name, Path: f.place, Version: f.version, Changed: !f.same})
	}
	if err := syncDirectory(dir); err != nil {
		return done, fmt.Errorf("installing into %s: %w", dir, err)
	}
	return done, nil
}

func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("installing into %s: there is no such directory: make it (mkdir -p), or mount the node's there", dir)
	case errors.Is(err, unix.ENOTDIR), err == nil && !info.IsDir():
		return fmt.Errorf("installing into %s: it is no directory", dir)
	case err != nil:
		return fmt.Errorf("installing into %s: %w", dir, err)
	}
	return nil
}

// explained adds what to do about errors whose text comes from the system.
func explained(err error, dir string) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount %s writable", err, dir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: make room in %s", err, dir)
	}
	return err
}

// syncDirectory makes renames in dir survive a power cut.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Some file systems cannot, and say EINVAL; their renames are as durable as they get.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		_ = d.Close()
		return err
	}
	return d.Close()
}
