package lease

import (
	"net/netip"
	"slices"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// maxLeases bounds a table; a bridge has 1023 ports at most, but a network lives long.
// Beyond it the client not heard of for the longest time is forgotten.
const maxLeases = 16384

// State is what a client last did, as far as it matters to its lease.
type State string

// States of a lease. Expired is never kept: a Bound one becomes it with time.
const (
	StateOffered  State = "offered"
	StateBound    State = "bound"
	StateExpired  State = "expired"
	StateReleased State = "released"
	StateDeclined State = "declined"
)

// Lease is what is known of one client in one network.
type Lease struct {
	Network   string     `json:"network"`
	IP        netip.Addr `json:"ip"`
	MAC       ipam.MAC   `json:"mac"`
	State     State      `json:"state"`
	Hostname  string     `json:"hostname"`       // reserved
	Node      string     `json:"node,omitempty"` // the peer that the workload is on; empty = this node
	FirstSeen time.Time  `json:"firstSeen"`
	LastSeen  time.Time  `json:"lastSeen"`
	// Expires is when a bound lease ends if it is not renewed; zero = never, or not bound.
	Expires        time.Time `json:"expires,omitzero"`
	ClientHostname string    `json:"clientHostname,omitempty"`
	VendorClass    string    `json:"vendorClass,omitempty"`
}

// table is the leases of one network. It is used by one goroutine at a time.
type table struct {
	leases map[ipam.MAC]Lease
}

// note takes an event in and reports whether it changed something.
func (t *table) note(e Event) bool {
	l, known := t.leases[e.MAC]
	switch {
	case e.Kind == Reserved, e.Kind == Refused && !known:
		return false // nothing was leased
	case !known:
		if len(t.leases) >= maxLeases {
			t.forgetOldest()
		}
		l = Lease{Network: e.Network, MAC: e.MAC, FirstSeen: e.Time}
	}
	l.LastSeen = e.Time
	if e.ClientHostname != "" {
		l.ClientHostname = e.ClientHostname
	}
	if e.VendorClass != "" {
		l.VendorClass = e.VendorClass
	}
	if e.Kind != Refused { // of which the address is another's
		moved := l.IP != e.IP
		l.IP, l.Hostname, l.Node = e.IP, e.Hostname, e.Node
		switch e.Kind {
		case Offered:
			// A client that boots again is offered what it has: the lease goes on.
			if moved || l.at(e.Time).State != StateBound {
				l.State, l.Expires = StateOffered, time.Time{}
			}
		case Bound, Renewed:
			l.State, l.Expires = StateBound, time.Time{}
			if e.Seconds > 0 {
				l.Expires = e.Time.Add(time.Duration(e.Seconds) * time.Second)
			}
		case Released:
			l.State, l.Expires = StateReleased, time.Time{}
		case Declined:
			l.State, l.Expires = StateDeclined, time.Time{}
		}
	}
	t.leases[e.MAC] = l
	return true
}

func (t *table) forgetOldest() {
	var oldest Lease
	for _, l := range t.leases {
		if oldest.LastSeen.IsZero() || l.LastSeen.Before(oldest.LastSeen) {
			oldest = l
		}
	}
	delete(t.leases, oldest.MAC)
}

// list returns the leases as they are at now, by address.
func (t *table) list(now time.Time) []Lease {
	list := make([]Lease, 0, len(t.leases))
	for _, l := range t.leases {
		list = append(list, l.at(now))
	}
	sortLeases(list)
	return list
}

// at is the lease with the state that it has by then.
func (l Lease) at(now time.Time) Lease {
	if l.State == StateBound && !l.Expires.IsZero() && !now.Before(l.Expires) {
		l.State = StateExpired
	}
	return l
}

// sortLeases orders by network, address and MAC.
func sortLeases(list []Lease) {
	slices.SortFunc(list, func(a, b Lease) int {
		if a.Network != b.Network {
			if a.Network < b.Network {
				return -1
			}
			return 1
		}
		if c := a.IP.Compare(b.IP); c != 0 {
			return c
		}
		return slices.Compare(a.MAC[:], b.MAC[:])
	})
}
