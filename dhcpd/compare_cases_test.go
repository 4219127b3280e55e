package main

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
)

// Why answers differ from dnsmasq's.
const (
	whyEcho     = "RFC 6842 section 3: option 61 goes back as it came"
	whyCopied   = "RFC 2131 table 3: hops and secs are 0 in a reply"
	whyNobody   = "RFC 2131 section 4.3.2: silent where there is no record of the client; another node may have one"
	whyFlags    = "RFC 2131 table 3: the flags are the client's; the broadcast flag is for relays, which must not be skipped (section 4.3.2)"
	whyTwice    = whyFlags + "; section 4.1 has it broadcast, and the copy is for the clients that hear nothing but unicast while they renew"
	whyRefused  = "RFC 2131 section 4.3.2: an address that is not the client's is refused; dnsmasq has the client wait until its lease ends"
	whyBOOTP    = "RFC 1534 section 2: BOOTP clients need not be served; what they hold never ends"
	whyUnasked  = "RFC 2131 section 4.3.1: option 28 was not asked for and is what a host would take by default"
	whyAnother  = "RFC 2131 section 3.1: a client that chose another server is that server's, and a NAK would undo it"
	whyNameless = "RFC 2131 section 4.3.2: a REQUEST names an address; this one is malformed and can be refused nothing"
	whyInform   = "RFC 2131 section 4.3.5 leaves it to policy; only known clients are served here"
	whyEthernet = "RFC 2131 section 2: htype says that chaddr is no Ethernet address, and the bridge has none but Ethernet stations"
	whyEmpty    = "RFC 2132 section 9.8: option 55 has at least one byte; one that has none is none"
	whyRelay    = "a relay agent is answered only if dhcp.relays lists it: RFC 2131 asks for no list, but a forged giaddr makes a server send to anybody"
)

// comparedCases are requests of every kind that the table of answers has, and of clients
// that do not keep to it.
func comparedCases() []comparedCase {
	type msg = *dhcpv4.DHCPv4
	var (
		own      = netip.IPv4Unspecified() // in an Envelope
		stray    = netip.MustParseAddr("192.168.7.7")
		toServer = testnet.Envelope{From: own, To: gateway}
		fromOwn  = testnet.Envelope{From: own}
		relayed  = testnet.Envelope{From: compareRelay, To: gateway, Port: 67}
		opt      = func(m msg, code uint8, v ...byte) {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), v))
		}
		ip       = func(m msg, code uint8, a netip.Addr) { opt(m, code, a.AsSlice()...) }
		unknown  = func(m msg) { m.ClientHWAddr = net.HardwareAddr{2, 9, 9, 9, 9, m.ClientHWAddr[5]} }
		ci       = func(m msg, a netip.Addr) { m.ClientIPAddr = a.AsSlice() }
		gi       = func(m msg, a netip.Addr) { m.GatewayIPAddr = a.AsSlice() }
		discover = func(msg, netip.Addr) {}
	)
	with := func(code uint8, v ...byte) func(msg, netip.Addr) {
		return func(m msg, _ netip.Addr) { opt(m, code, v...) }
	}
	kind := func(k dhcpv4.MessageType, more ...func(msg, netip.Addr)) func(msg, netip.Addr) {
		return func(m msg, a netip.Addr) {
			m.UpdateOption(dhcpv4.OptMessageType(k))
			for _, f := range more {
				f(m, a)
			}
		}
	}
	request := func(more ...func(msg, netip.Addr)) func(msg, netip.Addr) {
		return kind(dhcpv4.MessageTypeRequest, more...)
	}
	var (
		us        = func(m msg, _ netip.Addr) { ip(m, 54, gateway) }
		them      = func(m msg, _ netip.Addr) { ip(m, 54, compareOther) }
		wants     = func(m msg, a netip.Addr) { ip(m, 50, a) }
		has       = func(m msg, a netip.Addr) { ci(m, a) }
		stranger  = func(m msg, _ netip.Addr) { unknown(m) }
		broadcast = func(m msg, _ netip.Addr) { m.SetBroadcast() }
		byRelay   = func(m msg, _ netip.Addr) { gi(m, compareRelay) }
	)
	wantsThe := func(a netip.Addr) func(msg, netip.Addr) { return func(m msg, _ netip.Addr) { ip(m, 50, a) } }
	hasThe := func(a netip.Addr) func(msg, netip.Addr) { return func(m msg, _ netip.Addr) { ci(m, a) } }
	return []comparedCase{
		{name: "discover", make: discover},
		{name: "discover, broadcast flag", make: broadcast},
		{name: "discover, all other flags", make: func(m msg, _ netip.Addr) { m.Flags = 0x7fff }},
		{name: "discover, hops and secs", why: whyCopied, make: func(m msg, _ netip.Addr) { m.HopCount, m.NumSeconds = 3, 77 }},
		{name: "discover, client identifier", why: whyEcho, make: with(61, 255, 1, 2, 3, 4, 5)},
		{name: "discover, another address asked for", make: wantsThe(compareOther)},
		{name: "discover, lease time asked for", make: with(51, 0, 0, 0, 30)},
		{name: "discover, ciaddr", make: has},
		{name: "discover, no option 55", make: func(m msg, _ netip.Addr) { m.DeleteOption(dhcpv4.OptionParameterRequestList) }},
		{name: "discover, option 55 asks for little", why: whyUnasked, make: with(55, 3)},
		{name: "discover, option 55 asks twice and for what is not to be asked for", why: whyUnasked, make: with(55, 3, 3, 0, 255, 53, 52, 50)},
		{name: "discover, rapid commit", make: with(80)},
		{name: "discover, option 82 without relay", make: with(82, 1, 2, 'p', '1')},
		{name: "discover, maximum size 300", make: with(57, 1, 44)},
		{name: "discover, maximum size 1500", make: with(57, 5, 220)},
		{name: "discover, host name with control characters", make: with(12, 'a', 0x1b, '\n', 'b')},
		{name: "discover to the server's address", make: discover, to: toServer},
		{name: "discover from an odd port", make: discover, to: testnet.Envelope{Port: 1068}},
		{name: "discover, unknown MAC", make: stranger},
		{name: "discover, unknown MAC asks for a reserved address", make: kind(dhcpv4.MessageTypeDiscover, wants, stranger)},

		{name: "selecting", make: request(us, wants)},
		{name: "selecting, broadcast flag", make: request(us, wants, broadcast)},
		{name: "selecting, client identifier", why: whyEcho, make: request(us, wants, with(61, 1, 2, 3))},
		{name: "selecting, wrong address", why: whyFlags, make: request(us, wantsThe(compareOther))},
		{name: "selecting, wrong network", why: whyFlags, make: request(us, wantsThe(stray))},
		{name: "selecting, another server", why: whyAnother, make: request(them, wants)},
		{name: "selecting, no address", why: whyNameless, make: request(us)},
		{name: "selecting, unknown MAC", why: whyNobody, make: request(us, wants, stranger)},

		{name: "init-reboot", lease: true, make: request(wants)},
		{name: "init-reboot, nothing leased before", make: request(wants)},
		{name: "init-reboot, wrong address", why: whyFlags, lease: true, make: request(wantsThe(compareOther))},
		{name: "init-reboot, wrong network", why: whyFlags, lease: true, make: request(wantsThe(stray))},
		{name: "init-reboot, unknown MAC", why: whyNobody, make: request(wants, stranger)},
		{name: "init-reboot, unknown MAC, wrong network", why: whyNobody, make: request(wantsThe(stray), stranger)},
		{name: "init-reboot, ciaddr as well", lease: true, make: request(wants, has)},

		{name: "renewing", lease: true, to: toServer, make: request(has)},
		{name: "renewing, broadcast flag", lease: true, to: toServer, make: request(has, broadcast)},
		{name: "renewing, nothing leased before", to: toServer, make: request(has)},
		{name: "renewing a wrong address", why: whyTwice, lease: true, to: testnet.Envelope{From: compareOther, To: gateway}, make: request(hasThe(compareOther))},
		{name: "renewing, unknown MAC", why: whyNobody, to: toServer, make: request(has, stranger)},
		{name: "rebinding", lease: true, to: fromOwn, make: request(has)},
		{name: "rebinding, nothing leased before", to: fromOwn, make: request(has)},
		{name: "rebinding a wrong address", why: whyRefused, lease: true, to: testnet.Envelope{From: compareOther}, make: request(hasThe(compareOther))},
		{name: "rebinding, unknown MAC", why: whyNobody, to: fromOwn, make: request(has, stranger)},
		{name: "request that names no address", why: whyNameless, make: request()},

		{name: "inform", lease: true, to: toServer, make: kind(dhcpv4.MessageTypeInform, has)},
		{name: "inform by broadcast", lease: true, to: fromOwn, make: kind(dhcpv4.MessageTypeInform, has)},
		{name: "inform, no ciaddr", make: kind(dhcpv4.MessageTypeInform)},
		{name: "inform, unknown MAC", why: whyInform, to: toServer, make: kind(dhcpv4.MessageTypeInform, has, stranger)},
		{name: "release", lease: true, to: toServer, make: kind(dhcpv4.MessageTypeRelease, has, us)},
		{name: "decline to another server", lease: true, make: kind(dhcpv4.MessageTypeDecline, wants, them)},

		{name: "relayed discover", to: relayed, make: byRelay},
		{name: "relayed discover, option 82", to: relayed, make: kind(dhcpv4.MessageTypeDiscover, byRelay, with(82, 1, 2, 'p', '1'))},
		{name: "relayed discover, server identifier override", to: relayed, make: kind(dhcpv4.MessageTypeDiscover, byRelay, with(82, 11, 4, 10, 0, 0, 9))},
		{name: "relayed request, wrong address", to: relayed, make: request(us, wantsThe(compareOther), byRelay)},
		{name: "relayed by somebody who is not allowed", why: whyRelay, to: testnet.Envelope{From: compareOther, To: gateway, Port: 67},
			make: func(m msg, _ netip.Addr) { gi(m, compareOther) }},

		{name: "op 2", make: func(m msg, _ netip.Addr) { m.OpCode = dhcpv4.OpcodeBootReply }},
		{name: "htype 6", why: whyEthernet, make: func(m msg, _ netip.Addr) { m.HWType = 6 }},
		{name: "no END", make: discover, raw: func(b []byte) []byte { return b[:lastEnd(b)] }},
		{name: "an option that runs past the end", make: discover, raw: func(b []byte) []byte { return append(b[:lastEnd(b)], 12, 40, 'x') }},
		{name: "a lone option code at the end", make: discover, raw: func(b []byte) []byte { return append(b[:lastEnd(b)], 12) }},
		{name: "option 53 of two bytes", make: with(53, 1, 1)},
		{name: "option 53 of no byte", why: whyBOOTP, make: with(53)},
		{name: "option 53 is 0", why: whyBOOTP, make: with(53, 0)},
		{name: "option 53 is 99", make: with(53, 99)},
		{name: "option 50 of three bytes", make: with(50, 10, 0, 0)},
		{name: "option 54 of five bytes", make: request(with(54, 10, 0, 0, 1, 9), wants)},
		{name: "option 61 of no byte", why: whyEcho, make: with(61)},
		{name: "option 55 of no byte", why: whyEmpty, make: with(55)},
		{name: "overload: type in file", make: discover, raw: func(b []byte) []byte { return overloaded(b, 1, 108) }},
		{name: "overload: type in sname", make: discover, raw: func(b []byte) []byte { return overloaded(b, 2, 44) }},
		{name: "BOOTP", why: whyBOOTP, make: func(m msg, _ netip.Addr) { m.Options = dhcpv4.Options{} }},
	}
}

// lastEnd returns where the END of a message stands.
func lastEnd(b []byte) int {
	i := len(b) - 1
	for b[i] != 255 {
		i--
	}
	return i
}

// overloaded moves option 53, a DISCOVER's, into a field of the header.
func overloaded(b []byte, value byte, field int) []byte {
	b = append(b[:240:240], 52, 1, value, 255)
	copy(b[field:], []byte{53, 1, 1, 255})
	return b
}
