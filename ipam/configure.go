package ipam

import (
	"bytes"
	"context"
	"fmt"
)

// Configure writes the network's record, making the store if it is missing, and
// reports whether the record changed; an unchanged one is not written. Errors:
// ErrConfig with key, value and what is accepted, also if the subnet overlaps
// another network's or the bridge carries another network; *StrandedError if
// reservations would fall on addresses that the network then never gives.
func (s *Store) Configure(ctx context.Context, n Network) (bool, error) {
	changed := false
	err := s.upsert(ctx, func(t *txn) (_ bool, err error) {
		changed, err = t.configure(n)
		return changed, err
	})
	if err != nil {
		return false, fmt.Errorf("configuring network %s: %w", s.name, err)
	}
	return changed, nil
}

func (t *txn) configure(n Network) (bool, error) {
	record, err := encode(n)
	if err != nil {
		return false, err
	}
	if bytes.Equal(record, t.bucket(bucketMeta).Get([]byte(keyNetwork))) {
		return false, nil
	}
	if n.Name != t.name {
		return false, badKey("name", n.Name, "the store's own, "+t.name)
	}
	if err := n.Validate(); err != nil {
		return false, err
	}
	fresh := t.net.Name == ""
	if fresh || n.Pool.Subnet != t.net.Pool.Subnet || n.bridgeName() != t.net.bridgeName() || n.uplinkName() != t.net.uplinkName() {
		if err := t.compareNeighbours(n); err != nil {
			return false, err
		}
	}
	if err := t.stranded(n); err != nil {
		return false, err
	}
	same := !fresh && t.net.Pool.sameAddresses(n.Pool)
	t.net = n
	if !same {
		if err := t.rebuildFree(); err != nil {
			return false, err
		}
	}
	if err := t.put(bucketMeta, []byte(keySubnet), addrKey(n.Pool.Subnet.Addr())); err != nil {
		return false, err
	}
	return true, t.put(bucketMeta, []byte(keyNetwork), record)
}

// compareNeighbours refuses what the other networks of the directory rule out. One
// that cannot be read might: nothing is then changed.
func (t *txn) compareNeighbours(n Network) error {
	near, err := t.neighbours()
	if err != nil {
		return err
	}
	if t.near.unread != nil {
		return fmt.Errorf("comparing with the other networks: %w", t.near.unread)
	}
	for _, other := range near {
		if other.net.Pool.Subnet.Overlaps(n.Pool.Subnet) {
			return badKey("subnet", n.Pool.Subnet, fmt.Sprintf("a prefix that does not overlap %s of network %s",
				other.net.Pool.Subnet, other.net.Name))
		}
		if b := n.bridgeName(); b != "" && b == other.net.bridgeName() {
			return badKey("bridge", b, fmt.Sprintf("a bridge of its own: this one carries network %s",
				other.net.Name))
		}
		if u := n.uplinkName(); u != "" && u == other.net.uplinkName() {
			return badKey("flatInterface", u, fmt.Sprintf("a network card of its own, or a VLAN of one: this is the uplink of network %s", other.net.Name))
		}
	}
	return nil
}

// stranded refuses a configuration that rows contradict. Being outside the range
// strands nothing: the range only bounds what is given from now on.
func (t *txn) stranded(n Network) error {
	e := &StrandedError{Network: t.name}
	for r, err := range t.All() {
		if err != nil {
			return err
		}
		why := n.Pool.mayNot(r.Addr, r.Workload)
		if why == "" {
			continue
		}
		if e.Count++; e.Count == 1 {
			e.First, e.Why = r.Addr, why
		}
	}
	if e.Count > 0 {
		return e
	}
	if err := t.strandedMACs(n); err != nil {
		return err
	}
	mac := n.Pool.gatewayMAC()
	if r, ok, err := t.rowBy(bucketMACs, mac[:]); err != nil {
		return err
	} else if ok {
		return badKey("gateway", n.Pool.Gateway, fmt.Sprintf("a gateway whose MAC %s is not that of address %s", mac, r.Addr))
	}
	return nil
}

// strandedMACs refuses to let others use a MAC that a workload has for its own.
func (t *txn) strandedMACs(n Network) error {
	if n.Bridge == nil {
		return nil
	}
	for _, a := range n.Bridge.AllowedAddresses {
		if r, ok, err := t.rowBy(bucketMACs, a.MAC[:]); err != nil {
			return err
		} else if ok {
			return badKey("allowedAddresses", a, fmt.Sprintf("a MAC that is not that of address %s", r.Addr))
		}
	}
	return nil
}

// bridgeName is empty for a network without a bridge of ours.
func (n Network) bridgeName() string {
	if n.Bridge == nil {
		return ""
	}
	return n.Bridge.Name
}
