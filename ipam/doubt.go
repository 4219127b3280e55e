package ipam

import (
	"context"
	"fmt"
)

// Doubt lets go of what an attachment holds, as Release does, and remembers that nobody has
// shown the address to be free on the wire: who gets it next asks again. foreign is the MAC
// of a host that was seen to use it; then the workload has no claim on it any more, so that
// it gets another one. Zero = it was not found out. An administrator's reservation stays.
func (s *Store) Doubt(ctx context.Context, containerID, ifName string, foreign MAC) error {
	err := s.update(ctx, func(t *txn) (bool, error) {
		row, ok, err := t.rowBy(bucketHolders, holderKey(containerID, ifName))
		if err != nil || !ok {
			return false, err
		}
		if row.Admin {
			return true, t.letGo(row)
		}
		if err := t.vacate(row, foreign.IsZero()); err != nil {
			return false, err
		}
		p, ok, err := t.past(row.Addr)
		if err != nil || !ok { // outside what the network gives
			return true, err
		}
		p.Unproven = true
		if !foreign.IsZero() {
			p.MAC, p.MACRequested = foreign, false
		}
		return true, t.putJSON(bucketHistory, addrKey(row.Addr), p)
	})
	if err != nil {
		return fmt.Errorf("letting go of what container %s, interface %s holds in network %s: %w", containerID, ifName, s.name, err)
	}
	return nil
}
