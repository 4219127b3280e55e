package uplink

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// talks are connections of both families: to a neighbour, and by way of a gateway.
func (s *site) talks() []*talk {
	s.t.Helper()
	return []*talk{s.talk("192.0.2.5", "192.0.2.1"), s.talk("192.0.2.6", "198.51.100.1"), s.talk("2001:db8::5", "2001:db8::1"), s.talk("2001:db8::6", "2001:db8:3::1")}
}

// The bridge has after a move what the NIC had before, but for the link's name; a
// connection of each family goes on; and giving the NIC back leaves no trace.
func TestMoveAndBack(t *testing.T) {
	ctx := inLab(t)
	s := newSite(t)
	s.furnish()
	before := s.stable()
	nicHad := onLink(t, "eth1")
	talks := s.talks()
	goOn := func() {
		t.Helper()
		for _, k := range talks {
			n := k.n.Load()
			eventually(t, "TCP "+k.name+" to go on", func() bool { return k.n.Load() > n+20 || len(k.done) > 0 })
		}
	}
	goOn()
	taken, err := s.u.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("moved: %s", strings.Join(taken.Moved, "; "))
	goOn()
	for _, k := range talks {
		k.end(t, "move")
	}
	if !taken.Joined || taken.Promiscuity == 0 {
		t.Errorf("Take says %+v: joined and promiscuous expected", taken)
	}
	if bridgeHas := onLink(t, "br100"); bridgeHas != nicHad {
		t.Errorf("the bridge has not what the NIC had:\n%s", lineDiff(nicHad, bridgeHas))
	}
	if left := onLink(t, "eth1"); left != "" {
		t.Errorf("left on eth1:\n%s", left)
	}
	for link, want := range map[string]string{"br100": "mtu 1400", "eth1": "master br100"} {
		if out := output(t, "ip", "link", "show", link); !strings.Contains(out, want) || !strings.Contains(out, nicMAC) {
			t.Errorf("%s is not %q with the NIC's MAC: %s", link, want, out)
		}
	}
	during := s.stable()
	again, err := s.u.Take(ctx)
	if err != nil || again.Joined {
		t.Errorf("a second Take: %+v, %v", again, err)
	}
	s.unchanged(during, "a second Take")

	talks = s.talks()
	goOn()
	if nic, err := s.u.GiveBack(ctx, false); err != nil || nic != "eth1" {
		t.Fatalf("GiveBack: %q, %v", nic, err)
	}
	goOn()
	for _, k := range talks {
		k.end(t, "back")
	}
	s.unchanged(before, "move and back")
	if nic, err := s.u.GiveBack(ctx, false); err != nil || nic != "" {
		t.Errorf("a second GiveBack: %q, %v", nic, err)
	}
}

// A crash is what a test does instead of killing the process.
type crash struct{}

// crashing runs f, which dies at the fault point of that number (0 = before the first
// change), and reports whether there was one.
func (s *site) crashing(at int, f func(u Uplink) error) (died bool) {
	s.t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if r != (crash{}) {
				panic(r)
			}
			died = true
		}
	}()
	u := s.u
	n := 0
	u.Fault = func(string, bool) error {
		if n++; n > at {
			panic(crash{})
		}
		return nil
	}
	if err := f(u); err != nil {
		s.t.Errorf("without a crash: %v", err)
	}
	return false
}

// stride is how many points to die at lie between two that are tried: all of them are in a
// soak (make soak). It is odd, so that both sides of changes are met.
func stride() int {
	if os.Getenv("FLATDHCP_SOAK") != "" {
		return 1
	}
	return 7
}

// Wherever a move or a way back dies, either can be done afterwards, and nothing tells that
// something was wrong.
func TestCrashAtEveryChange(t *testing.T) {
	ctx := inLab(t)
	s := newSite(t)
	s.furnish()
	free := s.stable()
	take := func(u Uplink) error { _, err := u.Take(ctx); return err }
	back := func(u Uplink) error { _, err := u.GiveBack(ctx, false); return err }
	must := func(f func(Uplink) error) {
		t.Helper()
		if err := f(s.u); err != nil {
			t.Fatal(err)
		}
	}
	must(take)
	taken := s.stable()
	must(back)
	s.unchanged(free, "move and back")
	ends := 0
	for at := 0; ; at += stride() {
		if !s.crashing(at, take) {
			must(back)
			break
		}
		must(take)
		s.unchanged(taken, fmt.Sprintf("a move that died at point %d and another", at))
		must(back)
		s.crashing(at, take)
		must(back)
		s.unchanged(free, fmt.Sprintf("a move that died at point %d and the way back", at))
		ends++
	}
	must(take)
	for at := 0; ; at += stride() {
		if !s.crashing(at, back) {
			break
		}
		must(take)
		s.unchanged(taken, fmt.Sprintf("a way back that died at point %d and a move", at))
		s.crashing(at, back)
		must(back)
		s.unchanged(free, fmt.Sprintf("a way back that died at point %d and another", at))
		must(take)
		ends++
	}
	if ends*stride() < 100 {
		t.Errorf("only %d points to die at: there are more changes than that", ends*stride())
	}
	t.Logf("died at %d points, one of %d", ends, stride())
	s.unchanged(free, "all of it")
}

// Whatever change fails, the NIC has everything as before.
func TestFailureRollsBack(t *testing.T) {
	ctx := inLab(t)
	s := newSite(t)
	s.furnish()
	free := s.stable()
	for at := 0; ; at += stride() {
		u, n := s.u, 0
		u.Fault = func(string, bool) error {
			if n++; n == at+1 {
				return errors.New("broken on purpose")
			}
			return nil
		}
		_, err := u.Take(ctx)
		if err == nil {
			if at < 50 {
				t.Errorf("only %d points to fail at", at)
			}
			break
		}
		if !strings.Contains(err.Error(), "broken on purpose") || strings.Contains(err.Error(), "giving eth1 back") {
			t.Errorf("point %d: %v", at, err)
		}
		s.unchanged(free, fmt.Sprintf("a move that failed at point %d", at))
		if _, err := os.Stat(s.u.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("point %d: the record is still there: %v", at, err)
		}
	}
	if _, err := s.u.GiveBack(ctx, false); err != nil {
		t.Error(err)
	}
	s.unchanged(free, "the way back")
}

// onLink lists addresses and routes of a link, without its name.
func onLink(t testing.TB, link string) string {
	t.Helper()
	var b strings.Builder
	for _, args := range []string{"-o -4 address show dev ", "-o -6 address show dev "} {
		for line := range strings.Lines(output(t, "ip", strings.Fields(args+link)...)) {
			_, line, _ = strings.Cut(line, link)
			b.WriteString(running.ReplaceAllString(strings.TrimLeft(line, " "), "$1 N") + "\n")
		}
	}
	for _, args := range []string{"-d -o -4 route show table all", "-d -o -6 route show table all"} {
		for line := range strings.Lines(output(t, "ip", strings.Fields(args)...)) {
			if strings.Contains(line, " dev "+link+" ") && !strings.Contains(line, "ff00::/8") && !strings.HasPrefix(line, "multicast") {
				b.WriteString(running.ReplaceAllString(line, "$1 N"))
			}
		}
	}
	return strings.ReplaceAll(b.String(), link, "LINK")
}
