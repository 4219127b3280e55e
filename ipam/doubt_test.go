package ipam

import (
	"context"
	"testing"
	"time"
)

// Which addresses the wire is to be asked for: those that nobody here has held of late, and
// those of which it is known that a foreign host had them, or was never found out.
func TestUnproven(t *testing.T) {
	ctx := context.Background()
	foreign := MAC{0x52, 0x54, 0, 0, 0, 9}
	retain := time.Duration(testNet("flat", "10.0.0.0/29").Pool.Retain)
	if retain < time.Hour {
		t.Fatalf("retain is %s: too short for this test", retain)
	}
	for _, tc := range []struct {
		name     string
		prepare  func(t *testing.T, s *Store, c *clock)
		req      Request
		unproven bool
		addr     string
	}{
		{"never used", func(*testing.T, *Store, *clock) {}, request("w", "c2"), true, "10.0.0.2"},
		{"back soon", func(t *testing.T, s *Store, c *clock) {
			mustReserve(t, s, request("w", "c1"))
			mustRelease(t, s, "c1")
			c.advance(time.Minute)
		}, request("w", "c2"), false, "10.0.0.2"},
		{"back late", func(t *testing.T, s *Store, c *clock) {
			mustReserve(t, s, request("w", "c1"))
			mustRelease(t, s, "c1")
			c.advance(retain)
		}, request("w", "c2"), true, "10.0.0.2"},
		{"the same attachment again", func(t *testing.T, s *Store, c *clock) { mustReserve(t, s, request("w", "c2")) }, request("w", "c2"), false, "10.0.0.2"},
		{"back after an ADD that did not find out", func(t *testing.T, s *Store, c *clock) {
			mustReserve(t, s, request("w", "c1"))
			if err := s.Doubt(ctx, "c1", "eth0", MAC{}); err != nil {
				t.Fatal(err)
			}
		}, request("w", "c2"), true, "10.0.0.2"},
		{"another after a foreign host was found", func(t *testing.T, s *Store, c *clock) {
			mustReserve(t, s, request("w", "c1"))
			if err := s.Doubt(ctx, "c1", "eth0", foreign); err != nil {
				t.Fatal(err)
			}
		}, request("w", "c2"), true, "10.0.0.3"},
		{"the foreign host's, asked for by name", func(t *testing.T, s *Store, c *clock) {
			mustReserve(t, s, request("w", "c1"))
			if err := s.Doubt(ctx, "c1", "eth0", foreign); err != nil {
				t.Fatal(err)
			}
			c.advance(time.Hour)
		}, func() Request { r := request("other", "c2"); r.Addr = addr("10.0.0.2"); return r }(), true, "10.0.0.2"},
		{"the administrator's", func(t *testing.T, s *Store, c *clock) {
			if _, err := s.ReserveAdmin(ctx, AdminRequest{Workload: pod("w"), Addr: addr("10.0.0.6")}); err != nil {
				t.Fatal(err)
			}
		}, request("w", "c2"), true, "10.0.0.6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, c := policyStore(t)
			tc.prepare(t, s, c)
			g, err := s.Reserve(ctx, nil, tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if g.Unproven != tc.unproven || g.Addr != addr(tc.addr) {
				t.Errorf("%s, unproven %t; want %s, %t", g.Addr, g.Unproven, tc.addr, tc.unproven)
			}
			if defects, err := s.Check(ctx); err != nil || len(defects) > 0 {
				t.Errorf("the store has defects: %v, %v", defects, err)
			}
		})
	}
}

// A foreign host's address is in quarantine like a released one, and whoever gets it after
// all announces it: others remember that host's MAC.
func TestDoubtQuarantines(t *testing.T) {
	ctx := context.Background()
	s, c := policyStore(t)
	foreign := MAC{0x52, 0x54, 0, 0, 0, 9}
	g := mustReserve(t, s, request("w", "c1"))
	if err := s.Doubt(ctx, "c1", "eth0", foreign); err != nil {
		t.Fatal(err)
	}
	wish := request("other", "c2")
	wish.Addr = g.Addr
	if _, err := s.Reserve(ctx, nil, wish); err == nil {
		t.Errorf("%s was given at once", g.Addr)
	}
	c.advance(time.Hour)
	again, err := s.Reserve(ctx, nil, wish)
	if err != nil {
		t.Fatal(err)
	}
	if again.PreviousMAC != foreign {
		t.Errorf("the MAC before is %s, want the foreign host's %s", again.PreviousMAC, foreign)
	}
	if err := s.Doubt(ctx, "nobody", "eth0", foreign); err != nil {
		t.Errorf("what holds nothing: %v", err)
	}
}
