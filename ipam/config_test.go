package ipam

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*Network)
		want  string // after the sentinel's text; empty = valid
	}{
		{"as it is", func(*Network) {}, ""},
		{"narrowest", func(n *Network) { *n = testNet("flat", "10.0.0.0/30") }, ""},
		{"widest", func(n *Network) { *n = testNet("flat", "10.0.0.0/8") }, ""},
		{"range from the network's address", func(n *Network) { n.Pool.RangeStart = addr("10.0.0.0") }, ""},
		{"name", func(n *Network) { n.Name = "../etc" },
			`key "name": value "../etc": accepted is letters, digits, dots, dashes and underscores, the first a letter or digit, 200 at most`},
		{"no subnet", func(n *Network) { n.Pool.Subnet = netip.Prefix{} },
			`key "subnet": value "": accepted is an IPv4 prefix such as 10.0.0.0/24`},
		{"IPv6", func(n *Network) { n.Pool.Subnet = netip.MustParsePrefix("fd00::/64") },
			`key "subnet": value "fd00::/64": accepted is an IPv4 prefix; IPv6 is not supported by this version`},
		{"too narrow", func(n *Network) { n.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/31") },
			`key "subnet": value "10.0.0.0/31": accepted is a prefix length from /8 to /30`},
		{"too wide", func(n *Network) { n.Pool.Subnet = netip.MustParsePrefix("10.0.0.0/7") },
			`key "subnet": value "10.0.0.0/7": accepted is a prefix length from /8 to /30`},
		{"host bits", func(n *Network) { n.Pool.Subnet = netip.MustParsePrefix("10.0.0.1/24") },
			`key "subnet": value "10.0.0.1/24": accepted is 10.0.0.0/24: the bits below the prefix length must be 0`},
		{"gateway outside", func(n *Network) { n.Pool.Gateway = addr("10.0.1.1") },
			`key "gateway": value "10.0.1.1": accepted is an address inside subnet 10.0.0.0/24`},
		{"gateway broadcast", func(n *Network) { n.Pool.Gateway = addr("10.0.0.255") },
			`key "gateway": value "10.0.0.255": accepted is an address inside subnet 10.0.0.0/24 that is neither the network's own nor the broadcast address`},
		{"no gateway", func(n *Network) { n.Pool.Gateway = netip.Addr{} },
			`key "gateway": value "invalid IP": accepted is an address inside subnet 10.0.0.0/24`},
		{"range outside", func(n *Network) { n.Pool.RangeStart = addr("10.0.1.0") },
			`key "rangeStart": value "10.0.1.0": accepted is an address inside subnet 10.0.0.0/24`},
		{"range backwards", func(n *Network) { n.Pool.RangeStart, n.Pool.RangeEnd = addr("10.0.0.9"), addr("10.0.0.8") },
			`key "rangeEnd": value "10.0.0.8": accepted is an address not below rangeStart 10.0.0.9`},
		{"exclude outside", func(n *Network) { n.Pool.Exclude = []Range{{addr("10.0.0.9"), addr("10.0.1.9")}} },
			`key "exclude": value "10.0.0.9-10.0.1.9": accepted is addresses or ascending ranges inside subnet 10.0.0.0/24`},
		{"a node's outside", func(n *Network) { n.Pool.Nodes = []netip.Addr{addr("10.0.0.2"), addr("10.0.1.2")} },
			`key "nodes": value "10.0.1.2": accepted is an address inside subnet 10.0.0.0/24 that is neither the network's own nor the broadcast address`},
		{"nothing left", func(n *Network) { n.Pool.Exclude = []Range{{addr("10.0.0.1"), addr("10.0.0.254")}} },
			`key "rangeStart": value "10.0.0.1": accepted is a range that leaves an address to give, network, broadcast, gateway, nodes' and excluded addresses aside`},
		{"negative retain", func(n *Network) { n.Pool.Retain = -1 },
			`key "retain": value "-1ns": accepted is a duration of 0s or more`},
		{"negative reuseDelay", func(n *Network) { n.Pool.ReuseDelay = Duration(-time.Minute) },
			`key "reuseDelay": value "-1m0s": accepted is a duration of 0s or more`},
		{"domain", func(n *Network) { n.Pool.Domain = "a b" },
			`key "domain": value "a b": accepted is DNS labels joined by dots, such as novalocal`},
		{"no MAC prefix", func(n *Network) { n.Pool.MACPrefix = MACPrefix{} },
			`key "macPrefix": value "00:00:00": accepted is three octets such as fa:16:3e, not 0, not multicast, not beginning with fe`},
		{"route", func(n *Network) { n.Pool.Routes = []Route{{}} },
			`key "routes": value "invalid Prefix": accepted is a prefix such as 0.0.0.0/0 as dst`},
		{"bridge", func(n *Network) { n.Bridge = &Bridge{Name: "a-name-that-is-too-long"} },
			`key "bridge": value "a-name-that-is-too-long": accepted is an interface name of 1 to 15 characters`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := testNet("flat", "10.0.0.0/24")
			tt.spoil(&n)
			err := n.Validate()
			if tt.want == "" {
				if err != nil {
					t.Errorf("err = %v", err)
				}
				return
			}
			if !errors.Is(err, ErrConfig) || err.Error() != "impossible network configuration: "+tt.want {
				t.Errorf("err = %v\nwant %s", err, tt.want)
			}
			d := testDir(t)
			if _, err := d.Store("flat").Configure(context.Background(), n); !errors.Is(err, ErrConfig) {
				t.Errorf("Configure: %v", err)
			}
			if names, err := d.Names(context.Background()); err != nil || len(names) > 0 {
				t.Errorf("the refused network left %v, %v", names, err)
			}
		})
	}
}

func TestConfigure(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	n := testNet("flat", "10.0.0.0/24")
	n.Bridge = &Bridge{Name: "br100", AllowSameNetTraffic: true}
	s := d.Store("flat")
	if _, err := s.Snapshot(ctx); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("reading before: %v", err)
	}
	if _, err := s.Ident(); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("Ident before: %v", err)
	}
	if _, _, err := s.Release(ctx, "c", "eth0"); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("Release before: %v", err)
	}
	if _, err := os.Stat(d.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("readers made the directory: %v", err)
	}
	for i, want := range []bool{true, false} {
		if changed, err := s.Configure(ctx, n); changed != want || err != nil {
			t.Fatalf("Configure %d = %v, %v", i, changed, err)
		}
	}
	before, err := s.Ident()
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := s.Configure(ctx, n); changed || err != nil {
		t.Errorf("Configure again = %v, %v", changed, err)
	}
	if after, err := s.Ident(); err != nil || after != before {
		t.Errorf("an unchanged record was written: %v", err)
	}
	n.Bridge.AllowSameNetTraffic = false
	if changed, err := s.Configure(ctx, n); !changed || err != nil {
		t.Errorf("Configure = %v, %v", changed, err)
	}
	nets, err := d.Networks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Network{n}, nets, equal); diff != "" {
		t.Errorf("Networks (-want +got):\n%s", diff)
	}
	t.Run("contradicting neighbours", func(t *testing.T) {
		other := testNet("other", "10.0.0.128/25")
		_, err := d.Store("other").Configure(ctx, other)
		want := `configuring network other: impossible network configuration: key "subnet": value "10.0.0.128/25": ` +
			`accepted is a prefix that does not overlap 10.0.0.0/24 of network flat`
		if !errors.Is(err, ErrConfig) || err.Error() != want {
			t.Errorf("overlap: %v\nwant %s", err, want)
		}
		other = testNet("other", "10.1.0.0/24")
		other.Bridge = &Bridge{Name: "br100"}
		_, err = d.Store("other").Configure(ctx, other)
		want = `configuring network other: impossible network configuration: key "bridge": value "br100": ` +
			`accepted is a bridge of its own: this one carries network flat`
		if !errors.Is(err, ErrConfig) || err.Error() != want {
			t.Errorf("bridge: %v\nwant %s", err, want)
		}
	})
	t.Run("another's uplink", func(t *testing.T) {
		with := func(name, subnet, bridge, nic string) error {
			n := testNet(name, subnet)
			n.Bridge = &Bridge{Name: bridge, FlatInterface: nic}
			_, err := d.Store(name).Configure(ctx, n)
			return err
		}
		if err := errors.Join(with("red", "10.2.0.0/24", "br2", "eth2"), with("blue", "10.3.0.0/24", "br3", "eth2.100")); err != nil {
			t.Fatal(err)
		}
		want := `configuring network blue: impossible network configuration: key "flatInterface": value "eth2": ` +
			`accepted is a network card of its own, or a VLAN of one: this is the uplink of network red`
		if err := with("blue", "10.3.0.0/24", "br3", "eth2"); !errors.Is(err, ErrConfig) || err.Error() != want {
			t.Errorf("uplink: %v\nwant %s", err, want)
		}
		for _, name := range []string{"red", "blue"} {
			if err := d.Remove(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("another's record", func(t *testing.T) {
		if _, err := s.Configure(ctx, testNet("other", "10.1.0.0/24")); !errors.Is(err, ErrConfig) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestConfigureWithReservations(t *testing.T) {
	ctx := context.Background()
	c := newClock()
	d := testDir(t, WithClock(c.now))
	n := testNet("flat", "10.0.0.0/24")
	s := mustConfigure(t, d, n)
	prefill(t, s, 20) // .2 to .21
	for _, cid := range []string{"fill-0", "fill-5", "fill-19"} {
		mustRelease(t, s, cid)
	}
	tests := []struct {
		name  string
		spoil func(*Pool)
		want  string
	}{
		{"narrower subnet", func(p *Pool) {
			*p = testNet("flat", "10.0.0.0/28").Pool
		}, "would strand 6 reservations (the first is 10.0.0.15: it is the broadcast address)"},
		{"gateway on a row", func(p *Pool) { p.Gateway = addr("10.0.0.9") }, "would strand 1 reservation (10.0.0.9: it is the gateway's)"},
		{"another node's on a row", func(p *Pool) { p.Nodes = []netip.Addr{addr("10.0.0.9")} },
			"would strand 1 reservation (10.0.0.9: it is a node's own (gatewayAddresses, nodeAddress))"},
		{"exclusion", func(p *Pool) { p.Exclude = []Range{{addr("10.0.0.2"), addr("10.0.0.4")}} }, "would strand 2 reservations (the first is 10.0.0.3: it is excluded by 10.0.0.2-10.0.0.4)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := n
			tt.spoil(&to.Pool)
			_, err := s.Configure(ctx, to)
			var stranded *StrandedError
			if !errors.As(err, &stranded) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %s", err, tt.want)
			}
			g, err := s.Reserve(ctx, &to, request("w", "w"))
			if !errors.As(err, &stranded) {
				t.Errorf("Reserve = %v, %v", g, err)
			}
		})
	}
	t.Run("shrunk range", func(t *testing.T) {
		to := n
		to.Pool.RangeStart, to.Pool.RangeEnd = addr("10.0.0.100"), addr("10.0.0.110")
		if _, err := s.Configure(ctx, to); err != nil {
			t.Fatal(err)
		}
		if stats := viewStats(t, s); stats != (Stats{Size: 28, Used: 17, Free: 11}) {
			t.Errorf("Stats = %+v", stats)
		}
		if g := mustReserve(t, s, request("new", "new")); g.Addr != addr("10.0.0.100") {
			t.Errorf("got %s", g.Addr)
		}
		mustRelease(t, s, "fill-7") // is outside: not remembered
		if stats := viewStats(t, s); stats != (Stats{Size: 27, Used: 17, Free: 10}) {
			t.Errorf("Stats = %+v", stats)
		}
	})
	t.Run("widened again", func(t *testing.T) {
		to := testNet("flat", "10.0.0.0/16")
		to.Pool.Exclude = []Range{{addr("10.0.0.22"), addr("10.0.0.99")}}
		if _, err := s.Configure(ctx, to); err != nil {
			t.Fatal(err)
		}
		want := uint64(1<<16 - 3 - 78)
		if stats := viewStats(t, s); stats != (Stats{Size: want, Used: 17, Free: want - 17}) {
			t.Errorf("Stats = %+v, size wanted %d", stats, want)
		}
		if g := mustReserve(t, s, request("newer", "newer")); g.Addr != addr("10.0.0.2") {
			t.Errorf("got %s", g.Addr)
		}
	})
}

func TestRefusedFirstRequestLeavesNoStore(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	n := testNet("flat", "10.0.0.0/24")
	req := request("w", "w")
	req.Addr = n.Pool.Gateway
	if _, err := d.Store("flat").Reserve(ctx, &n, req); !errors.Is(err, ErrRefused) {
		t.Fatalf("err = %v", err)
	}
	if files := listDir(t, d.Path()); !slices.Equal(files, []string{"lock"}) {
		t.Errorf("files = %v", files)
	}
}

func TestRefusedRequestLeavesOldConfiguration(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	n := testNet("flat", "10.0.0.0/24")
	s := mustConfigure(t, d, n)
	to := n
	to.Pool.Domain = "example.org"
	req := request("w", "w")
	req.Addr = n.Pool.Gateway
	if _, err := s.Reserve(ctx, &to, req); !errors.Is(err, ErrRefused) {
		t.Fatalf("err = %v", err)
	}
	nets, err := d.Networks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Network{n}, nets, equal); diff != "" {
		t.Errorf("Networks (-want +got):\n%s", diff)
	}
}

func TestRemove(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	s := mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
	mustReserve(t, s, request("w", "w"))
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("idle")}); err != nil {
		t.Fatal(err)
	}
	err := d.Remove(ctx, "flat")
	var used *InUseError
	if !errors.As(err, &used) || len(used.Rows) != 1 || used.Rows[0].Workload != pod("w") {
		t.Fatalf("err = %v", err)
	}
	mustRelease(t, s, "w")
	if err := os.WriteFile(filepath.Join(d.Path(), "flat"+leasesSuffix), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(ctx, "flat"); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(ctx, "flat"); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("second Remove: %v", err)
	}
	if err := d.Remove(ctx, "../x"); !errors.Is(err, ErrConfig) {
		t.Errorf("Remove of a path: %v", err)
	}
	if files := listDir(t, d.Path()); !slices.Equal(files, []string{"lock"}) {
		t.Errorf("files = %v", files)
	}
}

func TestNames(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	if names, err := d.Names(ctx); err != nil || len(names) > 0 {
		t.Errorf("of a missing directory: %v, %v", names, err)
	}
	for i, name := range []string{"b", "a-b", "a", "lock", "a.leases", "x.db"} {
		n := testNet(name, "10.0.0.0/24")
		n.Pool = testNet(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24).String()).Pool
		mustConfigure(t, d, n)
	}
	for _, name := range []string{"a.leases", "b" + newSuffix, ".hidden.db", "readme"} {
		if err := os.WriteFile(filepath.Join(d.Path(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, err := d.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "a-b", "a.leases", "b", "lock", "x.db"}, names); diff != "" {
		t.Errorf("Names (-want +got):\n%s", diff)
	}
}

// Not parallel to anything: the umask is the process's.
func TestModesWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o777} {
		func() {
			d := testDir(t)
			old := syscall.Umask(mask)
			defer syscall.Umask(old)
			mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
			for path, want := range map[string]os.FileMode{d.Path(): 0o700 | os.ModeDir, d.Path() + "/flat.db": 0o600, d.Path() + "/lock": 0o600} {
				fi, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode() != want {
					t.Errorf("umask %03o: mode of %s = %s, want %s", mask, path, fi.Mode(), want)
				}
			}
		}()
	}
}

func TestNarrowestAndWidestSubnets(t *testing.T) {
	t.Run("/30", func(t *testing.T) {
		s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/30"))
		if g := mustReserve(t, s, request("w", "w")); g.Addr != addr("10.0.0.2") {
			t.Errorf("got %s", g.Addr)
		}
		_, err := s.Reserve(context.Background(), nil, request("x", "x"))
		if want := "reserving an address in network flat for workload default/pod:x/eth0: network flat has no free address"; err == nil || err.Error() != want {
			t.Errorf("err = %v, want %s", err, want)
		}
	})
	t.Run("/8", func(t *testing.T) {
		s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/8"))
		if stats := viewStats(t, s); stats != (Stats{Size: 1<<24 - 3, Free: 1<<24 - 3}) {
			t.Errorf("Stats = %+v", stats)
		}
		req := request("last", "last")
		req.Addr = addr("10.255.255.254")
		if g := mustReserve(t, s, req); g.MAC != (MAC{0xfa, 0x16, 0x3e, 0xff, 0xff, 0xfe}) {
			t.Errorf("MAC = %s", g.MAC)
		}
		fi, err := os.Stat(s.file())
		if err != nil || fi.Size() > 1<<20 {
			t.Errorf("an empty /8 takes %d bytes, %v", fi.Size(), err)
		}
	})
	t.Run("last /8", func(t *testing.T) { // the end of the family's address space
		s := mustConfigure(t, testDir(t), testNet("flat", "255.0.0.0/8"))
		req := request("last", "last")
		req.Addr = addr("255.255.255.254")
		mustReserve(t, s, req)
	})
}

func listDir(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
