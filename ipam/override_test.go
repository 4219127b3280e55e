package ipam

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// What the DHCP server tells one workload alone outlives its containers and its
// address, and goes with the reservation.
func TestOverridesOfAReservation(t *testing.T) {
	ctx := context.Background()
	s := mustConfigure(t, testDir(t), testNet("flat", "10.0.0.0/24"))
	set := func(args ...string) (list dhcpoption.Set) {
		for _, a := range args {
			o, err := dhcpoption.Parse(a)
			if err != nil {
				t.Fatal(err)
			}
			list = list.With(o)
		}
		return list
	}
	admin := func(req AdminRequest) Reservation {
		t.Helper()
		req.Workload = pod("db")
		r, err := s.ReserveAdmin(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	lease := func(d time.Duration) *Duration { l := Duration(d); return &l }
	check := func(when string, r Reservation, want dhcpoption.Set, lease time.Duration) {
		t.Helper()
		if diff := cmp.Diff(want, r.Options); diff != "" {
			t.Errorf("%s: options (-want +got):\n%s", when, diff)
		}
		if r.LeaseTime != Duration(lease) {
			t.Errorf("%s: lease time %v, want %v", when, r.LeaseTime, lease)
		}
	}
	r := admin(AdminRequest{Options: set("42=10.0.0.9", "3="), LeaseTime: lease(12 * time.Hour)})
	check("reserved", r, set("3=", "42=10.0.0.9"), 12*time.Hour)
	r = admin(AdminRequest{Options: set("42=10.0.0.10", "224=hex:0a")})
	check("changed", r, set("3=", "42=10.0.0.10", "224=hex:0a"), 12*time.Hour)
	r = admin(AdminRequest{Addr: addr("10.0.0.77")})
	check("moved", r, set("3=", "42=10.0.0.10", "224=hex:0a"), 12*time.Hour)
	g := mustReserve(t, s, request("db", "c1"))
	check("held", g.Reservation, set("3=", "42=10.0.0.10", "224=hex:0a"), 12*time.Hour)
	if _, ok, err := s.Release(ctx, "c1", "eth0"); err != nil || !ok {
		t.Fatal(ok, err)
	}
	g = mustReserve(t, s, request("db", "c2"))
	check("released and held again", g.Reservation, set("3=", "42=10.0.0.10", "224=hex:0a"), 12*time.Hour)
	r = admin(AdminRequest{ClearOptions: true, Options: set("26=1400"), LeaseTime: lease(0)})
	check("cleared", r, set("26=1400"), 0)
	if _, _, err := s.Release(ctx, "c2", "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReleaseAdmin(ctx, r.Addr); err != nil {
		t.Fatal(err)
	}
	check("given up", mustReserve(t, s, request("db", "c3")).Reservation, nil, 0)
	for d, want := range map[time.Duration]string{
		time.Second:              "lease time 1s: at least 10s is accepted",
		90500 * time.Millisecond: "lease time 1m30.5s: whole seconds are wanted",
		-time.Hour:               "at least 10s is accepted",
		2000000 * time.Hour:      "DHCP counts it in 32 bits",
	} {
		_, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("x"), LeaseTime: lease(d)})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", d, err)
		}
	}
}
