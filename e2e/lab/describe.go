package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Describe returns a frame as a line of text, in tcpdump's words.
func Describe(frame []byte) string {
	if len(frame) < 14 {
		return fmt.Sprintf("%d bytes that are no frame", len(frame))
	}
	p := frame[14:]
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == 0x0806 && len(p) >= 28:
		return describeARP(p)
	case etherType == 0x0800 && len(p) >= 20 && len(p) >= ihl(p):
		return "IP " + describeIPv4(p)
	case etherType == 0x8100 && len(p) >= 4:
		inner := append(append([]byte(nil), frame[:12]...), p[2:]...)
		return fmt.Sprintf("vlan %d, %s", binary.BigEndian.Uint16(p)&0xfff, Describe(inner))
	case etherType < 0x0600:
		return fmt.Sprintf("802.3, length %d", etherType)
	default:
		return fmt.Sprintf("ethertype %#04x, length %d", etherType, len(frame))
	}
}

func ihl(p []byte) int { return int(p[0]&0xf) * 4 }

func address(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

func describeARP(p []byte) string {
	sender, target := address(p[14:]), address(p[24:])
	switch op := binary.BigEndian.Uint16(p[6:]); op {
	case ARPRequest:
		return fmt.Sprintf("ARP, Request who-has %s tell %s", target, sender)
	case ARPReply:
		return fmt.Sprintf("ARP, Reply %s is-at %s", sender, net.HardwareAddr(p[8:14]))
	default:
		return fmt.Sprintf("ARP, operation %d", op)
	}
}

var icmpTypes = map[byte]string{0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}

func describeIPv4(p []byte) string {
	src, dst := address(p[12:]).String(), address(p[16:]).String()
	between := src + " > " + dst
	if offset := binary.BigEndian.Uint16(p[6:]) & 0x1fff; offset != 0 {
		return fmt.Sprintf("%s: fragment at %d", between, int(offset)*8)
	}
	l4 := p[ihl(p):]
	ports := func() string {
		return fmt.Sprintf("%s.%d > %s.%d", src, binary.BigEndian.Uint16(l4), dst, binary.BigEndian.Uint16(l4[2:]))
	}
	switch protocol := p[9]; {
	case protocol == 1 && len(l4) >= 2:
		if name, ok := icmpTypes[l4[0]]; ok {
			return between + ": ICMP " + name
		}
		return fmt.Sprintf("%s: ICMP type %d", between, l4[0])
	case protocol == 6 && len(l4) >= 14:
		return fmt.Sprintf("%s: TCP [%s]", ports(), tcpFlags(l4[13]))
	case protocol == 17 && len(l4) >= 8:
		if kind := dhcpKind(l4[8:]); kind != "" {
			return ports() + ": DHCP " + kind
		}
		return ports() + ": UDP"
	default:
		return fmt.Sprintf("%s: protocol %d", between, protocol)
	}
}

func tcpFlags(b byte) string {
	var out strings.Builder
	for i, letter := range "FSRP.U" {
		if b&(1<<i) != 0 {
			out.WriteRune(letter)
		}
	}
	return out.String()
}

var dhcpTypes = []string{"", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"}

// dhcpKind reads option 53 of a DHCP message (RFC 2131, section 2); "" if it is none.
func dhcpKind(message []byte) string {
	const fixed, cookie = 236, "\x63\x82\x53\x63"
	if len(message) < fixed+4 || string(message[fixed:fixed+4]) != cookie {
		return ""
	}
	for options := message[fixed+4:]; len(options) >= 2 && options[0] != 255; {
		if options[0] == 0 { // padding has no length
			options = options[1:]
			continue
		}
		length := int(options[1])
		if options[0] == 53 && length == 1 && len(options) > 2 && int(options[2]) < len(dhcpTypes) {
			return dhcpTypes[options[2]]
		}
		if len(options) < 2+length {
			break
		}
		options = options[2+length:]
	}
	return "message"
}
