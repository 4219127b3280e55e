package link

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// routesIn lists the main table of a namespace as text.
func routesIn(t *testing.T, netns string) []string {
	t.Helper()
	var found []string
	inNetNS(t, netns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			l, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return err
			}
			via := ""
			if r.Gw != nil {
				via = " via " + r.Gw.String()
			}
			found = append(found, fmt.Sprintf("%s%s dev %s scope %s", r.Dst, via, l.Attrs().Name, r.Scope))
		}
		return nil
	})
	return found
}

func TestConfigureContainer(t *testing.T) {
	pfx, addr := netip.MustParsePrefix, netip.MustParseAddr
	const (
		connected = "10.0.0.0/24 dev eth0 scope link"
		ours      = "0.0.0.0/0 via 10.0.0.1 dev eth0 scope universe"
		older     = "0.0.0.0/0 via 192.168.1.1 dev net1 scope universe"
		olderLAN  = "192.168.1.0/24 dev net1 scope link"
	)
	anyRoute := ipam.Route{Dst: pfx("0.0.0.0/0"), GW: gateway.Addr()}
	tests := []struct {
		name       string
		hasDefault bool
		spec       ContainerSpec
		want       []string // the main table
		set        []ipam.Route
	}{
		{"a default route", false, ContainerSpec{Gateway: gateway.Addr(), DefaultRoute: true}, []string{ours, connected}, []ipam.Route{anyRoute}},
		{"none beside another's", true, ContainerSpec{Gateway: gateway.Addr()}, []string{older, connected, olderLAN}, nil},
		{"one before another's", true, ContainerSpec{Gateway: gateway.Addr(), DefaultRoute: true},
			[]string{ours, older, connected, olderLAN}, []ipam.Route{anyRoute}},
		{"no default route", false, ContainerSpec{Gateway: gateway.Addr()}, []string{connected}, nil},
		{"no gateway", false, ContainerSpec{DefaultRoute: true}, []string{connected}, nil},
		{"given default route is set once", false, ContainerSpec{Gateway: gateway.Addr(), DefaultRoute: true, Routes: []ipam.Route{{Dst: pfx("0.0.0.0/0")}}},
			[]string{ours, connected}, []ipam.Route{anyRoute}},
		{"given default route though none is wanted", false, ContainerSpec{Gateway: gateway.Addr(), Routes: []ipam.Route{{Dst: pfx("0.0.0.0/0")}}},
			[]string{ours, connected}, []ipam.Route{anyRoute}},
		{"routes: zero gateway, own gateway, to the link, unmasked, in the order that works", false,
			ContainerSpec{Gateway: gateway.Addr(), Routes: []ipam.Route{
				{Dst: pfx("172.16.0.0/12")},
				{Dst: pfx("172.20.0.9/16"), GW: addr("10.0.0.9")},
				{Dst: pfx("10.9.0.0/16"), GW: addr("10.8.0.1")}, // reached by the next one
				{Dst: pfx("10.8.0.1/32"), GW: addr("0.0.0.0")},
			}},
			[]string{connected, "10.8.0.1/32 dev eth0 scope link", "10.9.0.0/16 via 10.8.0.1 dev eth0 scope universe",
				"172.16.0.0/12 via 10.0.0.1 dev eth0 scope universe", "172.20.0.0/16 via 10.0.0.9 dev eth0 scope universe"},
			[]ipam.Route{{Dst: pfx("10.8.0.1/32")}, {Dst: pfx("172.16.0.0/12"), GW: gateway.Addr()},
				{Dst: pfx("172.20.0.0/16"), GW: addr("10.0.0.9")}, {Dst: pfx("10.9.0.0/16"), GW: addr("10.8.0.1")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := inLab(t)
			ensureBridge(ctx, t, testBridge())
			w := newWorkload(t, 2)
			if tt.hasDefault {
				giveDefaultRoute(t, w.netns)
			}
			taken, routed, err := Before(ctx, w.netns, "eth0", true)
			if ok(t, err); taken || routed != tt.hasDefault {
				t.Errorf("before: eth0 taken %v, default route %v", taken, routed)
			}
			_, err = CreatePort(ctx, w.spec)
			ok(t, err)
			deleteLinkAtEnd(t, w.spec.Name)
			ok(t, PortUp(ctx, w.spec.Name))
			tt.spec.NetNS, tt.spec.IfName, tt.spec.Addr = w.netns, "eth0", w.addr
			for range 2 { // again does no harm
				info, err := ConfigureContainer(ctx, tt.spec)
				ok(t, err)
				if info.MAC != w.spec.MAC || info.MTU != 1500 || info.Index == 0 {
					t.Errorf("ConfigureContainer says %+v", info)
				}
				if got := routesIn(t, w.netns); !slices.Equal(got, tt.want) {
					t.Errorf("routes (-want +got):\n%s", cmp.Diff(tt.want, got))
				}
				if d := cmp.Diff(tt.set, info.Routes, cmp.Comparer(func(a, b ipam.Route) bool { return a == b })); d != "" {
					t.Errorf("routes that it says it set (-want +got):\n%s", d)
				}
				if info.DefaultRouteSet != slices.Contains(tt.set, anyRoute) {
					t.Errorf("DefaultRouteSet = %v", info.DefaultRouteSet)
				}
			}
			// Its own default route, as a killed ADD leaves one, does not count.
			for _, routes := range []bool{true, false} {
				taken, routed, err = Before(ctx, w.netns, "eth0", routes)
				if ok(t, err); !taken || routed != (tt.hasDefault && routes) {
					t.Errorf("after, looking for routes %v: eth0 taken %v, default route %v", routes, taken, routed)
				}
			}
			port, _, err := PortByName(ctx, w.spec.Name)
			ok(t, err)
			inside, there, err := Inside(ctx, w.netns, "eth0")
			want := InsideInfo{Index: inside.Index, MAC: w.spec.MAC, MTU: 1500, Up: true, Addrs: []netip.Prefix{w.addr}, Port: port.Index}
			if d := cmp.Diff(want, inside, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" || !there || err != nil {
				t.Errorf("Inside = %v, %v (-want +got):\n%s", there, err, d)
			}
			if lo, there, err := Inside(ctx, w.netns, "lo"); err != nil || !there || !lo.Up {
				t.Errorf("lo is %+v, %v, %v", lo, there, err)
			}
		})
	}
}

func TestConfigureContainerSetsWhatARouteSays(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	_, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	ok(t, PortUp(ctx, w.spec.Name))
	number := func(n int) *int { return &n }
	dst := netip.MustParsePrefix
	spec := ContainerSpec{NetNS: w.netns, IfName: "eth0", Addr: w.addr, Gateway: gateway.Addr(), DefaultRoute: true, Routes: []ipam.Route{
		{Dst: dst("10.1.0.0/16"), MTU: 1300, AdvMSS: 1260, Priority: 50},
		{Dst: dst("0.0.0.0/0"), Table: number(1000), Priority: 7}, // of another table: no default route for all
		{Dst: dst("10.2.0.0/16"), GW: netip.IPv4Unspecified(), Scope: number(unix.RT_SCOPE_HOST)},
	}}
	info, err := ConfigureContainer(ctx, spec)
	ok(t, err)
	if !info.DefaultRouteSet {
		t.Error("the default route of table 1000 counted as the container's")
	}
	var got []string
	inNetNS(t, w.netns, func() error {
		for _, table := range []int{unix.RT_TABLE_MAIN, 1000} {
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				got = append(got, fmt.Sprintf("table %d: %s via %v metric %d mtu %d advmss %d scope %s", table, r.Dst, r.Gw, r.Priority, r.MTU, r.AdvMSS, r.Scope))
			}
		}
		return nil
	})
	want := []string{
		"table 254: 0.0.0.0/0 via 10.0.0.1 metric 0 mtu 0 advmss 0 scope universe",
		"table 254: 10.0.0.0/24 via <nil> metric 0 mtu 0 advmss 0 scope link",
		"table 254: 10.1.0.0/16 via 10.0.0.1 metric 50 mtu 1300 advmss 1260 scope universe",
		"table 254: 10.2.0.0/16 via <nil> metric 0 mtu 0 advmss 0 scope host",
		"table 1000: 0.0.0.0/0 via 10.0.0.1 metric 7 mtu 0 advmss 0 scope universe",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}

func giveDefaultRoute(t *testing.T, netns string) {
	t.Helper()
	inNetNS(t, netns, func() error {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}, PeerName: "peer"}
		if err := netlink.LinkAdd(l); err != nil {
			return err
		}
		a, err := netlink.ParseAddr("192.168.1.2/24")
		if err != nil {
			return err
		}
		for _, f := range []func() error{
			func() error { return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "peer"}}) },
			func() error { return netlink.LinkSetUp(l) },
			func() error { return netlink.AddrAdd(l, a) },
			func() error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 168, 1, 1)})
			},
		} {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestConfigureContainerForDHCPOnlyBringsUp(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	_, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	info, err := ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: "eth0", Gateway: gateway.Addr(), DefaultRoute: true, MTU: 1400})
	ok(t, err)
	if info.MTU != 1400 || info.DefaultRouteSet || len(info.Routes) != 0 {
		t.Errorf("%+v", info)
	}
	inside, _, err := Inside(ctx, w.netns, "eth0")
	ok(t, err)
	if !inside.Up || len(inside.Addrs) != 0 || inside.MTU != 1400 {
		t.Errorf("inside: %+v", inside)
	}
	if got := routesIn(t, w.netns); len(got) != 0 {
		t.Errorf("routes %q", got)
	}
}

// The container's IPv6 must make no noise: every probe would be a drop at the guard.
func TestContainerSaysNothingOfIPv6(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	quiet, loud := newWorkload(t, 2), newWorkload(t, 3)
	seen := map[*workload]*tap{}
	for _, w := range []*workload{quiet, loud} {
		_, err := CreatePort(ctx, w.spec)
		ok(t, err)
		deleteLinkAtEnd(t, w.spec.Name)
		ok(t, PortUp(ctx, w.spec.Name))
		p := &tap{}
		ok(t, p.open(w.spec.Name)) // the host side sees what the container sends
		t.Cleanup(func() { ok(t, unix.Close(p.fd)) })
		seen[w] = p
	}
	_, err := ConfigureContainer(ctx, ContainerSpec{NetNS: quiet.netns, IfName: "eth0", Addr: quiet.addr, Gateway: gateway.Addr()})
	ok(t, err)
	inNetNS(t, loud.netns, func() error { return netlink.LinkSetUp(linkNamed(t, "eth0")) })
	isIPv6From := func(w *workload) func([]byte) bool {
		return func(f []byte) bool {
			return len(f) > 54 && slices.Equal(f[6:12], w.spec.MAC[:]) && f[12] == 0x86 && f[13] == 0xdd
		}
	}
	seen[loud].await(t, "control: a router solicitation of a container left alone", func(f []byte) bool {
		return isIPv6From(loud)(f) && f[20] == 58 && f[54] == 133
	})
	sendFrame(t, quiet, broadcastFrom(quiet.spec.MAC))
	_, before := seen[quiet].await(t, "the mark", func(f []byte) bool { return f[12] == 0x88 && f[13] == 0xb5 })
	for _, f := range before {
		if isIPv6From(quiet)(f) {
			t.Errorf("the container sent %x", f)
		}
	}
}

func TestConfigureContainerErrorsNameTheDevice(t *testing.T) {
	ctx := inLab(t)
	netns := newNetNS(t)
	_, err := ConfigureContainer(ctx, ContainerSpec{NetNS: netns, IfName: "eth0"})
	wantError(t, err, "configuring eth0 in namespace "+netns, "looking it up")
	_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: "/nonexistent", IfName: "eth0"})
	wantError(t, err, "configuring eth0 in namespace /nonexistent")

	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	_, err = CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: "eth0", Addr: w.addr, Gateway: netip.MustParseAddr("10.9.9.9"), DefaultRoute: true})
	wantError(t, err, "adding route 0.0.0.0/0 via 10.9.9.9")
}

func TestNetNSIdentity(t *testing.T) {
	inLab(t)
	a, b := newNetNS(t), newNetNS(t)
	ia, err := NetNSInode(a)
	ok(t, err)
	ib, err := NetNSInode(b)
	ok(t, err)
	if ia == 0 || ia == ib {
		t.Errorf("inodes %d and %d", ia, ib)
	}
	if same, err := SameNetNS(a); err != nil || same {
		t.Errorf("SameNetNS(another) = %v, %v", same, err)
	}
	if same, err := SameNetNS("/proc/self/ns/net"); err != nil || !same {
		t.Errorf("SameNetNS(own) = %v, %v", same, err)
	}
	inNetNS(t, a, func() error {
		same, err := SameNetNS(a)
		if !same {
			t.Error("SameNetNS asks about the process, not the thread")
		}
		return err
	})
	for _, path := range []string{"/nonexistent", "/etc/passwd", ""} {
		if _, err := NetNSInode(path); err == nil || !strings.Contains(err.Error(), "looking at network namespace "+path) {
			t.Errorf("NetNSInode(%q): %v", path, err)
		}
	}
}
