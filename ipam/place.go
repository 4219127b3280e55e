package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// wish is what a workload, or the administrator for it, asks for.
type wish struct {
	addr     netip.Addr
	mac      MAC
	hostname string
	hint     string // where there is no other
}

// place chooses address, MAC and host name for the row r, whose workload has none,
// and inserts it.
func (t *txn) place(r Reservation, want wish, g *Grant) error {
	if !want.mac.IsZero() {
		if err := t.admitMAC(want.mac, r.Workload); err != nil {
			return err
		}
		if !r.Admin {
			if err := t.admitTenantMAC(want.mac, r.Workload); err != nil {
				return err
			}
		}
	}
	kept, was, claims, err := t.claim(r.Workload)
	if err != nil {
		return err
	}
	if claims {
		keep := !want.addr.IsValid() || want.addr == kept
		if keep && want.mac.IsZero() {
			if want.mac, keep, err = t.keptMAC(kept, was); err != nil {
				return err
			}
		}
		if keep {
			want.addr = kept
		} else if err := t.disclaim(kept, was); err != nil {
			return err
		}
		if want.hostname == "" && was.Hostname != DefaultHostname(kept) {
			want.hostname = was.Hostname
		}
	}
	if want.addr.IsValid() {
		err = t.admit(want.addr, r)
	} else {
		want.addr, err = t.next(want.mac.IsZero())
	}
	if err != nil {
		return err
	}
	derived := DeriveMAC(t.net.Pool.MACPrefix, want.addr)
	if want.mac.IsZero() {
		if err := t.checkMAC(derived, r.Workload); err != nil {
			return fmt.Errorf("address %s without a MAC of its own choice: %w", want.addr, err)
		}
		want.mac = derived
	}
	last, err := t.occupy(want.addr)
	if err != nil {
		return err
	}
	r.Addr, r.MAC, r.MACRequested = want.addr, want.mac, want.mac != derived
	r.Hostname = cmp.Or(want.hostname, want.hint, DefaultHostname(r.Addr))
	if !last.MAC.IsZero() && last.MAC != r.MAC {
		r.PreviousMAC = last.MAC
	}
	if last.Workload != nil && *last.Workload != r.Workload && t.now.Sub(last.Released) < time.Duration(t.net.Pool.Retain) {
		g.FromRetained = last.Workload
	}
	// What the network held of late nobody else will have taken meanwhile.
	g.Unproven = last.MAC.IsZero() || last.Unproven || t.now.Sub(last.Released) >= time.Duration(t.net.Pool.Retain)
	g.Reservation = r
	return t.insertRow(r)
}

// keptMAC returns the MAC with which a returning workload can have its address: the
// one it had, else the address's own. If others have both, its address is lost.
func (t *txn) keptMAC(a netip.Addr, was past) (MAC, bool, error) {
	for _, mac := range []MAC{was.MAC, DeriveMAC(t.net.Pool.MACPrefix, a)} {
		if ok, err := t.macFree(mac, *was.Workload); err != nil || ok {
			return mac, ok, err
		}
	}
	return MAC{}, false, nil
}
