package seed

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// testCase is an acceptance case of the seed.
type testCase struct {
	id, action string
	toggle     toggle // where it is played
	multi      bool   // only where each host is a gateway
	run        func(s *scene) outcome
}

// toggle is allowSameNetTraffic, as far as a case is about it.
type toggle int

const (
	either toggle = iota
	on
	off
)

// TestAcceptance plays the seed's cases, one after the other, in each shape with the toggle
// on and off. A case leaves the network as it found it.
func TestAcceptance(t *testing.T) {
	labtest.RequireRoot(t)
	var cases []testCase
	for _, list := range [][]testCase{leaseCases, gatewayCases, hostCases, neighbourCases, outsideCases, lifeCases, bridgeCases, spoofCases} {
		cases = append(cases, list...)
	}
	for _, sh := range shapes {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/sameNet=%t", sh.name, open), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, sh, open)
				for _, c := range cases {
					if c.multi && !sh.multi || c.toggle == on && !open || c.toggle == off && open {
						continue
					}
					t.Run(c.id, func(t *testing.T) {
						outer := s.t
						s.t = t
						defer func() { s.t = outer }()
						s.play(c)
					})
				}
			})
		}
	}
	t.Cleanup(func() {
		t.Logf("the seed's cases:\n%s", results.String())
	})
}

// play runs a case and makes a row of it.
func (s *scene) play(c testCase) {
	s.t.Helper()
	o := c.run(s)
	r := row{id: c.id, action: c.action, shape: s.shape.name, open: s.open,
		expected: o.expected, observed: o.observed, decided: o.decided, verdict: "ok"}
	switch {
	case o.skip != "":
		r.verdict, r.decided = "-", "no meaning here: "+o.skip
	case o.expected != o.observed || len(o.faults) > 0:
		r.verdict = "FAILED"
		s.t.Errorf("expected %s, observed %s; decided by %s; %s", o.expected, o.observed, o.decided, strings.Join(o.faults, "; "))
	}
	results.add(r)
}
