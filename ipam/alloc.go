package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// hintAfter is how many addresses in a row must be passed over, because their MACs
// are taken, before the transaction writes down where it got to.
const hintAfter = 64

// macsInUse answers whether a MAC is taken, in this network or in another one of
// the data directory. Successive questions about ascending MACs walk along the
// indexes, so that passing over a run of taken ones is cheap.
type macsInUse struct {
	indexes  []macIndex
	gateways []MAC
}

// macIndex walks along one network's index of MACs.
type macIndex struct {
	guard   func(func() error) error // of a neighbour's file
	cursor  cursor
	key     []byte // where the cursor stands; nil at the end
	started bool
}

func (t *txn) macsInUse() (*macsInUse, error) {
	near, err := t.neighbours()
	if err != nil {
		return nil, err
	}
	m := &macsInUse{
		gateways: []MAC{t.net.Pool.gatewayMAC()},
		indexes:  []macIndex{{cursor: t.bucket(bucketMACs).cursor(), guard: func(fn func() error) error { return fn() }}},
	}
	for _, n := range near {
		m.gateways = append(m.gateways, n.net.Pool.gatewayMAC())
		err := n.file.guard(func() error {
			m.indexes = append(m.indexes, macIndex{cursor: n.view.bucket(bucketMACs).cursor(), guard: n.file.guard})
			return nil
		})
		if err != nil && !errors.Is(err, ErrDamaged) { // see neighbours
			return nil, err
		}
	}
	return m, nil
}

// has reports whether a row or a gateway has mac.
func (m *macsInUse) has(mac MAC) bool {
	if slices.Contains(m.gateways, mac) {
		return true
	}
	for i := range m.indexes {
		x := &m.indexes[i]
		found := false
		err := x.guard(func() error {
			found = x.has(mac)
			return nil
		})
		if err == nil && found { // a damaged neighbour is left out
			return true
		}
	}
	return false
}

func (x *macIndex) has(mac MAC) bool {
	if x.started && x.key != nil && bytes.Compare(x.key, mac[:]) < 0 {
		x.key, _ = x.cursor.Next() // the one beside it, in a run
	}
	if !x.started || !bytes.Equal(x.key, mac[:]) {
		x.key, _ = x.cursor.Seek(mac[:])
		x.started = true
	}
	return bytes.Equal(x.key, mac[:])
}

// gatewayMAC is the MAC of the bridge that carries the gateway address, unless an
// uplink lends it its own.
func (p Pool) gatewayMAC() MAC { return DeriveMAC(p.MACPrefix, p.Gateway) }

// next chooses the address for a workload that asks for none and has none: never
// used before released, released longest ago before released of late, never one in
// quarantine. If the address's own MAC is to be used it must be free, too.
func (t *txn) next(derived bool) (netip.Addr, error) {
	var taken *macsInUse
	if derived {
		var err error
		if taken, err = t.macsInUse(); err != nil {
			return netip.Addr{}, err
		}
	}
	a, ok, err := t.nextFree(taken)
	if err != nil || ok {
		return a, err
	}
	return t.nextReleased(taken)
}

// nextFree returns the lowest free address whose MAC is not taken (taken may be
// nil). Where another network has taken a long run of MACs it begins behind that
// run the next time, and comes back to it only when nothing is left above.
func (t *txn) nextFree(taken *macsInUse) (netip.Addr, bool, error) {
	var lowest netip.Addr
	if t.net.Pool.RangeStart.Is4() {
		lowest = netip.IPv4Unspecified()
	} else {
		lowest = netip.IPv6Unspecified()
	}
	hint := lowest
	if b := t.bucket(bucketMeta).Get([]byte(keyHint)); b != nil {
		var err error
		if hint, err = parseAddrKey(b); err != nil {
			return hint, false, t.damaged(fmt.Errorf("reading the hint: %w", err))
		}
	}
	a, passed, err := t.scanFree(hint, taken)
	if err == nil && !a.IsValid() && hint != lowest {
		a, passed, err = t.scanFree(lowest, taken)
	}
	if err == nil && passed >= hintAfter && a.IsValid() {
		err = t.put(bucketMeta, []byte(keyHint), addrKey(a))
	}
	return a, err == nil && a.IsValid(), err
}

// scanFree returns the first usable free address not below from, and how many it
// passed over; the zero address if there is none.
func (t *txn) scanFree(from netip.Addr, taken *macsInUse) (netip.Addr, int, error) {
	passed := 0
	c := t.bucket(bucketFree).cursor()
	for k, v := c.Seek(addrKey(from)); k != nil; k, v = c.Next() {
		r, err := t.decodeFree(k, v)
		if err != nil {
			return netip.Addr{}, passed, err
		}
		if r.Start.Less(from) {
			r.Start = from
		}
		for a := r.Start; a.IsValid() && a.Compare(r.End) <= 0; a = a.Next() {
			if taken == nil || !taken.has(DeriveMAC(t.net.Pool.MACPrefix, a)) {
				return a, passed, nil
			}
			passed++
		}
	}
	return netip.Addr{}, passed, nil
}

// nextReleased returns the address that was released longest ago, if that was
// before its quarantine began to matter.
func (t *txn) nextReleased(taken *macsInUse) (netip.Addr, error) {
	full := &ExhaustedError{Network: t.name}
	delay := time.Duration(t.net.Pool.ReuseDelay)
	passed := 0
	c := t.bucket(bucketReleased).cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		at, a, err := parseReleasedKey(k)
		if err != nil {
			return a, t.damaged(fmt.Errorf("bucket %s: %w", bucketReleased, err))
		}
		if t.now.Sub(at) < delay { // and so are all that follow
			full.Quarantined = int(t.c.History) - passed
			if at.After(t.now) { // see correctClock
				t.clockPutBack, at = true, t.now
			}
			full.Until = at.Add(delay)
			break
		}
		if taken == nil || !taken.has(DeriveMAC(t.net.Pool.MACPrefix, a)) {
			return a, nil
		}
		passed++
	}
	return netip.Addr{}, full
}

// checkMAC says why a workload may not have the MAC it asks for.
func (t *txn) checkMAC(mac MAC, w Workload) error {
	switch {
	case mac.IsZero():
		return refused("MAC %s is no address of a port", mac)
	case mac.IsMulticast():
		return refused("MAC %s is multicast: the lowest bit of the first octet must be 0", mac)
	case mac.IsHostSide():
		return refused("MAC %s begins with fe, as the host sides of ports do", mac)
	case mac == t.net.Pool.gatewayMAC():
		return refused("MAC %s is the gateway's", mac)
	case t.net.allowsMAC(mac):
		return refused("MAC %s may be used by several workloads (allowedAddresses), so it is nobody's own", mac)
	}
	if r, ok, err := t.rowBy(bucketMACs, mac[:]); err != nil {
		return err
	} else if ok && r.Workload != w {
		return refused("MAC %s belongs to %s", mac, owner(r))
	}
	if a, ok := t.net.Pool.derivesFrom(mac); ok {
		if peer, ok := t.net.Pool.PeerOf(a); ok && peer.Node != w.Peer() {
			return refused("MAC %s names address %s, which is peer %s's to give", mac, a, peer.Node)
		}
		if r, ok, err := t.row(a); err != nil {
			return err
		} else if ok && r.Workload != w {
			return refused("MAC %s names address %s, which belongs to %s", mac, a, owner(r))
		}
	}
	near, err := t.neighbours()
	if err != nil {
		return err
	}
	for _, n := range near {
		if mac == n.net.Pool.gatewayMAC() {
			return refused("MAC %s is the gateway's in network %s", mac, n.net.Name)
		}
		r, ok, err := n.rowByMAC(mac)
		if err != nil {
			return err
		}
		if ok {
			return refused("MAC %s belongs to %s in network %s", mac, owner(r), n.net.Name)
		}
	}
	return nil
}

// macFree reports whether a workload may have a MAC that it does not ask for by
// name: that of its old or of its new address.
func (t *txn) macFree(mac MAC, w Workload) (bool, error) {
	err := t.checkMAC(mac, w)
	if errors.Is(err, ErrRefused) {
		return false, nil
	}
	return err == nil, err
}

// owner names whose a row is, in an error.
func owner(r Reservation) string {
	if r.Admin {
		return fmt.Sprintf("workload %s by the administrator's reservation", r.Workload)
	}
	return fmt.Sprintf("workload %s", r.Workload)
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}
