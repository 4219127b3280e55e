package server

import "net/netip"

// Sub-options of option 82 that decide what is answered.
const (
	agentLink     = 5  // RFC 3527: the client's link, where giaddr is not on it
	agentServerID = 11 // RFC 5107: what is to be option 54
)

// serverID returns what option 54 is to be: our own address, unless a relay wants
// renewals to come through it.
func serverID(q *Query, s *Scope) netip.Addr {
	if q.GIAddr != zeroIP {
		if id, ok := q.agentAddr(agentServerID); ok && usable(id) {
			return id
		}
	}
	return s.ServerID
}

// linkOf returns an address of the link that a relayed client is on.
func linkOf(q *Query) netip.Addr {
	if a, ok := q.agentAddr(agentLink); ok {
		return a
	}
	return q.GIAddr
}
