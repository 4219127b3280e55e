package conf

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// object is one JSON object and the path that leads to it. encoding/json's structs
// would do, but for three things: they match keys whatever their case, ignore the
// unknown ones and do not say which key had the wrong type.
type object struct {
	path   string // empty for the outermost
	fields map[string]json.RawMessage
}

// decode reads the outermost object.
func decode(data []byte) (*object, error) {
	o := &object{}
	err := json.Unmarshal(data, &o.fields)
	if err == nil && o.fields != nil {
		return o, nil
	}
	var syntax *json.SyntaxError
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, newError(types.ErrDecodingFailure, "decoding the network configuration: it is empty")
	case errors.As(err, &syntax):
		line, col := lineOf(data, int(syntax.Offset)-1)
		return nil, newError(types.ErrDecodingFailure, "decoding the network configuration: line %d, column %d: %v", line, col, syntax)
	}
	return nil, newError(types.ErrDecodingFailure, "decoding the network configuration: a JSON object is wanted, not %s", clipped(compact(data)))
}

func (o *object) at(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// raw returns a key's text; null counts as absent, as everywhere in Go.
func (o *object) raw(key string) (json.RawMessage, bool) {
	raw, ok := o.fields[key]
	return raw, ok && string(raw) != "null"
}

func (o *object) invalid(key, format string, args ...any) *keyError {
	return invalid(o.at(key), o.fields[key], format, args...)
}

func (o *object) object(key string) (*object, bool, error) {
	raw, ok := o.raw(key)
	if !ok {
		return nil, false, nil
	}
	sub, err := asObject(o.at(key), raw)
	return sub, err == nil, err
}

func asObject(path string, raw json.RawMessage) (*object, error) {
	sub := &object{path: path}
	if err := json.Unmarshal(raw, &sub.fields); err != nil || sub.fields == nil {
		return nil, invalid(path, raw, "a JSON object is wanted")
	}
	return sub, nil
}

func (o *object) text(key, absent string) (string, error) {
	raw, ok := o.raw(key)
	if !ok {
		return absent, nil
	}
	return asText(o.at(key), raw)
}

func asText(path string, raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", invalid(path, raw, "a string is wanted")
	}
	return s, nil
}

func (o *object) boolean(key string, absent bool) (bool, error) {
	raw, ok := o.raw(key)
	if !ok {
		return absent, nil
	}
	var b bool
	if err := json.Unmarshal(raw, &b); err != nil {
		return false, o.invalid(key, "true or false is wanted, without quotes")
	}
	return b, nil
}

// word reads one of a few words.
func (o *object) word(key, absent string, accepted ...string) (string, error) {
	s, err := o.text(key, absent)
	if err != nil {
		return "", err
	}
	for _, a := range accepted {
		if s == a {
			return s, nil
		}
	}
	return "", o.invalid(key, "%s is wanted", alternatives(accepted))
}

// duration reads a Go duration. A bare number is refused, for nobody could tell
// seconds from milliseconds in it.
func (o *object) duration(key string, absent, min time.Duration) (ipam.Duration, error) {
	raw, ok := o.raw(key)
	if !ok {
		return ipam.Duration(absent), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return 0, o.invalid(key, "a duration in quotes is wanted, such as %q", short(absent))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		if _, numErr := strconv.Atoi(s); numErr == nil {
			return 0, o.invalid(key, "the unit is missing: %q, or such as %q", s+"s", short(absent))
		}
		return 0, o.invalid(key, "a duration with the units h, m and s is wanted, such as %q", short(absent))
	}
	if d < min {
		return 0, o.invalid(key, "at least %s is accepted", short(min))
	}
	return ipam.Duration(d), nil
}

// short writes a duration as a person would: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// addr4 reads an IPv4 address; the zero address if the key is absent.
func (o *object) addr4(key string) (netip.Addr, error) {
	s, err := o.text(key, "")
	if err != nil || s == "" {
		return netip.Addr{}, err
	}
	return asAddr4(o.at(key), s)
}

func asAddr4(path, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		if p, perr := netip.ParsePrefix(s); perr == nil {
			return a, invalid(path, quoted(s), "an address without prefix length is wanted, such as %q", p.Addr())
		}
		return a, invalid(path, quoted(s), "an IPv4 address is wanted, such as \"10.0.0.1\"")
	}
	if a = a.Unmap(); !a.Is4() {
		return a, invalid(path, quoted(s), "IPv6 is not supported: an IPv4 address is wanted")
	}
	return a, nil
}

// asPrefix4 reads an IPv4 network in CIDR notation, with no host bits set: the
// kernel and iptables would quietly mask them, and mean another network than the
// one that was read.
func asPrefix4(path, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Is4() {
			return p, invalid(path, quoted(s), "the prefix length is missing: \"%s/32\" is this address alone, \"%s\" the network of 256 around it",
				a, netip.PrefixFrom(a, 24).Masked())
		}
		return p, invalid(path, quoted(s), "a network in CIDR notation is wanted, such as \"10.0.0.0/24\"")
	}
	if !p.Addr().Is4() {
		return p, invalid(path, quoted(s), "IPv6 is not supported: an IPv4 network is wanted")
	}
	if p != p.Masked() {
		return p, invalid(path, quoted(s), "host bits are set: the network is %q", p.Masked())
	}
	return p, nil
}

func isEmptyList(raw json.RawMessage) bool {
	var items []json.RawMessage
	return json.Unmarshal(raw, &items) == nil && len(items) == 0
}

// compact is raw on one line, for an error.
func compact(raw []byte) string {
	var buf bytes.Buffer
	if json.Compact(&buf, raw) != nil {
		return strconv.Quote(string(raw))
	}
	return buf.String()
}

// clipped bounds s to what an error shows, at a character's boundary.
func clipped(s string) string {
	if len(s) <= maxShown {
		return s
	}
	n := maxShown
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// printable reports whether s can be shown and stored as a name: no control
// characters, no spaces, valid UTF-8.
func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return false
		}
	}
	return s != ""
}

// alternatives joins words for an error: "a", "b" or "c".
func alternatives(words []string) string {
	var b []byte
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b = append(b, " or "...)
		case i > 0:
			b = append(b, ", "...)
		}
		b = strconv.AppendQuote(b, w)
	}
	return string(b)
}
