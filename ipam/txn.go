package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"
)

// txn is a write transaction: a View of the store, and the primitives that keep
// rows, indexes, history, free intervals and counters in step.
type txn struct {
	*View
	store *Store
	ctx   context.Context // bounds the wait for neighbours' locks
	now   time.Time
	net   Network // as configured; zero in a store being made
	c     counters
	was   counters
	near  neighbours
	// clockPutBack: the network is exhausted by releases that lie in the future.
	clockPutBack bool
}

// begin starts a write transaction. The caller holds the directory's lock.
func (s *Store) begin(ctx context.Context, d *dbFile) (*txn, error) {
	tx, err := d.begin()
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction in %s: %w", d.path, err)
	}
	t := &txn{View: &View{tx: tx, file: d, path: d.path, name: s.name}, store: s, ctx: ctx, now: s.dir.now().Round(0).UTC()}
	// A damaged file may panic; an open transaction would then block closing it.
	good := false
	defer func() {
		if !good {
			t.rollback()
		}
	}()
	if err := t.checkSchema(); err != nil {
		return nil, err
	}
	if err := t.load(d.path == s.file()); err != nil {
		return nil, err
	}
	good = true
	return t, nil
}

// rollback ends the transaction; without effect once it was committed.
func (t *txn) rollback() { _ = t.tx.Rollback() } // its only error is "already closed"

// bolt returns a bucket to write to.
func (t *txn) bolt(name string) *bbolt.Bucket { return t.tx.Bucket([]byte(name)) }

// load reads the network record and the counters, which only a store being made
// may lack.
func (t *txn) load(complete bool) (err error) {
	if !complete && t.bucket(bucketMeta).Get([]byte(keyNetwork)) == nil {
		return nil
	}
	if t.net, err = t.Network(); err != nil {
		return err
	}
	if t.net.Name != t.name {
		return t.damaged(fmt.Errorf("it holds network %q: was it renamed?", t.net.Name))
	}
	t.c, err = t.counters()
	t.was = t.c
	return err
}

// commit prunes history, writes the counters and makes the transaction durable.
func (t *txn) commit() error {
	if err := t.prune(); err != nil {
		return err
	}
	if t.c != t.was || t.bucket(bucketMeta).Get([]byte(keyCounters)) == nil {
		if err := t.putJSON(bucketMeta, []byte(keyCounters), t.c); err != nil {
			return err
		}
	}
	if err := t.tx.Commit(); err != nil {
		return fmt.Errorf("writing %s: %w", t.path, explain(err))
	}
	return nil
}

func (t *txn) put(bucket string, key, value []byte) error {
	if err := t.bolt(bucket).Put(key, value); err != nil {
		return fmt.Errorf("writing %s: bucket %s: %w", t.path, bucket, err)
	}
	return nil
}

func (t *txn) putJSON(bucket string, key []byte, v any) error {
	value, err := encode(v)
	if err != nil {
		return err
	}
	return t.put(bucket, key, value)
}

func (t *txn) del(bucket string, key []byte) error {
	if err := t.bolt(bucket).Delete(key); err != nil {
		return fmt.Errorf("writing %s: bucket %s: %w", t.path, bucket, err)
	}
	return nil
}

// insertRow adds a row at an address that the caller has made vacant with occupy.
func (t *txn) insertRow(r Reservation) error {
	return errors.Join(t.putRow(r), t.put(bucketWorkloads, []byte(r.Workload.String()), addrKey(r.Addr)))
}

// replaceRow changes a row of the same address and workload.
func (t *txn) replaceRow(old, r Reservation) error {
	return errors.Join(t.dropRow(old), t.putRow(r))
}

// putRow writes a row and its indexes, that of workloads aside, whose entries
// outlive rows: each bucket left alone is a few pages less to write.
func (t *txn) putRow(r Reservation) error {
	t.count(r, 1)
	key := addrKey(r.Addr)
	errs := []error{t.putJSON(bucketRows, key, r), t.put(bucketMACs, r.MAC[:], key)}
	if h := r.Holder; h != nil {
		errs = append(errs, t.put(bucketHolders, holderKey(h.ContainerID, h.IfName), key))
	}
	return errors.Join(errs...)
}

// dropRow is the inverse of putRow.
func (t *txn) dropRow(r Reservation) error {
	t.count(r, -1)
	errs := []error{t.del(bucketRows, addrKey(r.Addr)), t.del(bucketMACs, r.MAC[:])}
	if h := r.Holder; h != nil {
		errs = append(errs, t.del(bucketHolders, holderKey(h.ContainerID, h.IfName)))
	}
	return errors.Join(errs...)
}

func (t *txn) count(r Reservation, by int) {
	n := &t.c.Reserved
	if r.Holder != nil {
		n = &t.c.Used
	}
	*n += uint64(by) // of -1: arithmetic is modulo 2^64
}

// occupy takes an address out of the free intervals or out of history, so that it
// may have a row, and returns what history remembered of it.
func (t *txn) occupy(a netip.Addr) (past, error) {
	p, ok, err := t.past(a)
	if err != nil {
		return past{}, err
	}
	if ok {
		return p, t.forget(a, p)
	}
	if !t.net.Pool.gives(a) { // an administrator's, outside the range
		return past{}, nil
	}
	return past{}, t.takeFree(a)
}

// vacate moves a row to history, with or without its workload's claim on the
// address. Addresses that the network does not give are not remembered.
func (t *txn) vacate(r Reservation, claim bool) error {
	if err := t.dropRow(r); err != nil {
		return err
	}
	gives := t.net.Pool.gives(r.Addr)
	if !claim || !gives {
		if err := t.del(bucketWorkloads, []byte(r.Workload.String())); err != nil || !gives {
			return err
		}
	}
	p := past{MAC: r.MAC, MACRequested: r.MACRequested, Hostname: r.Hostname, Released: t.now}
	if claim {
		p.Workload = &r.Workload
	}
	return t.remember(r.Addr, p)
}
