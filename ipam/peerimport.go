package ipam

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// PeerImport says what ImportPeer changed, by address; Kept counts what was there as it is.
type PeerImport struct {
	Made, Gone []Reservation
	Kept       int
}

// ImportPeer makes rows, which are reservations in the store of another node, what this
// store has of that node, in one transaction: those that it has besides are given up. It is
// for what a derived lease does not tell: a MAC or a host name of the workload's own,
// options, a lease time. Of each row Addr, MAC, Hostname, Workload (as its own node calls
// it), Admin, Options, LeaseTime and Since count.
//
// The node must be one of the network's peers and each address in its range. ErrRefused, with
// both rows where two are in each other's way. If trial is set nothing is kept.
func (s *Store) ImportPeer(ctx context.Context, node string, rows []Reservation, trial bool) (PeerImport, error) {
	var done PeerImport
	want, err := peerRows(node, rows)
	if err == nil {
		err = s.update(ctx, func(t *txn) (bool, error) {
			done, err = t.importPeer(node, want)
			return !trial && len(done.Made)+len(done.Gone) > 0, err
		})
	}
	if err != nil {
		return PeerImport{}, fmt.Errorf("importing reservations of node %s into network %s: %w", node, s.name, err)
	}
	return done, nil
}

// peerRows returns rows as they are kept here, by address, and refuses what contradicts
// itself.
func peerRows(node string, rows []Reservation) ([]Reservation, error) {
	want := make([]Reservation, len(rows))
	for i, r := range rows {
		if r.Workload.Peer() != "" {
			return nil, refused("%s: it is not that node's own", rowText(r))
		}
		w := Reservation{
			Addr: r.Addr, MAC: r.MAC, Hostname: r.Hostname, Workload: r.Workload.OnPeer(node), Admin: r.Admin,
			Options: r.Options, LeaseTime: r.LeaseTime, Since: r.Since,
		}
		if err := checkAdmin(AdminRequest{Workload: w.Workload, Addr: w.Addr, Hostname: w.Hostname, LeaseTime: &w.LeaseTime}); err != nil {
			return nil, fmt.Errorf("%s: %w", rowText(r), err)
		}
		for _, o := range want[:i] {
			switch {
			case o.Addr == w.Addr:
				return nil, refused("%s and %s have one address", rowText(o), rowText(w))
			case o.MAC == w.MAC:
				return nil, refused("%s and %s have one MAC", rowText(o), rowText(w))
			case o.Workload == w.Workload:
				return nil, refused("%s and %s are of one workload", rowText(o), rowText(w))
			}
		}
		want[i] = w
	}
	slices.SortFunc(want, func(a, b Reservation) int { return a.Addr.Compare(b.Addr) })
	return want, nil
}

func (t *txn) importPeer(node string, want []Reservation) (done PeerImport, err error) {
	peers := t.net.Pool.Peers
	if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Node == node }) {
		var names []string
		for _, p := range peers {
			names = append(names, p.Node)
		}
		return done, refused("node %s is none of the network's peers (%s): add it to ipam.peers, or give the name that it has there", node, cmp.Or(strings.Join(names, ", "), "there are none"))
	}
	there := map[netip.Addr]Reservation{}
	for r, err := range t.All() {
		if err != nil {
			return done, err
		}
		if r.Workload.Peer() == node {
			there[r.Addr] = r
		}
	}
	var made []Reservation
	for i := range want {
		w := &want[i]
		w.MACRequested = w.MAC != DeriveMAC(t.net.Pool.MACPrefix, w.Addr)
		old, ok := there[w.Addr]
		if same, err := sameRecord(old, *w); err != nil {
			return done, err
		} else if ok && same {
			delete(there, w.Addr)
			done.Kept++
			continue
		}
		made = append(made, *w)
	}
	// All that goes goes first: two workloads may have changed places.
	for _, r := range there {
		if err := t.vacate(r, false); err != nil {
			return done, err
		}
		if !slices.ContainsFunc(made, func(w Reservation) bool { return w.Addr == r.Addr }) {
			done.Gone = append(done.Gone, r)
		}
	}
	slices.SortFunc(done.Gone, func(a, b Reservation) int { return a.Addr.Compare(b.Addr) })
	for _, w := range made {
		if err := t.insertPeer(w); err != nil {
			return done, err
		}
	}
	done.Made = made
	return done, nil
}

// insertPeer adds a peer's row unless another is in its way.
func (t *txn) insertPeer(w Reservation) error {
	if why := t.net.Pool.mayNot(w.Addr, w.Workload); why != "" {
		return refused("%s: address %s: %s", rowText(w), w.Addr, why)
	}
	if r, ok, err := t.row(w.Addr); err != nil {
		return err
	} else if ok {
		return refused("%s and %s have one address", rowText(r), rowText(w))
	}
	if r, ok, err := t.rowBy(bucketMACs, w.MAC[:]); err != nil {
		return err
	} else if ok {
		return refused("%s and %s have one MAC", rowText(r), rowText(w))
	}
	if err := t.checkMAC(w.MAC, w.Workload); err != nil {
		return fmt.Errorf("%s: %w", rowText(w), err)
	}
	if _, err := t.occupy(w.Addr); err != nil {
		return err
	}
	return t.insertRow(w)
}

func sameRecord(a, b Reservation) (bool, error) {
	x, err := encode(a)
	if err != nil {
		return false, err
	}
	y, err := encode(b)
	return bytes.Equal(x, y), err
}

// rowText names a row in an error.
func rowText(r Reservation) string {
	return fmt.Sprintf("%s %s %s of workload %s", r.Addr, r.MAC, r.Hostname, r.Workload)
}
