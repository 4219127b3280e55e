package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// file is one program on its way: from is copied to staged, which becomes place.
type file struct {
	name                string
	from, place, staged string

	same    bool // place is as it should be: nothing is staged
	version string
}

// stage writes the program beside its place and executes it there, unless the one in
// place is the same.
func (f *file) stage(ctx context.Context) error {
	// Under the lock a staged file is a dead installer's. It must go first: what is
	// left of a full disk may be this.
	if err := f.removeStaged(); err != nil {
		return fmt.Errorf("removing what an earlier run left: %w", err)
	}
	src, err := os.Open(f.from)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist: --from names the directory that has the programs", f.from)
	}
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // only read
	if info, err := src.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is no file", f.from), err)
	}
	if f.same, err = f.isInPlace(src); err != nil {
		return err
	}
	if f.same {
		return f.ask(ctx, f.place)
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := f.write(src); err != nil {
		return err
	}
	return f.ask(ctx, f.staged)
}

// isInPlace reports whether place is src, byte for byte, and may be executed by all.
func (f *file) isInPlace(src *os.File) (bool, error) {
	info, err := os.Lstat(f.place)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s is a directory: remove it", f.place)
	}
	// A link is replaced, for what it leads to is not ours.
	if !info.Mode().IsRegular() || info.Mode() != mode {
		return false, nil
	}
	old, err := os.Open(f.place)
	if err != nil {
		return false, err
	}
	defer func() { _ = old.Close() }() // only read
	return sameContent(src, old)
}

func sameContent(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if err := errors.Join(unlessEnd(errA), unlessEnd(errB)); err != nil {
			return false, err
		}
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if n < len(bufA) {
			return true, nil
		}
	}
}

func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// write makes staged a durable copy of src. Nobody has it open for writing afterwards.
func (f *file) write(src io.Reader) error {
	dst, err := os.OpenFile(f.staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = dst.Sync() // here a file system that allocates late finds the disk full
	}
	return errors.Join(err, dst.Close())
}

// ask executes the program at path and notes the version that it says. A plugin executed
// without CNI_COMMAND says its name and version and does nothing.
func (f *file) ask(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{}
	said, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%s does not run on this machine: %w: it is damaged, or built for another architecture", f.from, err)
	case err != nil:
		return fmt.Errorf("executing %s to see whether it runs: %w%s", path, err, quotedEnd(said))
	}
	first, _, _ := strings.Cut(string(said), "\n")
	words := strings.Fields(first)
	if i := slices.Index(words, f.name); i >= 0 && i+1 < len(words) {
		f.version = strings.TrimSuffix(words[i+1], ":")
		return nil
	}
	return fmt.Errorf("%s is no %s: executed, it says %q", f.from, f.name, first)
}

// quotedEnd is what a program that failed said last.
func quotedEnd(said []byte) string {
	text := strings.TrimSpace(string(said))
	if text == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", text[strings.LastIndexByte(text, '\n')+1:])
}

// put renames what was staged to its place.
func (f *file) put() error {
	if f.same {
		return nil
	}
	return os.Rename(f.staged, f.place)
}

func (f *file) removeStaged() error {
	// Looked for first: a read-only file system refuses to remove even what is not there.
	if _, err := os.Lstat(f.staged); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Remove(f.staged)
}
