package guard

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// A fieldType is the type of one part of a set's key, as nft names it.
type fieldType string

const (
	ifName    fieldType = "ifname"
	etherAddr fieldType = "ether_addr"
	ipv4Addr  fieldType = "ipv4_addr"
)

// magic is nft's number of the type.
func (t fieldType) magic() uint32 {
	switch t {
	case ifName:
		return 41
	case etherAddr:
		return 9
	default:
		return 7
	}
}

// length is the field's size in bytes; in a concatenation it is padded to a
// multiple of four.
func (t fieldType) length() uint32 {
	switch t {
	case ifName:
		return unix.IFNAMSIZ
	case etherAddr:
		return 6
	default:
		return 4
	}
}

func (t fieldType) text(b []byte) string {
	switch t {
	case ifName:
		return `"` + string(bytes.TrimRight(b, "\x00")) + `"`
	case etherAddr:
		return net.HardwareAddr(b).String()
	}
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// A set is a named set and the parts of its key.
type set struct {
	name   setName
	fields []fieldType
}

// magic is nft's number of the key's type: six bits for each field.
func (s set) magic() uint32 {
	var m uint32
	for _, f := range s.fields {
		m = m<<6 | f.magic()
	}
	return m
}

func padded(n uint32) uint32 { return (n + 3) &^ 3 }

func (s set) keyLength() uint32 {
	if len(s.fields) == 1 {
		return s.fields[0].length()
	}
	var n uint32
	for _, f := range s.fields {
		n += padded(f.length())
	}
	return n
}

func (s set) typeText() string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = string(f)
	}
	return strings.Join(names, " . ")
}

// keyText is the key as nft prints it.
func (s set) keyText(key string) string {
	var parts []string
	rest := []byte(key)
	for _, f := range s.fields {
		n := int(f.length())
		if len(rest) < n {
			return fmt.Sprintf("%x", key)
		}
		parts = append(parts, f.text(rest[:n]))
		rest = rest[min(int(padded(uint32(n))), len(rest)):]
	}
	return strings.Join(parts, " . ")
}

// An element is one member of a set. key is its bytes as the kernel has them.
type element struct {
	set     setName
	key     string
	comment string
	rate    uint32 // of a limited set: packets a second
}

// element returns the member whose fields have these bytes.
func (s setName) element(fields ...[]byte) element {
	var key []byte
	for _, f := range fields {
		key = append(key, f...)
		key = append(key, make([]byte, int(padded(uint32(len(f))))-len(f))...)
	}
	return element{set: s, key: string(key)}
}

func nameBytes(name string) []byte {
	b := make([]byte, ifName.length())
	copy(b, name)
	return b
}

// ofPort says whether e belongs to the port of that name: all keys but those of
// gateways and uplinks start with one.
func (e element) ofPort(name string) bool {
	if e.isUplinks() {
		return e.set != setUplinks && e.comment == name
	}
	return e.set != setGateways && strings.HasPrefix(e.key, string(nameBytes(name)))
}

// elements are the members that let p pass.
func (p Port) elements() []element {
	name := nameBytes(p.Name)
	port := setPorts.element(name)
	port.comment = p.record()
	es := []element{port}
	if p.Closed {
		es = append(es, setClosed.element(name))
	}
	switch {
	case p.CheckSource:
		es = append(es, setMACs.element(name, p.MAC[:]))
	case p.CheckMAC:
		es = append(es, setMACOnly.element(name), setMACs.element(name, p.MAC[:]))
	default:
		es = append(es, setUnchecked.element(name))
	}
	for _, a := range p.Addrs {
		es = append(es, setAddresses.element(name, a.AsSlice()))
		if p.CheckSource {
			es = append(es, setSources.element(name, p.MAC[:], a.AsSlice()))
		}
	}
	if !p.Gateway.IsZero() {
		es = append(es, setGatewayMACs.element(name, p.Gateway[:]))
	}
	es = append(es, p.allowed()...)
	es = append(es, p.limits()...)
	return unique(append(es, p.uplinkElements()...))
}

// allowed are the members that let p use what is not its own.
func (p Port) allowed() (es []element) {
	name := nameBytes(p.Name)
	for _, a := range p.Allowed {
		mac, addrs := a.MAC, []netip.Addr{a.Addr}
		if mac.IsZero() {
			mac = p.MAC
		}
		if a.Addr.IsValid() {
			es = append(es, setAddresses.element(name, a.Addr.AsSlice()))
		} else {
			addrs = p.Addrs
		}
		if p.CheckSource || p.CheckMAC {
			es = append(es, setMACs.element(name, mac[:]))
		}
		for _, addr := range addrs {
			if p.CheckSource {
				es = append(es, setSources.element(name, mac[:], addr.AsSlice()))
			}
		}
	}
	return es
}

// unique returns each element once: to delete one twice fails a transaction.
func unique(es []element) []element {
	once := make(map[element]bool, len(es))
	return slices.DeleteFunc(es, func(e element) bool {
		twice := once[e]
		once[e] = true
		return twice
	})
}

func gatewayElements(gateways []netip.Addr) []element {
	es := make([]element, len(gateways))
	for i, g := range gateways {
		es[i] = setGateways.element(g.AsSlice())
	}
	return es
}

// Words of a record.
const (
	recordClosed    = "closed"
	recordUnchecked = "unchecked"
	recordMACOnly   = "maconly"
	recordGateway   = "gw="     // and its MAC
	recordUplink    = "uplink=" // and its name
	recordAllowed   = "allow="  // and address, MAC or both
)

// maxRecord is the longest comment nft accepts of an element when it reads a
// ruleset back in.
const maxRecord = 127

// record is the comment of the port's member of setPorts: MAC, addresses and what
// is not as usual. From it alone all the port's elements are known, so that they
// are found without reading whole sets. A port with too many addresses has none.
func (p Port) record() string {
	words := []string{p.MAC.String()}
	for _, a := range slices.Compact(slices.SortedFunc(slices.Values(p.Addrs), netip.Addr.Compare)) {
		words = append(words, a.String())
	}
	if p.Closed {
		words = append(words, recordClosed)
	}
	switch {
	case p.CheckSource:
	case p.CheckMAC:
		words = append(words, recordMACOnly)
	default:
		words = append(words, recordUnchecked)
	}
	if p.Limits != (ipam.Limits{}) {
		words = append(words, limitsRecord(p.Limits))
	}
	if !p.Gateway.IsZero() {
		words = append(words, recordGateway+p.Gateway.String())
	}
	allowed := make([]string, len(p.Allowed))
	for i, a := range p.Allowed {
		allowed[i] = recordAllowed + a.String()
	}
	slices.Sort(allowed)
	words = append(words, slices.Compact(allowed)...)
	if p.Uplink != "" {
		words = append(words, recordUplink+p.Uplink)
	}
	if s := strings.Join(words, " "); len(s) <= maxRecord {
		return s
	}
	return ""
}

// port is the port that a member of setPorts records; false if it records none.
func (e element) port() (Port, bool) {
	if e.set != setPorts {
		return Port{}, false
	}
	p := Port{Name: strings.TrimRight(e.key, "\x00"), CheckSource: true}
	for i, word := range strings.Fields(e.comment) {
		var err error
		switch {
		case i == 0:
			p.MAC, err = ipam.ParseMAC(word)
		case word == recordClosed:
			p.Closed = true
		case word == recordUnchecked:
			p.CheckSource = false
		case word == recordMACOnly:
			p.CheckSource, p.CheckMAC = false, true
		case strings.HasPrefix(word, recordLimits):
			p.Limits, err = parseLimits(word)
		case strings.HasPrefix(word, recordGateway):
			p.Gateway, err = ipam.ParseMAC(strings.TrimPrefix(word, recordGateway))
		case strings.HasPrefix(word, recordAllowed):
			var a ipam.AllowedAddress
			a, err = ipam.ParseAllowedAddress(strings.TrimPrefix(word, recordAllowed))
			p.Allowed = append(p.Allowed, a)
		case strings.HasPrefix(word, recordUplink):
			p.Uplink = strings.TrimPrefix(word, recordUplink)
		default:
			var a netip.Addr
			a, err = netip.ParseAddr(word)
			p.Addrs = append(p.Addrs, a)
		}
		if err != nil {
			return Port{}, false
		}
	}
	return p, p.validate() == nil
}
