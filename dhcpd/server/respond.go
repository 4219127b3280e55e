package server

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Sizes of DHCP messages, without IP and UDP headers, in bytes.
const (
	// headers is what RFC 2132 section 9.10 counts into option 57.
	headers = 20 + 8
	// minReply: the Linux kernel's own client (ip=dhcp) silently ignores less.
	minReply = 300
	// defaultLimit: every client must accept a datagram of 576 bytes.
	defaultLimit = 576 - headers
	// maxReply bounds what a client's option 57 can make us send.
	maxReply = 1500 - headers
)

var (
	broadcastMAC = ipam.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	broadcastIP  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	zeroIP       = netip.IPv4Unspecified()
)

// Query is a message together with how it came.
type Query struct {
	Message
	// To is the datagram's IP destination: what tells a renewing client (unicast to
	// us) from a rebinding one (RFC 2131 section 4.3.2, table 4).
	To netip.Addr
	// From is the Ethernet source; zero = unknown. A relay's own for what it relays.
	From ipam.MAC
	// Held says that the client declined its address a moment ago: it is not to be
	// given again yet.
	Held bool
}

// forged reports whether another station than the client sent q. Only what would harm
// the client is held against it: some clients' other messages come so.
func (q *Query) forged() bool {
	return q.From != ipam.MAC{} && q.From != q.MAC() && q.GIAddr == zeroIP
}

// Delivery says where a reply goes, always from port 67: to port 68 of a station on the
// bridge, or to port 67 of a relay agent, to which the kernel knows the way.
type Delivery struct {
	MAC   ipam.MAC
	IP    netip.Addr
	Relay bool
}

// Reply is a decided answer. It refers to the query, the scope and the reservation
// it was made from and is valid as long as they are; Encoder makes bytes of it.
type Reply struct {
	Type   MessageType // Offer, Ack or Nak
	YIAddr netip.Addr
	CIAddr netip.Addr
	// Lease, T1 and T2 are seconds; a Lease of 0 means that the reply gives none
	// (NAK, answer to INFORM), a T1 of 0 that the lease has no end.
	Lease, T1, T2 uint32
	// Reason of a NAK, in dnsmasq's words; option 56 and the log carry it.
	Reason string
	// Limit is the greatest size of the message, in bytes.
	Limit int
	// ServerID is option 54. SIAddr and File are the next server and the boot file of
	// a client that boots from the network.
	ServerID, SIAddr netip.Addr
	File             []byte
	Flags            uint16
	Rapid            bool // option 80 goes back
	To               Delivery
	// Also is a second copy of a NAK to a renewing client: half of the common
	// clients listen only to unicast then, the others only to broadcast. The copy
	// has the same xid, so a client that took one ignores the other. Zero = none.
	Also Delivery

	query *Query
	scope *Scope
	row   *ipam.Reservation
}

// Respond decides what a query gets. row is the reservation of the query's MAC, nil
// if there is none. It is pure: no clock, no state, no I/O, and the same arguments
// give the same answer. The Reply counts only if the Verdict is Answer.
//
// The rows are those of RFC 2131 sections 4.1 to 4.4 for a server that has one
// fixed address for each client it knows and none for any other.
func Respond(q *Query, s *Scope, row *ipam.Reservation) (Reply, Verdict) {
	if v := screen(q, s); v != Answer {
		return Reply{}, v
	}
	// Silence for strangers, whatever they send and even if they name us: another
	// node with the same server identifier may have the reservation.
	if row == nil || !s.Subnet.Contains(row.Addr) {
		return Reply{}, Unknown
	}
	r := Reply{
		YIAddr: zeroIP, CIAddr: zeroIP, SIAddr: zeroIP, Limit: limit(q, s), Flags: q.Flags, ServerID: serverID(q, s),
		query: q, scope: s, row: row,
	}
	switch q.Type() {
	case Discover:
		if q.Held {
			return Reply{}, HeldDown
		}
		// Another address than the one asked for (option 50) may be offered: section
		// 4.3.1. A ciaddr here is a client's mistake and counts for nothing.
		if _, asked := q.option(optRapidCommit, 0); asked && s.rapidCommit {
			// RFC 4039 section 3.1. Nothing is at stake: the address is the client's anyway.
			r.grant(Ack)
			r.Rapid = true
			return r, Answer
		}
		r.grant(Offer)
		return r, Answer
	case Request:
		if v := r.request(); v != Answer {
			return Reply{}, v
		}
		return r, Answer
	case Inform:
		// Section 4.3.5. Answered only for the client's own address, so that no
		// datagram ever goes to an address that is another's.
		if q.CIAddr != row.Addr {
			return Reply{}, ForeignAddress
		}
		r.Type, r.CIAddr = Ack, q.CIAddr
		r.boot()
		r.deliver(Delivery{MAC: q.MAC(), IP: q.CIAddr})
		return r, Answer
	case Decline:
		if id, ok := q.ServerID(); !ok || !r.isUs(id) {
			return Reply{}, OtherServer
		}
		if ip, ok := q.RequestedIP(); !ok || ip != row.Addr {
			return Reply{}, ForeignAddress
		}
		if q.forged() {
			return Reply{}, Forged
		}
		return Reply{}, Declined
	case Release:
		if q.forged() {
			return Reply{}, Forged
		}
		// The reservation is the CNI's to free, not the client's.
		return Reply{}, Released
	default:
		return Reply{}, OtherType
	}
}

// screen finds what is no client's request on this bridge.
func screen(q *Query, s *Scope) Verdict {
	mac := q.MAC()
	switch {
	case q.Op != opRequest:
		return NoRequest
	case q.HType != htypeEthernet || int(q.HLen) != len(mac) || mac.IsZero() || mac.IsMulticast():
		return BadHardware
	case q.GIAddr != zeroIP && !s.relays(q.GIAddr):
		// On a bridge of one node a relayed message is a mistake or an attempt to
		// have our replies hit somebody else.
		return Relayed
	case q.GIAddr != zeroIP && !s.Subnet.Contains(linkOf(q)):
		return OtherLink
	}
	switch t := q.Type(); t {
	case 0:
		return BOOTP
	case Discover, Request, Inform, Decline, Release:
		return Answer
	default:
		return OtherType
	}
}

// request answers a DHCPREQUEST; which state the client is in shows in the options
// (RFC 2131 section 4.3.2, table 4).
func (r *Reply) request() Verdict {
	q, s := r.query, r.scope
	id, selecting := q.ServerID()
	if selecting && !r.isUs(id) {
		return OtherServer
	}
	ip, requested := q.RequestedIP()
	switch {
	case requested && ip == r.row.Addr && q.Held:
		return HeldDown
	case requested && selecting: // SELECTING
		if ip != r.row.Addr {
			r.refuse(ip, "address not available")
			return Answer
		}
		r.grant(Ack)
	case requested: // INIT-REBOOT; a ciaddr beside option 50 is a known client bug
		if ip != r.row.Addr {
			r.refuse(ip, "wrong address")
			return Answer
		}
		r.grant(Ack)
	case q.CIAddr == zeroIP:
		return Malformed
	case q.CIAddr == r.row.Addr: // RENEWING or REBINDING
		r.grant(Ack)
		r.CIAddr = q.CIAddr
		// The client has its address: section 4.1 sends to it, broadcast flag or not.
		r.deliver(Delivery{MAC: q.MAC(), IP: q.CIAddr})
	default:
		r.refuse(q.CIAddr, "wrong address")
		if q.GIAddr == zeroIP && s.isLocal(q.To) && usable(q.CIAddr) && !s.isLocal(q.CIAddr) {
			r.Also = Delivery{MAC: q.MAC(), IP: q.CIAddr}
		}
	}
	return Answer
}

// grant makes r an OFFER or ACK of the reserved address for a client that has no
// address yet (RFC 2131 section 4.1: the broadcast flag decides how it is reached).
func (r *Reply) grant(t MessageType) {
	r.Type, r.YIAddr = t, r.row.Addr
	r.Lease = r.scope.LeaseTime
	if d := r.row.LeaseTime; d != 0 {
		r.Lease = leaseSeconds(time.Duration(d))
	}
	if r.Lease != infinite {
		// RFC 2131 section 4.4.5, less up to an eighth.
		r.T1, r.T2 = r.Lease/2, uint32(uint64(r.Lease)*7/8)
		r.T1 -= jitter(r.row.MAC, r.T1/8)
		r.T2 -= jitter(r.row.MAC, r.T2/8)
	}
	r.boot()
	to := Delivery{MAC: r.query.MAC(), IP: r.row.Addr}
	if r.query.Flags&flagBroadcast != 0 {
		to = Delivery{MAC: broadcastMAC, IP: broadcastIP}
	}
	r.deliver(to)
}

// deliver sets where r goes: to unless the query was relayed, which sends all replies
// back by the relay (RFC 2131 section 4.1).
func (r *Reply) deliver(to Delivery) {
	if gi := r.query.GIAddr; gi != zeroIP {
		to = Delivery{IP: gi, Relay: true}
	}
	r.To = to
}

// isUs reports whether a is an identifier by which a client may mean this server.
func (r *Reply) isUs(a netip.Addr) bool { return a == r.ServerID || r.scope.isLocal(a) }

// jitter returns a number from 0 to limit that is always the same for a MAC, so that
// workloads which booted together do not renew together for ever.
func jitter(mac ipam.MAC, limit uint32) uint32 {
	h := uint32(2166136261) // FNV-1a, and the finalizer of MurmurHash3: MACs come in rows
	for _, b := range mac {
		h = (h ^ uint32(b)) * 16777619
	}
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	h ^= h >> 16
	return uint32((uint64(limit) + 1) * uint64(h) >> 32)
}

// refuse makes r a NAK, which is broadcast in every case (RFC 2131 section 4.1): the
// client must hear it although its address is wrong. A relay is told by the flag to
// do the same.
func (r *Reply) refuse(asked netip.Addr, reason string) {
	if !r.scope.Subnet.Contains(asked) {
		reason = "wrong network"
	}
	r.Type, r.Reason = Nak, reason
	if r.query.GIAddr != zeroIP {
		r.Flags |= flagBroadcast
	}
	r.deliver(Delivery{MAC: broadcastMAC, IP: broadcastIP})
}

// usable reports whether a can be one machine's address.
func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() || a.IsLinkLocalUnicast()
}

// limit returns how large a message the client takes, by option 57 where it has one.
func limit(q *Query, s *Scope) int {
	n := defaultLimit
	if v, ok := q.option(optMaxSize, 2); ok {
		n = max(int(binary.BigEndian.Uint16(v))-headers, defaultLimit)
	}
	// Replies are never fragmented.
	return max(min(n, s.MTU-headers, maxReply), minReply)
}
