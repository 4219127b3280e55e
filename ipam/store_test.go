package ipam

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// clock is a fake one that tests put forward and back.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

// testDir makes a data directory whose stores are all checked when the test ends.
func testDir(t testing.TB, opts ...Option) *Dir {
	t.Helper()
	d := OpenDir(t.TempDir()+"/data", opts...)
	postTest(t, d)
	return d
}

// postTest checks every store of d at the end of the test, and again every page.
func postTest(t testing.TB, d *Dir) {
	t.Helper()
	t.Cleanup(func() {
		defects, err := d.Check(context.Background())
		if err != nil {
			t.Errorf("checking the stores: %v", err)
		}
		for _, defect := range defects {
			t.Errorf("defect: %s", defect)
		}
	})
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// testNet returns a valid network whose gateway is the first address of subnet.
func testNet(name, subnet string) Network {
	p := netip.MustParsePrefix(subnet)
	return Network{Name: name, Pool: Pool{
		Subnet:     p,
		RangeStart: p.Addr().Next(),
		RangeEnd:   lastAddr(p).Prev(),
		Gateway:    p.Addr().Next(),
		Domain:     "novalocal",
		ReuseDelay: Duration(time.Minute),
		Retain:     Duration(24 * time.Hour),
		MACPrefix:  DefaultMACPrefix,
	}}
}

func pod(name string) Workload {
	return Workload{Namespace: "default", Kind: KindPod, Value: name, IfName: "eth0"}
}

func holder(cid string) Holder {
	return Holder{ContainerID: cid, IfName: "eth0", NetNS: "/run/netns/" + cid, NetNSInode: 4026532000, BootID: "boot-1", Ported: true}
}

func request(workload, cid string) Request {
	return Request{Workload: pod(workload), Holder: holder(cid)}
}

// mustReserve is for steps that are not what the test is about.
func mustReserve(t testing.TB, s *Store, req Request) Grant {
	t.Helper()
	g, err := s.Reserve(context.Background(), nil, req)
	if err != nil {
		t.Fatalf("Reserve(%s): %v", req.Workload, err)
	}
	return g
}

func mustRelease(t testing.TB, s *Store, cid string) Reservation {
	t.Helper()
	r, ok, err := s.Release(context.Background(), cid, "eth0")
	if err != nil || !ok {
		t.Fatalf("Release(%s) = %v, %v", cid, ok, err)
	}
	return r
}

func mustConfigure(t testing.TB, d *Dir, n Network) *Store {
	t.Helper()
	s := d.Store(n.Name)
	if _, err := s.Configure(context.Background(), n); err != nil {
		t.Fatalf("Configure(%s): %v", n.Name, err)
	}
	return s
}

var equal = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

func TestReserveReleaseAndReturn(t *testing.T) {
	c := newClock()
	d := testDir(t, WithClock(c.now))
	n := testNet("flat", "10.0.0.0/24")
	g, err := d.Store("flat").Reserve(context.Background(), &n, request("web-0", "c1"))
	if err != nil {
		t.Fatal(err)
	}
	h := holder("c1")
	want := Grant{Reservation: Reservation{Addr: addr("10.0.0.2"), MAC: MAC{0xfa, 0x16, 0x3e, 0, 0, 2},
		Hostname: "host-10-0-0-2", Workload: pod("web-0"), Holder: &h, Since: c.now()}, Unproven: true}
	if diff := cmp.Diff(want, g, equal); diff != "" {
		t.Errorf("Grant (-want +got):\n%s", diff)
	}
	s := d.Store("flat")
	snap, err := s.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Reservation{want.Reservation}, snap.Rows, equal); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if id, err := s.Ident(); err != nil || id != snap.Ident {
		t.Errorf("Ident = %+v, %v; snapshot %+v", id, err, snap.Ident)
	}
	mustRelease(t, s, "c1")
	g = mustReserve(t, s, request("web-1", "c2"))
	if g.Addr != addr("10.0.0.3") {
		t.Errorf("got %s", g.Addr)
	}
	g = mustReserve(t, s, request("web-0", "c3"))
	if g.Addr != addr("10.0.0.2") {
		t.Errorf("got %s", g.Addr)
	}
}
