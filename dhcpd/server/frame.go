package server

import (
	"encoding/binary"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	ethernetLen = 14
	ipv4Len     = 20
	udpLen      = 8
	frameLen    = ethernetLen + ipv4Len + udpLen // what stands before the message

	serverPort = 67
	clientPort = 68

	etherTypeIPv4 = 0x0800
	protocolUDP   = 17
	ttl           = 64
	tosCS6        = 0xc0 // network control, as dnsmasq marks it
	dontFragment  = 0x4000
)

// putHeaders writes Ethernet, IPv4 and UDP headers into the first frameLen bytes of
// frame, whose message is already behind them. Both checksums are computed here:
// over a veth the kernel leaves a UDP socket's checksum to hardware that is not
// there, and clients with raw sockets drop the packet.
func putHeaders(frame []byte, srcMAC ipam.MAC, src netip.Addr, to Delivery) {
	copy(frame[0:6], to.MAC[:])
	copy(frame[6:12], srcMAC[:])
	binary.BigEndian.PutUint16(frame[12:], etherTypeIPv4)

	ip := frame[ethernetLen:]
	from4, to4 := src.As4(), to.IP.As4()
	clear(ip[:ipv4Len+udpLen])
	ip[0] = 4<<4 | ipv4Len/4
	ip[1] = tosCS6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[6:], dontFragment)
	ip[8], ip[9] = ttl, protocolUDP
	copy(ip[12:], from4[:])
	copy(ip[16:], to4[:])
	binary.BigEndian.PutUint16(ip[10:], fold(sum(0, ip[:ipv4Len])))

	udp := ip[ipv4Len:]
	binary.BigEndian.PutUint16(udp[0:], serverPort)
	port := uint16(clientPort)
	if to.Relay {
		port = serverPort
	}
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	// The pseudo header of RFC 768: addresses, protocol and length.
	check := fold(sum(sum(uint64(protocolUDP)+uint64(len(udp)), ip[12:20]), udp))
	if check == 0 {
		check = 0xffff // 0 means "no checksum"
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}

// sum adds b's 16-bit words (RFC 1071), 32 bits at a time: any message fits.
func sum(acc uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		acc += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		acc += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		acc += uint64(b[0]) << 8
	}
	return acc
}

func fold(acc uint64) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return ^uint16(acc)
}
