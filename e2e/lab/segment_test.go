package lab

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// framed is a packet as Describe takes it.
func framed(packet []byte) []byte {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	return Ethernet(mac, mac, 0x0800, packet)
}

func TestSegmentsAreDescribed(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.0.0.2:4000"), netip.MustParseAddrPort("10.0.0.3:80")
	for _, c := range []struct {
		name   string
		packet []byte
		want   string
	}{
		{"SYN", TCP(from, to, TCPSyn, nil), "IP 10.0.0.2.4000 > 10.0.0.3.80: TCP [S]"},
		{"SYN, ACK", TCP(from, to, TCPSyn|TCPAck, []byte("x")), "IP 10.0.0.2.4000 > 10.0.0.3.80: TCP [S.]"},
		{"echo reply", EchoReply(from.Addr(), to.Addr(), 1, 1, []byte("x")), "IP 10.0.0.2 > 10.0.0.3: ICMP echo reply"},
		{"error", Unreachable(from.Addr(), to.Addr(), UDP(to, from, nil)), "IP 10.0.0.2 > 10.0.0.3: ICMP unreachable"},
	} {
		if got := Describe(framed(c.packet)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What is summed with its checksum comes to zero.
func TestSegmentsHaveTheirChecksums(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.0.0.2:4000"), netip.MustParseAddrPort("10.0.0.3:80")
	segment := TCP(from, to, TCPAck, []byte("odd"))[20:]
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, 6), uint16(len(segment)))
	for name, b := range map[string][]byte{
		"TCP":        append(pseudo, segment...),
		"echo reply": EchoReply(from.Addr(), to.Addr(), 1, 1, []byte("odd"))[20:],
		"error":      Unreachable(from.Addr(), to.Addr(), []byte("odd"))[20:],
	} {
		if got := checksum(b, 0); got != 0 {
			t.Errorf("%s: the sum is %#04x, want 0", name, got)
		}
	}
}

func TestFragmentsAreThePacketsParts(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.0.0.2:4000"), netip.MustParseAddrPort("10.0.0.3:9")
	whole := UDP(from, to, bytes.Repeat([]byte("data"), 10))
	two := Fragments(whole, 16, 7)
	if got := append(append([]byte(nil), two[0][20:]...), two[1][20:]...); !bytes.Equal(got, whole[20:]) {
		t.Errorf("the parts are %x, want %x", got, whole[20:])
	}
	if got, want := Describe(framed(two[1])), "IP 10.0.0.2 > 10.0.0.3: fragment at 16"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for i, f := range two {
		if got := checksum(f[:20], 0); got != 0 {
			t.Errorf("fragment %d: the header's sum is %#04x, want 0", i, got)
		}
		if more := f[6]&0x20 != 0; more != (i == 0) {
			t.Errorf("fragment %d: more fragments %t", i, more)
		}
	}
}
