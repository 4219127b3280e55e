package guard

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var broadcast = ipam.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ethernet(dst, src ipam.MAC, typ uint16, payload ...[]byte) []byte {
	return slices.Concat(append([][]byte{dst[:], src[:], be16(typ)}, payload...)...)
}

// vlanTag wraps the frame's type and payload in a tag.
func vlanTag(frame []byte, tpid, vid uint16) []byte {
	return slices.Concat(frame[:12], be16(tpid), be16(vid), frame[12:])
}

// An ipv4 is the header fields that cases change; the rest is as it should be.
type ipv4 struct {
	src, dst netip.Addr
	proto    byte
	options  []byte // a multiple of four
	fragment uint16 // flags and offset
	length   uint16 // total, if it is to be a lie
}

func (h ipv4) packet(payload []byte) []byte {
	b := make([]byte, 20, 20+len(h.options)+len(payload))
	b = append(b, h.options...)
	b[0] = 0x40 | byte(len(b)/4)
	total := uint16(len(b) + len(payload))
	if h.length != 0 {
		total = h.length
	}
	binary.BigEndian.PutUint16(b[2:], total)
	binary.BigEndian.PutUint16(b[4:], 0x1234)
	binary.BigEndian.PutUint16(b[6:], h.fragment)
	b[8], b[9] = 64, h.proto
	copy(b[12:], h.src.AsSlice())
	copy(b[16:], h.dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// udpDatagram has no checksum, which IPv4 allows.
func udpDatagram(sport, dport uint16, payload []byte) []byte {
	return slices.Concat(be16(sport), be16(dport), be16(uint16(8+len(payload))), be16(0), payload)
}

// udpPacket is an IPv4 packet with a datagram.
func udpPacket(src, dst netip.Addr, sport, dport uint16, payload []byte) []byte {
	return ipv4{src: src, dst: dst, proto: 17}.packet(udpDatagram(sport, dport, payload))
}

// dhcpMessage is what a DHCP message has up to its client's MAC, and the tag.
func dhcpMessage(chaddr ipam.MAC, tag []byte) []byte {
	return slices.Concat([]byte{1, 1, 6, 0}, make([]byte, 24), chaddr[:], make([]byte, 10), tag)
}

const etherTypeIPv6 = 0x86dd

// ipv6Packet is a packet from fe80::1.
func ipv6Packet(dst string, next byte, payload []byte) []byte {
	src, to := netip.MustParseAddr("fe80::1"), netip.MustParseAddr(dst)
	return slices.Concat([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{next, 255},
		src.AsSlice(), to.AsSlice(), payload)
}

// An arpPacket is a request or reply; what is zero in its header is as usual.
type arpPacket struct {
	op                   uint16
	htype, ptype         uint16
	hlen, plen           byte
	senderMAC, targetMAC ipam.MAC
	sender, target       netip.Addr
}

func (a arpPacket) packet(trailer []byte) []byte {
	or := func(v, usual uint16) uint16 {
		if v == 0 {
			return usual
		}
		return v
	}
	return slices.Concat(be16(or(a.htype, 1)), be16(or(a.ptype, etherTypeIPv4)),
		[]byte{byte(or(uint16(a.hlen), 6)), byte(or(uint16(a.plen), 4))}, be16(or(a.op, 1)),
		a.senderMAC[:], a.sender.AsSlice(), a.targetMAC[:], a.target.AsSlice(), trailer)
}
