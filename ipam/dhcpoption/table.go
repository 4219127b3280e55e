package dhcpoption

import "fmt"

// form is how an option's value is written and what it is on the wire.
type form uint8

const (
	free    form = iota // hex:..., text, or IPv4 addresses
	address             // one IPv4 address
	addresses
	pairs // pairs of IPv4 addresses
	text
	domains // DNS names, RFC 1035 labels without compression
	routes  // RFC 3442: "10.8.0.0/16 via 10.0.0.9"
	flag
	number8
	number16
	number32
	numbers16
)

// says is what a person reads when a value has the wrong form.
var says = [...]string{
	free:      `"hex:0a0b", a text or a list of IPv4 addresses`,
	address:   `an IPv4 address such as "10.0.0.9"`,
	addresses: `a list of IPv4 addresses such as ["10.0.0.9"]`,
	pairs:     `a list of IPv4 addresses, two for each entry`,
	text:      "a text of 1 to 255 printable characters",
	domains:   `a list of DNS domains such as ["example.org"]`,
	routes:    `a list of routes such as ["10.8.0.0/16 via 10.0.0.9"], "via 0.0.0.0" for what is on the link`,
	flag:      "true or false",
	number8:   "a number from 0 to 255",
	number16:  "a number from 0 to 65535",
	number32:  "a number from 0 to 4294967295",
	numbers16: "a list of numbers from 0 to 65535",
}

// bounds are the least and greatest number of bytes of a form, and of what size its
// elements are. RFC 3396 lets a value be longer than one option; only lists are.
var bounds = [...]struct{ least, most, unit int }{
	free: {1, 510, 1}, address: {4, 4, 4}, addresses: {4, 252, 4}, pairs: {8, 248, 8}, text: {1, 255, 1},
	domains: {2, 510, 1}, routes: {5, 510, 1}, flag: {1, 1, 1}, number8: {1, 1, 1}, number16: {2, 2, 2},
	number32: {4, 4, 4}, numbers16: {2, 254, 2},
}

// forms names the form of each option that has one. What is not listed is free.
var forms = [256]form{
	2: number32, 3: addresses, 4: addresses, 5: addresses, 6: addresses, 7: addresses, 8: addresses,
	9: addresses, 10: addresses, 11: addresses, 13: number16, 14: text, 15: text, 16: address,
	17: text, 18: text, 19: flag, 20: flag, 21: pairs, 22: number16, 23: number8, 24: number32,
	25: numbers16, 26: number16, 27: flag, 28: address, 29: flag, 30: flag, 31: flag, 32: address,
	33: pairs, 34: flag, 35: number32, 36: flag, 37: number8, 38: number32, 39: flag, 40: text,
	41: addresses, 42: addresses, 44: addresses, 45: addresses, 46: number8, 47: text, 48: addresses,
	49: addresses, 60: text, 62: text, 64: text, 65: addresses, 66: text, 67: text, 68: addresses,
	69: addresses, 70: addresses, 71: addresses, 72: addresses, 73: addresses, 74: addresses,
	75: addresses, 76: addresses, 100: text, 101: text, 108: number32, 114: text, 116: number8,
	119: domains, 121: routes, 138: addresses, 150: addresses, 209: text, 210: text, 211: number32,
	249: routes, 252: text,
}

// forbidden says why an option cannot be configured, and what to use instead.
var forbidden = map[byte]string{
	0:   "it is padding, not an option",
	1:   "the subnet decides it",
	12:  "each workload has a host name of its own: `flatctl reserve --hostname` sets one",
	50:  "only clients send it",
	51:  "it is set by leaseTime, or by `flatctl reserve --lease-time`",
	52:  "the server sets it where a message needs it",
	53:  "the server sets it in every message",
	54:  "it is the gateway's address in every message",
	55:  "only clients send it",
	56:  "the server sets it where it refuses",
	57:  "only clients send it",
	58:  "it follows from leaseTime",
	59:  "it follows from leaseTime",
	61:  "it goes back to the client as the client sent it",
	80:  "it is set by dhcp.rapidCommit",
	81:  "the server does not update names at clients' request",
	82:  "it goes back to the relay as the relay sent it",
	90:  "authentication is not supported",
	118: "only clients send it",
	255: "it is the end of a message, not an option",
}

// names are for people who read a list of options.
var names = map[byte]string{
	2: "time offset", 3: "routers", 6: "name servers", 15: "domain", 26: "MTU", 28: "broadcast address",
	42: "NTP servers", 43: "vendor specific", 60: "vendor class", 66: "boot server", 67: "boot file", 119: "search list",
	121: "classless routes", 150: "TFTP servers", 249: "classless routes (Microsoft)",
}

// title is an option as errors call it.
func title(code byte) string {
	if n, ok := names[code]; ok {
		return fmt.Sprintf("option %d (%s)", code, n)
	}
	return fmt.Sprintf("option %d", code)
}
