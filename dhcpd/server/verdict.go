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
)

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
	default:
		return "ignored"
	}
}
