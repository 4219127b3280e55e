package filter

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
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

// network returns a network with flat-bridge's defaults, changed by edits.
func network(name, subnet, bridge string, edits ...func(*ipam.Network)) ipam.Network {
	p := netip.MustParsePrefix(subnet)
	n := ipam.Network{
		Name: name,
		Pool: ipam.Pool{Subnet: p, Gateway: p.Addr().Next()},
		Bridge: &ipam.Bridge{
			Name: bridge, IsGateway: true, AllowSameNetTraffic: true, Published: true,
			Fallback: ipam.FallbackDrop, AntiSpoofing: true, Addressing: ipam.AddressingStatic,
		},
	}
	for _, edit := range edits {
		edit(&n)
	}
	return n
}

func ipMasq(n *ipam.Network) { n.Bridge.IPMasq = true }

func natKeys(n *ipam.Network) {
	n.Bridge.NATAddress = netip.MustParseAddr("192.0.2.7")
	n.Bridge.PublicInterface = "out"
	n.Bridge.NonMasqueradeCIDRs = prefixes("10.0.0.0/8", "198.51.100.7/32")
}

func metadataAt(server string) func(*ipam.Network) {
	return func(n *ipam.Network) { n.Bridge.Metadata = netip.MustParseAddrPort(server) }
}

func servicesOnly(n *ipam.Network) { n.Bridge.HostAccess = ipam.HostAccessServices }

func servesDNS(n *ipam.Network) { n.Bridge.DNS.Enabled = true }

func logDrops(n *ipam.Network) { n.Bridge.LogDrops = true }

func unfiltered(n *ipam.Network) { n.Bridge.Filter = ipam.FilterNone }

func closed(n *ipam.Network) { n.Bridge.AllowSameNetTraffic = false }

func ingress(rules ...ipam.Rule) func(*ipam.Network) {
	return func(n *ipam.Network) { n.Bridge.Ingress = append(n.Bridge.Ingress, rules...) }
}

func deny(rules ...ipam.Rule) func(*ipam.Network) {
	return func(n *ipam.Network) { n.Bridge.Deny = append(n.Bridge.Deny, rules...) }
}

// row returns the reservation of addr, held by a container named after it.
func row(addr string) ipam.Reservation {
	a := netip.MustParseAddr(addr)
	name := ipam.DefaultHostname(a)
	return ipam.Reservation{
		Addr: a, MAC: ipam.DeriveMAC(ipam.DefaultMACPrefix, a), Hostname: name,
		Workload: ipam.Workload{Kind: ipam.KindCID, Value: name, IfName: "eth0"},
		Holder:   &ipam.Holder{ContainerID: name, IfName: "eth0", Ported: true},
	}
}

func rowsOf(addrs ...string) (rows []ipam.Reservation) {
	for _, a := range addrs {
		rows = append(rows, row(a))
	}
	return rows
}

func networksOf(networks ...ipam.Network) Networks {
	return func(context.Context) ([]ipam.Network, error) { return networks, nil }
}

func aliveRows(rows ...ipam.Reservation) Rows {
	return func(context.Context) ([]ipam.Reservation, error) { return rows, nil }
}

func prefixes(s ...string) (p []netip.Prefix) {
	for _, text := range s {
		p = append(p, netip.MustParsePrefix(text))
	}
	return p
}

// ports reads 0 as the end of a single port's range.
func ports(bounds ...uint16) (p []ipam.PortRange) {
	for i := 0; i < len(bounds); i += 2 {
		r := ipam.PortRange{First: bounds[i], Last: bounds[i+1]}
		if r.Last == 0 {
			r.Last = r.First
		}
		p = append(p, r)
	}
	return p
}

func manyPorts(count int) (p []ipam.PortRange) {
	for i := range count {
		port := uint16(1000 + 2*i)
		p = append(p, ipam.PortRange{First: port, Last: port})
	}
	return p
}

func ExampleChainName() {
	fmt.Println(ChainName("flat", "c1", "eth0"))
	// Output: FLAT-WL-6ae198ca809a8c0e
}
