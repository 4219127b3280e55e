package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// sysfs reads a link's attribute; the lab has a /sys of its own.
func sysfs(t testing.TB, name, attr string) string {
	t.Helper()
	return readFile(t, filepath.Join("/sys/class/net", name, attr))
}

func TestEnsureBridgeMakesAQuietBridgeThatForwardsAtOnce(t *testing.T) {
	ctx := inLab(t)
	setSysctl(t, "bridge/bridge-nf-call-iptables", "0")
	spec := testBridge()
	spec.MTU = 1450
	info := ensureBridge(ctx, t, spec)
	if !info.Created || !info.AddedAddress || info.MAC != spec.MAC || info.MTU != 1450 || info.STP || info.Index == 0 {
		t.Errorf("EnsureBridge says %+v", info)
	}
	for attr, want := range map[string]string{
		"address":                 spec.MAC.String(),
		"addr_assign_type":        "3", // set by us: udev leaves it alone
		"mtu":                     "1450",
		"bridge/stp_state":        "0",
		"bridge/forward_delay":    "0",
		"bridge/nf_call_iptables": "1",
	} {
		if got := sysfs(t, "br100", attr); got != want {
			t.Errorf("%s = %s, want %s", attr, got, want)
		}
	}
	if set, global, err := NFCallIPTables(ctx, "br100"); err != nil || !set || global {
		t.Errorf("NFCallIPTables = %v, %v, %v; want true, false", set, global, err)
	}
	for path, want := range map[string]string{
		"ipv4/conf/br100/send_redirects": "0",
		"ipv6/conf/br100/disable_ipv6":   "1",
		"ipv6/conf/br100/addr_gen_mode":  "1", // none
	} {
		if got, err := sysctl(path); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %s", path, got, err, want)
		}
	}
	addrs, err := netlink.AddrList(linkNamed(t, "br100"), netlink.FAMILY_ALL)
	ok(t, err)
	if len(addrs) != 1 || addrs[0].IPNet.String() != "10.0.0.1/24" || addrs[0].Broadcast.String() != "10.0.0.255" {
		t.Errorf("addresses of the bridge: %v", addrs)
	}
	if linkNamed(t, "br100").Attrs().Flags&net.FlagUp == 0 {
		t.Error("the bridge is down")
	}

	again, notices, err := EnsureBridge(ctx, spec)
	ok(t, err)
	if again.Created || again.AddedAddress || again.Index != info.Index || len(notices) != 0 {
		t.Errorf("the second call says %+v, %q", again, notices)
	}
}

// Case I1: a bridge follows its lowest port's MAC and its smallest port's MTU until
// they are set.
func TestBridgeKeepsMACAndMTUWhenPortsJoin(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	ensureBridge(ctx, t, spec)
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "control"}}))
	deleteLinkAtEnd(t, "control")
	for i, br := range []string{spec.Name, "control"} {
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("low%d", i), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}, MTU: 1300},
			PeerName:  fmt.Sprintf("peer%d", i),
		}
		ok(t, netlink.LinkAdd(port))
		deleteLinkAtEnd(t, port.Name)
		ok(t, netlink.LinkSetMaster(port, linkNamed(t, br)))
	}
	if got := linkNamed(t, "br100").Attrs(); got.HardwareAddr.String() != spec.MAC.String() || got.MTU != 1500 {
		t.Errorf("the bridge now has %s, MTU %d", got.HardwareAddr, got.MTU)
	}
	if got := linkNamed(t, "control").Attrs(); got.HardwareAddr.String() != "02:00:00:00:00:01" || got.MTU != 1300 {
		t.Errorf("control: a plain bridge does not follow its port: %s, MTU %d", got.HardwareAddr, got.MTU)
	}
}

func TestEnsureBridgeAdoptsAsItIs(t *testing.T) {
	ctx := inLab(t)
	setSysctl(t, "bridge/bridge-nf-call-iptables", "0")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br100", HardwareAddr: mac, MTU: 1400}}))
	deleteLinkAtEnd(t, "br100")
	writeFile(t, "/sys/class/net/br100/bridge/stp_state", "1")
	if set, global, err := NFCallIPTables(ctx, "br100"); err != nil || set || global {
		t.Fatalf("control: NFCallIPTables = %v, %v, %v", set, global, err)
	}
	info, notices, err := EnsureBridge(ctx, testBridge())
	ok(t, err)
	if info.Created || !info.AddedAddress || info.MAC.String() != mac.String() || info.MTU != 1400 || !info.STP {
		t.Errorf("EnsureBridge says %+v", info)
	}
	want := []string{
		"bridge br100 runs spanning tree: a new port forwards only after twice its forward delay of 15 s",
		"bridge br100 has MTU 1400 and keeps it, although 1500 is configured",
	}
	if strings.Join(notices, "\n") != strings.Join(want, "\n") {
		t.Errorf("notices %q, want %q", notices, want)
	}
	for attr, want := range map[string]string{
		"address": mac.String(), "mtu": "1400", "bridge/stp_state": "1", "bridge/forward_delay": "1500", "bridge/nf_call_iptables": "1",
	} {
		if got := sysfs(t, "br100", attr); got != want {
			t.Errorf("%s = %s, want %s", attr, got, want)
		}
	}
	// What the call did not make stays; what it added goes.
	for range 2 {
		ok(t, RemoveCreatedBridge(ctx, testBridge(), info))
	}
	if addrs, err := netlink.AddrList(linkNamed(t, "br100"), netlink.FAMILY_V4); err != nil || len(addrs) != 0 {
		t.Errorf("after undo: %v, %v", addrs, err)
	}
}

func TestEnsureBridgeInParallel(t *testing.T) {
	ctx := inLab(t)
	for round := range 100 {
		const callers = 4
		infos, errs := make([]BridgeInfo, callers), make([]error, callers)
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() { infos[i], _, errs[i] = EnsureBridge(ctx, testBridge()) })
		}
		all.Wait()
		created, added := 0, 0
		var maker BridgeInfo
		for i := range callers {
			if errs[i] != nil {
				t.Fatalf("round %d: %v", round, errs[i])
			}
			if infos[i].Created {
				created, maker = created+1, infos[i]
			}
			if infos[i].AddedAddress {
				added++
			}
		}
		if created != 1 || added != 1 {
			t.Fatalf("round %d: %d callers say they created the bridge, %d that they added the address", round, created, added)
		}
		if got, err := sysctl("ipv6/conf/br100/addr_gen_mode"); err != nil || got != "1" {
			t.Fatalf("round %d: addr_gen_mode %q, %v", round, got, err)
		}
		ok(t, RemoveCreatedBridge(ctx, testBridge(), maker))
	}
}

func TestEnsureBridgeRefuses(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T)
		edit  func(*BridgeSpec)
		want  string
	}{
		{"a veth of that name", func(t *testing.T) {
			ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "br100"}, PeerName: "peer"}))
			deleteLinkAtEnd(t, "br100")
		}, nil, "br100 is a veth device, not a bridge: rename it or set `bridge` to another name"},
		{"lo", nil, func(s *BridgeSpec) { s.Name = "lo" }, "lo is a hardware or loopback device, not a bridge: rename it or set `bridge` to another name"},
		{"an alternative name", func(t *testing.T) {
			ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "real"}}))
			deleteLinkAtEnd(t, "real")
			ok(t, netlink.LinkAddAltName(linkNamed(t, "real"), "br100"))
		}, nil, `looking up bridge br100: "br100" is only an alternative name of interface real`},
		{"a leg's name", nil, func(s *BridgeSpec) { s.Name = "fgw0" }, `bridge name "fgw0" starts with "fgw", which is kept for ports of ours: choose another`},
		{"a port's name", nil, func(s *BridgeSpec) { s.Name = "fdp0" }, `bridge name "fdp0" starts with "fdp", which is kept for ports of ours: choose another`},
		{"a long name", nil, func(s *BridgeSpec) { s.Name = "sixteen-bytes-xx" }, `checking bridge name: interface name "sixteen-bytes-xx" is 16 bytes long: the kernel takes at most 15`},
		{"no MAC", nil, func(s *BridgeSpec) { s.MAC = ipam.MAC{} }, "00:00:00:00:00:00 is no MAC for bridge br100"},
		{"another address of the subnet", func(t *testing.T) { bridgeWith(t, "10.0.0.9/24") }, nil,
			"bridge br100 has address 10.0.0.9/24, which is not the gateway 10.0.0.1/24 of the same subnet: remove it (`ip address del 10.0.0.9/24 dev br100`) or set `gateway` to it"},
		{"another prefix length", func(t *testing.T) { bridgeWith(t, "10.0.0.1/16") }, nil,
			"bridge br100 has address 10.0.0.1/16, which is not the gateway 10.0.0.1/24 of the same subnet: remove it (`ip address del 10.0.0.1/16 dev br100`) or set `gateway` to it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := inLab(t)
			if tt.setup != nil {
				tt.setup(t)
			}
			spec := testBridge()
			if tt.edit != nil {
				tt.edit(&spec)
			}
			_, _, err := EnsureBridge(ctx, spec)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %q\nwant  %q", err, tt.want)
			}
		})
	}
}

func bridgeWith(t *testing.T, addr string) {
	t.Helper()
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br100"}}))
	deleteLinkAtEnd(t, "br100")
	a, err := netlink.ParseAddr(addr)
	ok(t, err)
	ok(t, netlink.AddrAdd(linkNamed(t, "br100"), a))
}

func TestEnsureBridgeThatFailsLeavesNothing(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	spec.Gateway = netip.MustParsePrefix("fd00::1/64") // IPv6 is off on the bridge
	info, _, err := EnsureBridge(ctx, spec)
	wantError(t, err, "adding gateway address fd00::1/64 to bridge br100")
	if info != (BridgeInfo{}) {
		t.Errorf("%+v", info)
	}
}

func TestEnsureBridgeFinishesWhatWasInterrupted(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	c, err := dial(ctx)
	ok(t, err)
	defer c.close()
	ok(t, c.createBridge(spec)) // and killed
	deleteLinkAtEnd(t, spec.Name)
	info, _, err := EnsureBridge(ctx, spec)
	ok(t, err)
	if info.Created {
		t.Error("the call says that it created the bridge")
	}
	if got, err := sysctl("ipv6/conf/br100/disable_ipv6"); err != nil || got != "1" {
		t.Errorf("disable_ipv6 = %q, %v", got, err)
	}
}

func TestEnsureBridgeKeepsForeignAddresses(t *testing.T) {
	ctx := inLab(t)
	bridgeWith(t, "192.168.7.1/24")
	if info, _, err := EnsureBridge(ctx, testBridge()); err != nil || !info.AddedAddress {
		t.Fatalf("%+v, %v", info, err)
	}
	if addrs, err := netlink.AddrList(linkNamed(t, "br100"), netlink.FAMILY_V4); err != nil || len(addrs) != 2 {
		t.Errorf("%v, %v", addrs, err)
	}
}

func TestEnsureBridgeWithoutGateway(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	spec.Gateway, spec.NFCallIPTables = netip.Prefix{}, false
	info := ensureBridge(ctx, t, spec)
	if info.AddedAddress || sysfs(t, "br100", "bridge/nf_call_iptables") != "0" {
		t.Errorf("%+v", info)
	}
	if addrs, err := netlink.AddrList(linkNamed(t, "br100"), netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
		t.Errorf("%v, %v", addrs, err)
	}
}

func TestOnlyAGatewayMakesTheNodeRoute(t *testing.T) {
	ctx := inLab(t)
	forward := filepath.Join(sysctlNet, "ipv4/ip_forward")
	setSysctl(t, "ipv4/ip_forward", "0")
	routes := func(want string) {
		t.Helper()
		if got, err := sysctl("ipv4/ip_forward"); err != nil || got != want {
			t.Errorf("ip_forward is %q, %v; want %q", got, err, want)
		}
	}
	spec := testBridge()
	spec.Gateway = netip.Prefix{}
	ensureBridge(ctx, t, spec)
	routes("0")

	ok(t, unix.Mount(forward, forward, "", unix.MS_BIND, ""))
	ok(t, unix.Mount("", forward, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, _, err := EnsureBridge(ctx, testBridge())
	ok(t, unix.Unmount(forward, 0))
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_forward=1") {
		t.Errorf("with a sysctl that cannot be written: %v", err)
	}
	if addrs, err := Addresses(ctx, "br100"); err != nil || len(addrs) != 0 {
		t.Errorf("a gateway that does not route has %v, %v", addrs, err)
	}

	for range 2 {
		_, _, err := EnsureBridge(ctx, testBridge())
		ok(t, err)
		routes("1")
	}
}

func TestRemoveCreatedBridgeLeavesABridgeWithPorts(t *testing.T) {
	ctx := inLab(t)
	info := ensureBridge(ctx, t, testBridge())
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "peer"}))
	deleteLinkAtEnd(t, "port")
	ok(t, netlink.LinkSetMaster(linkNamed(t, "port"), linkNamed(t, "br100")))
	ok(t, RemoveCreatedBridge(ctx, testBridge(), info))
	linkNamed(t, "br100")
	ok(t, netlink.LinkDel(linkNamed(t, "port")))
	for range 2 {
		ok(t, RemoveCreatedBridge(ctx, testBridge(), info))
	}
}

func TestNFCallIPTablesOfAMissingBridge(t *testing.T) {
	ctx := inLab(t)
	_, _, err := NFCallIPTables(ctx, "br100")
	wantError(t, err, "looking up bridge br100")
}

func TestEndedContextIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(inLab(t))
	cancel()
	if _, _, err := EnsureBridge(ctx, testBridge()); err == nil {
		t.Error("EnsureBridge works on")
	}
}

func setSysctl(t testing.TB, path, value string) {
	t.Helper()
	file := filepath.Join(sysctlNet, path)
	old := readFile(t, file)
	writeFile(t, file, value)
	t.Cleanup(func() { writeFile(t, file, old) })
}

// Where bridged frames never meet iptables a bridge that is to be filtered is refused,
// and nothing is made; one that is not to be is made.
func TestEnsureBridgeWithoutBridgeNetfilter(t *testing.T) {
	ctx := inLab(t)
	at := filepath.Join(sysctlNet, "bridge")
	ok(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	hidden := true
	show := func() {
		if hidden {
			ok(t, unix.Unmount(at, 0))
			hidden = false
		}
	}
	defer show()
	_, _, err := EnsureBridge(ctx, testBridge())
	if !errors.Is(err, ErrNoBridgeNetfilter) {
		t.Errorf("got %v, want ErrNoBridgeNetfilter", err)
	}
	if _, there, err := BridgeByName(ctx, "br100"); there || err != nil {
		t.Errorf("BridgeByName = %v, %v after a refusal", there, err)
	}
	spec := testBridge()
	spec.NFCallIPTables = false
	ensureBridge(ctx, t, spec)
	show()
	if s, there, err := BridgeByName(ctx, "br100"); !there || err != nil || s.NFCallIPTables || !s.Up {
		t.Errorf("BridgeByName = %+v, %v, %v", s, there, err)
	}
	// Adopted by a network that filters: the flag is set, and read back.
	_, _, err = EnsureBridge(ctx, testBridge())
	ok(t, err)
	if s, _, err := BridgeByName(ctx, "br100"); err != nil || !s.NFCallIPTables {
		t.Errorf("BridgeByName = %+v, %v", s, err)
	}
}

func TestBridgeByName(t *testing.T) {
	ctx := inLab(t)
	if _, there, err := BridgeByName(ctx, "br100"); there || err != nil {
		t.Errorf("missing: %v, %v", there, err)
	}
	spec := testBridge()
	ensureBridge(ctx, t, spec)
	s, there, err := BridgeByName(ctx, "br100")
	if err != nil || !there || !s.Up || !s.NFCallIPTables || s.MAC != spec.MAC || s.MTU != 1500 || !slices.Equal(s.Addrs, []netip.Prefix{gateway}) {
		t.Errorf("got %+v, %v, %v", s, there, err)
	}
	if _, _, err := BridgeByName(ctx, "lo"); !errors.Is(err, ErrNotABridge) {
		t.Errorf("lo: %v, want ErrNotABridge", err)
	}
}

// The question makes nothing; a kind that no kernel has is told from those it has.
func TestCanMake(t *testing.T) {
	ctx := inLab(t)
	for _, kind := range []string{"bridge", "veth"} {
		ok(t, CanMake(ctx, kind))
	}
	err := CanMake(ctx, "flatdhcp")
	if !errors.Is(err, ErrNoLinkKind) {
		t.Errorf("got %v, want ErrNoLinkKind", err)
	}
	wantError(t, err, "modprobe flatdhcp")
}
