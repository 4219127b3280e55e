package main

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	ethernetLen = 14
	ipv4Len     = 20
	udpLen      = 8
	headersLen  = ethernetLen + ipv4Len + udpLen
	fixedLen    = 240 // of a DHCP message, the cookie included
	messageLen  = 300 // what RFC 1542 section 2.1 pads to

	serverPort, clientPort = 67, 68
)

// Message types (RFC 2132 section 9.6) and options.
const (
	discover, offer, request, ack, nak = 1, 2, 3, 5, 6

	optMask, optRequested, optLease, optType, optServerID, optWanted, optEnd = 1, 50, 51, 53, 54, 55, 255
)

var cookie = [4]byte{99, 130, 83, 99}

// wanted is what dhclient asks for as Debian configures it.
var wanted = []byte{1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42}

// query is what a client says.
type query struct {
	kind     byte
	xid      uint32
	mac      ipam.MAC
	flags    uint16
	asked    netip.Addr // option 50; zero = none
	serverID netip.Addr // option 54; zero = none
	// relay and server are set for a message that a relay passes on: from where to where.
	relay, server netip.Addr
	relayMAC      ipam.MAC
	serverMAC     ipam.MAC
}

// put writes the frame of q into b, whose capacity is enough, and returns it.
func (q *query) put(b []byte) []byte {
	b = b[:headersLen+messageLen]
	clear(b)
	m := b[headersLen:]
	m[0], m[1], m[2] = 1, 1, 6 // BOOTREQUEST, Ethernet
	binary.BigEndian.PutUint32(m[4:], q.xid)
	binary.BigEndian.PutUint16(m[10:], q.flags)
	copy(m[28:], q.mac[:])
	copy(m[236:], cookie[:])
	o := append(m[:fixedLen], optType, 1, q.kind)
	if q.serverID.IsValid() {
		id := q.serverID.As4()
		o = append(append(o, optServerID, 4), id[:]...)
	}
	if q.asked.IsValid() {
		ip := q.asked.As4()
		o = append(append(o, optRequested, 4), ip[:]...)
	}
	o = append(append(o, optWanted, byte(len(wanted))), wanted...)
	o = append(o, optEnd)
	_ = o // in m

	e := envelope{fromMAC: q.mac, toMAC: broadcastMAC, from: netip.IPv4Unspecified(), to: broadcastIP, fromPort: clientPort, toPort: serverPort}
	if q.relay.IsValid() {
		gi := q.relay.As4()
		m[3] = 1 // hops
		copy(m[24:], gi[:])
		e = envelope{fromMAC: q.relayMAC, toMAC: q.serverMAC, from: q.relay, to: q.server, fromPort: serverPort, toPort: serverPort}
	}
	e.put(b)
	return b
}

var (
	broadcastMAC = ipam.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	broadcastIP  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// envelope is how a message travels.
type envelope struct {
	fromMAC, toMAC   ipam.MAC
	from, to         netip.Addr
	fromPort, toPort uint16
}

// put writes the headers of frame, whose message is there already. The checksums are
// right: some servers read the wire themselves and verify them.
func (e *envelope) put(frame []byte) {
	copy(frame, e.toMAC[:])
	copy(frame[6:], e.fromMAC[:])
	binary.BigEndian.PutUint16(frame[12:], 0x0800)
	ip := frame[ethernetLen:]
	from, to := e.from.As4(), e.to.As4()
	clear(ip[:ipv4Len+udpLen])
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], from[:])
	copy(ip[16:], to[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:ipv4Len])))
	udp := ip[ipv4Len:]
	binary.BigEndian.PutUint16(udp, e.fromPort)
	binary.BigEndian.PutUint16(udp[2:], e.toPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	s := ^fold(sum(sum(17+uint64(len(udp)), ip[12:20]), udp))
	if s == 0 {
		s = 0xffff // 0 means that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], s)
}

// sum is RFC 1071's, 32 bits at a time.
func sum(acc uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		acc += uint64(binary.BigEndian.Uint32(b))
	}
	for i, c := range b {
		acc += uint64(c) << (8 * (1 - i%2))
	}
	return acc
}

func fold(acc uint64) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// answer is what a server says, as far as a client of ours looks at it.
type answer struct {
	kind     byte
	xid      uint32
	mac      ipam.MAC // chaddr
	yiaddr   netip.Addr
	serverID netip.Addr
}

var errNoAnswer = errors.New("not the answer of a DHCP server")

// parseAnswer reads a whole frame.
func parseAnswer(f []byte) (answer, error) {
	if len(f) < headersLen || f[ethernetLen] != 0x45 || f[ethernetLen+9] != 17 || binary.BigEndian.Uint16(f[ethernetLen+ipv4Len:]) != serverPort {
		return answer{}, errNoAnswer
	}
	return parseMessage(f[headersLen:], 2)
}

// parseMessage reads a message of one kind, BOOTREQUEST (1) or BOOTREPLY (2).
func parseMessage(m []byte, op byte) (answer, error) {
	if len(m) < fixedLen || m[0] != op || [4]byte(m[236:240]) != cookie {
		return answer{}, errNoAnswer
	}
	a := answer{
		xid: binary.BigEndian.Uint32(m[4:]), mac: ipam.MAC(m[28:34]),
		yiaddr: netip.AddrFrom4([4]byte(m[16:20])),
	}
	for o := m[fixedLen:]; len(o) >= 2 && o[0] != optEnd; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		n := int(o[1])
		if len(o) < 2+n {
			break
		}
		switch value := o[2 : 2+n]; {
		case o[0] == optType && n == 1:
			a.kind = value[0]
		case o[0] == optServerID && n == 4:
			a.serverID = netip.AddrFrom4([4]byte(value))
		}
		o = o[2+n:]
	}
	if a.kind == 0 {
		return answer{}, errNoAnswer
	}
	return a, nil
}
