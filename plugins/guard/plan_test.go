package guard

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	counterValue = regexp.MustCompile(`packets \d+ bytes \d+`)
	elementList  = regexp.MustCompile(`(?s)elements = \{ (.*?) \}`)
)

// canonical is nft's listing with counters at 0 and elements sorted, one a line.
func canonical(listing string) string {
	listing = counterValue.ReplaceAllString(listing, "packets 0 bytes 0")
	return elementList.ReplaceAllStringFunc(listing, func(s string) string {
		members := strings.Split(elementList.FindStringSubmatch(s)[1], ",")
		for i, m := range members {
			members[i] = strings.TrimSpace(m)
		}
		slices.Sort(members)
		return "elements = { " + strings.Join(members, ",\n\t\t\t     ") + " }"
	})
}

// somePorts are a port of each kind.
func somePorts() []Port {
	return []Port{
		{Name: "fdp00000000000a", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, CheckSource: true},
		{Name: "fdp00000000000b", MAC: mac(3), Addrs: []netip.Addr{addr(3), addr(33)}, Closed: true, CheckSource: true,
			Allowed: []ipam.AllowedAddress{{Addr: sharedAddr}, {MAC: routerMAC}, {Addr: routerAddr, MAC: routerMAC}}},
		{Name: "fdp00000000000c", MAC: mac(4), Addrs: []netip.Addr{addr(4)}, Limits: ipam.Limits{ARP: 5, Broadcast: 1000, DHCP: 7, DNS: 2000}},
		{Name: "fdp00000000000d", MAC: mac(5), Addrs: []netip.Addr{addr(5)}, Closed: true},
		{Name: "fdp00000000000e", MAC: mac(6), Addrs: []netip.Addr{addr(6)}, CheckMAC: true},
	}
}

func TestPlanText(t *testing.T) {
	for _, tc := range []struct {
		name     string
		segments []Segment
		ports    []Port
	}{
		{"empty", nil, nil},
		{"ports", segments(), somePorts()},
		{"uplinks", someUplinks(), uplinkPorts()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan, err := NewPlan(tc.segments, tc.ports)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tc.name+".nft", plan.String())
		})
	}
}

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
		t.Errorf("%s differs (-want +got), -update rewrites it:\n%s", path, diff)
	}
}

func TestPlanIgnoresOrderAndRepetition(t *testing.T) {
	ports := append(somePorts(), uplinkPorts()...)
	segments := someUplinks()
	one, err := NewPlan(segments, ports)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(ports)
	slices.Reverse(segments)
	segments[0].Uplink.MACs = append(segments[0].Uplink.MACs, segments[0].Uplink.MACs[0])
	slices.Reverse(segments[0].Uplink.MACs)
	ports[0].Addrs = append(ports[0].Addrs, ports[0].Addrs[0])
	other, err := NewPlan(append(segments, segment()), ports)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one.String(), other.String()); diff != "" {
		t.Errorf("plans differ:\n%s", diff)
	}
}

func TestPlanRefusesWhatIsNoPort(t *testing.T) {
	good := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2)}}
	with := func(change func(*Port)) []Port {
		p := good
		change(&p)
		return []Port{p}
	}
	for _, tc := range []struct {
		name     string
		segments []Segment
		ports    []Port
		want     string
	}{
		{"another prefix", nil, with(func(p *Port) { p.Name = "veth0" }),
			`planning the guard: "veth0" is no workload port: fdp and up to 12 more characters are wanted`},
		{"the prefix alone", nil, with(func(p *Port) { p.Name = "fdp" }),
			`planning the guard: "fdp" is no workload port: fdp and up to 12 more characters are wanted`},
		{"too long", nil, with(func(p *Port) { p.Name = "fdp0123456789abc" }),
			`planning the guard: "fdp0123456789abc" is no workload port: fdp and up to 12 more characters are wanted`},
		{"a wildcard", nil, with(func(p *Port) { p.Name = "fdp*" }),
			`planning the guard: "fdp*" is no workload port: fdp and up to 12 more characters are wanted`},
		{"no MAC", nil, with(func(p *Port) { p.MAC = ipam.MAC{} }),
			`planning the guard: port fdp0: 00:00:00:00:00:00 is no workload's MAC: a unicast one is wanted`},
		{"group MAC", nil, with(func(p *Port) { p.MAC = broadcast }),
			`planning the guard: port fdp0: ff:ff:ff:ff:ff:ff is no workload's MAC: a unicast one is wanted`},
		{"no address", nil, with(func(p *Port) { p.Addrs = nil }),
			`planning the guard: port fdp0 has no address`},
		{"unspecified address", nil, with(func(p *Port) { p.Addrs = []netip.Addr{netip.IPv4Unspecified()} }),
			`planning the guard: port fdp0: 0.0.0.0 is no workload's address: a unicast IPv4 one is wanted`},
		{"multicast address", nil, with(func(p *Port) { p.Addrs = []netip.Addr{netip.MustParseAddr("224.0.0.1")} }),
			`planning the guard: port fdp0: 224.0.0.1 is no workload's address: a unicast IPv4 one is wanted`},
		{"IPv6 address", nil, with(func(p *Port) { p.Addrs = []netip.Addr{netip.MustParseAddr("fd00::2")} }),
			`planning the guard: port fdp0: fd00::2 is no workload's address: a unicast IPv4 one is wanted`},
		{"unset gateway", []Segment{{Gateways: []netip.Addr{{}}}}, []Port{good},
			`planning the guard: invalid IP is no gateway: a unicast IPv4 address is wanted`},
		{"one port twice", nil, []Port{good, good},
			`planning the guard: port fdp0 is given twice`},
		{"a workload's port as uplink", []Segment{{Uplink: Uplink{Name: "fdp1"}}}, nil,
			`planning the guard: "fdp1" is no uplink: an interface's name of up to 15 characters is wanted, which does not begin with fdp`},
		{"an uplink's name with a wildcard", nil, with(func(p *Port) { p.Uplink = "eth*" }),
			`planning the guard: port fdp0: "eth*" is no uplink: an interface's name of up to 15 characters is wanted, which does not begin with fdp`},
		{"group MAC of the node", []Segment{{Uplink: Uplink{Name: "eth1", MACs: []ipam.MAC{broadcast}}}}, nil,
			`planning the guard: uplink eth1: ff:ff:ff:ff:ff:ff is no node's MAC: a unicast one is wanted`},
		{"no shared gateway", []Segment{{Uplink: Uplink{Name: "eth1", Shared: []netip.Addr{netip.IPv4Unspecified()}}}}, nil,
			`planning the guard: uplink eth1: 0.0.0.0 is no node's address: a unicast IPv4 one is wanted`},
		{"a group MAC allowed", nil, with(func(p *Port) { p.Allowed = []ipam.AllowedAddress{{Addr: addr(9), MAC: broadcast}} }),
			`planning the guard: port fdp0: 10.0.0.9/ff:ff:ff:ff:ff:ff can be no workload's: a unicast IPv4 address, a unicast MAC or both are wanted`},
		{"a negative limit", nil, with(func(p *Port) { p.Limits.DNS = -1 }),
			`planning the guard: port fdp0: -1 is no limit: 0 to 10000000 packets a second are accepted`},
		{"one uplink twice", []Segment{{Uplink: Uplink{Name: "eth1"}}, {Uplink: Uplink{Name: "eth1"}}}, nil,
			`planning the guard: uplink eth1 is given twice`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewPlan(tc.segments, tc.ports)
			if err == nil || err.Error() != tc.want {
				t.Errorf("error is\n%v\nwanted\n%s", err, tc.want)
			}
		})
	}
}

func TestPortForTakesTogglesFromTheNetwork(t *testing.T) {
	row := ipam.Reservation{Addr: addr(2), MAC: mac(2)}
	for _, tc := range []struct {
		name                          string
		bridge                        *ipam.Bridge
		closed, checkSource, checkMAC bool
	}{
		{"open, checked", &ipam.Bridge{AllowSameNetTraffic: true, AntiSpoofing: true}, false, true, false},
		{"open, checked twice", &ipam.Bridge{AllowSameNetTraffic: true, AntiSpoofing: true, MACSpoofCheck: true}, false, true, false},
		{"closed, unchecked", &ipam.Bridge{}, true, false, false},
		{"closed, MAC checked", &ipam.Bridge{MACSpoofCheck: true}, true, false, true},
		{"unknown: the stricter of both", nil, true, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, Closed: tc.closed, CheckSource: tc.checkSource, CheckMAC: tc.checkMAC}
			got := PortFor(ipam.Network{Bridge: tc.bridge}, row, "fdp0")
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("port differs:\n%s", diff)
			}
		})
	}
}

func TestRecordTellsAllElements(t *testing.T) {
	for _, p := range somePorts() {
		member := p.elements()[0]
		got, ok := member.port()
		if !ok {
			t.Errorf("%s: the record %q is none", p.Name, member.comment)
		}
		want, have := p.elements(), got.elements()
		slices.SortFunc(want, compareElements)
		slices.SortFunc(have, compareElements)
		if diff := cmp.Diff(want, have, cmp.AllowUnexported(element{})); diff != "" {
			t.Errorf("%s: elements of the record differ:\n%s", p.Name, diff)
		}
	}
	for _, comment := range []string{"", "x", "fa:16:3e:00:00:02", "fa:16:3e:00:00:02 closed", "fa:16:3e:00:00:02 10.0.0.256", "10.0.0.2"} {
		e := setPorts.element(nameBytes("fdp0"))
		e.comment = comment
		if p, ok := e.port(); ok {
			t.Errorf("the comment %q is taken for a record of %+v", comment, p)
		}
	}
}

func TestLongRecordIsLeftOut(t *testing.T) {
	p := Port{Name: "fdp0", MAC: mac(2), CheckSource: true}
	for i := range 20 {
		p.Addrs = append(p.Addrs, addr(byte(100+i)))
	}
	if got := p.record(); got != "" {
		t.Errorf("a port with %d addresses has the record %q", len(p.Addrs), got)
	}
}
