package ipam

import (
	"bytes"
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
	file *dbFile
	path string
	name string
	// A reader has the trees, a writer the transaction.
	root  tree
	trees map[string]tree
	tx    *bbolt.Tx
}

// newView looks at a file opened for reading, and makes sure that it is ours.
func newView(d *dbFile, name string) (*View, error) {
	v := &View{file: d, path: d.path, name: name, root: openTree(d.f, d.meta), trees: make(map[string]tree)}
	return v, v.checkSchema()
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
		if v.tx != nil && v.tx.Bucket([]byte(name)) == nil || v.tx == nil && !v.root.has(name) {
			return v.damaged(fmt.Errorf("its bucket %q is missing", name))
		}
	}
	return nil
}

// bucket returns nil if there is none of that name, which checkSchema rules out.
func (v *View) bucket(name string) bucket {
	if v.tx != nil {
		if b := v.tx.Bucket([]byte(name)); b != nil {
			return boltBucket{b}
		}
		return nil
	}
	t, ok := v.trees[name]
	if !ok {
		if t, ok = v.root.child(name); !ok {
			return nil
		}
		v.trees[name] = t
	}
	return t
}

// boltBucket is a bucket in a write transaction.
type boltBucket struct{ *bbolt.Bucket }

func (b boltBucket) cursor() cursor { return b.Cursor() }

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
	// Nearly every MAC names its address: that saves the way through the index.
	r, ok, err := v.namedBy(mac)
	if err == nil && (!ok || r.MAC != mac) {
		r, ok, err = v.rowBy(bucketMACs, mac[:])
	}
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
		c := v.bucket(bucketRows).cursor()
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

// namedBy returns the row of the address that a derived MAC would be derived from.
func (v *View) namedBy(mac MAC) (Reservation, bool, error) {
	key := bytes.Clone(v.bucket(bucketMeta).Get([]byte(keySubnet)))
	if len(key) < 4 {
		return Reservation{}, false, nil
	}
	copy(key[len(key)-3:], mac[3:])
	a, err := parseAddrKey(key)
	if err != nil {
		return Reservation{}, false, v.damaged(fmt.Errorf("reading the subnet: %w", err))
	}
	return v.row(a)
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
