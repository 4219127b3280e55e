package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// Broadcast is the Ethernet broadcast address.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Ethernet builds a frame.
func Ethernet(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := append(append([]byte(nil), dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, etherType), payload...)
}

// ARP builds an ARP frame from dst and src, of the Ethernet header, and the sender and
// target that the packet itself names.
func ARP(dst, src net.HardwareAddr, op uint16, sender, target Endpoint) []byte {
	p := []byte{0, 1, 8, 0, 6, 4} // Ethernet, IPv4, lengths
	p = binary.BigEndian.AppendUint16(p, op)
	p = append(append(p, sender.MAC...), sender.Addr.AsSlice()...)
	p = append(append(p, target.MAC...), target.Addr.AsSlice()...)
	return Ethernet(dst, src, 0x0806, p)
}

// IPv4 builds an IPv4 packet without options.
func IPv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	p := []byte{0x45, 0}
	p = binary.BigEndian.AppendUint16(p, uint16(20+len(payload)))
	p = append(p, 0, 0, 0, 0, 64, protocol, 0, 0)
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(p[10:], checksum(p, 0))
	return append(p, payload...)
}

// UDP builds an IPv4 packet with a UDP datagram.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, src.Port())
	u = binary.BigEndian.AppendUint16(u, dst.Port())
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, 17)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(u)))
	sum := checksum(append(pseudo, u...), 0)
	if sum == 0 {
		sum = 0xffff // 0 would mean that there is none
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	return IPv4(src.Addr(), dst.Addr(), 17, u)
}

// Echo builds an IPv4 packet with an ICMP echo request.
func Echo(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	p := []byte{8, 0, 0, 0}
	p = binary.BigEndian.AppendUint16(p, id)
	p = binary.BigEndian.AppendUint16(p, seq)
	p = append(p, payload...)
	binary.BigEndian.PutUint16(p[2:], checksum(p, 0))
	return IPv4(src, dst, 1, p)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
