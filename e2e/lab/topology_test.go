package lab_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// seedLab is the lab of the seed, with a runner that must succeed.
func seedLab(t *testing.T) (context.Context, *lab.Lab, func(h *lab.Host, argv ...string) string) {
	t.Helper()
	l := labtest.New(t, lab.Options{})
	ctx := labtest.Within(t, patience)
	if err := l.Build(ctx, lab.Seed(2)); err != nil {
		t.Fatal(err)
	}
	return ctx, l, func(h *lab.Host, argv ...string) string {
		t.Helper()
		out, _, err := h.Run(ctx, argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func TestHostsMeetOnTheirSwitchesOnly(t *testing.T) {
	ctx, l, run := seedLab(t)
	var names []string
	for _, h := range l.Hosts() {
		names = append(names, h.Name())
	}
	if want := []string{"outside", "controller", "compute-1", "compute-2"}; !slices.Equal(names, want) {
		t.Fatalf("hosts are %q, want %q", names, want)
	}
	controller, compute1, compute2 := l.Host("controller"), l.Host("compute-1"), l.Host("compute-2")

	// The management network: each reaches each, and the world by its router.
	for _, from := range []*lab.Host{controller, compute1, compute2} {
		for _, to := range []string{"192.168.56.1", "192.168.56.200", "192.168.56.202", "192.168.56.203"} {
			run(from, "ping", "-c", "1", "-w", "60", to)
		}
		if got := run(from, "ip", "-4", "route", "get", "203.0.113.9"); !strings.Contains(got, "via 192.168.56.1 dev eth1") {
			t.Errorf("%s routes to the world by %s", from.Name(), got)
		}
		if got := run(from, "ip", "-4", "address", "show", "dev", "eth2"); got != "" {
			t.Errorf("eth2 of %s has an address:\n%s", from.Name(), got)
		}
	}

	// A frame on the flat switch reaches the NICs there, and no other.
	capture, err := lab.Watch(controller.At("eth2"), compute2.At("eth2"), controller.At("eth1"), compute2.At("eth1"),
		l.Host("outside").At("eth1"), l.Host("flat").At("compute-1-eth2"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = capture.Close() }()
	flat, err := compute1.Tap("eth2")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = flat.Close() }()
	management, err := compute1.Tap("eth1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = management.Close() }()
	// Both frames are flooded; each ends the proof of the other's absence.
	shout := func(tap *lab.Tap) func([]byte) bool {
		t.Helper()
		marker, is := lab.Marker(lab.Endpoint{MAC: tap.MAC(), Addr: netip.MustParseAddr("192.0.2.1")},
			lab.Endpoint{MAC: lab.Broadcast, Addr: netip.MustParseAddr("192.0.2.2")})
		if err := tap.Send(marker); err != nil {
			t.Fatal(err)
		}
		return is
	}
	onFlat := shout(flat)
	onManagement := shout(management)
	seen, err := capture.Until(ctx, func(f []byte) bool { return onFlat(f) || onManagement(f) })
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(is func([]byte) bool) []string { return slices.Sorted(slices.Values(lab.Where(seen, is))) }
	if got, want := sorted(onFlat), []string{"compute-2 eth2", "controller eth2", "flat compute-1-eth2"}; !slices.Equal(got, want) {
		t.Errorf("a frame sent on compute-1's eth2 was seen at %q, want %q", got, want)
	}
	if got, want := sorted(onManagement), []string{"compute-2 eth1", "controller eth1", "outside eth1"}; !slices.Equal(got, want) {
		t.Errorf("a frame sent on compute-1's eth1 was seen at %q, want %q", got, want)
	}
	if got := lab.Where(seen, onFlat)[0]; got != "flat compute-1-eth2" {
		t.Errorf("it was seen first at %s, want the switch's port", got)
	}
}

func TestSwitchIsNothingButASwitch(t *testing.T) {
	_, l, run := seedLab(t)
	for _, name := range []string{"management", "flat"} {
		s := l.Host(name)
		for line := range strings.Lines(run(s, "ip", "-oneline", "address", "show")) {
			if !strings.Contains(line, ": lo ") {
				t.Errorf("switch %s has an address: %s", name, line)
			}
		}
		for line := range strings.Lines(run(s, "sh", "-c", "sysctl -a 2>/dev/null | grep bridge-nf-call || :")) {
			if !strings.HasSuffix(line, " = 0\n") {
				t.Errorf("frames on switch %s meet a filter: %s", name, line)
			}
		}
		bridge := run(s, "ip", "-details", "link", "show", "dev", "switch")
		for _, want := range []string{"nf_call_iptables 0", "nf_call_ip6tables 0", "nf_call_arptables 0", "stp_state 0", "mcast_snooping 0", "state UP"} {
			if !strings.Contains(bridge, want) {
				t.Errorf("switch %s is without %q:\n%s", name, want, bridge)
			}
		}
		if got := run(s, "sh", "-c", "iptables-save; nft list ruleset"); got != "" {
			t.Errorf("switch %s has rules:\n%s", name, got)
		}
	}
}

func TestBuildSaysWhatIsWrong(t *testing.T) {
	l := labtest.New(t, lab.Options{})
	host := func(n lab.NIC, via string) lab.Topology {
		return lab.Topology{Switches: []string{"flat"}, Hosts: []lab.Machine{{Name: "compute-1", NICs: []lab.NIC{n}, Via: via}}}
	}
	for _, tt := range []struct {
		name     string
		topology lab.Topology
		want     string
	}{
		{"switch", host(lab.NIC{Name: "eth1", Switch: "flatt"}, ""),
			`building the lab: eth1 of compute-1: there is no switch "flatt"; there are: flat`},
		{"address", host(lab.NIC{Name: "eth1", Switch: "flat", Addr: "10.0.0.1"}, ""),
			`building the lab: eth1 of compute-1: netip.ParsePrefix("10.0.0.1"): no '/'`},
		{"router", host(lab.NIC{Name: "eth1", Switch: "flat"}, "router"),
			`building the lab: default route of compute-1: ParseAddr("router"): unable to parse IP`},
		{"name", host(lab.NIC{Name: "eth1.100", Switch: "flat"}, ""),
			`building the lab: eth1.100 of compute-1: the switch's port compute-1-eth1.100 has more than the 15 letters of an interface's name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := l.Build(t.Context(), tt.topology)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error is %v\nwant %s", err, tt.want)
			}
		})
	}
	if got := l.Hosts(); len(got) > 0 {
		t.Errorf("%d hosts were made of what cannot be", len(got))
	}
}

func TestCaptureSeesBothDirections(t *testing.T) {
	w := wire(t)
	ctx := labtest.Within(t, patience)
	a, b := w.ends[0], w.ends[1]
	capture, err := lab.Watch(w.insect[0].At("eth0"), w.host.At("pa"), w.host.At("br0"), w.host.At("pb"), w.insect[1].At("eth0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = capture.Close() }()
	echo := lab.Ethernet(b.MAC, a.MAC, 0x0800, lab.Echo(a.Addr, b.Addr, 7, 1, []byte("hello")))
	discover := lab.Ethernet(lab.Broadcast, a.MAC, 0x0800, lab.UDP(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), nil))
	marker, is := lab.Marker(a, lab.Endpoint{MAC: lab.Broadcast, Addr: b.Addr})
	if err := w.taps[0].Send(echo, discover, marker); err != nil {
		t.Fatal(err)
	}
	seen, err := capture.Until(ctx, is)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range seen {
		if what := lab.Describe(s.Frame); strings.Contains(what, "echo request") || strings.Contains(what, ".68 > ") {
			got = append(got, s.String())
		}
	}
	// What is switched from port to port is not the bridge's own: it sees the broadcast.
	want := []string{
		"node1/a eth0 out  IP 10.0.0.2 > 10.0.0.3: ICMP echo request",
		"node1/a eth0 out  IP 0.0.0.0.68 > 255.255.255.255.67: UDP",
		"node1 pa in   IP 10.0.0.2 > 10.0.0.3: ICMP echo request",
		"node1 pa in   IP 0.0.0.0.68 > 255.255.255.255.67: UDP",
		"node1 br0 in   IP 0.0.0.0.68 > 255.255.255.255.67: UDP",
		"node1 pb out  IP 10.0.0.2 > 10.0.0.3: ICMP echo request",
		"node1 pb out  IP 0.0.0.0.68 > 255.255.255.255.67: UDP",
		"node1/b eth0 in   IP 10.0.0.2 > 10.0.0.3: ICMP echo request",
		"node1/b eth0 in   IP 0.0.0.0.68 > 255.255.255.255.67: UDP",
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	for i := 1; i < len(seen); i++ {
		if seen[i].At.Before(seen[i-1].At) || seen[i].At.IsZero() {
			t.Fatalf("%v at %v comes after %v at %v", seen[i], seen[i].At, seen[i-1], seen[i-1].At)
		}
	}
}

func TestDescribe(t *testing.T) {
	mac := []byte{0xfa, 0x16, 0x3e, 0, 0, 2}
	vm, gateway := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")
	ip := func(packet []byte) []byte { return lab.Ethernet(lab.Broadcast, mac, 0x0800, packet) }
	offer := append(append(make([]byte, 236), 0x63, 0x82, 0x53, 0x63, 0, 1, 4, 255, 255, 255, 0), 53, 1, 2, 255)
	fragment := lab.IPv4(vm, gateway, 17, []byte("rest"))
	fragment[7] = 3
	for _, tt := range []struct {
		frame []byte
		want  string
	}{
		{lab.ARP(lab.Broadcast, mac, lab.ARPRequest, lab.Endpoint{MAC: mac, Addr: vm}, lab.Endpoint{MAC: make([]byte, 6), Addr: gateway}), "ARP, Request who-has 10.0.0.1 tell 10.0.0.2"},
		{lab.ARP(lab.Broadcast, mac, lab.ARPReply, lab.Endpoint{MAC: mac, Addr: vm}, lab.Endpoint{MAC: mac, Addr: gateway}), "ARP, Reply 10.0.0.2 is-at fa:16:3e:00:00:02"},
		{ip(lab.Echo(vm, gateway, 1, 1, nil)), "IP 10.0.0.2 > 10.0.0.1: ICMP echo request"},
		{ip(lab.IPv4(vm, gateway, 1, []byte{3, 3, 0, 0})), "IP 10.0.0.2 > 10.0.0.1: ICMP unreachable"},
		{ip(lab.IPv4(vm, gateway, 1, []byte{13, 0})), "IP 10.0.0.2 > 10.0.0.1: ICMP type 13"},
		{ip(lab.IPv4(vm, gateway, 6, []byte{0x1f, 0x90, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12})), "IP 10.0.0.2.8080 > 10.0.0.1.80: TCP [S.]"},
		{ip(lab.UDP(netip.AddrPortFrom(gateway, 67), netip.AddrPortFrom(vm, 68), offer)), "IP 10.0.0.1.67 > 10.0.0.2.68: DHCP OFFER"},
		{ip(lab.UDP(netip.AddrPortFrom(vm, 4000), netip.AddrPortFrom(gateway, 53), nil)), "IP 10.0.0.2.4000 > 10.0.0.1.53: UDP"},
		{ip(fragment), "IP 10.0.0.2 > 10.0.0.1: fragment at 24"},
		{ip(lab.IPv4(vm, gateway, 47, nil)), "IP 10.0.0.2 > 10.0.0.1: protocol 47"},
		{lab.Ethernet(lab.Broadcast, mac, 0x8100, append([]byte{0, 5, 8, 0}, lab.Echo(vm, gateway, 1, 1, nil)...)), "vlan 5, IP 10.0.0.2 > 10.0.0.1: ICMP echo request"},
		{lab.Ethernet(lab.Broadcast, mac, 39, make([]byte, 39)), "802.3, length 39"},
		{lab.Ethernet(lab.Broadcast, mac, 0x86dd, make([]byte, 40)), "ethertype 0x86dd, length 54"},
		{ip([]byte{0x4f}), "ethertype 0x0800, length 15"},
		{[]byte{1, 2}, "2 bytes that are no frame"},
	} {
		if got := lab.Describe(tt.frame); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
