package ipam

import (
	"context"
	"fmt"
)

// Release lets go of what an attachment holds, and of nothing else: the address
// goes into quarantine and is kept for its workload; an administrator's reservation
// stays, without a holder. It returns the row as it was held, and false if the
// attachment held nothing, which is no error: DEL may come twice.
func (s *Store) Release(ctx context.Context, containerID, ifName string) (Reservation, bool, error) {
	var row Reservation
	var ok bool
	err := s.update(ctx, func(t *txn) (bool, error) {
		var err error
		row, ok, err = t.rowBy(bucketHolders, holderKey(containerID, ifName))
		if err != nil || !ok {
			return false, err
		}
		return true, t.letGo(row)
	})
	if err != nil {
		return Reservation{}, false, fmt.Errorf("releasing what container %s, interface %s holds in network %s: %w",
			containerID, ifName, s.name, err)
	}
	return row, ok, nil
}

// GC releases, as Release does and in one transaction, what attachments hold for
// which keep is false. It returns the rows as they were held. keep runs under the
// store's lock: it must not wait, run programs or use a Store, so the caller
// gathers its evidence before.
func (s *Store) GC(ctx context.Context, keep func(Reservation) bool) ([]Reservation, error) {
	var gone []Reservation
	err := s.update(ctx, func(t *txn) (bool, error) {
		gone = nil
		for r, err := range t.All() {
			if err != nil {
				return false, err
			}
			if r.Holder != nil && !keep(r) {
				gone = append(gone, r)
			}
		}
		for _, r := range gone {
			if err := t.letGo(r); err != nil {
				return false, err
			}
		}
		return len(gone) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("collecting garbage in network %s: %w", s.name, err)
	}
	return gone, nil
}

// letGo ends a row's holding.
func (t *txn) letGo(row Reservation) error {
	if !row.Admin {
		return t.vacate(row, true)
	}
	r := row
	r.Holder, r.AllowSameNetTraffic, r.AllowedAddresses = nil, nil, nil
	return t.replaceRow(row, r)
}
