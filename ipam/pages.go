package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt trusts its file: it maps it and follows page numbers, so a truncated or
// foreign file ends in a panic or a fault, in goroutines of its own even, where
// nobody can recover. What is cheap to verify is therefore verified before it
// gets the file. The layout below is that of bbolt's file format version 2, in the
// machine's byte order.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeaderSize = 16
	metaSize       = 64
	freelistFlag   = 0x10
	noFreelist     = ^uint64(0) // written only with NoFreelistSync, which we never set
)

// metaPage is what is needed of one of the two pages that bbolt writes in turn;
// the valid one with the higher transaction ID counts.
type metaPage struct {
	pageSize uint32
	root     uint64 // page of the root bucket
	freelist uint64 // page of the free list
	pages    uint64 // high-water mark: every page in use is below it
	txid     uint64
}

var errNoMeta = errors.New("neither of its two header pages is valid")

// readMeta returns the header page that counts. It needs no lock: a commit
// rewrites one of the two pages and leaves the other alone.
func readMeta(f io.ReaderAt) (metaPage, error) {
	first, err := metaAt(f, 0)
	torn := errors.Is(err, errNoMeta)
	if err != nil && !torn {
		return metaPage{}, err
	}
	sizes := []uint32{first.pageSize}
	if torn { // a torn first page: the second's place depends on the page size
		sizes = []uint32{uint32(os.Getpagesize()), 4096, 8192, 16384, 65536}
	}
	for _, size := range sizes {
		second, err2 := metaAt(f, int64(size))
		if err2 == nil && second.pageSize == size && (torn || second.txid > first.txid) {
			return second, nil
		}
	}
	return first, err
}

func metaAt(f io.ReaderAt, off int64) (metaPage, error) {
	var b [pageHeaderSize + metaSize]byte
	if _, err := f.ReadAt(b[:], off); errors.Is(err, io.EOF) {
		return metaPage{}, errNoMeta
	} else if err != nil {
		return metaPage{}, err
	}
	e, m := binary.NativeEndian, b[pageHeaderSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaSize-8]) // a hash never fails to write
	if e.Uint32(m) != boltMagic || e.Uint32(m[4:]) != boltVersion || e.Uint64(m[56:]) != sum.Sum64() {
		return metaPage{}, errNoMeta
	}
	p := metaPage{
		pageSize: e.Uint32(m[8:]), root: e.Uint64(m[16:]),
		freelist: e.Uint64(m[32:]), pages: e.Uint64(m[40:]), txid: e.Uint64(m[48:]),
	}
	if p.pageSize < 1024 || p.pageSize > 65536 || p.pageSize&(p.pageSize-1) != 0 {
		return metaPage{}, errNoMeta
	}
	return p, nil
}

// verify holds the file's size against the header. It returns what is wrong, for a
// person.
func (m metaPage) verify(size int64) error {
	if m.freelist == noFreelist {
		return errors.New("it was not written by flatdhcp (it has no free list)")
	}
	if m.root < 2 || m.root >= m.pages || m.freelist < 2 || m.freelist >= m.pages {
		return errors.New("its header names pages outside the file")
	}
	// Unsigned division: a header may claim any number of pages.
	if have := uint64(size) / uint64(m.pageSize); have < m.pages {
		return fmt.Errorf("it is truncated: it has %d of %d pages", have, m.pages)
	}
	return nil
}

// verifyFreelist reads the list of free pages, which bbolt would take as it is:
// a wrong one would make it overwrite pages in use.
func (m metaPage) verifyFreelist(f io.ReaderAt) error {
	bad := fmt.Errorf("its free list (page %d) is damaged", m.freelist)
	off := int64(m.freelist) * int64(m.pageSize)
	var h [pageHeaderSize + 8]byte
	if _, err := f.ReadAt(h[:], off); err != nil {
		return bad
	}
	e := binary.NativeEndian
	count, overflow := uint64(e.Uint16(h[10:])), uint64(e.Uint32(h[12:]))
	if e.Uint64(h[:]) != m.freelist || e.Uint16(h[8:]) != freelistFlag || m.freelist+overflow >= m.pages {
		return bad
	}
	off += pageHeaderSize
	room := (overflow+1)*uint64(m.pageSize) - pageHeaderSize
	if count == 0xffff { // too many for the header: the first element is the count
		count = e.Uint64(h[pageHeaderSize:])
		off, room = off+8, room-8
	}
	if count > room/8 {
		return bad
	}
	ids := make([]byte, count*8)
	if _, err := f.ReadAt(ids, off); err != nil && count > 0 {
		return bad
	}
	for last := uint64(1); len(ids) > 0; ids = ids[8:] { // strictly ascending, as written
		id := e.Uint64(ids)
		if id <= last || id >= m.pages {
			return bad
		}
		last = id
	}
	return nil
}
