package server

import (
	"encoding/binary"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// unwrap finds the DHCP message in an Ethernet frame: what the kernel does for a UDP
// socket, and no less. checked says that the UDP checksum is known to be good, or is
// not there yet because the sender is on this machine. False: headers or checksums are
// damaged. What follows the datagram in the frame is padding.
//
// Fragments are damaged here: no client sends a message that needs any.
func unwrap(frame []byte, checked bool) (d Datagram, ok bool) {
	if len(frame) < frameLen || binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv4 {
		return d, false
	}
	ip := frame[ethernetLen:]
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	const fragment = 0x3fff // more to come, or an offset
	if ip[0]>>4 != 4 || header < ipv4Len || total < header+udpLen || total > len(ip) || ip[9] != protocolUDP ||
		binary.BigEndian.Uint16(ip[6:])&fragment != 0 || fold(sum(0, ip[:header])) != 0 {
		return d, false
	}
	udp := ip[header:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != serverPort || size < udpLen || size > len(udp) {
		return d, false
	}
	udp = udp[:size]
	if sent := binary.BigEndian.Uint16(udp[6:]); sent != 0 && !checked && // 0 = none
		fold(sum(sum(uint64(protocolUDP)+uint64(size), ip[12:20]), udp)) != 0 {
		return d, false
	}
	return Datagram{
		Off: ethernetLen + header + udpLen, Len: size - udpLen,
		To: netip.AddrFrom4([4]byte(ip[16:20])), From: ipam.MAC(frame[6:12]),
	}, true
}
