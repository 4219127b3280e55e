package server

// Verdict says what becomes of a query: an answer, or why there is silence.
type Verdict uint8

// Verdicts. All but Answer mean silence.
const (
	Answer         Verdict = iota
	Unknown                // no reservation for this MAC
	NoRequest              // op is not BOOTREQUEST: a server's message
	BadHardware            // chaddr cannot be one Ethernet station's
	Relayed                // giaddr set, relays are not allowed
	BOOTP                  // no option 53
	OtherType              // a type that no client sends to a server of ours
	OtherServer            // the client chose another server
	Malformed              // a REQUEST that names no address
	ForeignAddress         // concerns an address that is not the client's
	Declined               // the client found its address in use
	Released               // the client is done with its address; the row stays
	OtherLink              // relayed from a link that is not this network's
	HeldDown               // the client's address was declined a moment ago
	Forged                 // a DECLINE or RELEASE that another station sent in the client's name
	Unsure                 // would be refused, but the store cannot be read (Server only)
	verdicts               // how many there are
)

// Label returns the name of v in metrics.
func (v Verdict) Label() string {
	switch v {
	case Answer:
		return "answered"
	case Unknown:
		return "unknown_client"
	case NoRequest:
		return "not_a_request"
	case BadHardware:
		return "bad_hardware_address"
	case Relayed:
		return "relayed"
	case BOOTP:
		return "bootp"
	case OtherType:
		return "other_type"
	case OtherServer:
		return "other_server"
	case Malformed:
		return "names_no_address"
	case ForeignAddress:
		return "foreign_address"
	case Declined:
		return "declined"
	case Released:
		return "released"
	case OtherLink:
		return "other_link"
	case HeldDown:
		return "held_down"
	case Forged:
		return "forged"
	case Unsure:
		return "store_unreadable"
	default:
		return "ignored"
	}
}

// String returns what the log adds to a line about silence, in dnsmasq's words
// where it has some.
func (v Verdict) String() string {
	switch v {
	case Answer:
		return "answered"
	case Unknown:
		return "no address available"
	case NoRequest:
		return "ignored: not a client's message"
	case BadHardware:
		return "ignored: no Ethernet client address"
	case Relayed:
		return "ignored: relayed, and no relay is allowed"
	case BOOTP:
		return "ignored: BOOTP"
	case OtherType:
		return "ignored: message type"
	case OtherServer:
		return "ignored: for another server"
	case Malformed:
		return "ignored: names no address"
	case ForeignAddress:
		return "ignored: not the client's address"
	case Declined:
		return "declined"
	case Released:
		return "released"
	case OtherLink:
		return "ignored: relayed from another network"
	case HeldDown:
		return "ignored: the address was declined a moment ago"
	case Forged:
		return "ignored: another station sent it"
	case Unsure:
		return "ignored: not what was reserved when the store could last be read"
	default:
		return "ignored"
	}
}
