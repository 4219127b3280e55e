package lab_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// wired is two containers on one bridge, with a tap and an address each.
type wired struct {
	host   *lab.Host
	taps   [2]*lab.Tap
	ends   [2]lab.Endpoint
	insect []*lab.Container
}

func wire(t *testing.T) *wired {
	t.Helper()
	h := labtest.AddHost(t, labtest.New(t, lab.Options{}), "node1")
	ctx := labtest.Within(t, patience)
	w := &wired{host: h}
	must := func(_, _ string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Run(ctx, "ip", "link", "add", "br0", "up", "type", "bridge", "forward_delay", "0"))
	for i, name := range []string{"a", "b"} {
		c, err := h.Container(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)})
		must(h.Run(ctx, "ip", "link", "add", "p"+name, "type", "veth", "peer", "name", "eth0", "netns", name))
		must(h.Run(ctx, "ip", "link", "set", "p"+name, "master", "br0", "up"))
		must(c.Run(ctx, "ip", "address", "add", addr.String()+"/24", "dev", "eth0"))
		must(c.Run(ctx, "ip", "link", "set", "eth0", "up"))
		tap, err := c.Tap("eth0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tap.Close() })
		w.taps[i] = tap
		w.ends[i] = lab.Endpoint{MAC: tap.MAC(), Addr: addr}
		w.insect = append(w.insect, c)
	}
	// The ports forward once ARP gets through; wait for that, not for a time.
	must(w.insect[0].Run(ctx, "ping", "-c", "1", "-w", "60", w.ends[1].Addr.String()))
	return w
}

func TestAbsenceIsProvenByTheMarker(t *testing.T) {
	w := wire(t)
	ctx := labtest.Within(t, patience)
	a, b := w.ends[0], w.ends[1]
	for _, tt := range []struct {
		name  string
		frame []byte
	}{
		{"udp", lab.Ethernet(b.MAC, a.MAC, 0x0800, lab.UDP(netip.AddrPortFrom(a.Addr, 1000), netip.AddrPortFrom(b.Addr, 2000), []byte("hello")))},
		{"broadcast", lab.Ethernet(lab.Broadcast, a.MAC, 0x0800, lab.UDP(netip.AddrPortFrom(a.Addr, 67), netip.MustParseAddrPort("255.255.255.255:68"), []byte("offer")))},
		{"echo", lab.Ethernet(b.MAC, a.MAC, 0x0800, lab.Echo(a.Addr, b.Addr, 7, 1, []byte("hello")))},
		{"vlan", lab.Ethernet(b.MAC, a.MAC, 0x8100, append([]byte{0, 5, 8, 0}, lab.IPv4(a.Addr, b.Addr, 1, nil)...))},
		{"unknown ethertype", lab.Ethernet(b.MAC, a.MAC, 0x88b5, bytes.Repeat([]byte{1}, 60))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delivered := func() bool {
				t.Helper()
				marker, _ := lab.Marker(a, b)
				ok, err := lab.Delivered(ctx, w.taps[0], w.taps[1], tt.frame, marker)
				if err != nil {
					t.Fatal(err)
				}
				return ok
			}
			nft := func(rules string) {
				t.Helper()
				if _, _, err := w.host.Run(ctx, "nft", rules); err != nil {
					t.Fatal(err)
				}
			}
			if !delivered() {
				t.Fatal("not delivered although nothing is in its way")
			}
			nft("table bridge t { chain c { type filter hook forward priority 0; ether type != arp drop; }; }")
			if delivered() {
				t.Error("delivered although it was dropped")
			}
			nft("delete table bridge t")
			if !delivered() {
				t.Error("not delivered after the rule was removed")
			}
		})
	}
}

func TestOrderIsKept(t *testing.T) {
	w := wire(t)
	ctx := labtest.Within(t, patience)
	a, b := w.ends[0], w.ends[1]
	const n = 500
	var frames [][]byte
	for i := range n {
		frames = append(frames, lab.Ethernet(b.MAC, a.MAC, 0x88b5, []byte{0xaa, byte(i >> 8), byte(i)}))
	}
	marker, is := lab.Marker(a, b)
	if err := w.taps[0].Send(append(frames, marker)...); err != nil {
		t.Fatal(err)
	}
	got, err := w.taps[1].Until(ctx, is)
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	for _, f := range got {
		if len(f) >= 17 && f[12] == 0x88 && f[14] == 0xaa {
			if i := int(f[15])<<8 | int(f[16]); i != next {
				t.Fatalf("frame %d arrived when %d was due", i, next)
			}
			next++
		}
	}
	if next != n {
		t.Errorf("%d of %d frames arrived before the marker", next, n)
	}
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	w := wire(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.taps[0].Until(ctx, func([]byte) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	// The tap is of use again afterwards.
	marker, is := lab.Marker(w.ends[1], w.ends[0])
	if err := w.taps[1].Send(marker); err != nil {
		t.Fatal(err)
	}
	if _, err := w.taps[0].Until(labtest.Within(t, patience), is); err != nil {
		t.Error(err)
	}
}
