package link

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// A host on the segment is found by its address, whether the interface is a bridge's port
// or not; nobody is where nobody is, and nobody's cache changes.
func TestProbe(t *testing.T) {
	ctx := inLab(t)
	lan := newNetNS(t)
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth2"}, PeerName: "wire"}))
	deleteLinkAtEnd(t, "eth2")
	ns, err := os.Open(lan)
	ok(t, err)
	defer ns.Close()
	ok(t, netlink.LinkSetNsFd(linkNamed(t, "wire"), int(ns.Fd())))
	mac := ipam.MAC{0x52, 0x54, 0, 0, 0, 9}
	inNetNS(t, lan, func() error {
		wire, err := netlink.LinkByName("wire")
		ok(t, err)
		ok(t, netlink.LinkSetHardwareAddr(wire, mac.HardwareAddr()))
		ok(t, netlink.LinkSetUp(wire))
		return netlink.AddrAdd(wire, address(netip.MustParsePrefix("10.0.0.64/24")))
	})
	ok(t, netlink.LinkSetUp(linkNamed(t, "eth2")))
	ensureBridge(ctx, t, testBridge())
	find := func(addr string) ipam.MAC {
		t.Helper()
		found, err := Probe(ctx, "eth2", netip.MustParseAddr(addr), 200*time.Millisecond)
		ok(t, err)
		return found
	}
	for _, port := range []bool{false, true} {
		if port {
			ok(t, netlink.LinkSetMaster(linkNamed(t, "eth2"), linkNamed(t, "br100")))
		}
		if got := find("10.0.0.64"); got != mac {
			t.Errorf("a bridge's port %t: 10.0.0.64 is at %s, want %s", port, got, mac)
		}
		if got := find("10.0.0.65"); !got.IsZero() {
			t.Errorf("a bridge's port %t: 10.0.0.65, which nobody has, is at %s", port, got)
		}
	}
	inNetNS(t, lan, func() error {
		known, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range known {
			if n.IP.String() != "127.0.0.1" {
				t.Errorf("the host has heard of %s at %s", n.IP, n.HardwareAddr)
			}
		}
		return err
	})
	_, err = Probe(ctx, "eth9", netip.MustParseAddr("10.0.0.64"), time.Millisecond)
	wantError(t, err, "asking behind eth9 whose 10.0.0.64 is")
}

// What shows that somebody has an address, or is about to.
func TestOwnerIn(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.64")
	mac := ipam.MAC{0x52, 0x54, 0, 0, 0, 9}
	reply := gratuitousARP(arpReply, mac, addr)
	other := gratuitousARP(arpReply, mac, netip.MustParseAddr("10.0.0.65"))
	asks := gratuitousARP(arpRequest, mac, netip.MustParseAddr("10.0.0.65"))
	copy(asks[38:42], addr.AsSlice())
	odd := gratuitousARP(arpReply, mac, addr)
	odd[18] = 8 // the length of a hardware address
	for name, tc := range map[string]struct {
		frame []byte
		want  bool
	}{
		"a reply":            {reply, true},
		"an announcement":    {gratuitousARP(arpRequest, mac, addr), true},
		"a probe":            {arpProbe(mac, addr), true},
		"of another address": {other, false},
		"a question for it":  {asks, false},
		"of other hardware":  {odd, false},
		"cut short":          {reply[:41], false},
		"empty":              {nil, false},
	} {
		got, found := ownerIn(tc.frame, addr)
		if found != tc.want || found && got != mac {
			t.Errorf("%s: %s, %t; want %t", name, got, found, tc.want)
		}
	}
}
