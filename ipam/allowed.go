package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// AllowedAddress is what a workload may use besides its own: an address that moves
// between workloads (VRRP), or the MAC of something that it bridges.
type AllowedAddress struct {
	Addr netip.Addr `json:"ip,omitzero"`  // of the subnet, no workload's own; zero = the workload's
	MAC  MAC        `json:"mac,omitzero"` // no workload's own; zero = the workload's
	// OnRequest: only workloads that ask for it may use it. In what a workload asked for it
	// says nothing.
	OnRequest bool `json:"onRequest,omitempty"`
}

// Allowed returns what the workload of r may use besides its own: of what the network
// lists, that which is everybody's, and what it asked for.
//
// A neighbour reaches an allowed address as the network's toggle says, for any of several
// workloads may have it. So one that is closed on its own, on a network that is open, has
// none: it would be reached by that.
func (n Network) Allowed(r Reservation) (all []AllowedAddress) {
	if n.Bridge == nil || n.Bridge.AllowSameNetTraffic && !n.Open(r) {
		return nil
	}
	for _, listed := range n.Bridge.AllowedAddresses {
		if !listed.OnRequest || slices.ContainsFunc(r.AllowedAddresses, listed.same) {
			all = append(all, listed)
		}
	}
	return all
}

// same compares what may be used, not by whom.
func (a AllowedAddress) same(b AllowedAddress) bool { return a.Addr == b.Addr && a.MAC == b.MAC }

// Lists reports whether a is among what n's workloads may use, or ask for.
func (n Network) Lists(a AllowedAddress) bool {
	return n.Bridge != nil && slices.ContainsFunc(n.Bridge.AllowedAddresses, a.same)
}

// allowsMAC reports whether several workloads may use m.
func (n Network) allowsMAC(m MAC) bool {
	return n.Bridge != nil && slices.ContainsFunc(n.Bridge.AllowedAddresses, func(a AllowedAddress) bool { return a.MAC == m })
}

// validateAllowed refuses what would be somebody's own. That the addresses are excluded
// keeps them from being given.
func (n Network) validateAllowed() error {
	if n.Bridge == nil {
		return nil
	}
	for _, a := range n.Bridge.AllowedAddresses {
		if why := n.mayNotAllow(a); why != "" {
			return badKey("allowedAddresses", fmt.Sprint(a.Addr, " ", a.MAC), why)
		}
	}
	return nil
}

// isPeers reports whether another node gives a.
func (p Pool) isPeers(a netip.Addr) bool {
	_, ok := p.PeerOf(a)
	return ok
}

// mayNotAllow says what an allowed address must be, if a is none; empty if it may be
// allowed. No allocation can then make it a workload's own.
func (n Network) mayNotAllow(a AllowedAddress) string {
	p := n.Pool
	if a.Addr.IsValid() {
		excluded := slices.ContainsFunc(p.Exclude, func(r Range) bool { return r.Contains(a.Addr) })
		switch {
		case !p.Subnet.Contains(a.Addr) || a.Addr == p.Subnet.Addr() || a.Addr == lastAddr(p.Subnet):
			return fmt.Sprintf("an address of subnet %s that is neither the network's own nor the broadcast address", p.Subnet)
		case a.Addr == p.Gateway || slices.Contains(p.Nodes, a.Addr) || p.isPeers(a.Addr):
			return "no gateway's, node's or peer's address"
		case !excluded:
			return "an address that is excluded, so that no workload is given it"
		}
	}
	switch m := a.MAC; {
	case m.IsZero() && !a.Addr.IsValid():
		return "an address, a MAC or both"
	case m.IsMulticast(), m.IsHostSide():
		return "a unicast MAC that does not begin with fe"
	case !m.IsZero() && MACPrefix(m[:3]) == p.MACPrefix:
		return fmt.Sprintf("a MAC that does not begin with %s, as those of the network's addresses do", p.MACPrefix)
	}
	return ""
}

// admitAllowed says why a workload may not have what it asks for besides its own: the
// operator lists what there is, so that nobody asks for a router's or another node's.
func (t *txn) admitAllowed(list []AllowedAddress) error {
	for _, a := range list {
		if !t.net.Lists(a) {
			return refused("allowed address %s: key allowedAddresses of the network does not list it", a)
		}
	}
	return nil
}

// String returns IP, MAC or IP/MAC, as it is asked for.
func (a AllowedAddress) String() string {
	switch {
	case a.MAC.IsZero():
		return a.Addr.String()
	case !a.Addr.IsValid():
		return a.MAC.String()
	}
	return a.Addr.String() + "/" + a.MAC.String()
}

// ParseAllowedAddress reads what String writes.
func ParseAllowedAddress(s string) (a AllowedAddress, err error) {
	first, second, both := strings.Cut(s, "/")
	if both || strings.Count(first, ":") == 0 {
		if a.Addr, err = netip.ParseAddr(first); err == nil && !a.Addr.Is4() {
			err = fmt.Errorf("%s is no IPv4 address", a.Addr)
		}
		first = second
	}
	if err == nil && (both || !a.Addr.IsValid()) {
		a.MAC, err = ParseMAC(first)
	}
	if err != nil {
		return AllowedAddress{}, fmt.Errorf("%q is no allowed address: an IPv4 address, a MAC, or both as IP/MAC is wanted", s)
	}
	return a, nil
}
