package ipam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
)

// Readers do not map the file, as bbolt does, but read the few pages they need.
// A lookup touches a handful of pages scattered over the file; mapping each costs
// a page fault and, in a large file, a page table, which together came to several
// times the rest of the lookup at 60,000 rows. And what is wrong with a page is an
// error here, where it is a fault of the whole process in a mapping.
//
// The format is bbolt's version 2: pages of leaves or branches, both with sorted
// elements; a bucket is an element whose value names its root page, or holds it.
const (
	branchFlag  = 0x01
	leafFlag    = 0x02
	bucketFlag  = 0x01 // of a leaf's element
	elementSize = 16
	bucketSize  = 16 // what stands before an inline page
	maxDepth    = 32 // of a tree; more is a cycle
)

// bucket and cursor are what a View needs, of bbolt's types or of those below.
type bucket interface {
	Get(key []byte) []byte
	cursor() cursor
}

type cursor interface {
	First() (key, value []byte)
	Next() (key, value []byte)
	Seek(key []byte) (k, v []byte)
}

// pageError is panicked with where a page is damaged or cannot be read, and
// recovered by guard, like bbolt's own panics.
type pageError struct{ error }

func badPage(id uint64, why string, args ...any) pageError {
	return pageError{fmt.Errorf("page %d: %s", id, fmt.Sprintf(why, args...))}
}

// pages reads the pages of one state of a file.
type pages struct {
	f    io.ReaderAt
	meta metaPage
	// Branches are looked at again and again.
	branches map[uint64]node
}

// node is a page: a leaf, or a branch of a tree.
type node struct {
	id    uint64 // 0 of an inline page
	b     []byte // with its overflow
	count int
	leaf  bool
}

func (p *pages) node(id uint64) node {
	if n, ok := p.branches[id]; ok {
		return n
	}
	if id < 2 || id >= p.meta.pages {
		panic(badPage(id, "it is referred to and outside the file"))
	}
	size := uint64(p.meta.pageSize)
	b := p.bytes(id, 1)
	if self := binary.NativeEndian.Uint64(b); self != id {
		panic(badPage(id, "it calls itself %d", self))
	}
	if overflow := uint64(binary.NativeEndian.Uint32(b[12:])); overflow > 0 {
		if overflow >= p.meta.pages-id {
			panic(badPage(id, "it ends outside the file"))
		}
		b = append(b[:size:size], p.bytes(id+1, overflow)...)
	}
	n := parseNode(id, b)
	if !n.leaf {
		p.branches[id] = n
	}
	return n
}

func (p *pages) bytes(id, n uint64) []byte {
	size := uint64(p.meta.pageSize)
	b := make([]byte, n*size)
	switch _, err := p.f.ReadAt(b, int64(id*size)); {
	case errors.Is(err, io.EOF):
		panic(badPage(id, "the file ends before it"))
	case err != nil:
		panic(pageError{err})
	}
	return b
}

func parseNode(id uint64, b []byte) node {
	flags, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	n := node{id: id, b: b, count: count, leaf: flags == leafFlag}
	if flags != leafFlag && flags != branchFlag {
		panic(badPage(id, "its type is %#x", flags))
	}
	if pageHeaderSize+count*elementSize > len(b) || !n.leaf && count == 0 {
		panic(badPage(id, "it cannot have %d elements", count))
	}
	return n
}

// slice returns n bytes at pos behind an element, which is how elements refer to
// their keys and values.
func (n node) slice(element, pos, length uint64) []byte {
	from := element + pos
	if from > uint64(len(n.b)) || length > uint64(len(n.b))-from {
		panic(badPage(n.id, "an element lies outside"))
	}
	return n.b[from : from+length : from+length]
}

func (n node) u32(off uint64) uint64 { return uint64(binary.NativeEndian.Uint32(n.b[off:])) }

func (n node) key(i int) []byte {
	at := uint64(pageHeaderSize + i*elementSize)
	if n.leaf {
		return n.slice(at, n.u32(at+4), n.u32(at+8))
	}
	return n.slice(at, n.u32(at), n.u32(at+4))
}

// value returns a leaf element's value, and whether that is a bucket.
func (n node) value(i int) ([]byte, bool) {
	at := uint64(pageHeaderSize + i*elementSize)
	return n.slice(at, n.u32(at+4)+n.u32(at+8), n.u32(at+12)), n.u32(at)&bucketFlag != 0
}

func (n node) child(i int) uint64 {
	return binary.NativeEndian.Uint64(n.b[pageHeaderSize+i*elementSize+8:])
}

// tree is a bucket as readers see it. Its keys and values stay valid for ever.
type tree struct {
	pages *pages
	root  node
}

// openTree returns the root bucket of a file, whose values are the named buckets.
func openTree(f io.ReaderAt, m metaPage) tree {
	p := &pages{f: f, meta: m, branches: make(map[uint64]node)}
	return tree{p, p.node(m.root)}
}

// has reports whether there is a bucket of a name. It reads no page of it.
func (t tree) has(name string) bool {
	c := &treeCursor{tree: t}
	k, _ := c.Seek([]byte(name))
	return string(k) == name && c.isBucket()
}

// child returns the bucket of a name, if there is one.
func (t tree) child(name string) (tree, bool) {
	c := &treeCursor{tree: t}
	k, v := c.Seek([]byte(name))
	if string(k) != name || !c.isBucket() {
		return tree{}, false
	}
	if len(v) < bucketSize {
		panic(badPage(c.top().node.id, "bucket %s is cut short", name))
	}
	if root := binary.NativeEndian.Uint64(v); root != 0 {
		return tree{t.pages, t.pages.node(root)}, true
	}
	if len(v) < bucketSize+pageHeaderSize {
		panic(badPage(c.top().node.id, "bucket %s is cut short", name))
	}
	return tree{t.pages, parseNode(0, v[bucketSize:])}, true
}

// Get returns the value of a key, nil if there is none.
func (t tree) Get(key []byte) []byte {
	k, v := t.cursor().Seek(key)
	if k == nil || !bytes.Equal(k, key) {
		return nil
	}
	return v
}

func (t tree) cursor() cursor { return &treeCursor{tree: t} }

// treeCursor walks a tree in the order of keys. At the end its keys are nil.
type treeCursor struct {
	tree   tree
	stack  []step
	leaves uint64 // walked since Seek: more than there are pages is a cycle
}

type step struct {
	node  node
	index int
}

func (c *treeCursor) top() *step { return &c.stack[len(c.stack)-1] }

func (c *treeCursor) push(n node, index int) {
	if len(c.stack) == maxDepth {
		panic(badPage(n.id, "the tree has a cycle"))
	}
	c.stack = append(c.stack, step{n, index})
}

func (c *treeCursor) isBucket() bool {
	_, is := c.top().node.value(c.top().index)
	return is
}

func (c *treeCursor) current() (key, value []byte) {
	s := c.top()
	value, _ = s.node.value(s.index)
	return s.node.key(s.index), value
}

// First goes to the lowest key.
func (c *treeCursor) First() (key, value []byte) { return c.Seek(nil) }

// Seek goes to a key, or to the one that follows.
func (c *treeCursor) Seek(key []byte) (k, v []byte) {
	c.stack, c.leaves = c.stack[:0], 0
	n := c.tree.root
	for !n.leaf {
		// The last child whose first key is not above.
		i := sort.Search(n.count, func(i int) bool { return bytes.Compare(n.key(i), key) > 0 })
		i = max(i-1, 0)
		c.push(n, i)
		n = c.tree.pages.node(n.child(i))
	}
	i := sort.Search(n.count, func(i int) bool { return bytes.Compare(n.key(i), key) >= 0 })
	c.push(n, i)
	if i < n.count {
		return c.current()
	}
	return c.Next()
}

// Next goes to the key that follows.
func (c *treeCursor) Next() (key, value []byte) {
	for len(c.stack) > 0 {
		s := c.top()
		if s.index++; s.index >= s.node.count {
			c.stack = c.stack[:len(c.stack)-1]
			continue
		}
		if s.node.leaf {
			return c.current()
		}
		child := c.tree.pages.node(s.node.child(s.index))
		for ; !child.leaf; child = c.tree.pages.node(child.child(0)) {
			c.push(child, 0)
		}
		if c.leaves++; c.leaves > c.tree.pages.meta.pages {
			panic(badPage(child.id, "the tree has a cycle"))
		}
		c.push(child, -1) // the loop steps to its first element
	}
	return nil, nil
}
