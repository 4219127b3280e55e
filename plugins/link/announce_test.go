package link

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestGratuitousARPFrames(t *testing.T) {
	mac, addr := ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}, netip.MustParseAddr("10.0.0.2")
	tests := []struct {
		name string
		op   byte
		want string
	}{
		{"request", arpRequest, "ffffffffffff fa163e000002 0806 0001 0800 06 04 0001 fa163e000002 0a000002 000000000000 0a000002"},
		{"reply", arpReply, "ffffffffffff fa163e000002 0806 0001 0800 06 04 0002 fa163e000002 0a000002 fa163e000002 0a000002"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.ReplaceAll(tt.want, " ", "") + strings.Repeat("00", 18)
			if got := hex.EncodeToString(gratuitousARP(tt.op, mac, addr)); got != want {
				t.Errorf("frame\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestAnnouncementsReachTheOtherPorts(t *testing.T) {
	ctx := inLab(t)
	bridge := ensureBridge(ctx, t, testBridge())
	listener := newWorkload(t, 3).attach(ctx, t)
	seen := capture(t, listener)
	// Right after attach, which waits for the port to forward: nothing may be lost.
	w := newWorkload(t, 2).attach(ctx, t)
	ok(t, Announce(ctx, w.netns, "eth0", w.spec.MAC, w.addr.Addr(), 2))
	ok(t, AnnounceHost(ctx, "br100", bridge.MAC, gateway.Addr(), 1))

	var got []string
	last := gratuitousARP(arpReply, bridge.MAC, gateway.Addr())
	_, before := seen.await(t, "the announcement of the gateway", func(f []byte) bool { return bytes.Equal(f, last) })
	for _, f := range before {
		if len(f) > 14 && f[12] == 0x08 && f[13] == 0x06 {
			got = append(got, hex.EncodeToString(f))
		}
	}
	var want []string
	for _, f := range [][]byte{
		gratuitousARP(arpRequest, w.spec.MAC, w.addr.Addr()), gratuitousARP(arpReply, w.spec.MAC, w.addr.Addr()),
		gratuitousARP(arpRequest, w.spec.MAC, w.addr.Addr()), gratuitousARP(arpReply, w.spec.MAC, w.addr.Addr()),
		gratuitousARP(arpRequest, bridge.MAC, gateway.Addr()),
	} {
		want = append(want, hex.EncodeToString(f))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("ARP frames seen\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// One ARP request for each address, and no more, each time that it is asked for; others'
// addresses on the interface count, too.
func TestKernelAnnounces(t *testing.T) {
	ctx := inLab(t)
	bridge := ensureBridge(ctx, t, testBridge())
	listener := newWorkload(t, 3).attach(ctx, t)
	seen := capture(t, listener)
	w := newWorkload(t, 2).attach(ctx, t)
	other := netip.MustParseAddr("10.0.0.77")
	inNetNS(t, w.netns, func() error {
		return netlink.AddrAdd(linkNamed(t, "eth0"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(other, 24))})
	})
	for range 2 {
		ok(t, AnnounceByKernel(ctx, w.netns, "eth0", w.spec.MAC))
	}
	ok(t, AnnounceHost(ctx, "br100", bridge.MAC, gateway.Addr(), 1))
	last := gratuitousARP(arpReply, bridge.MAC, gateway.Addr())
	_, before := seen.await(t, "the announcement of the gateway, which comes after", func(f []byte) bool { return bytes.Equal(f, last) })
	got := map[netip.Addr]int{}
	for _, f := range before {
		for _, a := range []netip.Addr{w.addr.Addr(), other} {
			// The kernel's frame is not padded, and its target MAC is zero or broadcast.
			want := gratuitousARP(arpRequest, w.spec.MAC, a)
			if len(f) >= 42 && bytes.Equal(f[:32], want[:32]) && bytes.Equal(f[38:42], want[38:42]) {
				got[a]++
			}
		}
	}
	if got[w.addr.Addr()] != 2 || got[other] != 2 {
		t.Errorf("announced %v, want each address twice", got)
	}
	wantError(t, AnnounceByKernel(ctx, w.netns, "eth9", w.spec.MAC), "making the kernel announce eth9 in namespace "+w.netns+": looking it up")
}

// What the announcement is for: a neighbour that remembers another MAC.
func TestAnnouncementCorrectsANeighbourCache(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2).attach(ctx, t)
	br := linkNamed(t, "br100").Attrs().Index
	remembered := func() string {
		neighbours, err := netlink.NeighList(br, netlink.FAMILY_V4)
		ok(t, err)
		for _, n := range neighbours {
			if n.IP.Equal(w.addr.Addr().AsSlice()) {
				return n.HardwareAddr.String()
			}
		}
		return ""
	}
	stale := ipam.MAC{2, 0, 0, 0, 0, 1}
	for name, announce := range map[string]func() error{
		"both forms":   func() error { return Announce(ctx, w.netns, "eth0", w.spec.MAC, w.addr.Addr(), 1) },
		"the kernel's": func() error { return AnnounceByKernel(ctx, w.netns, "eth0", w.spec.MAC) },
	} {
		ok(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: br, State: netlink.NUD_STALE, IP: w.addr.Addr().AsSlice(), HardwareAddr: stale.HardwareAddr()}))
		ok(t, announce())
		eventually(t, "the host corrects its entry by "+name, func() bool { return remembered() == w.spec.MAC.String() })
	}
	for range 2 {
		ok(t, FlushNeighbour(ctx, "br100", w.addr.Addr()))
	}
	if got := remembered(); got != "" {
		t.Errorf("after the flush the host still remembers %s", got)
	}
	ok(t, FlushNeighbour(ctx, "br101", w.addr.Addr()))
}

func TestAnnounceErrors(t *testing.T) {
	ctx := inLab(t)
	netns := newNetNS(t)
	mac, addr := ipam.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.2")
	wantError(t, Announce(ctx, netns, "eth0", mac, addr, 1), "announcing 10.0.0.2", netns, "looking up eth0")
	wantError(t, AnnounceHost(ctx, "br100", mac, addr, 1), "announcing 10.0.0.2: looking up br100")
}
