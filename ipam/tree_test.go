package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// TestTreeReadsWhatBoltWrote: inline buckets, buckets of one page, of several
// levels, with long keys, with values longer than a page, after many deletions.
func TestTreeReadsWhatBoltWrote(t *testing.T) {
	for _, pageSize := range []int{4096, 16384} {
		t.Run(fmt.Sprintf("page=%d", pageSize), func(t *testing.T) {
			rnd := rand.New(rand.NewSource(1))
			path := filepath.Join(t.TempDir(), "db")
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			random := func(n int) []byte {
				b := make([]byte, 1+rnd.Intn(n))
				_, _ = rnd.Read(b)
				return b
			}
			sizes := map[string]int{"empty": 0, "inline": 3, "page": 60, "levels": 20000}
			for round := range 4 {
				err := db.Update(func(tx *bbolt.Tx) error {
					for name, size := range sizes {
						b, err := tx.CreateBucketIfNotExists([]byte(name))
						if err != nil {
							return err
						}
						for range size / (round + 1) {
							if err := b.Put(random(24), random(40)); err != nil {
								return err
							}
						}
						if size > 1000 {
							if err := errors.Join(b.Put(random(1000), random(40)), b.Put(random(24), random(3*pageSize))); err != nil {
								return err
							}
						}
						c := b.Cursor()
						for k, _ := c.First(); k != nil && round > 0; k, _ = c.Next() {
							if rnd.Intn(3) > 0 {
								if err := c.Delete(); err != nil {
									return err
								}
							}
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				compareTrees(t, db, path, sizes, rnd)
			}
		})
	}
}

func compareTrees(t *testing.T, db *bbolt.DB, path string, buckets map[string]int, rnd *rand.Rand) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	m, err := readMeta(f)
	if err != nil {
		t.Fatal(err)
	}
	root := openTree(f, m)
	if _, ok := root.child("none"); ok {
		t.Error("there is a bucket that is not there")
	}
	err = db.View(func(tx *bbolt.Tx) error {
		for name := range buckets {
			want := tx.Bucket([]byte(name))
			got, ok := root.child(name)
			if !ok {
				t.Errorf("no bucket %s", name)
				continue
			}
			c, d := want.Cursor(), got.cursor()
			k, v := c.First()
			gk, gv := d.First()
			n := 0
			for ; k != nil && bytes.Equal(k, gk) && bytes.Equal(v, gv); n++ {
				k, v = c.Next()
				gk, gv = d.Next()
			}
			if k != nil || gk != nil {
				t.Errorf("bucket %s, element %d: %x = %x, want %x = %x", name, n, gk, gv, k, v)
			}
			if gk, _ := d.Next(); gk != nil {
				t.Errorf("bucket %s goes on behind its end", name)
			}
			for range 200 {
				key := make([]byte, rnd.Intn(3))
				_, _ = rnd.Read(key)
				k, v := c.Seek(key)
				gk, gv := d.Seek(key)
				if !bytes.Equal(k, gk) || !bytes.Equal(v, gv) {
					t.Errorf("bucket %s: Seek(%x) = %x, want %x", name, key, gk, k)
				}
				if k != nil && !bytes.Equal(got.Get(k), v) {
					t.Errorf("bucket %s: Get(%x) = %x, want %x", name, k, got.Get(k), v)
				}
				if !bytes.Equal(got.Get(key), want.Get(key)) {
					t.Errorf("bucket %s: Get(%x) = %x, want %x", name, key, got.Get(key), want.Get(key))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzTree: whatever stands in a file's pages, walking its trees ends, with a
// pageError at worst.
func FuzzTree(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024})
	if err != nil {
		f.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucketRows))
		for i := range 100 {
			err = errors.Join(err, b.Put(fmt.Append(nil, i), bytes.Repeat([]byte{1}, i)))
		}
		_, err2 := tx.CreateBucket([]byte(bucketMeta))
		return errors.Join(err, err2)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	m, err := readMeta(bytes.NewReader(good))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint(0), []byte{})
	f.Add(uint(m.root)*1024+8, []byte{1, 0})
	f.Fuzz(func(t *testing.T, at uint, with []byte) {
		b := bytes.Clone(good[:m.pages*1024])
		copy(b[at%uint(len(b)):], with)
		defer func() {
			if p := recover(); p != nil {
				if _, ok := p.(pageError); !ok {
					panic(p)
				}
			}
		}()
		root := openTree(bytes.NewReader(b), m)
		c := root.cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			child, ok := root.child(string(k))
			if !ok {
				continue
			}
			d := child.cursor()
			for k, _ := d.First(); k != nil; k, _ = d.Next() {
				child.Get(k)
			}
		}
	})
}
