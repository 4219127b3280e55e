package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ReserveAdmin makes, or changes, the administrator's reservation for a workload.
// It beats what is retained and quarantined, may lie outside the range, and is
// never given to another. If the workload lives, its row becomes the reservation;
// another address or MAC for it is then *HeldError. ErrRefused as for Reserve.
func (s *Store) ReserveAdmin(ctx context.Context, req AdminRequest) (Reservation, error) {
	rows, err := s.ReserveAdmins(ctx, []AdminRequest{req}, false)
	if err != nil {
		return Reservation{}, err
	}
	return rows[0], nil
}

// ReserveAdmins is ReserveAdmin for all of reqs, or for none of them: they are made in one
// transaction, in their order. The reservations come in that order too. If trial is set
// nothing is kept. An error that is about one of them is a *RequestError.
func (s *Store) ReserveAdmins(ctx context.Context, reqs []AdminRequest, trial bool) ([]Reservation, error) {
	at, clockPutBack := 0, false // at: len(reqs) = it is about none of them
	failed := func(err error) error {
		if len(reqs) == 1 {
			at = 0
		}
		if at == len(reqs) {
			return fmt.Errorf("reserving addresses in network %s: %w", s.name, err)
		}
		return &RequestError{Index: at, Err: fmt.Errorf("reserving an address in network %s for workload %s: %w", s.name, reqs[at].Workload, err)}
	}
	for at = range reqs {
		if err := checkAdmin(reqs[at]); err != nil {
			return nil, failed(err)
		}
	}
	at = len(reqs)
	rows := make([]Reservation, len(reqs))
	err := s.update(ctx, func(t *txn) (bool, error) {
		for at = range reqs {
			var g Grant
			err := t.reserveAdmin(reqs[at], &g)
			clockPutBack = t.clockPutBack
			if err != nil {
				return false, err
			}
			rows[at] = g.Reservation
		}
		at = len(reqs)
		return !trial, nil
	})
	if clockPutBack {
		err = errors.Join(err, s.correctClock(ctx))
	}
	if err != nil {
		return nil, failed(err)
	}
	return rows, nil
}

func checkAdmin(req AdminRequest) error {
	if why := validWorkload(req.Workload); why != "" {
		return refused("%s", why)
	}
	if node := req.Workload.Peer(); node != "" && !req.Addr.IsValid() {
		return refused("workload %s is peer %s's, who gives it its address: an address is wanted", req.Workload, node)
	}
	if req.Hostname != "" && !validHostname(req.Hostname) {
		return refused("host name %q: DNS labels of letters, digits and inner dashes, joined by dots, are accepted", req.Hostname)
	}
	if d := req.LeaseTime; d != nil {
		if why := CheckLeaseTime(time.Duration(*d)); why != "" && *d != 0 {
			return refused("lease time %s: %s", *d, why)
		}
	}
	return nil
}

// Least and greatest lease time. The least is long enough for a client to renew at half
// time without a storm; busybox udhcpc renews no more often than that either. The
// greatest is that of option 51 (RFC 2132 section 9.2), whose all-ones value means for
// ever.
const (
	MinLeaseTime = 10 * time.Second
	MaxLeaseTime = (1<<32 - 2) * time.Second
)

// CheckLeaseTime says what is wrong with a lease time; empty if nothing.
func CheckLeaseTime(d time.Duration) string {
	switch {
	case d < MinLeaseTime:
		return fmt.Sprintf("at least %s is accepted", MinLeaseTime)
	case d > MaxLeaseTime:
		return fmt.Sprintf("at most %s is accepted: DHCP counts it in 32 bits", MaxLeaseTime)
	case d%time.Second != 0:
		return "whole seconds are wanted: DHCP counts in them"
	}
	return ""
}

// overrides returns r with what req says of its DHCP options and lease time.
func (req AdminRequest) overrides(r Reservation) Reservation {
	if req.ClearOptions {
		r.Options = nil
	}
	for _, o := range req.Options {
		r.Options = r.Options.With(o)
	}
	if req.LeaseTime != nil {
		r.LeaseTime = *req.LeaseTime
	}
	return r
}

func (t *txn) reserveAdmin(req AdminRequest, g *Grant) error {
	want := wish{addr: req.Addr, mac: req.MAC, hostname: req.Hostname}
	row, err := t.ByWorkload(req.Workload)
	if errors.Is(err, ErrNotFound) {
		return t.place(req.overrides(Reservation{Workload: req.Workload, Admin: true, Since: t.now}), want, g)
	}
	if err != nil {
		return err
	}
	moves := req.Addr.IsValid() && req.Addr != row.Addr
	remac := !req.MAC.IsZero() && req.MAC != row.MAC
	if row.Holder != nil && (moves || remac) {
		return &HeldError{Row: row}
	}
	if moves {
		// What the reservation said and the request leaves out still holds.
		if want.mac.IsZero() && row.MACRequested {
			want.mac = row.MAC
		}
		if want.hostname == "" && row.Hostname != DefaultHostname(row.Addr) {
			want.hostname = row.Hostname
		}
		if err := t.vacate(row, false); err != nil {
			return err
		}
		kept := Reservation{Workload: req.Workload, Admin: true, Since: t.now, Options: row.Options, LeaseTime: row.LeaseTime}
		return t.place(req.overrides(kept), want, g)
	}
	r := req.overrides(row)
	if remac {
		if err := t.checkMAC(req.MAC, req.Workload); err != nil {
			return err
		}
		r.MAC, r.PreviousMAC = req.MAC, row.MAC
		r.MACRequested = req.MAC != DeriveMAC(t.net.Pool.MACPrefix, r.Addr)
	}
	if req.Hostname != "" {
		r.Hostname = req.Hostname
	}
	r.Admin = true
	g.Reservation = r
	return t.replaceRow(row, r)
}

// ReleaseAdmin gives up what is reserved or retained at an address: an
// administrator's reservation that nothing holds, or a workload's claim on an
// address that it released. The address finishes its quarantine. *HeldError if an
// attachment holds it; ErrNotFound if there is nothing to give up.
func (s *Store) ReleaseAdmin(ctx context.Context, addr netip.Addr) (Reservation, error) {
	var r Reservation
	err := s.update(ctx, func(t *txn) (bool, error) {
		row, ok, err := t.row(addr)
		switch {
		case err != nil:
			return false, err
		case ok && row.Holder != nil:
			return false, &HeldError{Row: row}
		case ok:
			r = row
			return true, t.vacate(row, false)
		}
		p, ok, err := t.past(addr)
		switch {
		case err != nil:
			return false, err
		case !ok || p.Workload == nil:
			return false, fmt.Errorf("%w: address %s in network %s", ErrNotFound, addr, t.name)
		}
		r = Reservation{Addr: addr, MAC: p.MAC, MACRequested: p.MACRequested,
			Hostname: p.Hostname, Workload: *p.Workload, Since: p.Released}
		return true, t.disclaim(addr, p)
	})
	if err != nil {
		return Reservation{}, fmt.Errorf("releasing address %s of network %s: %w", addr, s.name, err)
	}
	return r, nil
}
