package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Station sends and receives DHCP on a link frame by frame, as a client without an
// address does.
type Station struct {
	fd int
	// AnyChecksum: answers with wrong UDP checksums are taken too. A server that sends by
	// the kernel's UDP socket has such over veth.
	AnyChecksum bool
	to          unix.SockaddrLinklayer
}

// Broadcast addresses.
var (
	BroadcastMAC = ipam.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	BroadcastIP  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// Station opens a packet socket on a link of the namespace.
func (n *NS) Station(t testing.TB, link string) *Station {
	t.Helper()
	s := &Station{}
	n.Do(t, func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		// A storm's worth of answers, however late the test reads them.
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		s.to = unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index, Halen: 6}
		return unix.Bind(s.fd, &s.to)
	})
	t.Cleanup(func() { must(t, unix.Close(s.fd)) })
	return s
}

// Envelope is how a message travels; what is zero is that of a client without an
// address: everything broadcast, source 0.0.0.0, port 68, chaddr as Ethernet source.
type Envelope struct {
	FromMAC, ToMAC ipam.MAC
	From, To       netip.Addr
	Port           uint16
	VLAN           *byte // the tag's VLAN; nil = no tag
}

// Send sends m from UDP port 68 to 67.
func (s *Station) Send(t testing.TB, m *dhcpv4.DHCPv4, e Envelope) {
	t.Helper()
	must(t, s.send(m.ToBytes(), m.ClientHWAddr, e))
}

func (s *Station) send(payload []byte, chaddr net.HardwareAddr, e Envelope) error {
	if e.FromMAC.IsZero() && len(chaddr) == 6 {
		e.FromMAC = ipam.MAC(chaddr)
	}
	if e.ToMAC.IsZero() {
		e.ToMAC = BroadcastMAC
	}
	if !e.From.IsValid() {
		e.From = netip.IPv4Unspecified()
	}
	if !e.To.IsValid() {
		e.To = BroadcastIP
	}
	if e.Port == 0 {
		e.Port = 68
	}
	f := append(append(append([]byte(nil), e.ToMAC[:]...), e.FromMAC[:]...), 0x08, 0x00)
	ip := make([]byte, 20, 28+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], e.From.AsSlice())
	copy(ip[16:], e.To.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^Sum(ip))
	udp := binary.BigEndian.AppendUint16(nil, e.Port)
	udp = binary.BigEndian.AppendUint16(udp, 67)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	binary.BigEndian.PutUint16(udp[6:], ^Sum(ip[12:20], []byte{0, 17}, udp[4:6], udp))
	f = append(append(f, ip...), udp...)
	if e.VLAN != nil {
		f = slices.Insert(f, 12, 0x81, 0, 0, *e.VLAN)
	}
	return unix.Sendto(s.fd, f, 0, &s.to)
}

// TrySend is Send for goroutines other than the test's.
func (s *Station) TrySend(m *dhcpv4.DHCPv4, e Envelope) error {
	return s.send(m.ToBytes(), m.ClientHWAddr, e)
}

// SendTagged broadcasts m with a VLAN tag.
func (s *Station) SendTagged(t testing.TB, m *dhcpv4.DHCPv4, vlan byte) {
	t.Helper()
	must(t, s.send(m.ToBytes(), m.ClientHWAddr, Envelope{VLAN: &vlan}))
}

// SendRaw sends a UDP payload that need not be a DHCP message.
func (s *Station) SendRaw(t testing.TB, payload []byte, e Envelope) {
	t.Helper()
	must(t, s.send(payload, nil, e))
}

// Received is a DHCP message as it came out of the wire.
type Received struct {
	*dhcpv4.DHCPv4
	FromMAC, ToMAC   ipam.MAC
	From, To         netip.Addr
	FromPort, ToPort uint16
	Frame            []byte
}

// ErrSilence says that nothing came until the deadline.
var ErrSilence = errors.New("no DHCP message came")

// Receive waits for a DHCP message that match accepts (nil: any), to any port of
// DHCP. Lengths and checksums of every one that passes are verified from the bytes
// alone: what the kernel says about them is not asked.
func (s *Station) Receive(timeout time.Duration, match func(*Received) bool) (*Received, error) {
	deadline := time.Now().Add(timeout)
	buf := make([]byte, 65536)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, ErrSilence
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := parse(buf[:n], s.AnyChecksum)
		if err != nil {
			return nil, err
		}
		if r != nil && (match == nil || match(r)) {
			return r, nil
		}
	}
}

// parse returns nil for what is not DHCP to a client or a server.
func parse(f []byte, anyChecksum bool) (*Received, error) {
	const headers = 14 + 20 + 8
	if len(f) < headers || f[14]>>4 != 4 || f[23] != 17 {
		return nil, nil
	}
	size := int(binary.BigEndian.Uint16(f[16:])) + 14
	ihl := int(f[14]&15) * 4
	if size > len(f) || 14+ihl+8 > size {
		return nil, fmt.Errorf("IP packet of %d bytes in a frame of %d", size-14, len(f))
	}
	ip, udp := f[14:14+ihl], f[14+ihl:size]
	r := &Received{
		ToMAC: ipam.MAC(f[0:6]), FromMAC: ipam.MAC(f[6:12]),
		From: netip.AddrFrom4([4]byte(ip[12:16])), To: netip.AddrFrom4([4]byte(ip[16:20])),
		FromPort: binary.BigEndian.Uint16(udp[0:]), ToPort: binary.BigEndian.Uint16(udp[2:]),
		Frame: append([]byte(nil), f[:size]...),
	}
	if r.ToPort != 67 && r.ToPort != 68 {
		return nil, nil
	}
	var err error
	if r.DHCPv4, err = dhcpv4.FromBytes(udp[8:]); err != nil {
		return nil, fmt.Errorf("UDP payload to port %d: %w", r.ToPort, err)
	}
	if r.OpCode != dhcpv4.OpcodeBootReply {
		return r, nil // from a kernel's UDP socket, say: not ours to judge
	}
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return nil, fmt.Errorf("UDP length %d in an IP packet with %d", binary.BigEndian.Uint16(udp[4:]), len(udp))
	}
	if s := Sum(ip); s != 0xffff {
		return nil, fmt.Errorf("IP checksum is wrong: %x", s)
	}
	if s := Sum(ip[12:20], []byte{0, 17}, udp[4:6], udp); !anyChecksum && (s != 0xffff || udp[6]|udp[7] == 0) {
		return nil, fmt.Errorf("UDP checksum is wrong or missing: %x", s)
	}
	return r, nil
}

// Sum is RFC 1071's sum over parts that begin on even offsets, not complemented.
func Sum(parts ...[]byte) uint16 {
	var n uint32
	for _, b := range parts {
		for i, c := range b {
			n += uint32(c) << (8 * (1 - i%2))
		}
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
