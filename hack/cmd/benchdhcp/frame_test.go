package main

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// TestQuery reads what clients of ours say with somebody else's decoder.
func TestQuery(t *testing.T) {
	addr, mac := host(0)
	for _, tc := range []struct {
		name     string
		query    query
		want     string // of the message
		from, to netip.Addr
		toMAC    ipam.MAC
	}{
		{"discover", query{kind: discover, xid: 7, mac: mac}, "DISCOVER giaddr 0.0.0.0 flags 0 requested <nil> server <nil>",
			netip.IPv4Unspecified(), broadcastIP, broadcastMAC},
		{"request, broadcast", query{kind: request, xid: 7, mac: mac, flags: 0x8000, asked: addr, serverID: gateway},
			"REQUEST giaddr 0.0.0.0 flags 8000 requested 10.0.0.2 server 10.0.0.1", netip.IPv4Unspecified(), broadcastIP, broadcastMAC},
		{"relayed", query{kind: discover, xid: 7, mac: mac, relay: relay, relayMAC: relayMAC, server: gateway, serverMAC: bridgeMAC},
			"DISCOVER giaddr 10.0.255.254 flags 0 requested <nil> server <nil>", relay, gateway, bridgeMAC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.query.put(make([]byte, 0, 1024))
			m, err := dhcpv4.FromBytes(f[headersLen:])
			if err != nil {
				t.Fatal(err)
			}
			got := fmtMessage(m)
			if got != tc.want || m.ClientHWAddr.String() != mac.String() || len(f) != headersLen+messageLen {
				t.Errorf("got %s of %s, %d bytes, want %s", got, m.ClientHWAddr, len(f), tc.want)
			}
			ip := f[ethernetLen:]
			// A sum that includes its own complement is all ones.
			if s := fold(sum(0, ip[:ipv4Len])); s != 0xffff {
				t.Errorf("IP checksum is wrong: %x", s)
			}
			if s := fold(sum(sum(17+uint64(len(ip)-ipv4Len), ip[12:20]), ip[ipv4Len:])); s != 0xffff {
				t.Errorf("UDP checksum is wrong: %x", s)
			}
			if from, to := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])); from != tc.from || to != tc.to || ipam.MAC(f[:6]) != tc.toMAC {
				t.Errorf("from %s to %s %x", from, to, f[:6])
			}
		})
	}
}

func fmtMessage(m *dhcpv4.DHCPv4) string {
	return fmt.Sprintf("%s giaddr %s flags %x requested %s server %s",
		m.MessageType(), m.GatewayIPAddr, m.Flags, m.RequestedIPAddress(), m.ServerIdentifier())
}

func TestAnswer(t *testing.T) {
	addr, mac := host(300)
	q := query{kind: request, xid: 9, mac: mac, asked: addr, serverID: gateway}
	f := honest(q.put(make([]byte, 0, 1024)))
	got, err := parseAnswer(f)
	want := answer{kind: ack, xid: 9, mac: mac, yiaddr: addr, serverID: gateway}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(answer{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	m, err := dhcpv4.FromBytes(f[headersLen:])
	if err != nil || m.IPAddressLeaseTime(0) != leaseTime || m.YourIPAddr.String() != addr.String() {
		t.Errorf("the echo server's answer is %v, %v", m, err)
	}
	for name, f := range map[string][]byte{
		"empty": nil, "cut": f[:headersLen+20], "a client's": q.put(make([]byte, 0, 1024)),
		"without a type": append(append([]byte{}, f[:headersLen+fixedLen]...), optEnd),
		"an option that is longer than the message": append(append([]byte{}, f[:headersLen+fixedLen]...), optType, 9, ack),
	} {
		if got, err := parseAnswer(f); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("42 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 123 7 0 0 20 0 1 0 99 4096000 50 18446744073709551615 1 1")
	if err != nil || got.cpu != 1300*time.Millisecond || got.rss != 50*os.Getpagesize() {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 x 7 0 0 20 0 1 0 99 4096000 50 1"} {
		if got, err := parseStat(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestEchoThroughARelay(t *testing.T) {
	addr, mac := host(1)
	q := query{kind: discover, xid: 9, mac: mac, relay: relay, relayMAC: relayMAC, server: gateway, serverMAC: bridgeMAC}
	m := q.put(make([]byte, 0, 1024))[headersLen:]
	if got := giaddr(m); got != relay {
		t.Errorf("giaddr %s", got)
	}
	f := honest(q.put(make([]byte, 0, 1024)))
	got, err := parseAnswer(f)
	if err != nil || got.yiaddr != addr || netip.AddrFrom4([4]byte(f[ethernetLen+16:])) != relay || f[ethernetLen+ipv4Len+3] != serverPort {
		t.Errorf("got %+v, %v", got, err)
	}
}
