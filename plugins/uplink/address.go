package uplink

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Address is one address of a link.
type Address struct {
	Text string `json:"text"` // for people
	// Raw is struct ifaddrmsg and its attributes, as the kernel dumped them.
	Raw []byte `json:"raw"`
}

const (
	forever      = 1<<32 - 1 // of a lifetime
	ifaRTPrio    = 9         // IFA_RT_PRIORITY of linux/if_addr.h
	ipv6Settable = unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
)

// parsedAddress is what this package wants to know of an Address.
type parsedAddress struct {
	link   int
	prefix netip.Prefix // the node's own address, with its length
	peer   netip.Addr   // of a point-to-point link
	flags  uint32
	metric uint32 // of the route that the kernel makes for it
	valid  uint32 // seconds, or forever
}

func newAddress(raw []byte) (Address, error) {
	a := Address{Raw: raw}
	p, err := a.parse()
	if err != nil {
		return a, err
	}
	a.Text = p.prefix.String()
	if p.peer.IsValid() {
		a.Text += " peer " + p.peer.String()
	}
	if p.metric != 0 {
		a.Text += fmt.Sprintf(" metric %d", p.metric)
	}
	if p.flags&unix.IFA_F_NOPREFIXROUTE != 0 {
		a.Text += " noprefixroute"
	}
	if p.valid != forever {
		a.Text += fmt.Sprintf(" for %d s", p.valid)
	}
	return a, nil
}

func (a Address) parse() (p parsedAddress, err error) {
	if len(a.Raw) < unix.SizeofIfAddrmsg {
		return p, fmt.Errorf("an address message of %d bytes is too short", len(a.Raw))
	}
	bits := int(a.Raw[1])
	p.flags, p.link, p.valid = uint32(a.Raw[2]), int(nl.NativeEndian().Uint32(a.Raw[4:])), forever
	var local, address netip.Addr
	err = eachAttr(a.Raw[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS:
			p.flags = u32(v)
		case ifaRTPrio:
			p.metric = u32(v)
		case unix.IFA_CACHEINFO:
			if len(v) >= 8 {
				p.valid = u32(v[4:])
			}
		}
	})
	if !local.IsValid() {
		local = address
	} else if address.IsValid() && address != local {
		p.peer = address
	}
	if p.prefix = netip.PrefixFrom(local, bits); err == nil && !p.prefix.IsValid() {
		err = fmt.Errorf("an address message without an address")
	}
	return p, err
}

func (a Address) ipv6() bool { return a.Raw[0] == unix.AF_INET6 }

// prefix returns the node's own address. It was parsed before.
func (a Address) prefix() netip.Prefix {
	p, _ := a.parse()
	return p.prefix
}

func (a Address) flags() uint32 {
	p, _ := a.parse()
	return p.flags
}

// kernelMade reports whether the kernel itself gave the address: an IPv6 link-local one,
// which every link has.
func (a Address) kernelMade() bool {
	return a.ipv6() && a.prefix().Addr().IsLinkLocalUnicast()
}

// same reports whether two links have the same address.
func (a Address) same(b Address) bool {
	p, _ := a.parse()
	q, _ := b.parse()
	return p.prefix == q.prefix && p.peer == q.peer
}

// lasting returns a with the time that is left of it on another link.
func (a Address) lasting(there Address) Address {
	var left []byte
	_ = eachAttr(there.Raw[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) { // parsed before
		if kind == unix.IFA_CACHEINFO {
			left = v
		}
	})
	b := append([]byte(nil), a.Raw[:unix.SizeofIfAddrmsg]...)
	_ = eachAttr(a.Raw[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		if kind == unix.IFA_CACHEINFO && left != nil {
			v = left
		}
		b = append(b, nl.NewRtAttr(int(kind), v).Serialize()...)
	})
	if now, err := newAddress(b); err == nil {
		return now
	}
	return a
}

// request returns the message that puts the address on link to, or takes it off: its
// label, which begins with the link's name, follows. extra are further flags.
func (a Address) request(to Device, from string, extra uint32) []byte {
	b := append([]byte(nil), a.Raw[:unix.SizeofIfAddrmsg]...)
	flags := a.flags()&ipv6Settable | extra
	b[2] = byte(flags)
	nl.NativeEndian().PutUint32(b[4:], uint32(to.Index))
	_ = eachAttr(a.Raw[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) { // parsed before
		switch kind {
		case unix.IFA_FLAGS:
			return
		case unix.IFA_LABEL:
			v = []byte(relabel(unix.ByteSliceToString(v), from, to.Name) + "\x00")
		case unix.IFA_CACHEINFO:
			v = append([]byte(nil), v...)
			clear(v[min(8, len(v)):]) // when it was made
		}
		b = append(b, nl.NewRtAttr(int(kind), v).Serialize()...)
	})
	return append(b, nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)).Serialize()...)
}

// maxLabel is IFNAMSIZ less its NUL.
const maxLabel = 15

// relabel turns eth1 and eth1:0 into br100 and br100:0, if the kernel takes that.
func relabel(label, from, to string) string {
	if label == to || strings.HasPrefix(label, to+":") {
		return label
	}
	if rest, ok := strings.CutPrefix(label, from); ok && len(to+rest) <= maxLabel {
		return to + rest
	}
	return to
}

// eachAttr calls f for every attribute (linux/netlink.h: length and type of two bytes each,
// value, padding to four bytes). The library's parser trusts the lengths.
func eachAttr(b []byte, f func(kind uint16, v []byte)) error {
	const header = unix.SizeofRtAttr
	for len(b) >= header {
		length, kind := int(nl.NativeEndian().Uint16(b)), nl.NativeEndian().Uint16(b[2:])
		if length < header || length > len(b) {
			return fmt.Errorf("parsing netlink attribute %d: %d bytes of %d", kind, length, len(b))
		}
		f(kind&nl.NLA_TYPE_MASK, b[header:length])
		b = b[min(len(b), (length+3)&^3):]
	}
	return nil
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(b)
}
