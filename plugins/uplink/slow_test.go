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
