package ipam

import (
	"fmt"
	"net"
	"net/netip"
)

// MAC is a 48-bit Ethernet address. Its text form is lower-case hex with colons.
type MAC [6]byte

// MACPrefix is the first three octets of every MAC a network derives.
type MACPrefix [3]byte

// DefaultMACPrefix is nova-network's prefix: high, so that a bridge that follows
// its lowest port never picks a workload's, and locally administered.
var DefaultMACPrefix = MACPrefix{0xfa, 0x16, 0x3e}

// hostSideOctet is the first octet of the host side of a pair (libvirt's habit).
const hostSideOctet = 0xfe

// ParseMAC reads a 48-bit address in any of net.ParseMAC's notations.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%q is no Ethernet address: six octets such as fa:16:3e:00:00:02 are wanted", s)
	}
	return MAC(hw), nil
}

// ParseMACPrefix reads three octets, such as "fa:16:3e". A multicast prefix and
// one that would make a container's MAC look like a host side (fe) are refused.
func ParseMACPrefix(s string) (MACPrefix, error) {
	m, err := ParseMAC(s + ":00:00:00")
	if err != nil {
		return MACPrefix{}, fmt.Errorf("%q is no MAC prefix: three octets such as fa:16:3e are wanted", s)
	}
	if m.IsMulticast() {
		return MACPrefix{}, fmt.Errorf("MAC prefix %q is multicast: the lowest bit of its first octet must be 0", s)
	}
	if m.IsHostSide() {
		return MACPrefix{}, fmt.Errorf("MAC prefix %q starts with fe, which the host sides of the ports use", s)
	}
	return MACPrefix(m[:3]), nil
}

// DeriveMAC returns prefix followed by the low 24 bits of addr: the MAC and the
// address can be read off each other. Two subnets that agree in those bits derive
// the same MAC; the allocator then takes the next address.
func DeriveMAC(prefix MACPrefix, addr netip.Addr) MAC {
	b := addr.AsSlice()
	low := b[len(b)-3:]
	return MAC{prefix[0], prefix[1], prefix[2], low[0], low[1], low[2]}
}

// HostSide returns the MAC of the host's end of the pair whose container end is m.
// It must differ from m: the bridge keeps a port's own MAC as a local entry.
func (m MAC) HostSide() MAC {
	m[0] = hostSideOctet
	return m
}

// IsHostSide reports whether m is of the form HostSide makes.
func (m MAC) IsHostSide() bool { return m[0] == hostSideOctet }

// IsMulticast reports whether m is a group address (broadcast included).
func (m MAC) IsMulticast() bool { return m[0]&1 == 1 }

// IsZero reports whether m is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// HardwareAddr returns m as the standard library's type, a copy.
func (m MAC) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(m[:]) }

// String returns the form fa:16:3e:00:00:02.
func (m MAC) String() string { return m.HardwareAddr().String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// String returns the form fa:16:3e.
func (p MACPrefix) String() string { return net.HardwareAddr(p[:]).String() }

// MarshalText implements encoding.TextMarshaler.
func (p MACPrefix) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *MACPrefix) UnmarshalText(b []byte) (err error) {
	*p, err = ParseMACPrefix(string(b))
	return err
}
