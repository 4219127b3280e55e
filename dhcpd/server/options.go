package server

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
	optClientID     = 61
	optRelayInfo    = 82
	optDomainSearch = 119
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
