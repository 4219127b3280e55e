package lab

import (
	"encoding/binary"
	"net/netip"
)

// Flags of a TCP segment.
const (
	TCPSyn = 0x02
	TCPAck = 0x10
)

// TCP builds an IPv4 packet with a TCP segment. With TCPAck it acknowledges what nobody sent.
func TCP(src, dst netip.AddrPort, flags byte, payload []byte) []byte {
	t := binary.BigEndian.AppendUint16(nil, src.Port())
	t = binary.BigEndian.AppendUint16(t, dst.Port())
	t = binary.BigEndian.AppendUint32(t, 1000)
	ack := uint32(0)
	if flags&TCPAck != 0 {
		ack = 1
	}
	t = binary.BigEndian.AppendUint32(t, ack)
	t = append(t, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0) // no options, window, checksum, urgent
	t = append(t, payload...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, 6)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(t)))
	binary.BigEndian.PutUint16(t[16:], checksum(append(pseudo, t...), 0))
	return IPv4(src.Addr(), dst.Addr(), 6, t)
}

// EchoReply builds an IPv4 packet with an ICMP echo reply.
func EchoReply(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	p := Echo(src, dst, id, seq, payload)
	icmp := p[20:]
	icmp[0], icmp[2], icmp[3] = 0, 0, 0
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp, 0))
	return p
}

// Unreachable builds an IPv4 packet with an ICMP error, port unreachable, that quotes an IPv4
// packet, whole.
func Unreachable(src, dst netip.Addr, quoted []byte) []byte {
	icmp := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp, 0))
	return IPv4(src, dst, 1, icmp)
}

// Fragments cuts an IPv4 packet without options in two; first is the length of the first
// fragment's data, in bytes, a multiple of 8. The two belong together by id.
func Fragments(packet []byte, first int, id uint16) [2][]byte {
	const moreFragments = 0x2000
	cut := func(data []byte, offset uint16) []byte {
		p := append(append([]byte(nil), packet[:20]...), data...)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], id)
		binary.BigEndian.PutUint16(p[6:], offset)
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20], 0))
		return p
	}
	data := packet[20:]
	return [2][]byte{cut(data[:first], moreFragments), cut(data[first:], uint16(first/8))}
}
