package names

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/ipam"
)

func manyRows(n int) (rows []ipam.Reservation) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 0, byte((i + 2) >> 8), byte(i + 2)})
		rows = append(rows, row(a.String(), fmt.Sprintf("vm%d", i), fmt.Sprintf("ns%d", i%50)))
	}
	return rows
}

func wide(n *ipam.Network) { n.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/16") }

// BenchmarkNewZone is what a changed store costs: at most once a copy, by whoever asks
// first.
func BenchmarkNewZone(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		rows := manyRows(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewZone(record(wide), rows, 1)
			}
		})
	}
}

// BenchmarkAnswer is one question from wire to wire, less the sockets.
func BenchmarkAnswer(b *testing.B) {
	wire, err := query("vm1.ns1.novalocal.", dns.TypeA, edns0(1232, false)).Pack()
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1000, 10000} {
		s := New(newSource(record(wide), manyRows(n)...), nil, 7, upstream.New(nil, "", nil, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
		from, buf := netip.MustParseAddrPort("10.0.0.2:4711"), make([]byte, maxUDP)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q, r, _ := s.begin(wire, from, false)
				if len(s.pack(q, r, buf)) == 0 {
					b.Fatal("no answer")
				}
			}
		})
	}
}
