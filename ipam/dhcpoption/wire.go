package dhcpoption

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Route is an entry of option 121. A Via of 0.0.0.0 says that Dst is on the link.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// AppendRoute appends r as RFC 3442 writes it: the prefix length, as many bytes of the
// destination as that takes, the router.
func AppendRoute(b []byte, r Route) []byte {
	dst, via := r.Dst.Masked().Addr().As4(), r.Via.As4()
	bits := r.Dst.Bits()
	b = append(b, byte(bits))
	b = append(b, dst[:(bits+7)/8]...)
	return append(b, via[:]...)
}

// Routes reads the value of option 121; nil if it is not well formed.
func Routes(b []byte) []Route {
	list, _ := routesOf(b)
	return list
}

func routesOf(b []byte) (list []Route, ok bool) {
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return nil, false
		}
		var dst [4]byte
		copy(dst[:], b[1:1+n])
		p := netip.PrefixFrom(netip.AddrFrom4(dst), bits)
		if p != p.Masked() {
			return nil, false
		}
		list = append(list, Route{p, netip.AddrFrom4([4]byte(b[1+n : 5+n]))})
		b = b[5+n:]
	}
	return list, true
}

// appendRoute reads "DST via GW", "via" being optional.
func appendRoute(b []byte, w string) ([]byte, bool) {
	f := strings.Fields(w)
	if len(f) == 3 && f[1] == "via" {
		f = []string{f[0], f[2]}
	}
	if len(f) != 2 {
		return b, false
	}
	dst, err := netip.ParsePrefix(f[0])
	if err != nil || !dst.Addr().Is4() || dst != dst.Masked() {
		return b, false
	}
	via, err := netip.ParseAddr(f[1])
	if err != nil || !via.Is4() {
		return b, false
	}
	return AppendRoute(b, Route{dst, via}), true
}

// AppendDomain appends a DNS name as labels, which RFC 3397 allows to be compressed;
// not every client can undo that. What is no name leaves b as it is.
func AppendDomain(b []byte, name string) []byte {
	if n, ok := appendDomain(b, name); ok {
		return n
	}
	return b
}

func appendDomain(b []byte, name string) ([]byte, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return b, false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return b, false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return b, false
			}
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0), true
}

func domainsOf(b []byte) (list []string, ok bool) {
	var labels []string
	for len(b) > 0 {
		n := int(b[0])
		b = b[1:]
		if n == 0 {
			name := strings.Join(labels, ".")
			if !isDomain(name) {
				return nil, false
			}
			list, labels = append(list, name), nil
			continue
		}
		if n > 63 || n > len(b) {
			return nil, false
		}
		if bytes.IndexByte(b[:n], '.') >= 0 { // another name once it is written down
			return nil, false
		}
		labels = append(labels, string(b[:n]))
		b = b[n:]
	}
	return list, len(labels) == 0
}

// Plain returns o's value in the form in which a person writes it, for encoding/json:
// reading it again gives the same bytes.
func (o Option) Plain() any {
	if len(o.Value) == 0 {
		return []string{}
	}
	f, v := forms[o.Code], o.Value
	if check(o) != nil {
		return hexPrefix + hex.EncodeToString(v)
	}
	switch f {
	case address:
		return netip.AddrFrom4([4]byte(v)).String()
	case addresses, pairs:
		var list []string
		for ; len(v) > 0; v = v[4:] {
			list = append(list, netip.AddrFrom4([4]byte(v)).String())
		}
		return list
	case domains:
		list, _ := domainsOf(v)
		return list
	case routes:
		var list []string
		for _, r := range Routes(v) {
			list = append(list, r.Dst.String()+" via "+r.Via.String())
		}
		return list
	case flag:
		return v[0] == 1
	case number8:
		return v[0]
	case number16:
		return binary.BigEndian.Uint16(v)
	case number32:
		return binary.BigEndian.Uint32(v)
	case numbers16:
		var list []uint16
		for ; len(v) > 0; v = v[2:] {
			list = append(list, binary.BigEndian.Uint16(v))
		}
		return list
	case text:
		if s := string(v); utf8.Valid(v) && !strings.HasPrefix(s, hexPrefix) && strings.TrimSpace(s) == s {
			return s
		}
	}
	return hexPrefix + hex.EncodeToString(v)
}
