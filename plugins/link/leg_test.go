package link

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	nodeAddr = netip.MustParsePrefix("10.0.0.251/24")
	nodeMAC  = ipam.MAC{2, 0, 0, 0, 0, 0xfb}
)

// sharedGateway makes br100 with the node's address, and its leg.
func sharedGateway(ctx context.Context, t testing.TB) LegSpec {
	t.Helper()
	bridge := testBridge()
	bridge.MAC, bridge.Gateway = nodeMAC, nodeAddr
	ensureBridge(ctx, t, bridge)
	spec := LegSpec{Bridge: "br100", Addr: gateway.Addr(), MAC: ipam.DeriveMAC(ipam.DefaultMACPrefix, gateway.Addr()), MTU: 1500}
	made, err := EnsureLeg(ctx, spec)
	ok(t, err)
	deleteLinkAtEnd(t, LegName("br100"))
	if !made {
		t.Error("EnsureLeg does not say that it made the leg")
	}
	if forwards, err := WaitLeg(ctx, "br100", time.Second); err != nil || !forwards {
		t.Fatalf("the leg does not forward: %v, %v", forwards, err)
	}
	return spec
}

func TestLegIsMadeOnce(t *testing.T) {
	ctx := inLab(t)
	spec := sharedGateway(ctx, t)
	end, port := LegName("br100"), LegPort("br100")
	for attr, want := range map[string]string{
		end + "/address":                         "fa:16:3e:00:00:01",
		port + "/address":                        "fe:16:3e:00:00:01",
		end + "/mtu":                             "1500",
		"br100/address":                          nodeMAC.String(),
		port + "/brport/learning":                "0",
		port + "/brport/unicast_flood":           "0",
		port + "/brport/multicast_flood":         "0",
		port + "/brport/broadcast_flood":         "1",
		port + "/brport/hairpin_mode":            "0",
		end + "/ifalias":                         "flatdhcp-gateway br100",
		"br100/brif/" + port + "/port_no":        "0x1",
		"br100/brif/" + port + "/neigh_suppress": "0",
	} {
		if got := readFile(t, "/sys/class/net/"+attr); got != want {
			t.Errorf("%s = %s, want %s", attr, got, want)
		}
	}
	for path, want := range map[string]string{
		"ipv4/conf/br100/arp_ignore": "1", "ipv4/conf/br100/arp_announce": "2",
		"ipv4/conf/" + end + "/arp_ignore": "1", "ipv4/conf/" + end + "/rp_filter": "2",
		"ipv4/conf/" + end + "/send_redirects": "0", "ipv6/conf/" + end + "/disable_ipv6": "1", "ipv6/conf/" + port + "/disable_ipv6": "1",
	} {
		if got, err := sysctl(path); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %s", path, got, err, want)
		}
	}
	if diff := cmp.Diff([]string{port + " flags=0x40 state=0x40"}, fdb(t, spec.MAC)); diff != "" {
		t.Errorf("entries of the shared MAC (-want +got):\n%s", diff)
	}
	addrs, err := Addresses(ctx, end)
	if want := []netip.Addr{gateway.Addr()}; err != nil || !cmp.Equal(addrs, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("addresses of the leg: %v, %v; want %v", addrs, err, want)
	}
	index := linkNamed(t, end).Attrs().Index
	made, err := EnsureLeg(ctx, spec)
	if err != nil || made || linkNamed(t, end).Attrs().Index != index {
		t.Errorf("the second call: %v, %v", made, err)
	}
	defects, err := CheckLeg(ctx, spec)
	if err != nil || len(defects) != 0 {
		t.Errorf("CheckLeg: %q, %v", defects, err)
	}
}

func TestLegIsMended(t *testing.T) {
	ctx := inLab(t)
	spec := sharedGateway(ctx, t)
	end, port := LegName("br100"), LegPort("br100")
	sysctlTo := func(path, v string) func() {
		return func() { writeFile(t, "/proc/sys/net/ipv4/conf/"+path, v) }
	}
	leg := "leg " + end + " of bridge br100 "
	for _, c := range []struct {
		name   string
		damage func()
		defect string
	}{
		{"address gone", func() {
			ok(t, netlink.AddrDel(linkNamed(t, end), address(netip.PrefixFrom(gateway.Addr(), 32))))
		}, leg + "lacks address 10.0.0.1"},
		{"another address", func() {
			ok(t, netlink.AddrReplace(linkNamed(t, end), address(netip.MustParsePrefix("10.0.0.1/24"))))
			ok(t, netlink.AddrDel(linkNamed(t, end), address(netip.PrefixFrom(gateway.Addr(), 32))))
		}, leg + "lacks address 10.0.0.1"},
		{"down", func() { ok(t, netlink.LinkSetDown(linkNamed(t, end))) }, leg + "is down"},
		{"off the bridge", func() { ok(t, netlink.LinkSetNoMaster(linkNamed(t, port))) }, leg + "is not on the bridge"},
		{"another MAC", func() { ok(t, netlink.LinkSetHardwareAddr(linkNamed(t, end), net.HardwareAddr{2, 0, 0, 0, 0, 9})) },
			leg + "has MAC 02:00:00:00:00:09, not the shared gateway's, fa:16:3e:00:00:01"},
		{"not pinned", func() {
			ok(t, netlink.NeighDel(&netlink.Neigh{LinkIndex: linkNamed(t, port).Attrs().Index, Family: unix.AF_BRIDGE,
				Flags: netlink.NTF_MASTER, HardwareAddr: spec.MAC.HardwareAddr()}))
		}, leg + "is not known to the bridge by a static sticky entry of MAC fa:16:3e:00:00:01"},
		{"bridge answers for all", sysctlTo("br100/arp_ignore", "0"), leg + "needs net.ipv4.conf.br100.arp_ignore to be 1, and it is 0"},
		{"bridge asks from any", sysctlTo("br100/arp_announce", "0"), leg + "needs net.ipv4.conf.br100.arp_announce to be 2, and it is 0"},
		{"leg answers for all", sysctlTo(end+"/arp_ignore", "0"), leg + "needs net.ipv4.conf." + end + ".arp_ignore to be 1, and it is 0"},
		{"strict reverse path", sysctlTo(end+"/rp_filter", "1"), leg + "needs net.ipv4.conf." + end + ".rp_filter to be 2, and it is 1"},
		{"gone", func() { ok(t, netlink.LinkDel(linkNamed(t, port))) }, "bridge br100 has no leg for its shared gateway 10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.damage()
			defects, err := CheckLeg(ctx, spec)
			if err != nil || len(defects) == 0 || defects[0] != c.defect {
				t.Errorf("CheckLeg: %q, %v; want %q", defects, err, c.defect)
			}
			if _, err := EnsureLeg(ctx, spec); err != nil {
				t.Fatal(err)
			}
			if defects, err := CheckLeg(ctx, spec); err != nil || len(defects) != 0 {
				t.Errorf("after EnsureLeg: %q, %v", defects, err)
			}
			if addrs, err := Addresses(ctx, end); err != nil || len(addrs) != 1 {
				t.Errorf("after EnsureLeg the leg has %v, %v", addrs, err)
			}
		})
	}
}

// arpFrame is an Ethernet frame with an ARP request or reply.
func arpFrame(op byte, mac ipam.MAC, from, to netip.Addr) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, mac[:]...), from.AsSlice()...)
	return append(append(f, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
}

// answers lets a workload ask for an address and returns the MACs that answer. The leg's
// answer to a second question ends the wait: its way is longer than the bridge's.
func answers(t *testing.T, w *workload, addr netip.Addr, leg ipam.MAC) (macs []string) {
	t.Helper()
	p := capture(t, w)
	sendFrame(t, w, arpFrame(1, w.spec.MAC, w.addr.Addr(), addr), arpFrame(1, w.spec.MAC, w.addr.Addr(), netip.MustParseAddr("10.0.0.200")))
	isReply := func(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 }
	_, before := p.await(t, "the answer for the last address", func(f []byte) bool {
		return isReply(f) && bytes.Equal(f[28:32], []byte{10, 0, 0, 200}) && ipam.MAC(f[22:28]) == leg
	})
	for _, f := range before {
		if isReply(f) && bytes.Equal(f[28:32], addr.AsSlice()) {
			macs = append(macs, ipam.MAC(f[22:28]).String())
		}
	}
	return macs
}

func TestEachAddressHasOneAnswer(t *testing.T) {
	ctx := inLab(t)
	spec := sharedGateway(ctx, t)
	ok(t, netlink.AddrAdd(linkNamed(t, LegName("br100")), address(netip.MustParsePrefix("10.0.0.200/32"))))
	w := newWorkload(t, 2).attach(ctx, t)
	shared, own := spec.MAC.String(), nodeMAC.String()
	for _, c := range []struct {
		name    string
		unset   string // set to 0
		addr    netip.Addr
		answers []string
	}{
		{"the shared gateway", "", spec.Addr, []string{shared}},
		{"the node", "", nodeAddr.Addr(), []string{own}},
		{"the gateway, did the bridge answer for all", "br100", spec.Addr, []string{own, shared}},
		{"the node, did the leg answer for all", LegName("br100"), nodeAddr.Addr(), []string{own, shared}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.unset != "" {
				writeFile(t, "/proc/sys/net/ipv4/conf/"+c.unset+"/arp_ignore", "0")
				defer writeFile(t, "/proc/sys/net/ipv4/conf/"+c.unset+"/arp_ignore", "1")
			}
			got := answers(t, w, c.addr, spec.MAC)
			less := func(a, b string) bool { return a < b }
			if diff := cmp.Diff(c.answers, got, sortedBy(less)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
}

func sortedBy(less func(a, b string) bool) cmp.Option {
	return cmp.Transformer("sorted", func(list []string) []string {
		out := append([]string(nil), list...)
		for i := range out {
			for j := i + 1; j < len(out); j++ {
				if less(out[j], out[i]) {
					out[i], out[j] = out[j], out[i]
				}
			}
		}
		return out
	})
}

// The bridge asks for a workload from the node's address: did it ask from the one that its
// packet is from, the workload would learn the bridge's MAC for the shared address.
func TestQuestionsComeFromTheNodesAddress(t *testing.T) {
	ctx := inLab(t)
	spec := sharedGateway(ctx, t)
	w := newWorkload(t, 2).attach(ctx, t)
	for _, c := range []struct {
		announce string
		sender   netip.Addr
	}{{"2", nodeAddr.Addr()}, {"0", spec.Addr}} {
		writeFile(t, "/proc/sys/net/ipv4/conf/br100/arp_announce", c.announce)
		ok(t, FlushNeighbour(ctx, "br100", w.addr.Addr()))
		p := capture(t, w)
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: spec.Addr.AsSlice()}, &net.UDPAddr{IP: w.addr.Addr().AsSlice(), Port: 9})
		ok(t, err)
		_, err = conn.Write([]byte("from the shared address"))
		ok(t, errors.Join(err, conn.Close()))
		f, _ := p.await(t, "a question", func(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 })
		if got, _ := netip.AddrFromSlice(f[28:32]); got != c.sender || ipam.MAC(f[22:28]) != nodeMAC {
			t.Errorf("arp_announce=%s: the question is from %s at %s, not from %s at %s", c.announce, got, ipam.MAC(f[22:28]), c.sender, nodeMAC)
		}
	}
}

func TestLegIsUndoneUnlessSomebodyReliesOnIt(t *testing.T) {
	ctx := inLab(t)
	spec := sharedGateway(ctx, t)
	w := newWorkload(t, 2).attach(ctx, t)
	ok(t, RemoveCreatedLeg(ctx, "br100"))
	if defects, err := CheckLeg(ctx, spec); err != nil || len(defects) != 0 {
		t.Fatalf("with a workload on the bridge: %q, %v", defects, err)
	}
	ok(t, DeletePort(ctx, w.spec.Name))
	for range 2 {
		ok(t, RemoveCreatedLeg(ctx, "br100"))
		if _, err := netlink.LinkByName(LegName("br100")); !errors.As(err, new(netlink.LinkNotFoundError)) {
			t.Fatalf("without one: %v", err)
		}
	}
	if removed, err := RemoveLeg(ctx, "br100"); err != nil || removed {
		t.Errorf("RemoveLeg without a leg: %v, %v", removed, err)
	}
}

func TestLegRefusesWhatIsNotOurs(t *testing.T) {
	ctx := inLab(t)
	bridge := testBridge()
	bridge.Gateway = nodeAddr
	ensureBridge(ctx, t, bridge)
	spec := LegSpec{Bridge: "br100", Addr: gateway.Addr(), MAC: bridge.MAC}
	spec.BridgeMAC = nodeMAC
	_, err := EnsureLeg(ctx, spec)
	for _, err := range []error{err, CanMakeLeg(ctx, spec)} {
		wantError(t, err, "MAC fa:16:3e:00:00:01 of bridge br100: it is the shared gateway's, which other nodes have as well: "+
			"give the bridge another one, such as this node's own (`ip link set br100 address 02:00:00:00:00:fb`)")
	}
	ok(t, netlink.LinkSetHardwareAddr(linkNamed(t, "br100"), nodeMAC.HardwareAddr()))
	for _, name := range []string{LegName("br100"), LegPort("br100")} {
		ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
		_, err := EnsureLeg(ctx, spec)
		wantError(t, err, "looking up leg "+name+" of bridge br100: it is a bridge device", "no shared gateway's leg of ours: rename it")
		for _, err := range []error{CanMakeLeg(ctx, spec), RemoveCreatedLeg(ctx, "br100")} {
			if !errors.Is(err, ErrNotALeg) {
				t.Errorf("err = %v, want ErrNotALeg", err)
			}
		}
		ok(t, netlink.LinkDel(linkNamed(t, name)))
	}
	ok(t, CanMakeLeg(ctx, spec))
}
