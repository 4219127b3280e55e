package names

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func record(change ...func(*ipam.Network)) *ipam.Network {
	n := &ipam.Network{
		Name: "flat",
		Pool: ipam.Pool{
			Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
			Domain: "novalocal", ReuseDelay: ipam.Duration(time.Minute),
		},
		Bridge: &ipam.Bridge{Name: "br100", IsGateway: true, DNS: ipam.DNS{Enabled: true}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

// row makes a reservation that is the older the lower its address.
func row(addr, host, namespace string, change ...func(*ipam.Reservation)) ipam.Reservation {
	a := netip.MustParseAddr(addr)
	b := a.As4()
	r := ipam.Reservation{
		Addr: a, Hostname: host,
		Workload: ipam.Workload{Namespace: namespace, Kind: ipam.KindPod, Value: host, IfName: "eth0"},
		Since:    time.Unix(1700000000+int64(b[3]), 0),
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func admin(r *ipam.Reservation) { r.Admin, r.Workload.Kind = true, ipam.KindName }

func since(s int64) func(*ipam.Reservation) {
	return func(r *ipam.Reservation) { r.Since = time.Unix(s, 0) }
}

// zones are the golden ones.
var zones = []struct {
	name string
	n    *ipam.Network
	rows []ipam.Reservation
}{
	{"empty", record(), nil},
	{"plain", record(), []ipam.Reservation{
		row("10.0.0.2", "vm1", ""), row("10.0.0.3", "VM2.example.org", ""), row("10.0.0.4", "", ""),
		row("10.0.0.5", "host-10-0-0-5", ""),
	}},
	{"namespaces", record(), []ipam.Reservation{
		row("10.0.0.2", "web", "shop"), row("10.0.0.3", "db", "Shop"), row("10.0.0.4", "web", "blog"),
		row("10.0.0.5", "shop", "blog"), row("10.0.0.6", "api", ""),
	}},
	{"duplicates", record(), []ipam.Reservation{
		row("10.0.0.2", "web", "shop"), row("10.0.0.3", "web", "blog"),
		row("10.0.0.4", "web", "shop"),                         // the third of its name, the second there
		row("10.0.0.5", "web", ""),                             // has no namespace to answer under
		row("10.0.0.6", "db", "shop"),                          //
		row("10.0.0.7", "db", "", admin),                       // younger, but an administrator's
		row("10.0.0.9", "old", "blog", since(1)),               // the oldest, whatever its address
		row("10.0.0.8", "old", "shop", since(2)),               //
		row("10.0.0.11", "same", "", since(3)),                 // equally old: the lower address
		row("10.0.0.10", "same", "", since(3)),                 //
		row("10.0.0.12", "host-10-0-0-2", "shop"),              // another's by its address
		row("10.0.0.13", "host-10-9-9-9", "shop", since(5000)), // of another subnet: a name like any
	}},
	{"infrastructure", record(), []ipam.Reservation{
		row("10.0.0.2", "gateway", "shop"), row("10.0.0.3", "NS", "shop"), row("10.0.0.4", "wpad", "shop"),
		row("10.0.0.5", "localhost", "shop"), row("10.0.0.6", "wpad", "", admin), row("10.0.0.7", "gateway", ""),
		row("10.0.0.8", "web", "ns"), row("10.0.0.9", "novalocal", ""),
	}},
	{"zone-of-its-own", record(func(n *ipam.Network) {
		n.Bridge.DNS.Domain = "Lab.Example.ORG."
		n.Pool.ReuseDelay = ipam.Duration(4 * time.Second) // a name must not outlive it
	}), []ipam.Reservation{row("10.0.0.2", "vm1", "shop")}},
	{"endless-names", record(func(n *ipam.Network) {
		n.Pool.Domain = strings.Repeat(strings.Repeat("d", 61)+".", 2) + "org"
	}), []ipam.Reservation{
		row("10.0.0.2", strings.Repeat("h", 63), strings.Repeat("n", 62)), // 255 with both
		row("10.0.0.3", strings.Repeat("i", 63), strings.Repeat("n", 61)), // 254
	}},
}

func TestZone(t *testing.T) {
	for _, tc := range zones {
		t.Run(tc.name, func(t *testing.T) {
			z := NewZone(tc.n, tc.rows, 7)
			golden(t, tc.name, z.String())
			backward := slices.Clone(tc.rows)
			slices.Reverse(backward)
			if diff := cmp.Diff(z.String(), NewZone(tc.n, backward, 7).String()); diff != "" {
				t.Errorf("the rows' order matters:\n%s", diff)
			}
			for _, r := range tc.rows {
				name, ok := z.pointers[r.Addr]
				if !ok || z.hosts[name] != r.Addr {
					t.Errorf("%s has the name %q, which leads to %v", r.Addr, name, z.hosts[name])
				}
			}
			for name := range z.hosts {
				if _, ok := dns.IsDomainName(name); !ok {
					t.Errorf("%q is no domain name", name)
				}
			}
		})
	}
}

// describe writes an answer as a line.
func describe(a Answer) string {
	switch a.Finding {
	case Elsewhere:
		return "ask others"
	case Found:
		var list []string
		for _, rr := range a.Records {
			list = append(list, strings.Join(strings.Fields(rr.String()), " "))
		}
		return strings.Join(list, "; ")
	}
	word := map[Finding]string{NoData: "NODATA", NoName: "NXDOMAIN"}[a.Finding]
	return word + ", " + strings.Join(strings.Fields(a.Authority.String()), " ")
}

// TestFind asks one zone everything.
func TestFind(t *testing.T) {
	z := NewZone(record(), []ipam.Reservation{
		row("10.0.0.2", "web", "shop"), row("10.0.0.3", "web", "blog"), row("10.0.0.4", "wpad", "shop"),
	}, 7)
	var b strings.Builder
	for _, q := range []string{
		"web.novalocal. A", "WEB.NovaLocal. A", "web.novalocal. ANY", "web.novalocal. AAAA", "web.novalocal. MX", "web.novalocal. SOA",
		"web.shop.novalocal. A", "web.blog.novalocal. A", "shop.novalocal. A", "shop.novalocal. ANY", "web.nowhere.novalocal. A",
		"nobody.novalocal. A", "nobody.novalocal. AAAA", "x.web.novalocal. A", "_ldap._tcp.novalocal. SRV",
		"novalocal. A", "novalocal. SOA", "novalocal. NS", "novalocal. ANY", "NOVALOCAL. MX", "novalocal. DS",
		"gateway.novalocal. A", "ns.novalocal. A", "ns.novalocal. AAAA", "wpad.novalocal. A", "wpad.shop.novalocal. A",
		"localhost.novalocal. A", "localhost. A", "localhost. AAAA", "localhost. MX", "x.localhost. A",
		`web\.novalocal. A`, `we\098.novalocal. A`, "notnovalocal. A", "example.org. A", ". NS", "local. A",
		"2.0.0.10.in-addr.arpa. PTR", "2.0.0.10.IN-ADDR.ARPA. PTR", "2.0.0.10.in-addr.arpa. ANY", "2.0.0.10.in-addr.arpa. A",
		"3.0.0.10.in-addr.arpa. PTR", "4.0.0.10.in-addr.arpa. PTR", "1.0.0.10.in-addr.arpa. PTR", "77.0.0.10.in-addr.arpa. PTR",
		"0.0.10.in-addr.arpa. SOA", "0.0.10.in-addr.arpa. NS", "0.0.10.in-addr.arpa. PTR",
		"x.0.0.10.in-addr.arpa. PTR", "x.2.0.0.10.in-addr.arpa. PTR", "02.0.0.10.in-addr.arpa. PTR", "256.0.0.10.in-addr.arpa. PTR",
		"2.1.0.10.in-addr.arpa. PTR", "0.10.in-addr.arpa. SOA", "in-addr.arpa. NS", "x.in-addr.arpa. PTR", "8.8.8.8.in-addr.arpa. PTR",
	} {
		name, qtype, _ := strings.Cut(q, " ")
		fmt.Fprintf(&b, "%s: %s\n", q, describe(z.Find(name, dns.StringToType[qtype])))
	}
	golden(t, "find", b.String())
}

// TestReverseOfAnyPrefix: what is ours of in-addr.arpa ends exactly where the subnet
// does.
func TestReverseOfAnyPrefix(t *testing.T) {
	var b strings.Builder
	for subnet, questions := range map[string][]string{
		"10.0.0.0/8":     {"10.in-addr.arpa. SOA", "9.9.9.10.in-addr.arpa. PTR", "9.10.in-addr.arpa. PTR", "11.in-addr.arpa. SOA", "1.1.1.11.in-addr.arpa. PTR"},
		"172.16.0.0/12":  {"172.in-addr.arpa. SOA", "16.172.in-addr.arpa. SOA", "31.172.in-addr.arpa. SOA", "32.172.in-addr.arpa. SOA", "9.9.31.172.in-addr.arpa. PTR", "9.9.32.172.in-addr.arpa. PTR"},
		"10.9.8.64/26":   {"8.9.10.in-addr.arpa. SOA", "64.8.9.10.in-addr.arpa. PTR", "65.8.9.10.in-addr.arpa. PTR", "65.8.9.10.in-addr.arpa. SOA", "127.8.9.10.in-addr.arpa. PTR", "128.8.9.10.in-addr.arpa. PTR", "63.8.9.10.in-addr.arpa. PTR"},
		"10.20.30.40/30": {"40.30.20.10.in-addr.arpa. PTR", "41.30.20.10.in-addr.arpa. PTR", "44.30.20.10.in-addr.arpa. PTR"},
	} {
		n := record(func(n *ipam.Network) {
			n.Pool.Subnet = netip.MustParsePrefix(subnet)
			n.Pool.Gateway = n.Pool.Subnet.Addr().Next()
		})
		z := NewZone(n, nil, 7)
		for _, q := range questions {
			name, qtype, _ := strings.Cut(q, " ")
			fmt.Fprintf(&b, "%s: %s: %s\n", subnet, q, describe(z.Find(name, dns.StringToType[qtype])))
		}
	}
	lines := strings.SplitAfter(b.String(), "\n")
	slices.Sort(lines)
	golden(t, "reverse", strings.Join(lines, ""))
}

// TestFindCostsTheSameWhateverTheNumberOfRows counts allocations, which do not depend on
// how busy a machine is.
func TestFindCostsTheSameWhateverTheNumberOfRows(t *testing.T) {
	allocs := func(rows int) float64 {
		var list []ipam.Reservation
		for i := range rows {
			a := netip.AddrFrom4([4]byte{10, 0, byte((i + 2) >> 8), byte(i + 2)})
			list = append(list, row(a.String(), fmt.Sprintf("vm%d", i), ""))
		}
		z := NewZone(record(func(n *ipam.Network) { n.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/16") }), list, 7)
		if z.Len() < rows {
			t.Fatalf("%d names for %d rows", z.Len(), rows)
		}
		return testing.AllocsPerRun(100, func() {
			if a := z.Find("vm1.novalocal.", dns.TypeA); a.Finding != Found {
				t.Fatal(a)
			}
		})
	}
	few, many := allocs(2), allocs(10000)
	if few != many || many > 6 {
		t.Errorf("%v allocations with 2 rows, %v with 10000", few, many)
	}
}
