package ipam

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"time"
)

const (
	// HistoryCap is how many released addresses a network remembers. Beyond it every
	// change of the store forgets a few of the oldest that are out of quarantine,
	// retained or not: more than it gains.
	HistoryCap = 65536
	// HistoryAge is how long a released address is remembered for its workload even
	// if Retain is shorter: nobody else has needed it, so it may come back to it.
	HistoryAge = 30 * 24 * time.Hour
	// pruneStep bounds what one transaction forgets, so that no ADD pays for many.
	pruneStep = 4
)

// remember records that an address was released. The index of workloads points to
// it already if its workload keeps a claim.
func (t *txn) remember(a netip.Addr, p past) error {
	t.c.History++
	if err := t.putJSON(bucketHistory, addrKey(a), p); err != nil {
		return err
	}
	return t.put(bucketReleased, releasedKey(p.Released, a), nil)
}

// forget removes an address from history, and its workload's claim with it. The
// caller gives the address a row or gives it back to the free intervals.
func (t *txn) forget(a netip.Addr, p past) error {
	t.c.History--
	if err := t.del(bucketHistory, addrKey(a)); err != nil {
		return err
	}
	if err := t.del(bucketReleased, releasedKey(p.Released, a)); err != nil {
		return err
	}
	if p.Workload == nil {
		return nil
	}
	return t.del(bucketWorkloads, []byte(p.Workload.String()))
}

// disclaim ends a workload's claim on a released address, whose quarantine goes on.
func (t *txn) disclaim(a netip.Addr, p past) error {
	if p.Workload == nil {
		return nil
	}
	if err := t.del(bucketWorkloads, []byte(p.Workload.String())); err != nil {
		return err
	}
	p.Workload = nil
	return t.putJSON(bucketHistory, addrKey(a), p)
}

// claim returns the released address that is kept for a workload, if there is one.
func (t *txn) claim(w Workload) (netip.Addr, past, bool, error) {
	a, ok, err := t.index(bucketWorkloads, []byte(w.String()))
	if err != nil || !ok {
		return a, past{}, false, err
	}
	p, ok, err := t.past(a)
	if err == nil && ok && (p.Workload == nil || *p.Workload != w) {
		err = t.damaged(fmt.Errorf("bucket %s: %s points to %s, which was another's", bucketWorkloads, w, a))
	}
	return a, p, ok, err
}

// lastWith returns the released address whose last owner had asked for mac and keeps a
// claim. There is no index of these MACs: few are asked for, and of the entries, which
// HistoryCap bounds, only those that hold the MAC are decoded.
func (t *txn) lastWith(mac MAC) (netip.Addr, past, bool, error) {
	text := []byte(mac.String())
	c := t.bucket(bucketHistory).cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if !bytes.Contains(v, text) {
			continue
		}
		a, err := parseAddrKey(k)
		if err != nil {
			return a, past{}, false, t.damaged(fmt.Errorf("bucket %s: %w", bucketHistory, err))
		}
		p, err := decodePast(k, v)
		if err != nil {
			return a, p, false, t.damaged(err)
		}
		if p.MAC == mac && p.MACRequested && p.Workload != nil {
			return a, p, true, nil
		}
	}
	return netip.Addr{}, past{}, false, nil
}

// prune keeps history small: it forgets a few of the oldest entries that are past
// their age, and more of them while there are too many.
func (t *txn) prune() error {
	if t.net.Name == "" {
		return nil
	}
	age := max(HistoryAge, time.Duration(t.net.Pool.Retain))
	for range pruneStep {
		a, at, ok, err := t.oldest()
		if err != nil {
			return err
		}
		old := t.now.Sub(at)
		if !ok || old < time.Duration(t.net.Pool.ReuseDelay) || old < age && t.c.History <= t.store.dir.historyCap {
			break
		}
		p, ok, err := t.past(a)
		if err == nil && !ok {
			err = t.damaged(fmt.Errorf("bucket %s names %s, which is not in %s", bucketReleased, a, bucketHistory))
		}
		if err != nil {
			return err
		}
		if err := t.forget(a, p); err != nil {
			return err
		}
		if err := t.giveFree(a); err != nil {
			return err
		}
	}
	return t.correctClock()
}

// oldest returns the address that was released first.
func (t *txn) oldest() (a netip.Addr, at time.Time, ok bool, err error) {
	k, _ := t.bucket(bucketReleased).cursor().First()
	if k == nil {
		return a, at, false, nil
	}
	if at, a, err = parseReleasedKey(k); err != nil {
		return a, at, false, t.damaged(fmt.Errorf("bucket %s: %w", bucketReleased, err))
	}
	return a, at, true, nil
}

// correctClock gives releases that lie in the future, because the clock was put
// back since, the present time: their quarantine must not last until the clock
// gets there again.
func (t *txn) correctClock() error {
	for range pruneStep {
		k, _ := t.bolt(bucketReleased).Cursor().Last()
		if k == nil {
			return nil
		}
		at, a, err := parseReleasedKey(k)
		if err != nil {
			return t.damaged(fmt.Errorf("bucket %s: %w", bucketReleased, err))
		}
		if !at.After(t.now) {
			return nil
		}
		p, ok, err := t.past(a)
		if err == nil && !ok {
			err = t.damaged(fmt.Errorf("bucket %s names %s, which is not in %s", bucketReleased, a, bucketHistory))
		}
		if err != nil {
			return err
		}
		if err := t.del(bucketReleased, releasedKey(at, a)); err != nil {
			return err
		}
		t.c.History-- // remember counts it again
		p.Released = t.now
		if err := t.remember(a, p); err != nil {
			return err
		}
	}
	return nil
}

// correctClock commits nothing but what every commit corrects. With no address left to
// give there may be no other commit until the clock gets there again.
func (s *Store) correctClock(ctx context.Context) error {
	return s.update(ctx, func(*txn) (bool, error) { return true, nil })
}

// dropForeignHistory forgets released addresses that the network no longer gives.
func (t *txn) dropForeignHistory() error {
	gone := make(map[netip.Addr]past)
	c := t.bucket(bucketHistory).cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		a, err := parseAddrKey(k)
		if err != nil {
			return t.damaged(fmt.Errorf("bucket %s: %w", bucketHistory, err))
		}
		if t.net.Pool.gives(a) {
			continue
		}
		if gone[a], err = decodePast(k, v); err != nil {
			return t.damaged(err)
		}
	}
	for a, p := range gone {
		if err := t.forget(a, p); err != nil {
			return err
		}
	}
	return nil
}
