package uplink

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// op is what a change does.
type op string

const (
	addAddress   op = "add address"
	settle       op = "settle address" // take the flag off that spared it its duplicate check
	delAddress   op = "remove address"
	addRoute     op = "add route" // behind those of the same destination
	delRoute     op = "remove route"
	addNeighbour op = "add neighbour"
	delNeighbour op = "remove neighbour"
	enslave      op = "join bridge"
	release      op = "leave bridge"
	waitUp       op = "wait until it sends"
	waitLocal    op = "wait until it hears" // what is for an IPv6 address
	setUp        op = "set up"
	setDown      op = "set down"
	setMAC       op = "set MAC"
	setMTU       op = "set MTU"
	setIPv6      op = "set IPv6"
)

// Change is one change of the kernel's state.
type Change struct {
	Op   op
	Link Link // whose state is changed
	// What is put there, by Op.
	From      string // the link that Address had its label of
	Address   Address
	Route     Route
	Neighbour Neighbour
	Bridge    Device // that is joined
	Setting   string // of net.ipv6.conf
	Value     string
	MAC       ipam.MAC
	MTU       int
}

// String is for people and tests: where, what is done, and with what.
func (c Change) String() string {
	s := c.Link.Name + ": " + string(c.Op)
	switch c.Op {
	case addAddress, delAddress, settle:
		return s + " " + c.Address.Text
	case addRoute, delRoute:
		return s + " " + c.Route.Text
	case addNeighbour, delNeighbour:
		return fmt.Sprintf("%s %s at %s", s, c.Neighbour.IP, c.Neighbour.HardwareAddr)
	case enslave:
		return s + " " + c.Bridge.Name
	case setIPv6:
		return fmt.Sprintf("%s %s = %s", s, c.Setting, c.Value)
	case setMAC:
		return fmt.Sprintf("%s %s", s, c.MAC)
	case setMTU:
		return fmt.Sprintf("%s %d", s, c.MTU)
	case waitLocal:
		return s + " " + c.Address.Text
	}
	return s
}

// plan is a list of changes under way.
type plan []Change

func (p *plan) add(c Change) { *p = append(*p, c) }

// Forward returns the changes that make now what r wants: the NIC a port of the bridge, which
// has what the record says the NIC had. Until the bridge can send, nothing is taken from the
// NIC that the node sends by.
func Forward(r Record, now State) []Change {
	var p plan
	nic, bridge := now.NIC, now.Bridge
	p.borrow(nic, bridge)
	if !nic.Up {
		p.add(Change{Op: setUp, Link: nic})
	}
	if r.movesIPv6() {
		p.conf(bridge, nic.IPv6)
	}
	moving := asOf(r.Addresses, nic.Addresses)
	p.neighbours(nic, bridge, moving)
	p.addresses(moving, nic, bridge)
	ipv4, ipv6 := byFamily(r.Routes)
	p.routes(ipv4, bridge)
	if nic.Master != bridge.Index {
		p.add(Change{Op: enslave, Link: nic, Bridge: bridge.Device})
	}
	if r.moves() && nic.Carrier {
		p.add(Change{Op: waitUp, Link: bridge})
	}
	// Of two IPv6 routes to the same destination the kernel makes one of two hops, and
	// uses both at once: so only now.
	p.routes(ipv6, bridge)
	p.waitLocal(moving, bridge)
	p.clearRoutes(r.Routes, nic)
	p.clearAddresses(moving, nic)
	p.clearNeighbours(nic, moving)
	p.settle(moving, bridge)
	return p
}

// Back returns the changes that give the NIC everything back: what it had by the record, and
// whatever else has come to the bridge since, but for addresses that are the bridge's own
// and routes by way of these.
func Back(r Record, now State, own []netip.Prefix) []Change {
	var p plan
	nic, bridge := now.NIC, now.Bridge
	going, staying := r.leaving(now, own)
	routes := r.returning(now, going, staying)
	ipv4, ipv6 := byFamily(routes)
	p.neighbours(bridge, nic, going)
	p.addresses(going, bridge, nic)
	p.routes(ipv4, nic)
	p.routes(ipv6, nic)
	p.waitLocal(going, nic)
	// The node hears by the bridge what is for an address of the NIC, and sends by the NIC.
	p.clearRoutes(routes, bridge)
	p.clearAddresses(going, bridge)
	p.clearNeighbours(bridge, going)
	for _, a := range staying {
		if a.flags()&unix.IFA_F_SECONDARY != 0 && !a.ipv6() { // it went with its subnet's first one
			p.add(Change{Op: addAddress, Link: bridge, From: bridge.Name, Address: a})
		}
	}
	if nic.Master != 0 && nic.Master == bridge.Index {
		p.add(Change{Op: release, Link: nic})
	}
	for _, a := range asOf(r.Addresses, nic.Addresses) {
		if has(nic.Addresses, a) && !has(going, a) { // by a call that died
			going = append(going, a)
		}
	}
	p.settle(going, nic)
	if !r.WasUp && nic.Up {
		p.add(Change{Op: setDown, Link: nic})
	}
	if bridge.Index == 0 {
		return p
	}
	if r.movesIPv6() {
		p.conf(bridge, r.BridgeIPv6)
	}
	if bridge.MAC != r.BridgeMAC {
		p.add(Change{Op: setMAC, Link: bridge, MAC: r.BridgeMAC})
	}
	if bridge.MTU != r.BridgeMTU {
		p.add(Change{Op: setMTU, Link: bridge, MTU: r.BridgeMTU})
	}
	return p
}

// leaving tells which addresses go to the NIC and which stay on the bridge.
func (r Record) leaving(now State, own []netip.Prefix) (going, staying []Address) {
	for _, a := range now.Bridge.Addresses {
		if r.moves() && (has(r.Addresses, a) || !slices.Contains(own, a.prefix())) {
			going = append(going, a)
		} else {
			staying = append(staying, a)
		}
	}
	going = asRecorded(going, r.Addresses)
	for _, a := range r.Addresses {
		// One that is nowhere somebody has taken away, or it went with the bridge.
		lost := !has(now.Bridge.Addresses, a) && !has(now.NIC.Addresses, a)
		if lost && now.Bridge.Index == 0 {
			going = append(going, a)
		}
	}
	return going, staying
}

// asOf returns addresses with the time that is left of them on a link, where they are there.
func asOf(list, there []Address) (now []Address) {
	for _, a := range list {
		if i := slices.IndexFunc(there, a.same); i >= 0 {
			a = a.lasting(there[i])
		}
		now = append(now, a)
	}
	return now
}

// asRecorded returns addresses with the labels and flags that they had before anything was
// touched.
func asRecorded(list, recorded []Address) (was []Address) {
	for _, a := range list {
		if i := slices.IndexFunc(recorded, a.same); i >= 0 {
			a = recorded[i].lasting(a)
		}
		was = append(was, a)
	}
	return was
}

// returning tells which routes go to the NIC: those that need no address that stays.
func (r Record) returning(now State, going, staying []Address) (routes []Route) {
	if !r.moves() {
		return nil
	}
	needs := func(q parsedRoute, list []Address) bool {
		return slices.ContainsFunc(list, func(a Address) bool {
			return q.src == a.prefix().Addr() || q.gateway.IsValid() && a.prefix().Contains(q.gateway)
		})
	}
	for _, rt := range now.Bridge.Routes {
		if q, _ := rt.parse(); needs(q, going) || !needs(q, staying) {
			routes = append(routes, rt)
		}
	}
	if now.Bridge.Index != 0 {
		return routes
	}
	for _, rt := range r.Routes {
		if !slices.ContainsFunc(now.NIC.Routes, rt.same) {
			routes = append(routes, rt)
		}
	}
	return routes
}

// borrow gives the bridge the NIC's MAC, which is the node's to the segment, and no greater
// MTU than the NIC's.
func (p *plan) borrow(nic, bridge Link) {
	if bridge.MAC != nic.MAC {
		p.add(Change{Op: setMAC, Link: bridge, MAC: nic.MAC})
	}
	if bridge.MTU > nic.MTU {
		p.add(Change{Op: setMTU, Link: bridge, MTU: nic.MTU})
	}
}

// conf makes a link's IPv6 settings those of want.
func (p *plan) conf(l Link, want map[string]string) {
	for _, key := range ipv6Settings {
		if v, ok := want[key]; ok && l.IPv6 != nil && l.IPv6[key] != v {
			p.add(Change{Op: setIPv6, Link: l, Setting: key, Value: v})
		}
	}
}

// neighbours tells a link whom the other one knows, so that nobody must be asked for: who
// asks by a link that is a port hears no answer.
func (p *plan) neighbours(from, to Link, with []Address) {
	for _, n := range from.Neighbours {
		near := slices.ContainsFunc(with, func(a Address) bool { return a.prefix().Contains(n.Addr) })
		known := slices.ContainsFunc(to.Neighbours, func(o Neighbour) bool { return o.Addr == n.Addr && (o.Permanent || !n.Permanent) })
		if near && !known {
			p.add(Change{Op: addNeighbour, Link: to, Neighbour: n})
		}
	}
}

// clearNeighbours takes off what somebody has set; the rest goes by itself.
func (p *plan) clearNeighbours(from Link, with []Address) {
	for _, n := range from.Neighbours {
		if n.Permanent && slices.ContainsFunc(with, func(a Address) bool { return a.prefix().Contains(n.Addr) }) {
			p.add(Change{Op: delNeighbour, Link: from, Neighbour: n})
		}
	}
}

// addresses puts on a link what it lacks, so that the kernel lists it there in the same
// order: it appends IPv4 addresses, and puts IPv6 ones in front.
func (p *plan) addresses(list []Address, from, to Link) {
	put := func(a Address) {
		if !has(to.Addresses, a) {
			p.add(Change{Op: addAddress, Link: to, From: from.Name, Address: a})
		}
	}
	for _, a := range list {
		if !a.ipv6() {
			put(a)
		}
	}
	for _, a := range slices.Backward(list) {
		if a.ipv6() {
			put(a)
		}
	}
}

// waitLocal waits for what the kernel makes of a new IPv6 address by and by: without the
// route to it a packet for it would meet none as soon as the other link has lost it.
func (p *plan) waitLocal(list []Address, to Link) {
	for _, a := range list {
		if a.ipv6() && !has(to.Addresses, a) {
			p.add(Change{Op: waitLocal, Link: to, Address: a})
		}
	}
}

// settle lets go of what spared IPv6 addresses their duplicate check when they came.
func (p *plan) settle(list []Address, to Link) {
	for _, a := range list {
		if !a.ipv6() || a.flags()&unix.IFA_F_NODAD != 0 {
			continue
		}
		if i := slices.IndexFunc(to.Addresses, a.same); i < 0 || to.Addresses[i].flags()&unix.IFA_F_NODAD != 0 {
			p.add(Change{Op: settle, Link: to, From: to.Name, Address: a})
		}
	}
}

// routes makes routes lead to another link as well. Of those to the same destination the
// first is used.
func (p *plan) routes(list []Route, to Link) {
	for _, rt := range sorted(list) {
		if !slices.ContainsFunc(to.Routes, rt.same) {
			p.add(Change{Op: addRoute, Link: to, Route: rt})
		}
	}
}

func (p *plan) clearRoutes(list []Route, from Link) {
	for _, rt := range slices.Backward(sorted(list)) {
		if i := slices.IndexFunc(from.Routes, rt.same); i >= 0 {
			p.add(Change{Op: delRoute, Link: from, Route: from.Routes[i]})
		}
	}
}

// clearAddresses takes addresses off in the opposite order of that in which addresses puts
// them on, so that what is put back comes to where it was, and no secondary one goes with
// its primary. The route to the subnet of an IPv6 address that lasts for a time only
// outlives it.
func (p *plan) clearAddresses(list []Address, from Link) {
	drop := func(a Address) {
		if i := slices.IndexFunc(from.Addresses, a.same); i >= 0 {
			p.add(Change{Op: delAddress, Link: from, From: from.Name, Address: from.Addresses[i]})
		}
	}
	for _, a := range list {
		if a.ipv6() {
			drop(a)
		}
	}
	for _, a := range slices.Backward(list) {
		if !a.ipv6() {
			drop(a)
		}
	}
	for _, rt := range from.Connected {
		q, _ := rt.parse()
		if slices.ContainsFunc(list, func(a Address) bool { return a.prefix().Masked() == q.dst }) {
			p.add(Change{Op: delRoute, Link: from, Route: rt})
		}
	}
}

func has(list []Address, a Address) bool { return slices.ContainsFunc(list, a.same) }

// sorted puts routes first by which others' gateways may be reached: those straight to the
// link.
func sorted(list []Route) []Route {
	rank := func(r Route) int {
		if p, _ := r.parse(); p.gateway.IsValid() || p.hops > 0 {
			return 1
		}
		return 0
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Route) int { return rank(a) - rank(b) })
	return list
}

func byFamily(list []Route) (ipv4, ipv6 []Route) {
	for _, r := range list {
		if r.ipv6() {
			ipv6 = append(ipv6, r)
		} else {
			ipv4 = append(ipv4, r)
		}
	}
	return ipv4, ipv6
}
