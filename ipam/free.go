package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
)

// Addresses that were never given, or are forgotten again, are kept as intervals:
// a subnet costs no more than its fragments. An interval is stored under its last
// address, so that the one that holds or follows an address is found by a seek
// forward. (bbolt's cursor cannot be relied on to step back over a page that the
// same transaction has emptied.)

// freeFrom returns the first interval that ends at a or above.
func (t *txn) freeFrom(a netip.Addr) (Range, bool, error) {
	k, v := t.bucket(bucketFree).cursor().Seek(addrKey(a))
	if k == nil {
		return Range{}, false, nil
	}
	r, err := t.decodeFree(k, v)
	return r, err == nil, err
}

func (v *View) decodeFree(key, value []byte) (Range, error) {
	last, err1 := parseAddrKey(key)
	first, err2 := parseAddrKey(value)
	if err := errors.Join(err1, err2); err != nil {
		return Range{}, v.damaged(fmt.Errorf("bucket %s: %w", bucketFree, err))
	}
	if last.Less(first) {
		return Range{}, v.damaged(fmt.Errorf("bucket %s: %s-%s is no interval", bucketFree, first, last))
	}
	return Range{first, last}, nil
}

// takeFree removes an address from the free intervals; that it is not in them is
// damage, since the caller knows that it has neither row nor history.
func (t *txn) takeFree(a netip.Addr) error {
	r, ok, err := t.freeFrom(a)
	if err != nil {
		return err
	}
	if !ok || a.Less(r.Start) {
		return t.damaged(fmt.Errorf("address %s is neither used, remembered nor free", a))
	}
	t.c.Free--
	if a == r.End {
		err = t.del(bucketFree, addrKey(r.End))
	} else {
		err = t.put(bucketFree, addrKey(r.End), addrKey(a.Next()))
	}
	if err == nil && r.Start.Less(a) {
		err = t.put(bucketFree, addrKey(a.Prev()), addrKey(r.Start))
	}
	return err
}

// giveFree adds an address to the free intervals and merges it with those beside it.
func (t *txn) giveFree(a netip.Addr) error {
	add := Range{a, a}
	if prev := a.Prev(); prev.IsValid() {
		if v := t.bucket(bucketFree).Get(addrKey(prev)); v != nil {
			below, err := t.decodeFree(addrKey(prev), v)
			if err != nil {
				return err
			}
			if err := t.del(bucketFree, addrKey(prev)); err != nil {
				return err
			}
			add.Start = below.Start
		}
	}
	above, ok, err := t.freeFrom(a)
	if err != nil {
		return err
	}
	if ok && above.Start == a.Next() {
		add.End = above.End
	} else if ok && above.Start.Compare(a) <= 0 {
		return t.damaged(fmt.Errorf("address %s is free already", a))
	}
	t.c.Free++
	return t.put(bucketFree, addrKey(add.End), addrKey(add.Start))
}

// rebuildFree computes the free intervals anew from what the network gives, less
// rows and history, and drops the history of addresses it no longer gives. It is
// the one operation whose cost grows with the store; it runs when a configuration
// changes which addresses there are.
func (t *txn) rebuildFree() error {
	if err := t.dropForeignHistory(); err != nil {
		return err
	}
	if err := t.tx.DeleteBucket([]byte(bucketFree)); err != nil {
		return fmt.Errorf("rebuilding the free addresses: %w", err)
	}
	if _, err := t.tx.CreateBucket([]byte(bucketFree)); err != nil {
		return fmt.Errorf("rebuilding the free addresses: %w", err)
	}
	if err := t.del(bucketMeta, []byte(keyHint)); err != nil {
		return err
	}
	t.c.Free = 0
	put := func(r Range) error {
		t.c.Free += r.size()
		return t.put(bucketFree, addrKey(r.End), addrKey(r.Start))
	}
	next, stop := iter.Pull(t.taken())
	defer stop()
	key, more := next()
	for _, r := range t.net.Pool.intervals() {
		from := r.Start
		for ; more; key, more = next() {
			a, err := parseAddrKey(key)
			if err != nil {
				return t.damaged(err)
			}
			if a.Less(from) {
				continue
			}
			if r.End.Less(a) {
				break
			}
			if from.Less(a) {
				if err := put(Range{from, a.Prev()}); err != nil {
					return err
				}
			}
			if from = a.Next(); !from.IsValid() {
				return nil
			}
		}
		if from.Compare(r.End) <= 0 {
			if err := put(Range{from, r.End}); err != nil {
				return err
			}
		}
	}
	return nil
}

// taken yields the keys of rows and of history, merged in ascending order.
func (t *txn) taken() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rows, history := t.bucket(bucketRows).cursor(), t.bucket(bucketHistory).cursor()
		a, _ := rows.First()
		b, _ := history.First()
		for a != nil || b != nil {
			var k []byte
			if b == nil || a != nil && bytes.Compare(a, b) < 0 {
				k = a
				a, _ = rows.Next()
			} else {
				k = b
				b, _ = history.Next()
			}
			if !yield(k) {
				return
			}
		}
	}
}
