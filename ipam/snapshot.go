package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Snapshot copies the whole network. Writers wait only while the raw rows are
// copied, not while they are decoded.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) {
	snap := &Snapshot{}
	var keys, values [][]byte
	err := s.View(ctx, func(v *View) (err error) {
		if snap.Network, err = v.Network(); err != nil {
			return err
		}
		// Nobody writes while the file's lock is shared: what it says of itself now is
		// what the transaction sees.
		if snap.Ident, err = identify(v.file.f); err != nil {
			return err
		}
		c := v.bucket(bucketRows).cursor()
		for k, value := c.First(); k != nil; k, value = c.Next() {
			keys, values = append(keys, k), append(values, value) // ours to keep
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	snap.Rows = make([]Reservation, len(keys))
	for i, k := range keys {
		if snap.Rows[i], err = decodeRow(k, values[i]); err != nil {
			return nil, damaged(s.file(), err)
		}
	}
	return snap, nil
}

// Ident identifies the current state of the store's file. It takes no lock and
// costs a few system calls: compare it with that of a Snapshot to learn whether
// the copy is still good.
func (s *Store) Ident() (Ident, error) {
	if err := s.exists(); err != nil {
		return Ident{}, err
	}
	f, err := os.Open(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return Ident{}, s.readError(err)
	}
	if err != nil {
		return Ident{}, fmt.Errorf("identifying the store of network %s: %w", s.name, explain(err))
	}
	id, err := identify(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, errNoMeta) {
		err = damaged(s.file(), err)
	}
	return id, err
}

func identify(f *os.File) (Ident, error) {
	fi, err := f.Stat()
	if err != nil {
		return Ident{}, err
	}
	m, err := readMeta(f)
	if err != nil {
		return Ident{}, err
	}
	id := Ident{Size: fi.Size(), MTime: fi.ModTime().UnixNano(), TxID: m.txid}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		id.Dev, id.Ino = st.Dev, st.Ino
	}
	return id, nil
}
