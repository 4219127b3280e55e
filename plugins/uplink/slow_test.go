package uplink

import "testing"

// Between any two changes the connections of both families go on, however long that lasts:
// the next change waits for it.
func TestNoChangeStopsTraffic(t *testing.T) {
	ctx := inLab(t)
	s := newSite(t)
	s.furnish()
	talks := s.talks()
	slow := s.u
	slow.Fault = func(change string, after bool) error {
		for _, k := range talks {
			n := k.n.Load()
			eventually(t, "TCP "+k.name+" to go on at: "+change, func() bool { return k.n.Load() > n+3 || len(k.done) > 0 })
		}
		return nil
	}
	if _, err := slow.Take(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.GiveBack(ctx, false); err != nil {
		t.Fatal(err)
	}
	for _, k := range talks {
		k.end(t, "slow move and back")
	}
}

// A strict reverse path filter takes what comes in by the one link for forged as long as the
// way back is the other's: a connection loses a segment at most, and goes on.
func TestMoveUnderAStrictReversePathFilter(t *testing.T) {
	ctx := inLab(t)
	s := newSite(t)
	s.furnish()
	const filter = "/proc/sys/net/ipv4/conf/all/rp_filter"
	write(t, filter, "1")
	t.Cleanup(func() { write(t, filter, "0") })
	talks := s.talks()
	if _, err := s.u.Take(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.u.GiveBack(ctx, false); err != nil {
		t.Fatal(err)
	}
	for _, k := range talks {
		n := k.n.Load()
		eventually(t, "TCP "+k.name+" to go on", func() bool { return k.n.Load() > n+20 || len(k.done) > 0 })
		k.end(t, "strict")
	}
}
