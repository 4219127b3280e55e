package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"go.etcd.io/bbolt"
)

// Check reads a whole store and returns which of its invariants are broken:
//
//   - rows, history and free intervals are disjoint, and together are exactly what
//     the network gives, but that rows (the administrator's, and those made before
//     the range shrank) may lie outside the range, inside the subnet;
//   - each index names exactly the rows, or claims, that there are;
//   - MACs are unique and are no gateway's;
//   - the counters agree; the free intervals are merged; the network record is
//     valid; bbolt's pages are each in use once or free.
//
// A file that cannot be read at all is an error, as for View. It is as slow as the
// store is large, and writers wait for it.
func (s *Store) Check(ctx context.Context) ([]Defect, error) {
	var k *checker
	err := s.View(ctx, func(v *View) error {
		k = newChecker(v)
		return k.run()
	})
	if err != nil {
		return nil, fmt.Errorf("checking network %s: %w", s.name, err)
	}
	return k.defects, nil
}

// Check checks every store of the directory, and what must hold between them: no
// two subnets overlap, no two networks share a bridge, no two rows a MAC. Stores that
// cannot be read are defects here.
func (d *Dir) Check(ctx context.Context) ([]Defect, error) {
	names, err := d.Names(ctx)
	if err != nil {
		return nil, err
	}
	var defects []Defect
	var snaps []*Snapshot
	for _, name := range names {
		s := d.Store(name)
		found, err := s.Check(ctx)
		var snap *Snapshot
		if err == nil {
			snap, err = s.Snapshot(ctx)
		}
		switch {
		case errors.Is(err, ErrNoNetwork): // removed meanwhile
			continue
		case errors.Is(err, ErrLocked):
			return nil, err
		case err != nil:
			found = append(found, Defect{s.file(), "file", err.Error()})
		default:
			snaps = append(snaps, snap)
		}
		defects = append(defects, found...)
	}
	return append(defects, d.checkBetween(snaps)...), nil
}

func (d *Dir) checkBetween(snaps []*Snapshot) []Defect {
	var defects []Defect
	macs := make(map[MAC]string) // network and address
	for i, s := range snaps {
		add := func(where, format string, args ...any) {
			defects = append(defects, Defect{d.Store(s.Network.Name).file(), where, fmt.Sprintf(format, args...)})
		}
		for _, o := range snaps[:i] {
			if o.Network.Pool.Subnet.Overlaps(s.Network.Pool.Subnet) {
				add("network", "subnet %s overlaps %s of network %s", s.Network.Pool.Subnet, o.Network.Pool.Subnet, o.Network.Name)
			}
			if b := s.Network.bridgeName(); b != "" && b == o.Network.bridgeName() {
				add("network", "bridge %s is that of network %s", b, o.Network.Name)
			}
			if u := s.Network.uplinkName(); u != "" && u == o.Network.uplinkName() {
				add("network", "uplink %s is that of network %s", u, o.Network.Name)
			}
		}
		for _, r := range s.Rows {
			if other, ok := macs[r.MAC]; ok {
				add("macs", "MAC %s of address %s is that of %s", r.MAC, r.Addr, other)
			}
			macs[r.MAC] = fmt.Sprintf("%s in network %s", r.Addr, s.Network.Name)
		}
	}
	return defects
}

type checker struct {
	v       *View
	net     Network
	defects []Defect
	// What rows and history say the indexes should be, by bucket and key.
	want map[string]map[string]netip.Addr
	// What is used up of the pool, as intervals.
	taken []Range
	count counters
	times map[string]bool // keys of bucketReleased
}

func newChecker(v *View) *checker {
	k := &checker{v: v, times: make(map[string]bool), want: make(map[string]map[string]netip.Addr)}
	for _, name := range []string{bucketWorkloads, bucketHolders, bucketMACs} {
		k.want[name] = make(map[string]netip.Addr)
	}
	return k
}

func (k *checker) add(where, format string, args ...any) {
	k.defects = append(k.defects, Defect{k.v.path, where, fmt.Sprintf(format, args...)})
}

func (k *checker) run() (err error) {
	if k.net, err = k.v.Network(); err != nil {
		return err
	}
	if err := k.net.Validate(); err != nil {
		k.add(bucketMeta, "%v", err)
		return nil // nothing below makes sense then
	}
	if k.net.Name != k.v.name {
		k.add(bucketMeta, "the record is of network %q", k.net.Name)
	}
	if have := k.v.bucket(bucketMeta).Get([]byte(keySubnet)); !bytes.Equal(have, addrKey(k.net.Pool.Subnet.Addr())) {
		k.add(bucketMeta, "the subnet's address is %x", have)
	}
	for _, step := range []func() error{k.rows, k.history, k.free, k.indexes, k.counters} {
		if err := step(); err != nil {
			return err
		}
	}
	k.partition()
	return k.pages()
}

// pages runs bbolt's own check: each page is in use once, or free. It comes last, as
// it runs in a goroutine of its own, where a fault ends the process: every page it
// follows has been read here by then.
func (k *checker) pages() error {
	c := k.v.root.cursor()
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		if !slices.Contains(allBuckets[:], string(name)) {
			k.add("buckets", "there is one more, %q", name)
			return nil
		}
	}
	if err := k.v.file.meta.verifyFreelist(k.v.file.f); err != nil {
		k.add("pages", "%v", err)
		return nil
	}
	f, err := os.Open(k.v.path)
	if err != nil {
		return err
	}
	d := &dbFile{path: k.v.path, f: f}
	if err := d.openBolt(f, &bbolt.Options{ReadOnly: true}); err != nil {
		_ = f.Close() // bbolt may have closed it already
		return err
	}
	err = d.guard(func() error {
		return d.db.View(func(tx *bbolt.Tx) error {
			for err := range tx.Check() {
				k.add("pages", "%v", err)
			}
			return nil
		})
	})
	return errors.Join(err, d.close())
}

// expect notes an index entry that must be there, and reports a second one.
func (k *checker) expect(bucket, key, shown string, a netip.Addr) {
	if other, ok := k.want[bucket][key]; ok {
		k.add(bucket, "%s is that of %s and of %s", shown, other, a)
	}
	k.want[bucket][key] = a
}

func (k *checker) rows() error {
	pool := k.net.Pool
	for r, err := range k.v.All() {
		if err != nil {
			return err
		}
		where := bucketRows + " " + r.Addr.String()
		if why := pool.mayNot(r.Addr, r.Workload); why != "" {
			k.add(where, "workload %s may not have it: %s", r.Workload, why)
		}
		if pool.gives(r.Addr) {
			k.taken = append(k.taken, Range{r.Addr, r.Addr})
		}
		if r.MAC.IsZero() || r.MAC.IsMulticast() || r.MAC.IsHostSide() || r.MAC == pool.gatewayMAC() {
			k.add(where, "MAC %s is no workload's", r.MAC)
		}
		if why := validWorkload(r.Workload); why != "" {
			k.add(where, "workload %s: %s", r.Workload, why)
		}
		if !validHostname(r.Hostname) {
			k.add(where, "host name %q is invalid", r.Hostname)
		}
		k.expect(bucketWorkloads, r.Workload.String(), "workload "+r.Workload.String(), r.Addr)
		k.expect(bucketMACs, string(r.MAC[:]), "MAC "+r.MAC.String(), r.Addr)
		h := r.Holder
		if h == nil {
			k.count.Reserved++
			if !r.Admin && r.Workload.Peer() == "" {
				k.add(where, "it has neither holder, administrator nor peer")
			}
			continue
		}
		k.count.Used++
		if why := validAttachment(*h); why != "" {
			k.add(where, "%s", why)
		}
		k.expect(bucketHolders, string(holderKey(h.ContainerID, h.IfName)),
			fmt.Sprintf("container %s, interface %s", h.ContainerID, h.IfName), r.Addr)
	}
	return nil
}

func (k *checker) history() error {
	c := k.v.bucket(bucketHistory).cursor()
	for key, value := c.First(); key != nil; key, value = c.Next() {
		a, err := parseAddrKey(key)
		if err != nil {
			return k.v.damaged(fmt.Errorf("bucket %s: %w", bucketHistory, err))
		}
		p, err := decodePast(key, value)
		if err != nil {
			return k.v.damaged(err)
		}
		k.count.History++
		k.taken = append(k.taken, Range{a, a})
		if !k.net.Pool.gives(a) {
			k.add(bucketHistory+" "+a.String(), "the network does not give it")
		}
		if p.Workload != nil {
			k.expect(bucketWorkloads, p.Workload.String(), "workload "+p.Workload.String(), a)
		}
		k.times[string(releasedKey(p.Released, a))] = true
	}
	c = k.v.bucket(bucketReleased).cursor()
	n := 0
	for key, _ := c.First(); key != nil; key, _ = c.Next() {
		n++
		if !k.times[string(key)] {
			k.add(bucketReleased, "entry %x has no equal in history", key)
		}
	}
	if n != len(k.times) {
		k.add(bucketReleased, "it has %d entries, history %d", n, len(k.times))
	}
	return nil
}

func (k *checker) free() error {
	c := k.v.bucket(bucketFree).cursor()
	var last netip.Addr
	for key, value := c.First(); key != nil; key, value = c.Next() {
		r, err := k.v.decodeFree(key, value)
		if err != nil {
			return err
		}
		if last.IsValid() && r.Start.Compare(last.Next()) <= 0 {
			k.add(bucketFree, "interval %s is not apart from the one that ends at %s", rangeText(r), last)
		}
		last = r.End
		k.count.Free += r.size()
		k.taken = append(k.taken, r)
	}
	return nil
}

func (k *checker) indexes() error {
	for bucket, want := range k.want {
		c := k.v.bucket(bucket).cursor()
		for key, value := c.First(); key != nil; key, value = c.Next() {
			a, ok := want[string(key)]
			if !ok || !bytes.Equal(value, addrKey(a)) {
				k.add(bucket, "entry %q points to %x, which is not its", key, value)
			}
			delete(want, string(key))
		}
		for key, a := range want {
			k.add(bucket, "entry %q of %s is missing", key, a)
		}
	}
	return nil
}

func (k *checker) counters() error {
	have, err := k.v.counters()
	if err != nil {
		return err
	}
	if have != k.count {
		k.add(bucketMeta, "the counters are %+v, there are %+v", have, k.count)
	}
	return nil
}

// partition holds what is taken against what the network gives: merged, both must
// be the same intervals.
func (k *checker) partition() {
	slices.SortFunc(k.taken, func(a, b Range) int { return a.Start.Compare(b.Start) })
	var merged []Range
	for _, r := range k.taken {
		if n := len(merged); n > 0 {
			last := &merged[n-1]
			if r.Start.Compare(last.End) <= 0 {
				k.add("addresses", "%s is used, remembered or free twice", rangeText(r))
			}
			if r.Start.Compare(last.End) <= 0 || r.Start == last.End.Next() {
				if last.End.Less(r.End) {
					last.End = r.End
				}
				continue
			}
		}
		merged = append(merged, r)
	}
	if give := k.net.Pool.intervals(); !slices.Equal(merged, give) {
		k.add("addresses", "what is used, remembered or free is %s, the network gives %s", rangesText(merged), rangesText(give))
	}
}

// rangesText shows the first few of a list.
func rangesText(rs []Range) string {
	var b bytes.Buffer
	for i, r := range rs {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(rs)-i)
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(rangeText(r))
	}
	return b.String()
}
