package ipam

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// allowing is a network that lists allowed addresses, each excluded as conf does it.
func allowing(list ...AllowedAddress) Network {
	n := testNet("flat", "10.0.0.0/24")
	n.Bridge = &Bridge{Name: "br100", AllowedAddresses: list}
	for _, a := range list {
		if a.Addr.IsValid() {
			n.Pool.Exclude = append(n.Pool.Exclude, Range{a.Addr, a.Addr})
		}
	}
	return n
}

func TestAllowedAddressesAreNobodysOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		allowed AllowedAddress
		exclude string
		want    string
	}{
		"not excluded":            {AllowedAddress{Addr: addr("10.0.0.200")}, "", "an address that is excluded"},
		"outside the subnet":      {AllowedAddress{Addr: addr("10.1.0.200")}, "", "an address of subnet 10.0.0.0/24"},
		"the broadcast":           {AllowedAddress{Addr: addr("10.0.0.255")}, "10.0.0.255", "neither the network's own nor the broadcast"},
		"the gateway's":           {AllowedAddress{Addr: addr("10.0.0.1")}, "10.0.0.1", "no gateway's, node's or peer's"},
		"nothing":                 {AllowedAddress{}, "", "an address, a MAC or both"},
		"a group's MAC":           {AllowedAddress{MAC: MAC{1, 0, 0x5e, 0, 0, 1}}, "", "a unicast MAC"},
		"a host side's MAC":       {AllowedAddress{MAC: MAC{0xfe, 0, 0, 0, 0, 1}}, "", "does not begin with fe"},
		"a derived MAC":           {AllowedAddress{MAC: MAC{0xfa, 0x16, 0x3e, 0, 0, 9}}, "", "does not begin with fa:16:3e"},
		"an address with its MAC": {AllowedAddress{Addr: addr("10.0.0.200"), MAC: MAC{0, 0, 0x5e, 0, 1, 7}}, "10.0.0.200", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNet("flat", "10.0.0.0/24")
			n.Bridge = &Bridge{Name: "br100", AllowedAddresses: []AllowedAddress{tc.allowed}}
			if tc.exclude != "" {
				n.Pool.Exclude = []Range{{addr(tc.exclude), addr(tc.exclude)}}
			}
			err := n.Validate()
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "allowedAddresses") {
				t.Errorf("error %v, want ErrConfig with %q", err, tc.want)
			}
		})
	}
}

// What a workload asked for lasts as long as its holder, and is the operator's to list. No
// MAC is both one workload's own and for others to use, whichever came first.
func TestRequestedAllowedAddresses(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	own := MAC{2, 0, 0, 0, 0, 1}
	shared, router := AllowedAddress{Addr: addr("10.0.0.200")}, AllowedAddress{Addr: addr("10.0.0.201"), MAC: MAC{0, 0, 0x5e, 0, 1, 7}}
	n := allowing(shared, router)
	n.Bridge.AllowedAddresses[1].OnRequest = true
	s := mustConfigure(t, d, n)
	row := func() []AllowedAddress {
		t.Helper()
		snapshot, err := s.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var list []AllowedAddress
		for _, r := range snapshot.Rows {
			list = append(list, r.AllowedAddresses...)
		}
		return list
	}
	is := func(what string, want ...AllowedAddress) {
		t.Helper()
		if diff := cmp.Diff(want, row(), equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	ask := func(list ...AllowedAddress) error {
		req := request("web", "c1")
		req.AllowedAddresses = list
		_, err := s.Reserve(ctx, nil, req)
		return err
	}
	if err := ask(router); err != nil {
		t.Fatal(err)
	}
	is("asked for", router)
	if err := ask(shared, router); err != nil {
		t.Fatal(err)
	}
	is("asked again, for more", shared, router)
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	is("asked again, for nothing")
	for _, a := range []AllowedAddress{{Addr: router.Addr}, {MAC: router.MAC}, {Addr: addr("10.0.0.3")}, {Addr: addr("10.0.0.1")}, {MAC: own}} {
		if err := ask(a); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "does not list it") {
			t.Errorf("asking for %s: %v", a, err)
		}
	}
	is("refused")

	req := request("router", "c2")
	req.MAC = router.MAC
	if _, err := s.Reserve(ctx, nil, req); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "may be used by several workloads") {
		t.Errorf("a MAC that others may use: %v", err)
	}
	req.MAC = own
	if _, err := s.Reserve(ctx, nil, req); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Configure(ctx, allowing(shared, router, AllowedAddress{MAC: own})); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "10.0.0.3") {
		t.Errorf("to let others use a workload's MAC: %v", err)
	}
	var stranded *StrandedError
	if _, err := s.Configure(ctx, allowing(AllowedAddress{Addr: addr("10.0.0.3")})); !errors.As(err, &stranded) {
		t.Errorf("to let others use a workload's address: %v", err)
	}

	// An administrator's row stays, without what its last holder had asked for.
	if _, _, err := s.Release(ctx, "c1", "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("web")}); err != nil {
		t.Fatal(err)
	}
	if err := ask(router); err != nil {
		t.Fatal(err)
	}
	is("asked for on a reservation", router)
	if _, _, err := s.Release(ctx, "c1", "eth0"); err != nil {
		t.Fatal(err)
	}
	is("released")
}

// FuzzParseAllowedAddress: what is read is written the same, and never a group's.
func FuzzParseAllowedAddress(f *testing.F) {
	for _, s := range []string{"10.0.0.200", "10.0.0.200/00:00:5e:00:01:07", "00-00-5E-00-01-07", "::1", "10.0.0.200/", "/", "0.0.0.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAllowedAddress(s)
		if err != nil {
			return
		}
		if !a.Addr.IsValid() && a.MAC.IsZero() && !strings.ContainsAny(s, "0") {
			t.Errorf("%q is nothing", s)
		}
		if a.Addr.IsValid() && a.Addr != netip.AddrFrom4(a.Addr.As4()) {
			t.Errorf("%q has address %s", s, a.Addr)
		}
		again, err := ParseAllowedAddress(a.String())
		if err != nil || again != a {
			t.Errorf("%q is %s, and that %s, %v", s, a, again, err)
		}
	})
}
