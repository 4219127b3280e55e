package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"go.etcd.io/bbolt"
)

// View is one consistent state of a network. It is good only inside the function
// it was given to, and not for concurrent use. Its errors are ErrNotFound, or
// ErrDamaged if the file contradicts itself.
type View struct {
	tx   *bbolt.Tx
	file *dbFile
	path string
	name string
}

// newView begins a transaction on a file and makes sure that it is one of ours.
func newView(d *dbFile, name string, write bool) (*View, error) {
	tx, err := d.begin(write)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction in %s: %w", d.path, err)
	}
	v := &View{tx: tx, file: d, path: d.path, name: name}
	// A damaged file may panic; an open transaction would then block closing it.
	good := false
	defer func() {
		if !good {
			v.rollback()
		}
	}()
	if err := v.checkSchema(); err != nil {
		return nil, err
	}
	good = true
	return v, nil
}

func (v *View) checkSchema() error {
	meta := v.bucket(bucketMeta)
	if meta == nil {
		return v.damaged(errors.New("it is no store of flatdhcp"))
	}
	var version int
	if err := json.Unmarshal(meta.Get([]byte(keySchema)), &version); err != nil || version < 1 {
		return v.damaged(errors.New("it has no schema version"))
	}
	if version > schemaVersion {
		return fmt.Errorf("%w: %s has schema %d, this one knows %d: use the flatdhcp that wrote it, or a later one",
			ErrNewerSchema, v.path, version, schemaVersion)
	}
	for _, name := range allBuckets {
		if v.bucket(name) == nil {
			return v.damaged(fmt.Errorf("its bucket %q is missing", name))
		}
	}
	return nil
}

// rollback ends the transaction; without effect once it was committed.
func (v *View) rollback() { _ = v.tx.Rollback() } // its only error is "already closed"

func (v *View) bucket(name string) *bbolt.Bucket { return v.tx.Bucket([]byte(name)) }

func (v *View) damaged(why error) error { return damaged(v.path, why) }

// Network returns the network as last configured.
func (v *View) Network() (Network, error) {
	var n Network
	value := v.bucket(bucketMeta).Get([]byte(keyNetwork))
	if value == nil {
		return n, v.damaged(errors.New("it has no network record"))
	}
	if err := json.Unmarshal(value, &n); err != nil {
		return n, v.damaged(fmt.Errorf("reading the network record: %w", err))
	}
	return n, nil
}

// ByAddr returns the reservation of an address.
func (v *View) ByAddr(addr netip.Addr) (Reservation, error) {
	r, ok, err := v.row(addr)
	return found(r, ok, err, "address %s in network %s", addr, v.name)
}

// ByMAC returns the reservation with a MAC.
func (v *View) ByMAC(mac MAC) (Reservation, error) {
	r, ok, err := v.rowBy(bucketMACs, mac[:])
	return found(r, ok, err, "MAC %s in network %s", mac, v.name)
}

// ByHolder returns the reservation that an attachment holds.
func (v *View) ByHolder(containerID, ifName string) (Reservation, error) {
	r, ok, err := v.rowBy(bucketHolders, holderKey(containerID, ifName))
	return found(r, ok, err, "container %s, interface %s in network %s", containerID, ifName, v.name)
}

// ByWorkload returns the reservation of a workload. An address that is only
// retained for it is none.
func (v *View) ByWorkload(w Workload) (Reservation, error) {
	a, ok, err := v.index(bucketWorkloads, []byte(w.String()))
	var r Reservation
	if ok && err == nil {
		r, ok, err = v.row(a)
	}
	return found(r, ok, err, "workload %s in network %s", w, v.name)
}

func found(r Reservation, ok bool, err error, what string, args ...any) (Reservation, error) {
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrNotFound, fmt.Sprintf(what, args...))
	}
	if err != nil {
		return Reservation{}, err
	}
	return r, nil
}

// All yields every reservation in the order of addresses. An error ends it.
func (v *View) All() iter.Seq2[Reservation, error] {
	return func(yield func(Reservation, error) bool) {
		c := v.bucket(bucketRows).Cursor()
		for k, value := c.First(); k != nil; k, value = c.Next() {
			r, err := decodeRow(k, value)
			if err != nil {
				yield(Reservation{}, v.damaged(err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Stats counts addresses, at a cost that does not depend on their number.
func (v *View) Stats() (Stats, error) {
	c, err := v.counters()
	return Stats{
		Size: c.Used + c.Reserved + c.History + c.Free,
		Used: c.Used, Reserved: c.Reserved, Retained: c.History, Free: c.Free,
	}, err
}

func (v *View) counters() (counters, error) {
	var c counters
	if err := json.Unmarshal(v.bucket(bucketMeta).Get([]byte(keyCounters)), &c); err != nil {
		return c, v.damaged(fmt.Errorf("reading the counters: %w", err))
	}
	return c, nil
}

// row returns the row of an address, if it has one.
func (v *View) row(a netip.Addr) (Reservation, bool, error) {
	key := addrKey(a)
	value := v.bucket(bucketRows).Get(key)
	if value == nil {
		return Reservation{}, false, nil
	}
	r, err := decodeRow(key, value)
	if err != nil {
		return r, false, v.damaged(err)
	}
	return r, true, nil
}

// rowBy returns the row that an index of rows points to.
func (v *View) rowBy(bucket string, key []byte) (Reservation, bool, error) {
	a, ok, err := v.index(bucket, key)
	if err != nil || !ok {
		return Reservation{}, false, err
	}
	r, ok, err := v.row(a)
	if err == nil && !ok {
		err = v.damaged(fmt.Errorf("bucket %s points to address %s, which has no row", bucket, a))
	}
	return r, ok, err
}

func (v *View) index(bucket string, key []byte) (netip.Addr, bool, error) {
	value := v.bucket(bucket).Get(key)
	if value == nil {
		return netip.Addr{}, false, nil
	}
	a, err := parseAddrKey(value)
	if err != nil {
		return a, false, v.damaged(fmt.Errorf("bucket %s: %w", bucket, err))
	}
	return a, true, nil
}

// past returns what is remembered of a released address.
func (v *View) past(a netip.Addr) (past, bool, error) {
	key := addrKey(a)
	value := v.bucket(bucketHistory).Get(key)
	if value == nil {
		return past{}, false, nil
	}
	p, err := decodePast(key, value)
	if err != nil {
		return p, false, v.damaged(err)
	}
	return p, true, nil
}
