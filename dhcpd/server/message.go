package server

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Layout of a message (RFC 2131 section 2).
const (
	snameOffset   = 44
	fileOffset    = 108
	cookieOffset  = 236
	optionsOffset = 240
)

// Option codes of RFC 2132 and its successors that this server reads or writes.
const (
	optPad          = 0
	optSubnetMask   = 1
	optRouter       = 3
	optDNS          = 6
	optHostname     = 12
	optDomain       = 15
	optMTU          = 26
	optBroadcast    = 28
	optRequestedIP  = 50
	optLeaseTime    = 51
	optOverload     = 52
	optMessageType  = 53
	optServerID     = 54
	optRequestList  = 55
	optMessage      = 56
	optMaxSize      = 57
	optRenewalTime  = 58
	optRebindTime   = 59
	optVendorClass  = 60
	optBootServer   = 66
	optBootFile     = 67
	optRapidCommit  = 80
	optClientID     = 61
	optRelayInfo    = 82
	optDomainSearch = 119
	optRoutes       = 121 // RFC 3442
	optRoutesMS     = 249 // the same under Microsoft's number
	optEnd          = 255
)

// MessageType is the value of option 53; zero means that there is none (BOOTP).
type MessageType uint8

// Message types of RFC 2132 section 9.6 and RFC 3203.
const (
	Discover   MessageType = 1
	Offer      MessageType = 2
	Request    MessageType = 3
	Decline    MessageType = 4
	Ack        MessageType = 5
	Nak        MessageType = 6
	Release    MessageType = 7
	Inform     MessageType = 8
	ForceRenew MessageType = 9
)

// String returns the word dnsmasq's log has for t, which operators grep for.
func (t MessageType) String() string {
	switch t {
	case 0:
		return "BOOTP"
	case Discover:
		return "DHCPDISCOVER"
	case Offer:
		return "DHCPOFFER"
	case Request:
		return "DHCPREQUEST"
	case Decline:
		return "DHCPDECLINE"
	case Ack:
		return "DHCPACK"
	case Nak:
		return "DHCPNAK"
	case Release:
		return "DHCPRELEASE"
	case Inform:
		return "DHCPINFORM"
	default:
		return "DHCP message of another type"
	}
}

// codeSet is a set of option codes.
type codeSet [4]uint64

func (s *codeSet) add(code byte)      { s[code>>6] |= 1 << (code & 63) }
func (s *codeSet) has(code byte) bool { return s[code>>6]&(1<<(code&63)) != 0 }

const (
	opRequest     = 1
	opReply       = 2
	htypeEthernet = 1
	flagBroadcast = 0x8000
)

var magicCookie = [4]byte{99, 130, 83, 99}

// Errors of Parse: what was received is no DHCP message at all.
var (
	ErrShort  = errors.New("shorter than a DHCP header")
	ErrCookie = errors.New("no DHCP magic cookie")
)

// Message is a received DHCP message. The zero value is ready for Parse, which may
// be called again and again; what its methods return refers to the buffer given to
// the last Parse and is valid until the next one or until that buffer changes.
type Message struct {
	Op, HType, HLen, Hops byte
	XID                   uint32
	Secs, Flags           uint16
	CIAddr, GIAddr        netip.Addr
	CHAddr                [16]byte // with its padding, which replies copy

	raw      []byte
	first    [256]span // first instance of each option
	repeated codeSet   // options that occur more than once
	areas    [3]span   // where options stand: options, then file, then sname
	joined   []byte    // values put together from several instances
}

// span is a part of raw. Offset 0 (the header) never holds an option: absent.
type span struct{ off, n uint16 }

// Parse reads b, as tolerantly as dnsmasq does: a missing END, an option that runs
// past the end or a lone code end the list, and what stood before them counts.
// Options continue in file, then sname where option 52 says so (RFC 2132 section
// 9.3). It does not allocate. b must be at most 65535 bytes, as a datagram is.
func (m *Message) Parse(b []byte) error {
	if len(b) < cookieOffset {
		return ErrShort
	}
	if len(b) < optionsOffset || [4]byte(b[cookieOffset:optionsOffset]) != magicCookie {
		return ErrCookie
	}
	m.raw = b
	m.Op, m.HType, m.HLen, m.Hops = b[0], b[1], b[2], b[3]
	m.XID = binary.BigEndian.Uint32(b[4:])
	m.Secs = binary.BigEndian.Uint16(b[8:])
	m.Flags = binary.BigEndian.Uint16(b[10:])
	m.CIAddr = netip.AddrFrom4([4]byte(b[12:16]))
	m.GIAddr = netip.AddrFrom4([4]byte(b[24:28]))
	m.CHAddr = [16]byte(b[28:44])
	m.first = [256]span{}
	m.repeated = codeSet{}
	m.joined = m.joined[:0]

	m.areas = [3]span{{optionsOffset, uint16(len(b) - optionsOffset)}}
	m.index(m.areas[0])
	// Only the first area's option 52 counts: overload inside overload is nonsense.
	if v, ok := m.option(optOverload, 1); ok {
		if v[0]&1 != 0 {
			m.areas[1] = span{fileOffset, cookieOffset - fileOffset}
		}
		if v[0]&2 != 0 {
			m.areas[2] = span{snameOffset, fileOffset - snameOffset}
		}
		m.index(m.areas[1])
		m.index(m.areas[2])
	}
	return nil
}

// index notes where the options of one area stand.
func (m *Message) index(area span) {
	for i, code, n := m.next(area, int(area.off)); n >= 0; i, code, n = m.next(area, i+n) {
		if m.first[code].off != 0 {
			m.repeated.add(code)
			continue
		}
		m.first[code] = span{uint16(i), uint16(n)}
	}
}

// next finds the first option of area at or after offset i. It returns the offset
// and length of the value; a negative length means that there is none.
func (m *Message) next(area span, i int) (off int, code byte, n int) {
	end := int(area.off) + int(area.n)
	for i < end && m.raw[i] == optPad {
		i++
	}
	if i+1 >= end || m.raw[i] == optEnd {
		return 0, 0, -1
	}
	n = int(m.raw[i+1])
	if i+2+n > end {
		return 0, 0, -1
	}
	return i + 2, m.raw[i], n
}

// option returns the first instance of an option if it has at least atLeast bytes;
// a shorter one counts as absent (as in dnsmasq's option_find).
func (m *Message) option(code byte, atLeast int) ([]byte, bool) {
	s := m.first[code]
	if s.off == 0 || int(s.n) < atLeast {
		return nil, false
	}
	return m.raw[s.off : s.off+s.n], true
}

// long returns an option whose instances belong together (RFC 3396): the value that
// they make in the order options, file, sname.
func (m *Message) long(code byte) ([]byte, bool) {
	if !m.repeated.has(code) {
		return m.option(code, 0)
	}
	start := len(m.joined)
	for _, area := range m.areas {
		for i, c, n := m.next(area, int(area.off)); n >= 0; i, c, n = m.next(area, i+n) {
			if c == code {
				m.joined = append(m.joined, m.raw[i:i+n]...)
			}
		}
	}
	return m.joined[start:], true
}

// addr returns an option that is an address.
func (m *Message) addr(code byte) (netip.Addr, bool) {
	v, ok := m.option(code, 4)
	if !ok {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(v)), true
}

// Type returns the value of option 53, the first if it is repeated; zero = BOOTP.
func (m *Message) Type() MessageType {
	v, ok := m.option(optMessageType, 1)
	if !ok {
		return 0
	}
	return MessageType(v[0])
}

// MAC returns the client's hardware address, its whole identity here: one machine
// shows up with several client identifiers (PXE ROM, iPXE, operating system).
func (m *Message) MAC() ipam.MAC { return ipam.MAC(m.CHAddr[:6]) }

// agentAddr returns an address that a relay agent put into option 82 (RFC 3046) as the
// given sub-option.
func (m *Message) agentAddr(sub byte) (netip.Addr, bool) {
	v, _ := m.long(optRelayInfo)
	for len(v) >= 2 {
		n := int(v[1])
		if len(v) < 2+n {
			break
		}
		if v[0] == sub && n == 4 {
			return netip.AddrFrom4([4]byte(v[2:6])), true
		}
		v = v[2+n:]
	}
	return netip.Addr{}, false
}

// RequestedIP returns option 50.
func (m *Message) RequestedIP() (netip.Addr, bool) { return m.addr(optRequestedIP) }

// ServerID returns option 54.
func (m *Message) ServerID() (netip.Addr, bool) { return m.addr(optServerID) }
