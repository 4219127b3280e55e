package dhcpoption

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// hexPrefix marks a value given as its bytes, which is accepted for every option as
// long as the bytes are what the option takes.
const hexPrefix = "hex:"

// minMTU is the least that IPv4 needs (RFC 791).
const minMTU = 68

// Parse reads NUMBER=VALUE as on a command line: lists are separated by commas, and an
// empty VALUE says that the option is not to be sent.
func Parse(s string) (Option, error) {
	number, value, ok := strings.Cut(s, "=")
	if !ok {
		return Option{}, errors.New("NUMBER=VALUE is wanted, such as 42=10.0.0.9")
	}
	code, err := Number(number)
	if err != nil {
		return Option{}, err
	}
	if value == "" {
		return parse(code, nil)
	}
	if f := forms[code]; isList(f) || f == free && allAddresses(strings.Split(value, ",")) {
		return parse(code, strings.Split(value, ","))
	}
	return parse(code, []string{value})
}

func isList(f form) bool {
	switch f {
	case addresses, pairs, domains, routes, numbers16:
		return true
	}
	return false
}

// parse reads the words of one value; none says that the option is not sent.
func parse(code byte, words []string) (Option, error) {
	f := forms[code]
	o := Option{Code: code}
	if len(words) == 0 {
		return o, nil
	}
	if len(words) == 1 && strings.HasPrefix(words[0], hexPrefix) {
		b, err := hex.DecodeString(strings.ReplaceAll(words[0][len(hexPrefix):], ":", ""))
		if err != nil {
			return o, fmt.Errorf("%s: %q: after hex: pairs of hexadecimal digits are wanted", title(code), words[0])
		}
		o.Value = b
		return o, check(o)
	}
	if f == free && allAddresses(words) {
		f = addresses
	}
	if !isList(f) && len(words) != 1 {
		return o, wrong(code)
	}
	for _, w := range words {
		w = strings.TrimSpace(w)
		var ok bool
		if o.Value, ok = appendWord(o.Value, f, w); !ok {
			return o, fmt.Errorf("%s: %q: %s is wanted", title(code), w, says[forms[code]])
		}
	}
	return o, check(o)
}

// check holds a value against what its number allows; it may have come as hex.
func check(o Option) error {
	f := forms[o.Code]
	b := bounds[f]
	switch n := len(o.Value); {
	case n < b.least || n > b.most:
		return fmt.Errorf("%s has %d bytes: %d to %d are accepted", title(o.Code), n, b.least, b.most)
	case n%b.unit != 0:
		return fmt.Errorf("%s has %d bytes: a multiple of %d is wanted", title(o.Code), n, b.unit)
	}
	switch {
	case f == flag && o.Value[0] > 1:
		return wrong(o.Code)
	case f == text && !printable(string(o.Value)):
		return wrong(o.Code)
	case f == routes:
		if _, ok := routesOf(o.Value); !ok {
			return wrong(o.Code)
		}
	case f == domains:
		if _, ok := domainsOf(o.Value); !ok {
			return wrong(o.Code)
		}
	case o.Code == 26 && binary.BigEndian.Uint16(o.Value) < minMTU:
		return fmt.Errorf("%s: at least %d is accepted", title(o.Code), minMTU)
	case o.Code == 15 && !isDomain(string(o.Value)):
		return fmt.Errorf("%s: %q: a DNS domain is wanted", title(o.Code), o.Value)
	}
	return nil
}

func appendWord(b []byte, f form, w string) ([]byte, bool) {
	switch f {
	case address, addresses, pairs:
		a, err := netip.ParseAddr(w)
		if err != nil || !a.Is4() {
			return b, false
		}
		return append(b, a.AsSlice()...), true
	case domains:
		return appendDomain(b, w)
	case routes:
		return appendRoute(b, w)
	case flag:
		switch w {
		case "true":
			return append(b, 1), true
		case "false":
			return append(b, 0), true
		}
		return b, false
	case number8:
		n, err := strconv.ParseUint(w, 10, 8)
		return append(b, byte(n)), err == nil
	case number16, numbers16:
		n, err := strconv.ParseUint(w, 10, 16)
		return binary.BigEndian.AppendUint16(b, uint16(n)), err == nil
	case number32:
		n, err := strconv.ParseUint(w, 10, 32)
		return binary.BigEndian.AppendUint32(b, uint32(n)), err == nil
	default:
		return append(b, w...), printable(w)
	}
}

func allAddresses(words []string) bool {
	for _, w := range words {
		if a, err := netip.ParseAddr(strings.TrimSpace(w)); err != nil || !a.Is4() {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return s != ""
}

// isDomain reports whether s is DNS labels joined by dots.
func isDomain(s string) bool {
	_, ok := appendDomain(nil, s)
	return ok
}
