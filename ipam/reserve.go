package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Reserve gives a workload its address, or a new one, and makes req.Holder its
// holder. If n is given the network is configured with it in the same transaction,
// as Configure does.
//
// The same holder gets the same row again (Grant.Reused). A returning workload gets
// the address and MAC it had, as long as nobody else was given them. Errors:
// *HeldError if another attachment holds the workload's row, or if the holder holds
// another workload's; *ExhaustedError; ErrRefused for a wish that cannot be
// granted; those of Configure. Of a new row nothing is left beside an error, unless that
// says so.
func (s *Store) Reserve(ctx context.Context, n *Network, req Request) (Grant, error) {
	var g Grant
	clockPutBack, decided := false, false
	run := func(t *txn) (changed bool, err error) {
		configured := false
		if n != nil {
			if configured, err = t.configure(*n); err != nil {
				return false, err
			}
		}
		g, changed, err = t.reserve(req)
		clockPutBack, decided = t.clockPutBack, err == nil
		return changed || configured, err
	}
	err := checkRequest(req)
	if err == nil && n != nil {
		err = s.upsert(ctx, run)
	} else if err == nil {
		err = s.update(ctx, run)
	}
	if err != nil && decided && !g.Reused {
		err = errors.Join(err, s.takeBack(ctx, req.Holder))
	}
	if clockPutBack {
		err = errors.Join(err, s.correctClock(ctx))
	}
	if err != nil {
		err = fmt.Errorf("reserving an address in network %s for workload %s: %w", s.name, req.Workload, err)
	}
	if req.Asked != "" && errors.Is(err, ErrRefused) {
		err = fmt.Errorf("%w (asked for by %s)", err, req.Asked)
	}
	if err != nil {
		return Grant{}, err
	}
	return g, nil
}

// takeBack releases a row whose transaction failed at its end: if the disk failed after
// the last write, or a lock could not be let go, everybody sees the row all the same.
func (s *Store) takeBack(ctx context.Context, h Holder) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
	defer cancel()
	_, _, err := s.Release(ctx, h.ContainerID, h.IfName)
	if err != nil && !errors.Is(err, ErrNoNetwork) { // it never came to be
		return fmt.Errorf("taking the reservation back (left for DEL): %w", err)
	}
	return nil
}

// takeBackTime bounds takeBack, for which the caller's own time may be over.
const takeBackTime = 2 * time.Second

func checkRequest(req Request) error {
	if why := validWorkload(req.Workload); why != "" {
		return refused("%s", why)
	}
	for _, w := range req.Named {
		if why := validWorkload(w); why != "" {
			return refused("%s", why)
		}
	}
	if why := validAttachment(req.Holder); why != "" {
		return refused("%s", why)
	}
	for _, name := range []string{req.Hostname, req.HostnameHint} {
		if name != "" && !validHostname(name) {
			return refused("host name %q: DNS labels of letters, digits and inner dashes, joined by dots, are accepted", name)
		}
	}
	return nil
}

// reserve reports whether it changed anything.
func (t *txn) reserve(req Request) (Grant, bool, error) {
	var g Grant
	if err := t.admitAllowed(req.AllowedAddresses); err != nil {
		return g, false, err
	}
	// What the attachment holds already.
	row, ok, err := t.rowBy(bucketHolders, holderKey(req.Holder.ContainerID, req.Holder.IfName))
	if err != nil {
		return g, false, err
	}
	if !ok || row.Workload != req.Workload { // what it has it keeps
		if req.Workload, err = t.named(req); err != nil {
			return g, false, err
		}
	}
	if ok && row.Workload != req.Workload {
		if req.Dead == nil || *row.Holder != *req.Dead {
			return g, false, fmt.Errorf("the same container and interface hold the address of another workload: %w",
				&HeldError{Row: row})
		}
		if err := t.letGo(row); err != nil {
			return g, false, err
		}
		g.TookOver = row.Holder
	}
	// What the workload has already.
	a, ok, err := t.index(bucketWorkloads, []byte(req.Workload.String()))
	if err != nil {
		return g, false, err
	}
	if ok {
		if row, ok, err = t.row(a); err != nil {
			return g, false, err
		}
	}
	if !ok { // nothing, or only a claim
		err = t.reserveNew(req, &g)
		return g, true, err
	}
	if row.Holder != nil && sameAttachment(*row.Holder, req.Holder) {
		return t.again(row, req)
	}
	if row.Holder != nil {
		if req.Dead == nil || *row.Holder != *req.Dead {
			return g, false, &HeldError{Row: row}
		}
		g.TookOver = row.Holder
	}
	err = t.attach(row, req, &g)
	return g, true, err
}

// named returns whom a request is for: the workload by its name if the administrator
// has a reservation for that, and none for what the request calls it.
func (t *txn) named(req Request) (Workload, error) {
	if len(req.Named) == 0 {
		return req.Workload, nil
	}
	for _, w := range append([]Workload{req.Workload}, req.Named...) {
		r, err := t.ByWorkload(w)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return w, err
		}
		if err == nil && r.Admin {
			return w, nil
		}
	}
	return req.Workload, nil
}

// sameAttachment reports whether two holders are one attachment. The namespace's
// path is a hint only (/run and /var/run are one): it decides if an inode is
// unknown.
func sameAttachment(a, b Holder) bool {
	if a.ContainerID != b.ContainerID || a.IfName != b.IfName || a.BootID != b.BootID {
		return false
	}
	if a.NetNSInode != 0 && b.NetNSInode != 0 {
		return a.NetNSInode == b.NetNSInode
	}
	return a.NetNS == b.NetNS
}

// again answers a repeated request of the same attachment.
func (t *txn) again(row Reservation, req Request) (Grant, bool, error) {
	if req.Addr.IsValid() && req.Addr != row.Addr {
		return Grant{}, false, refused("address %s: the attachment holds %s already", req.Addr, row.Addr)
	}
	if !req.MAC.IsZero() && req.MAC != row.MAC {
		return Grant{}, false, refused("MAC %s: the attachment holds %s with %s already", req.MAC, row.Addr, row.MAC)
	}
	if err := against(row, req); err != nil {
		return Grant{}, false, err
	}
	r := row
	r.Holder = &req.Holder
	if req.Hostname != "" {
		r.Hostname = req.Hostname
	}
	r.AllowSameNetTraffic, r.AllowedAddresses = req.AllowSameNetTraffic, req.AllowedAddresses
	if *r.Holder == *row.Holder && r.Hostname == row.Hostname && sameToggle(r.AllowSameNetTraffic, row.AllowSameNetTraffic) &&
		slices.Equal(r.AllowedAddresses, row.AllowedAddresses) {
		return Grant{Reservation: row, Reused: true}, false, nil
	}
	return Grant{Reservation: r, Reused: true}, true, t.replaceRow(row, r)
}

func sameToggle(a, b *bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// against refuses wishes that an administrator's reservation contradicts.
func against(row Reservation, req Request) error {
	if !row.Admin {
		return nil
	}
	const says = "the administrator reserved %s, %s, %s for workload %s: ask for nothing else, or change the reservation with `flatctl reserve`"
	if req.Addr.IsValid() && req.Addr != row.Addr ||
		!req.MAC.IsZero() && req.MAC != row.MAC ||
		req.Hostname != "" && req.Hostname != row.Hostname {
		return refused(says, row.Addr, row.MAC, row.Hostname, row.Workload)
	}
	return nil
}

// attach gives a row that nothing living holds to a new holder.
func (t *txn) attach(row Reservation, req Request, g *Grant) error {
	if err := against(row, req); err != nil {
		return err
	}
	if req.Addr.IsValid() && req.Addr != row.Addr { // the row of a dead holder: it moves
		if err := t.vacate(row, true); err != nil {
			return err
		}
		return t.reserveNew(req, g)
	}
	r := row
	if !req.MAC.IsZero() && req.MAC != row.MAC {
		if err := t.admitMAC(req.MAC, req.Workload); err != nil {
			return err
		}
		if err := t.admitTenantMAC(req.MAC, req.Workload); err != nil {
			return err
		}
		r.MAC, r.PreviousMAC = req.MAC, row.MAC
		r.MACRequested = req.MAC != DeriveMAC(t.net.Pool.MACPrefix, r.Addr)
	}
	if req.Hostname != "" {
		r.Hostname = req.Hostname
	} else if req.HostnameHint != "" && r.Hostname == DefaultHostname(r.Addr) {
		r.Hostname = req.HostnameHint
	}
	g.Unproven = row.Holder == nil // the administrator's, of which nothing tells when it was held
	r.Holder, r.Since, r.AllowSameNetTraffic, r.AllowedAddresses = &req.Holder, t.now, req.AllowSameNetTraffic, req.AllowedAddresses
	g.Reservation = r
	return t.replaceRow(row, r)
}

// reserveNew makes a row for a workload that has none: at the address it asks for,
// at the one kept for it, or at the next.
func (t *txn) reserveNew(req Request, g *Grant) error {
	r := Reservation{Workload: req.Workload, Holder: &req.Holder, Since: t.now,
		AllowSameNetTraffic: req.AllowSameNetTraffic, AllowedAddresses: req.AllowedAddresses}
	return t.place(r, wish{addr: req.Addr, mac: req.MAC, hostname: req.Hostname, hint: req.HostnameHint}, g)
}
