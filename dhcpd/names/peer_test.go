package names

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// TestPeersNames: what a peer gives has the names that DHCP leases give, both ways, but
// where a row here says otherwise.
func TestPeersNames(t *testing.T) {
	n := record(func(n *ipam.Network) {
		n.Pool.MACPrefix = ipam.DefaultMACPrefix
		n.Pool.Peers = []ipam.Peer{{Node: "compute-1", RangeStart: netip.MustParseAddr("10.0.0.64"), RangeEnd: netip.MustParseAddr("10.0.0.127")}}
		excluded := netip.MustParseAddr("10.0.0.70")
		n.Pool.Exclude = []ipam.Range{{Start: excluded, End: excluded}}
	})
	z := NewZone(n, []ipam.Reservation{
		row("10.0.0.2", "web", "shop"),
		row("10.0.0.3", "thief", "", func(r *ipam.Reservation) { r.MAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 68} }), // .68's
		row("10.0.0.67", "vm", "shop", func(r *ipam.Reservation) { r.Workload = r.Workload.OnPeer("compute-1") }),
	}, 7)
	var b strings.Builder
	for _, q := range []string{
		"host-10-0-0-66.novalocal. A", "HOST-10-0-0-66.NovaLocal. A", "host-10-0-0-66.novalocal. ANY", "host-10-0-0-66.novalocal. AAAA",
		"host-10-0-0-64.novalocal. A", "host-10-0-0-127.novalocal. A", "host-10-0-0-63.novalocal. A", "host-10-0-0-128.novalocal. A",
		"host-10-0-0-2.novalocal. A",                     // ours, by another name
		"host-10-0-0-67.novalocal. A", "vm.novalocal. A", // a row that came with an import
		"host-10-0-0-68.novalocal. A", // its MAC is another's
		"host-10-0-0-70.novalocal. A", // excluded
		"host-10.0.0.66.novalocal. A", "host-10-0-0-066.novalocal. A", "host-10-0-0.novalocal. A", "host-10-0-0-66.shop.novalocal. A",
		"x.host-10-0-0-66.novalocal. A", "host-10-9-0-66.novalocal. A", "host-10-0-0-66. A",
		"66.0.0.10.in-addr.arpa. PTR", "66.0.0.10.in-addr.arpa. ANY", "66.0.0.10.in-addr.arpa. A", "67.0.0.10.in-addr.arpa. PTR",
		"68.0.0.10.in-addr.arpa. PTR", "70.0.0.10.in-addr.arpa. PTR", "128.0.0.10.in-addr.arpa. PTR", "x.66.0.0.10.in-addr.arpa. PTR", "2.0.0.10.in-addr.arpa. PTR",
	} {
		name, qtype, _ := strings.Cut(q, " ")
		fmt.Fprintf(&b, "%s: %s\n", q, describe(z.Find(name, dns.StringToType[qtype])))
	}
	golden(t, "peers", b.String())
	if z.String() == "" || strings.Contains(z.String(), "10-0-0-66") {
		t.Errorf("a range, which may have millions of addresses, is written out:\n%s", z)
	}
}
