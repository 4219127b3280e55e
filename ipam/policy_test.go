package ipam

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// policyStore is a store of a /29 with two addresses to give: .2 and .3, gateway .1.
func policyStore(t *testing.T) (*Store, *clock) {
	c := newClock()
	n := testNet("flat", "10.0.0.0/29")
	n.Pool.RangeEnd = addr("10.0.0.3")
	return mustConfigure(t, testDir(t, WithClock(c.now)), n), c
}

func TestOrderOfAllocation(t *testing.T) {
	s, c := policyStore(t)
	if g := mustReserve(t, s, request("a", "a")); g.Addr != addr("10.0.0.2") {
		t.Fatalf("first = %s, want the lowest", g.Addr)
	}
	mustRelease(t, s, "a")
	if g := mustReserve(t, s, request("b", "b")); g.Addr != addr("10.0.0.3") {
		t.Fatalf("second = %s, want the one never used", g.Addr)
	}
	c.advance(10 * time.Second)
	mustRelease(t, s, "b")

	_, err := s.Reserve(context.Background(), nil, request("c", "c"))
	var full *ExhaustedError
	if !errors.As(err, &full) {
		t.Fatalf("all in quarantine: err = %v", err)
	}
	until := newClock().now().Add(time.Minute)
	if diff := cmp.Diff(&ExhaustedError{"flat", 2, until}, full); diff != "" {
		t.Errorf("ExhaustedError (-want +got):\n%s", diff)
	}
	want := "network flat has no free address: 2 in quarantine (reuseDelay), the first until 2026-01-01T12:01:00Z"
	if full.Error() != want {
		t.Errorf("text = %q, want %q", full, want)
	}

	c.advance(50 * time.Second) // .2 leaves quarantine this very moment
	g := mustReserve(t, s, request("c", "c"))
	if g.Addr != addr("10.0.0.2") || g.FromRetained == nil || *g.FromRetained != pod("a") {
		t.Errorf("after the quarantine: %s, from %v; want 10.0.0.2 from a", g.Addr, g.FromRetained)
	}
	mustRelease(t, s, "c")
	c.advance(25 * time.Hour)
	g = mustReserve(t, s, request("d", "d"))
	if g.Addr != addr("10.0.0.3") || g.FromRetained != nil {
		t.Errorf("past retain: %s, from %v; want 10.0.0.3, released longest ago, from nobody", g.Addr, g.FromRetained)
	}
	if g = mustReserve(t, s, request("c", "c2")); g.Addr != addr("10.0.0.2") {
		t.Errorf("c came back long after and got %s, want 10.0.0.2, which nobody took", g.Addr)
	}
}

func TestReturningWorkload(t *testing.T) {
	s, c := policyStore(t)
	req := request("vm", "c1")
	req.MAC = MAC{2, 0, 0, 0, 0, 7}
	req.Hostname = "mail"
	first := mustReserve(t, s, req)
	if !first.MACRequested {
		t.Errorf("MACRequested is false")
	}
	mustRelease(t, s, "c1")
	g := mustReserve(t, s, request("vm", "c2")) // in quarantine, which is for others
	if g.Addr != first.Addr || g.MAC != req.MAC || g.Hostname != "mail" || !g.PreviousMAC.IsZero() {
		t.Errorf("it came back to %+v, want what it had: %+v", g.Reservation, first.Reservation)
	}
	mustRelease(t, s, "c2")
	c.advance(time.Minute)

	// Another takes its MAC: it keeps its address with the address's own MAC.
	thief := request("thief", "c3")
	thief.MAC = req.MAC
	if g := mustReserve(t, s, thief); g.Addr == first.Addr {
		t.Fatalf("the thief got the retained address")
	}
	g = mustReserve(t, s, request("vm", "c4"))
	if g.Addr != first.Addr || g.MAC != (MAC{0xfa, 0x16, 0x3e, 0, 0, 2}) || g.PreviousMAC != req.MAC || g.MACRequested {
		t.Errorf("without its MAC: %+v", g.Reservation)
	}
}

func TestAddressAnnouncedIfItsMACChanged(t *testing.T) {
	s, c := policyStore(t)
	mustReserve(t, s, request("other", "other"))
	req := request("a", "a")
	req.MAC = MAC{2, 0, 0, 0, 0, 7}
	mustReserve(t, s, req)
	mustRelease(t, s, "a")
	c.advance(48 * time.Hour)
	g := mustReserve(t, s, request("b", "b"))
	if g.Addr != addr("10.0.0.3") || g.PreviousMAC != req.MAC {
		t.Errorf("got %s, PreviousMAC %s; want 10.0.0.3, %s", g.Addr, g.PreviousMAC, req.MAC)
	}
}

func TestRequestedAddress(t *testing.T) {
	c := newClock()
	d := testDir(t, WithClock(c.now))
	n := testNet("flat", "10.0.0.0/24")
	n.Pool.RangeStart, n.Pool.RangeEnd = addr("10.0.0.10"), addr("10.0.0.100")
	n.Pool.Exclude = []Range{{addr("10.0.0.20"), addr("10.0.0.29")}}
	n.Pool.Nodes = []netip.Addr{addr("10.0.0.2"), addr("10.0.0.11")}
	s := mustConfigure(t, d, n)
	ctx := context.Background()
	mustReserve(t, s, request("neighbour", "n1")) // .10
	gone := request("gone", "g1")
	gone.Addr = addr("10.0.0.50")
	mustReserve(t, s, gone)
	mustRelease(t, s, "g1")
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("vip"), Addr: addr("10.0.0.60")}); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, addr, want string }{
		{"network", "10.0.0.0", "address 10.0.0.0: it is the network's own address"},
		{"broadcast", "10.0.0.255", "address 10.0.0.255: it is the broadcast address"},
		{"gateway", "10.0.0.1", "address 10.0.0.1: it is the gateway's"},
		{"another node's gateway", "10.0.0.2", "address 10.0.0.2: it is a node's own (gatewayAddresses, nodeAddress)"},
		{"a node's in the range", "10.0.0.11", "address 10.0.0.11: it is a node's own (gatewayAddresses, nodeAddress)"},
		{"excluded", "10.0.0.25", "address 10.0.0.25: it is excluded by 10.0.0.20-10.0.0.29"},
		{"outside the subnet", "10.0.1.5", "address 10.0.1.5: it is outside subnet 10.0.0.0/24"},
		{"outside the range", "10.0.0.101", "address 10.0.0.101: it is outside 10.0.0.10-10.0.0.100, of which the network gives addresses"},
		{"other family", "fd00::5", "address fd00::5: the network's subnet is 10.0.0.0/24"},
		{"mapped", "::ffff:10.0.0.11", "address ::ffff:10.0.0.11: the network's subnet is 10.0.0.0/24"},
		{"taken", "10.0.0.10", "address 10.0.0.10 belongs to workload default/pod:neighbour/eth0"},
		{"administrator's", "10.0.0.60", "address 10.0.0.60 belongs to workload default/pod:vip/eth0 by the administrator's reservation"},
		{"in quarantine", "10.0.0.50", "address 10.0.0.50 was released a moment ago and is in quarantine (reuseDelay) until 2026-01-01T12:01:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request("w", "w")
			req.Addr = addr(tt.addr)
			_, err := s.Reserve(ctx, nil, req)
			want := "reserving an address in network flat for workload default/pod:w/eth0: request refused: " + tt.want
			if !errors.Is(err, ErrRefused) || err.Error() != want {
				t.Errorf("err = %v\nwant %s", err, want)
			}
		})
	}
	t.Run("granted", func(t *testing.T) {
		req := request("w", "w")
		req.Addr = addr("10.0.0.70")
		if g := mustReserve(t, s, req); g.Addr != req.Addr {
			t.Errorf("got %s", g.Addr)
		}
		req.Addr = addr("10.0.0.71") // while it lives
		if _, err := s.Reserve(ctx, nil, req); !errors.Is(err, ErrRefused) {
			t.Errorf("a second address for a living attachment: %v", err)
		}
		mustRelease(t, s, "w")
		if g := mustReserve(t, s, req); g.Addr != req.Addr {
			t.Errorf("the request must beat the address retained: got %s", g.Addr)
		}
	})
	t.Run("retained for another, past quarantine", func(t *testing.T) {
		c.advance(time.Minute)
		req := request("taker", "t")
		req.Addr = addr("10.0.0.50")
		if g := mustReserve(t, s, req); g.FromRetained == nil || *g.FromRetained != pod("gone") {
			t.Errorf("FromRetained = %v", g.FromRetained)
		}
		if g := mustReserve(t, s, request("gone", "g2")); g.Addr == req.Addr {
			t.Errorf("two workloads have %s", g.Addr)
		}
	})
}

// On another node of the segment it may be a workload's.
func TestMACOfAnotherNodesAddressIsNoTenants(t *testing.T) {
	for namespace, want := range map[string]string{
		"default": "request refused: MAC fa:16:3e:00:00:05 names address 10.0.0.5, which is not this node's to give: another node's workload may have it",
		"":        "", // the operator knows
	} {
		t.Run("by "+namespace, func(t *testing.T) {
			s, _ := policyStore(t) // gives 10.0.0.2 and 10.0.0.3
			req := request("w", "w")
			req.Workload.Namespace, req.MAC = namespace, MAC{0xfa, 0x16, 0x3e, 0, 0, 5}
			g, err := s.Reserve(context.Background(), nil, req)
			switch {
			case want == "" && (err != nil || g.MAC != req.MAC):
				t.Errorf("got %s, %v", g.MAC, err)
			case want != "" && (!errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), want)):
				t.Errorf("err = %v\nwant %s", err, want)
			}
		})
	}
}

// What is kept for a workload is nobody's in another namespace to ask for, neither by
// address nor by the MAC that names it.
func TestRequestForWhatIsKeptForAnotherNamespace(t *testing.T) {
	const kept = "is kept for workload default/pod:gone/eth0 of another namespace (retain) until 2026-01-02T12:00:00Z (asked for by the test)"
	for name, tt := range map[string]struct {
		ask  func(*Request, Grant)
		want string
	}{
		"address": {func(r *Request, g Grant) { r.Addr = g.Addr }, "request refused: address 10.0.0.2 " + kept},
		"MAC":     {func(r *Request, g Grant) { r.MAC = g.MAC }, "request refused: MAC fa:16:3e:00:00:02 names address 10.0.0.2, which " + kept},
	} {
		for _, namespace := range []string{"evil", "default", ""} { // the last two: its own, and the operator
			t.Run(name+" by "+namespace, func(t *testing.T) {
				s, c := policyStore(t)
				gone := mustReserve(t, s, request("gone", "g"))
				mustRelease(t, s, "g")
				c.advance(time.Hour) // far past the quarantine
				req := request("taker", "t")
				req.Workload.Namespace, req.Asked = namespace, "the test"
				tt.ask(&req, gone)
				g, err := s.Reserve(context.Background(), nil, req)
				if namespace != "evil" {
					if err != nil || g.MAC != gone.MAC {
						t.Errorf("got %s, %v; want %s", g.MAC, err, gone.MAC)
					}
					return
				}
				if want := "reserving an address in network flat for workload evil/pod:taker/eth0: " + tt.want; err == nil || err.Error() != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
				if g := mustReserve(t, s, request("gone", "g2")); g.Addr != gone.Addr || g.MAC != gone.MAC {
					t.Errorf("it came back to %s with %s", g.Addr, g.MAC)
				}
			})
		}
	}
}

// The same of a MAC that a workload had asked for, such as a stopped VM's: whoever has it
// meanwhile would keep the workload from coming back.
func TestRequestForAMACThatAnotherNamespaceAskedFor(t *testing.T) {
	s, c := policyStore(t)
	vm := request("vm", "v1")
	vm.MAC = MAC{2, 0, 0, 0, 0, 9}
	was := mustReserve(t, s, vm)
	mustReserve(t, s, request("other", "o1"))
	mustRelease(t, s, "v1")
	mustRelease(t, s, "o1") // an entry more, of another MAC
	c.advance(time.Hour)
	thief := request("thief", "t1")
	thief.Workload.Namespace, thief.MAC, thief.Asked = "evil", vm.MAC, "the test"
	_, err := s.Reserve(context.Background(), nil, thief)
	const want = "reserving an address in network flat for workload evil/pod:thief/eth0: request refused: MAC 02:00:00:00:00:09 was last that of address 10.0.0.2, " +
		"which is kept for workload default/pod:vm/eth0 of another namespace (retain) until 2026-01-02T12:00:00Z (asked for by the test)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	vm.Holder.ContainerID = "v2"
	if g := mustReserve(t, s, vm); g.Addr != was.Addr || g.MAC != was.MAC {
		t.Errorf("it came back to %s with %s", g.Addr, g.MAC)
	}
	mustRelease(t, s, "v2")
	c.advance(25 * time.Hour) // past retain
	if g := mustReserve(t, s, thief); g.MAC != vm.MAC {
		t.Errorf("when it is kept no more another gets %s", g.MAC)
	}
}

func TestRequestedMAC(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	s := mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
	twin := mustConfigure(t, d, testNet("twin", "172.16.5.0/24"))
	mustReserve(t, s, request("neighbour", "n1")) // .2
	mustReserve(t, twin, request("elsewhere", "e1"))
	odd := request("odd", "o1")
	odd.MAC = MAC{2, 0, 0, 0, 0, 1}
	mustReserve(t, s, odd) // .3 with another MAC than its own
	tests := []struct{ name, mac, want string }{
		{"multicast", "01:00:5e:00:00:01", "MAC 01:00:5e:00:00:01 is multicast: the lowest bit of the first octet must be 0"},
		{"host side", "fe:16:3e:00:00:09", "MAC fe:16:3e:00:00:09 begins with fe, as the host sides of ports do"},
		{"gateway", "fa:16:3e:00:00:01", "MAC fa:16:3e:00:00:01 is the gateway's"},
		{"another gateway", "fa:16:3e:10:05:01", "MAC fa:16:3e:10:05:01 is the gateway's in network twin"},
		{"taken", "fa:16:3e:00:00:02", "MAC fa:16:3e:00:00:02 belongs to workload default/pod:neighbour/eth0"},
		{"taken elsewhere", "fa:16:3e:10:05:02", "MAC fa:16:3e:10:05:02 belongs to workload default/pod:elsewhere/eth0 in network twin"},
		{"names another's address", "fa:16:3e:00:00:03", "MAC fa:16:3e:00:00:03 names address 10.0.0.3, which belongs to workload default/pod:odd/eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request("w", "w")
			req.MAC, _ = ParseMAC(tt.mac)
			_, err := s.Reserve(ctx, nil, req)
			want := "reserving an address in network flat for workload default/pod:w/eth0: request refused: " + tt.want
			if !errors.Is(err, ErrRefused) || err.Error() != want {
				t.Errorf("err = %v\nwant %s", err, want)
			}
		})
	}
	t.Run("of a free address", func(t *testing.T) {
		req := request("w", "w")
		req.MAC = MAC{0xfa, 0x16, 0x3e, 0, 0, 5}
		if g := mustReserve(t, s, req); g.Addr != addr("10.0.0.4") || !g.MACRequested {
			t.Errorf("got %s, requested %v", g.Addr, g.MACRequested)
		}
		if g := mustReserve(t, s, request("next", "x")); g.Addr != addr("10.0.0.6") {
			t.Errorf("got %s; 10.0.0.5 must be passed over: its MAC is taken", g.Addr)
		}
		req = request("exact", "y")
		req.Addr = addr("10.0.0.5")
		if _, err := s.Reserve(ctx, nil, req); !errors.Is(err, ErrRefused) {
			t.Errorf("10.0.0.5 by name, without its MAC: %v", err)
		}
	})
	t.Run("own of the address", func(t *testing.T) {
		req := request("own", "own")
		req.Addr, req.MAC = addr("10.0.0.9"), MAC{0xfa, 0x16, 0x3e, 0, 0, 9}
		if g := mustReserve(t, s, req); g.MACRequested {
			t.Error("the derived MAC counts as requested")
		}
	})
}

func TestTwinSubnetsNeverShareMACs(t *testing.T) {
	d := testDir(t)
	d.noSync = true
	a := mustConfigure(t, d, testNet("a", "10.16.0.0/24"))
	b := mustConfigure(t, d, testNet("b", "172.16.0.0/24"))
	prefill(t, a, 200) // .2 to .201
	g := mustReserve(t, b, request("first", "first"))
	if g.Addr != addr("172.16.0.202") {
		t.Fatalf("got %s, want the first whose MAC is free", g.Addr)
	}
	hint := ""
	if err := b.View(context.Background(), func(v *View) error {
		hint = string(v.bucket(bucketMeta).Get([]byte(keyHint)))
		return nil
	}); err != nil || hint != string(addrKey(g.Addr)) {
		t.Errorf("hint = %x, %v: the run of taken MACs will be walked again", hint, err)
	}
	prefillFrom(t, b, 0, 52) // up to .254
	_, err := b.Reserve(context.Background(), nil, request("more", "more"))
	var full *ExhaustedError
	if !errors.As(err, &full) || full.Quarantined != 0 {
		t.Fatalf("full: %v", err)
	}
	mustRelease(t, a, "fill-7") // .9
	if g := mustReserve(t, b, request("more", "more")); g.Addr != addr("172.16.0.9") {
		t.Errorf("got %s, want the one whose MAC became free, below the hint", g.Addr)
	}
}

func TestHoldersAndTakeover(t *testing.T) {
	ctx := context.Background()
	old := holder("c1")
	rebooted := old
	rebooted.BootID = "boot-2"
	moved := old
	moved.NetNSInode++
	otherPath := old
	otherPath.NetNS = "/var/run/netns/c1"
	wrong := old
	wrong.NetNS = "/run/netns/other"
	tests := []struct {
		name   string
		holder Holder
		dead   *Holder
		held   bool // *HeldError is wanted
		reused bool
	}{
		{"same", old, nil, false, true},
		{"same by another path", otherPath, nil, false, true},
		{"another container", holder("c2"), nil, true, false},
		{"another container, the old one dead", holder("c2"), &old, false, false},
		{"another container, one dead that it never was", holder("c2"), &wrong, true, false},
		{"another boot", rebooted, nil, true, false},
		{"another boot, the old one dead", rebooted, &old, false, false},
		{"another namespace", moved, nil, true, false},
		{"another namespace, the old one dead", moved, &old, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := policyStore(t)
			first := mustReserve(t, s, request("w", "c1"))
			before, err := s.Ident()
			if err != nil {
				t.Fatal(err)
			}
			req := Request{Workload: pod("w"), Holder: tt.holder, Dead: tt.dead}
			g, err := s.Reserve(ctx, nil, req)
			var held *HeldError
			if errors.As(err, &held) != tt.held || !tt.held && err != nil {
				t.Fatalf("err = %v, want held = %v", err, tt.held)
			}
			if tt.held {
				if diff := cmp.Diff(first.Reservation, held.Row, equal); diff != "" {
					t.Errorf("the error's row (-want +got):\n%s", diff)
				}
				if after, err := s.Ident(); err != nil || after != before {
					t.Errorf("a refusal wrote to the store: %v", err)
				}
				return
			}
			if g.Addr != first.Addr || g.MAC != first.MAC || *g.Holder != tt.holder || g.Reused != tt.reused {
				t.Errorf("got %+v", g)
			}
			if !tt.reused && (g.TookOver == nil || *g.TookOver != old) {
				t.Errorf("TookOver = %v, want %v", g.TookOver, old)
			}
			if tt.holder == old {
				if after, err := s.Ident(); err != nil || after != before {
					t.Errorf("a repeated request wrote to the store: %v", err)
				}
			}
			// What the old holder's late DEL finds.
			if tt.holder.ContainerID == "c2" {
				if r, ok, err := s.Release(ctx, "c1", "eth0"); ok || err != nil {
					t.Errorf("the late DEL released %v, %v", r, err)
				}
			}
		})
	}
}

func TestAttachmentHoldsOneWorkload(t *testing.T) {
	s, _ := policyStore(t)
	first := mustReserve(t, s, request("a", "c1"))
	req := request("b", "c1")
	_, err := s.Reserve(context.Background(), nil, req)
	var held *HeldError
	if !errors.As(err, &held) || held.Row.Workload != pod("a") {
		t.Fatalf("err = %v", err)
	}
	const want = "the same container and interface hold the address of another workload: " +
		"address 10.0.0.2 of workload default/pod:a/eth0 is held by container c1, interface eth0"
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("err = %v\nwant %s", err, want)
	}
	req.Dead = first.Holder // a container ID that came back, after a reboot say
	g := mustReserve(t, s, req)
	if g.Addr != addr("10.0.0.3") || g.TookOver == nil {
		t.Errorf("got %+v", g)
	}
}

func TestTakeoverMayMove(t *testing.T) {
	s, _ := policyStore(t)
	old := mustReserve(t, s, request("w", "c1"))
	req := request("w", "c2")
	req.Addr, req.Dead = addr("10.0.0.3"), old.Holder
	g := mustReserve(t, s, req)
	if g.Addr != req.Addr || g.TookOver == nil {
		t.Errorf("got %+v", g)
	}
	stats := viewStats(t, s)
	if want := (Stats{Size: 2, Used: 1, Retained: 1}); stats != want {
		t.Errorf("Stats = %+v, want %+v", stats, want)
	}
}

func TestRelease(t *testing.T) {
	ctx := context.Background()
	s, _ := policyStore(t)
	g := mustReserve(t, s, request("w", "c1"))
	for _, other := range [][2]string{{"c1", "eth1"}, {"c2", "eth0"}, {"", ""}} {
		if _, ok, err := s.Release(ctx, other[0], other[1]); ok || err != nil {
			t.Errorf("Release(%q) = %v, %v", other, ok, err)
		}
	}
	r := mustRelease(t, s, "c1")
	if diff := cmp.Diff(g.Reservation, r, equal); diff != "" {
		t.Errorf("released row (-want +got):\n%s", diff)
	}
	before, err := s.Ident()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Release(ctx, "c1", "eth0"); ok || err != nil {
		t.Errorf("second Release = %v, %v", ok, err)
	}
	if after, err := s.Ident(); err != nil || after != before {
		t.Errorf("a release of nothing wrote to the store: %v", err)
	}
}

func TestAdministratorsReservation(t *testing.T) {
	ctx := context.Background()
	s, _ := policyStore(t)
	want := AdminRequest{Workload: pod("db"), Addr: addr("10.0.0.6"), MAC: MAC{2, 0, 0, 0, 0, 9}, Hostname: "db"}
	r, err := s.ReserveAdmin(ctx, want) // outside the range
	if err != nil {
		t.Fatal(err)
	}
	if r.Addr != want.Addr || r.MAC != want.MAC || r.Hostname != "db" || !r.Admin || r.Holder != nil {
		t.Errorf("got %+v", r)
	}
	if stats := viewStats(t, s); stats != (Stats{Size: 3, Reserved: 1, Free: 2}) {
		t.Errorf("Stats = %+v", stats)
	}
	for name, a := range map[string]string{"gateway": "10.0.0.1", "broadcast": "10.0.0.7", "outside": "10.0.0.8"} {
		if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("x"), Addr: addr(a)}); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
	against := request("db", "c1")
	against.Addr = addr("10.0.0.2")
	_, err = s.Reserve(ctx, nil, against)
	if !errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), "the administrator reserved 10.0.0.6, 02:00:00:00:00:09, db "+
		"for workload default/pod:db/eth0: ask for nothing else, or change the reservation with `flatctl reserve`") {
		t.Errorf("a request against it: %v", err)
	}
	g := mustReserve(t, s, request("db", "c1"))
	if g.Addr != want.Addr || g.MAC != want.MAC || g.Hostname != "db" || !g.Admin {
		t.Errorf("its workload got %+v", g.Reservation)
	}
	var held *HeldError
	if _, err := s.ReleaseAdmin(ctx, want.Addr); !errors.As(err, &held) {
		t.Errorf("ReleaseAdmin of a living holder: %v", err)
	}
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("db"), Addr: addr("10.0.0.5")}); !errors.As(err, &held) {
		t.Errorf("moving a living workload: %v", err)
	}
	if r, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("db"), Hostname: "db2"}); err != nil || r.Hostname != "db2" || r.Holder == nil {
		t.Errorf("renaming it: %+v, %v", r, err)
	}
	mustRelease(t, s, "c1") // DEL clears the holder only
	if r := byWorkload(t, s, pod("db")); r.Addr != want.Addr || r.Holder != nil || !r.Admin {
		t.Errorf("after DEL: %+v", r)
	}
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("db"), Addr: addr("10.0.0.5")}); err != nil {
		t.Errorf("moving it: %v", err)
	}
	if r := byWorkload(t, s, pod("db")); r.Addr != addr("10.0.0.5") || r.MAC != want.MAC || r.Hostname != "db2" {
		t.Errorf("moved: %+v", r)
	}
	if _, err := s.ReleaseAdmin(ctx, addr("10.0.0.5")); err != nil {
		t.Errorf("ReleaseAdmin: %v", err)
	}
	if _, err := s.ReleaseAdmin(ctx, addr("10.0.0.5")); !errors.Is(err, ErrNotFound) {
		t.Errorf("second ReleaseAdmin: %v", err)
	}
}

// A requested MAC changes what a workload is called, which is no way around what the
// administrator reserved for its name.
func TestAdministratorsReservationByNameMeetsRequestedMAC(t *testing.T) {
	ctx := context.Background()
	s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/24"))
	reserved := MAC{2, 0, 0, 0, 0, 9}
	asking := func(name, cid string, mac MAC) Request {
		req := request(name, cid)
		req.Named, req.Workload = []Workload{req.Workload}, Workload{Namespace: "default", Kind: KindMAC, Value: mac.String(), IfName: "eth0"}
		req.MAC = mac
		return req
	}
	before := mustReserve(t, s, asking("vm", "v1", MAC{2, 0, 0, 0, 0, 1}))
	if before.Workload.Kind != KindMAC {
		t.Errorf("without a reservation for its name it is %s", before.Workload)
	}
	for _, name := range []string{"db", "vm"} {
		mac := MAC{}
		if name == "db" {
			mac = reserved
		}
		if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod(name), MAC: mac}); err != nil {
			t.Fatal(err)
		}
	}
	if g := mustReserve(t, s, asking("vm", "v1", MAC{2, 0, 0, 0, 0, 1})); !g.Reused || g.Addr != before.Addr {
		t.Errorf("asked again it lost %s: %+v", before.Addr, g)
	}
	for name, req := range map[string]Request{
		"another MAC":             asking("db", "d1", MAC{2, 0, 0, 0, 0, 8}),
		"the MAC by another name": asking("x", "x1", reserved),
	} {
		if _, err := s.Reserve(ctx, nil, req); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "administrator") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if g := mustReserve(t, s, asking("db", "d1", reserved)); !g.Admin || g.MAC != reserved || g.Workload != pod("db") {
		t.Errorf("the reserved MAC, asked for: %+v", g.Reservation)
	}
	// The reservation for what the request calls it is the nearer one.
	mac := MAC{2, 0, 0, 0, 0, 7}
	own := Workload{Namespace: "default", Kind: KindMAC, Value: mac.String(), IfName: "eth0"}
	for _, w := range []Workload{own, pod("both")} {
		if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: w, MAC: map[bool]MAC{true: mac}[w == own]}); err != nil {
			t.Fatal(err)
		}
	}
	if g := mustReserve(t, s, asking("both", "b1", mac)); g.Workload != own {
		t.Errorf("it got the reservation of %s", g.Workload)
	}
	bad := request("db", "y")
	bad.Named = []Workload{{Kind: "x"}}
	if _, err := s.Reserve(ctx, nil, bad); !errors.Is(err, ErrRefused) {
		t.Errorf("an impossible name: %v", err)
	}
}

func TestAdministratorPinsLivingWorkload(t *testing.T) {
	ctx := context.Background()
	s, _ := policyStore(t)
	g := mustReserve(t, s, request("w", "c1"))
	r, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("w")})
	if err != nil || r.Addr != g.Addr || !r.Admin || r.Holder == nil {
		t.Fatalf("ReserveAdmin = %+v, %v", r, err)
	}
	mustRelease(t, s, "c1")
	if r := byWorkload(t, s, pod("w")); !r.Admin || r.Holder != nil {
		t.Errorf("after DEL: %+v", r)
	}
}

func TestAdministratorGivesUpClaim(t *testing.T) {
	ctx := context.Background()
	s, c := policyStore(t)
	g := mustReserve(t, s, request("w", "c1"))
	mustRelease(t, s, "c1")
	r, err := s.ReleaseAdmin(ctx, g.Addr)
	if err != nil || r.Workload != pod("w") {
		t.Fatalf("ReleaseAdmin = %+v, %v", r, err)
	}
	if g := mustReserve(t, s, request("w", "c2")); g.Addr != addr("10.0.0.3") {
		t.Errorf("it came back to %s", g.Addr)
	}
	c.advance(time.Minute)
	if g := mustReserve(t, s, request("x", "c3")); g.FromRetained != nil {
		t.Errorf("FromRetained = %v", g.FromRetained)
	}
}

func TestGC(t *testing.T) {
	ctx := context.Background()
	s, _ := policyStore(t)
	mustReserve(t, s, request("a", "a"))
	mustReserve(t, s, request("b", "b"))
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("idle"), Addr: addr("10.0.0.5")}); err != nil {
		t.Fatal(err)
	}
	gone, err := s.GC(ctx, func(r Reservation) bool {
		if r.Holder == nil {
			t.Errorf("asked about %s, which nothing holds", r.Addr)
		}
		return r.HeldBy("a", "eth0")
	})
	if err != nil || len(gone) != 1 || gone[0].Workload != pod("b") {
		t.Fatalf("GC = %v, %v", gone, err)
	}
	before, err := s.Ident()
	if err != nil {
		t.Fatal(err)
	}
	gone, err = s.GC(ctx, func(Reservation) bool { return true })
	if after, ierr := s.Ident(); err != nil || ierr != nil || len(gone) != 0 || after != before {
		t.Errorf("GC of nothing = %v, %v, %v", gone, err, ierr)
	}
}

func TestHistoryIsAgedAndCapped(t *testing.T) {
	c := newClock()
	d := testDir(t, WithClock(c.now))
	d.noSync = true
	s := mustConfigure(t, d, testNet("flat", "10.16.0.0/12"))
	t.Run("aged", func(t *testing.T) {
		for _, w := range []string{"a", "b", "c", "d", "e", "f"} {
			mustReserve(t, s, request(w, w))
		}
		for _, w := range []string{"a", "b", "c", "d", "e", "f"} {
			mustRelease(t, s, w)
		}
		c.advance(HistoryAge)
		mustReserve(t, s, request("x", "x"))
		if got := viewStats(t, s).Retained; got != 6-pruneStep {
			t.Errorf("Retained = %d, want %d: a few with each change", got, 6-pruneStep)
		}
		mustReserve(t, s, request("y", "y"))
		if got := viewStats(t, s).Retained; got != 0 {
			t.Errorf("Retained = %d", got)
		}
	})
	t.Run("kept as long as retained", func(t *testing.T) {
		long := testNet("flat", "10.16.0.0/12")
		long.Pool.Retain = Duration(2 * HistoryAge)
		if _, err := s.Configure(context.Background(), long); err != nil {
			t.Fatal(err)
		}
		mustReserve(t, s, request("long", "l1"))
		mustRelease(t, s, "l1")
		for range 2 {
			if got := viewStats(t, s).Retained; got != 1 {
				t.Errorf("Retained = %d", got)
			}
			c.advance(HistoryAge)
			if _, err := s.ReserveAdmin(context.Background(), AdminRequest{Workload: pod("change")}); err != nil {
				t.Fatal(err)
			}
		}
		if got := viewStats(t, s).Retained; got != 0 {
			t.Errorf("Retained = %d after that time", got)
		}
		if _, err := s.Configure(context.Background(), testNet("flat", "10.16.0.0/12")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("capped", func(t *testing.T) {
		const limit, more = 1000, 10
		d.historyCap = limit
		prefill(t, s, limit+more)
		if _, err := s.GC(context.Background(), func(Reservation) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if got := viewStats(t, s).Retained; got < limit+more {
			t.Fatalf("Retained = %d: nothing in quarantine may be forgotten", got)
		}
		c.advance(time.Minute)
		for _, w := range []string{"1", "2", "3", "4"} {
			mustReserve(t, s, request(w, w))
		}
		if got := viewStats(t, s).Retained; got != limit {
			t.Errorf("Retained = %d, want the cap %d", got, limit)
		}
	})
}

func TestClockPutBack(t *testing.T) {
	s, c := policyStore(t)
	mustReserve(t, s, request("a", "a"))
	mustReserve(t, s, request("b", "b"))
	mustRelease(t, s, "a")
	c.advance(-10 * 365 * 24 * time.Hour)
	mustRelease(t, s, "b") // any change notices
	c.advance(time.Minute)
	mustReserve(t, s, request("c", "c"))
	if g := mustReserve(t, s, request("d", "d")); g.Addr != addr("10.0.0.3") && g.Addr != addr("10.0.0.2") {
		t.Errorf("got %s", g.Addr)
	}
}

// With every address in a quarantine that the clock has to get to again nothing is ever
// committed, unless the refusal itself sees to it.
func TestClockPutBackWithNothingLeft(t *testing.T) {
	s, c := policyStore(t)
	for _, w := range []string{"a", "b"} {
		mustReserve(t, s, request(w, w))
	}
	for _, w := range []string{"a", "b"} {
		mustRelease(t, s, w)
	}
	c.advance(-10 * 365 * 24 * time.Hour)
	_, err := s.Reserve(context.Background(), nil, request("c", "c"))
	var full *ExhaustedError
	if !errors.As(err, &full) || full.Quarantined != 2 || !full.Until.Equal(c.now().Add(time.Minute)) {
		t.Fatalf("err = %v, want a quarantine that begins now", err)
	}
	c.advance(time.Minute)
	for _, w := range []string{"c", "d"} {
		if _, err := s.Reserve(context.Background(), nil, request(w, w)); err != nil {
			t.Errorf("after the quarantine: %v", err)
		}
	}
}

func TestRefusedIdentities(t *testing.T) {
	s, _ := policyStore(t)
	tests := map[string]func(*Request){
		"slash in the name":       func(r *Request) { r.Workload.Value = "a/b" },
		"no kind":                 func(r *Request) { r.Workload.Kind = "" },
		"colon in the kind":       func(r *Request) { r.Workload.Kind = "a:b" },
		"no interface":            func(r *Request) { r.Workload.IfName = "" },
		"endless":                 func(r *Request) { r.Workload.Value = strings.Repeat("x", 2000) },
		"no container":            func(r *Request) { r.Holder.ContainerID = "" },
		"NUL in the container ID": func(r *Request) { r.Holder.ContainerID = "a\x00b" },
		"host name":               func(r *Request) { r.Hostname = "a_b" },
		"host name of dashes":     func(r *Request) { r.Hostname = "-a" },
		"endless label":           func(r *Request) { r.Hostname = strings.Repeat("x", 64) },
		"empty label":             func(r *Request) { r.Hostname = "a..b" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			req := request("w", "w")
			spoil(&req)
			if _, err := s.Reserve(context.Background(), nil, req); !errors.Is(err, ErrRefused) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	s, _ := policyStore(t)
	g := mustReserve(t, s, request("w", "c1"))
	released := mustReserve(t, s, request("released", "c2"))
	mustRelease(t, s, "c2")
	err := s.View(context.Background(), func(v *View) error {
		for name, look := range map[string]func() (Reservation, error){
			"ByAddr":     func() (Reservation, error) { return v.ByAddr(g.Addr) },
			"ByMAC":      func() (Reservation, error) { return v.ByMAC(g.MAC) },
			"ByHolder":   func() (Reservation, error) { return v.ByHolder("c1", "eth0") },
			"ByWorkload": func() (Reservation, error) { return v.ByWorkload(g.Workload) },
		} {
			if r, err := look(); err != nil || r.Addr != g.Addr {
				t.Errorf("%s = %v, %v", name, r.Addr, err)
			}
		}
		for name, look := range map[string]func() (Reservation, error){
			"ByAddr":     func() (Reservation, error) { return v.ByAddr(released.Addr) },
			"ByMAC":      func() (Reservation, error) { return v.ByMAC(released.MAC) },
			"ByHolder":   func() (Reservation, error) { return v.ByHolder("c2", "eth0") },
			"ByWorkload": func() (Reservation, error) { return v.ByWorkload(released.Workload) },
			"zero":       func() (Reservation, error) { return v.ByAddr(netip.Addr{}) },
		} {
			if _, err := look(); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of a released one: %v", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func viewStats(t *testing.T, s *Store) (stats Stats) {
	t.Helper()
	err := s.View(context.Background(), func(v *View) (err error) {
		stats, err = v.Stats()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

func byWorkload(t *testing.T, s *Store, w Workload) (r Reservation) {
	t.Helper()
	err := s.View(context.Background(), func(v *View) (err error) {
		r, err = v.ByWorkload(w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHostnameHint(t *testing.T) {
	s, _ := policyStore(t)
	steps := []struct{ name, hint, want string }{
		{"", "", "host-10-0-0-2"},
		{"", "web-0", "web-0"},
		{"mail", "web-0", "mail"},
		{"", "web-0", "mail"},
	}
	for _, step := range steps {
		req := request("w", "c")
		req.Hostname, req.HostnameHint = step.name, step.hint
		if g := mustReserve(t, s, req); g.Hostname != step.want {
			t.Errorf("name %q, hint %q: got %q, want %q", step.name, step.hint, g.Hostname, step.want)
		}
		mustRelease(t, s, "c")
	}
}

// A workload's own toggle lasts as long as its holder: who comes next starts with the
// network's.
func TestOwnToggleGoesWithItsHolder(t *testing.T) {
	s, _ := policyStore(t)
	open, closed := true, false
	n := testNet("flat", "10.0.0.0/29")
	bridge := Bridge{AllowSameNetTraffic: true}
	n.Bridge = &bridge
	state := func(r Reservation) string {
		own := "the network's"
		if r.AllowSameNetTraffic != nil {
			own = "its own"
		}
		if n.Open(r) {
			return own + ", open"
		}
		return own + ", closed"
	}
	reserve := func(container string, own *bool) Reservation {
		req := request("w", container)
		req.AllowSameNetTraffic = own
		return mustReserve(t, s, req).Reservation
	}
	for _, step := range []struct {
		what, want string
		do         func() Reservation
	}{
		{"none asked for", "the network's, open", func() Reservation { return reserve("c1", nil) }},
		{"asked again, closed", "its own, closed", func() Reservation { return reserve("c1", &closed) }},
		{"asked again, open", "its own, open", func() Reservation { return reserve("c1", &open) }},
		{"asked again, none", "the network's, open", func() Reservation { return reserve("c1", nil) }},
		{"released and back without", "the network's, open", func() Reservation {
			reserve("c1", &closed)
			mustRelease(t, s, "c1")
			return reserve("c2", nil)
		}},
		{"an administrator's, released", "the network's, open", func() Reservation {
			if _, err := s.ReserveAdmin(context.Background(), AdminRequest{Workload: pod("w")}); err != nil {
				t.Fatal(err)
			}
			reserve("c2", &closed)
			mustRelease(t, s, "c2")
			return byWorkload(t, s, pod("w"))
		}},
	} {
		if got := state(step.do()); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
	bridge.AllowSameNetTraffic = false
	if got := state(Reservation{}); got != "the network's, closed" {
		t.Errorf("a closed network's row is %s", got)
	}
}
