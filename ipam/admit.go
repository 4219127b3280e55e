package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// admit says why a row may not be made at an address asked for by name. An
// administrator may reserve outside the range, and what is in quarantine.
func (t *txn) admit(a netip.Addr, r Reservation) error {
	pool := t.net.Pool
	if !sameFamily(a, pool.Subnet) || a.Zone() != "" {
		return refused("address %s: the network's subnet is %s", a, pool.Subnet)
	}
	if why := pool.mayNot(a, r.Workload); why != "" {
		return refused("address %s: %s", a, why)
	}
	if row, ok, err := t.row(a); err != nil {
		return err
	} else if ok && row.Holder != nil && r.Admin {
		return &HeldError{Row: row}
	} else if ok {
		return refused("address %s belongs to %s", a, owner(row))
	}
	if r.Admin {
		return nil
	}
	if !pool.gives(a) {
		return refused("address %s: it is outside %s-%s, of which the network gives addresses", a, pool.RangeStart, pool.RangeEnd)
	}
	p, ok, err := t.past(a)
	if err != nil || !ok || p.Workload != nil && *p.Workload == r.Workload {
		return err
	}
	if free := p.Released.Add(time.Duration(pool.ReuseDelay)); t.now.Before(free) {
		return refused("address %s was released a moment ago and is in quarantine (reuseDelay) until %s",
			a, free.Format(time.RFC3339))
	}
	if why := t.keptFor(p, r.Workload); why != "" {
		return refused("address %s %s", a, why)
	}
	return nil
}

// admitMAC says why a workload may not have a MAC asked for by name. One that names
// an address kept for another's workload would cost that workload its address; one that
// such a workload had asked for would keep it from coming back.
func (t *txn) admitMAC(mac MAC, w Workload) error {
	if err := t.checkMAC(mac, w); err != nil {
		return err
	}
	if a, ok := t.net.Pool.derivesFrom(mac); ok {
		p, ok, err := t.past(a)
		if err != nil {
			return err
		}
		if why := t.keptFor(p, w); ok && why != "" {
			return refused("MAC %s names address %s, which %s", mac, a, why)
		}
	}
	if w.Namespace == "" {
		return nil // keptFor's answer, whatever there is
	}
	a, p, ok, err := t.lastWith(mac)
	if err != nil {
		return err
	}
	if why := t.keptFor(p, w); ok && why != "" {
		return refused("MAC %s was last that of address %s, which %s", mac, a, why)
	}
	return nil
}

// admitTenantMAC says why a tenant may not ask for a MAC: one that names an address out of
// this node's range may be a workload's on another node of the segment, which this node's own
// would reach no more. The operator and `flatctl reserve` may give it.
func (t *txn) admitTenantMAC(mac MAC, w Workload) error {
	if a, ok := t.net.Pool.derivesFrom(mac); ok && w.Namespace != "" && !t.net.Pool.gives(a) {
		return refused("MAC %s names address %s, which is not this node's to give: another node's workload may have it", mac, a)
	}
	return nil
}

// keptFor says for whom a released address is kept, if w may not ask for it
// meanwhile; empty if it may. A namespace's workloads may ask for each other's, since
// pods are replaced by others of another name, and the operator for all.
func (t *txn) keptFor(p past, w Workload) string {
	until := p.Released.Add(time.Duration(t.net.Pool.Retain))
	if w.Namespace == "" || p.Workload == nil || p.Workload.Namespace == w.Namespace || !t.now.Before(until) {
		return ""
	}
	return fmt.Sprintf("is kept for workload %s of another namespace (retain) until %s", p.Workload, until.Format(time.RFC3339))
}
