package names

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// FuzzQuery sends whatever it finds through the handler, less the sockets and other
// servers: nothing may panic, and every reply is a reply to that query, no longer than
// its client takes and no more than its transport allows.
func FuzzQuery(f *testing.F) {
	for _, m := range []*dns.Msg{
		query("web.novalocal.", dns.TypeA), query("web.novalocal.", dns.TypeANY, edns0(4096, true)), query("x.novalocal.", dns.TypeMX),
		query("host-10-0-0-66.novalocal.", dns.TypeA), query("66.0.0.10.in-addr.arpa.", dns.TypePTR),
		query("2.0.0.10.in-addr.arpa.", dns.TypePTR), query("0.0.10.in-addr.arpa.", dns.TypeSOA), query("novalocal.", dns.TypeAXFR),
		query(".", dns.TypeNS), query("www.example.org.", dns.TypeA), query("www.example.org.", dns.TypeANY),
		query("novalocal.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }),
		query("web.novalocal.", dns.TypeA, edns0(4096, false), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
		f.Add(b[:len(b)-3], false)
	}
	n := record(func(n *ipam.Network) {
		n.Pool.MACPrefix = ipam.DefaultMACPrefix
		n.Pool.Peers = []ipam.Peer{{Node: "compute-1", RangeStart: netip.MustParseAddr("10.0.0.64"), RangeEnd: netip.MustParseAddr("10.0.0.127")}}
	})
	source := newSource(n, row("10.0.0.2", "web", "shop"))
	s := New(source, nil, 7, upstream.New(nil, "/nonexistent/resolv.conf", nil, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	from := netip.MustParseAddrPort("10.0.0.2:4711")
	f.Fuzz(func(t *testing.T, wire []byte, tcp bool) {
		isQuery := len(wire) >= headerSize && wire[2]&0x80 == 0
		q, reply, wait := s.begin(wire, from, tcp)
		if wait {
			reply = s.finish(t.Context(), q) // there is no other server: at once
		}
		if (reply != nil) != isQuery {
			t.Fatalf("reply %v to %x", reply, wire)
		}
		if reply == nil {
			return
		}
		b := s.pack(q, reply, make([]byte, maxUDP))
		r := new(dns.Msg)
		if err := r.Unpack(b); err != nil {
			t.Fatalf("the reply to %x is %x: %v", wire, b, err)
		}
		if r.Id != binary.BigEndian.Uint16(wire) || !r.Response || r.Opcode != int(wire[2]>>3)&0xf {
			t.Fatalf("the reply to %x is %s", wire, r)
		}
		if !tcp && len(b) > maxUDP {
			t.Fatalf("%d bytes to %x", len(b), wire)
		}
		if opt := q.req.IsEdns0(); !tcp && opt == nil && len(b) > minUDP {
			t.Fatalf("%d bytes to %x, which has no OPT record", len(b), wire)
		}
	})
}
