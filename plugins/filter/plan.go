package filter

import (
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Held is a network and those of its rows that have rules.
type Held struct {
	Network ipam.Network
	Rows    []ipam.Reservation
}

// PlanAll plans everything: what the kernel should hold if these and no other
// networks and rows have rules. Networks come in the order of their names.
func PlanAll(held []Held) Plan {
	held = slices.Clone(held)
	slices.SortFunc(held, func(a, b Held) int {
		if a.Network.Name < b.Network.Name {
			return -1
		}
		return 1
	})
	var networks []ipam.Network
	for _, h := range held {
		networks = append(networks, h.Network)
	}
	p := Plan{Chains: Base(networks)}
	for _, h := range held {
		if !h.Network.Filtered() {
			continue
		}
		rows := withAllowed(h.Network, ruled(h.Rows))
		var dispatches []Dispatch
		for _, r := range rows {
			dispatches = append(dispatches, dispatchTo(h.Network, r))
		}
		p.Chains = append(p.Chains, Tree(h.Network.Pool.Subnet, dispatches)...)
		for _, r := range rows {
			p.Chains = append(p.Chains, WorkloadChain(h.Network, r))
		}
	}
	return p
}

// ruled returns, by address, the rows that have a holder: only they have rules.
func ruled(rows []ipam.Reservation) []ipam.Reservation {
	var held []ipam.Reservation
	for _, r := range rows {
		if r.Holder != nil {
			held = append(held, r)
		}
	}
	slices.SortFunc(held, func(a, b ipam.Reservation) int { return a.Addr.Compare(b.Addr) })
	return held
}
