package ipam

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReserveAdminsAllOrNone: the third of four is refused, and none is made; a trial
// makes none either and says what it would have made.
func TestReserveAdminsAllOrNone(t *testing.T) {
	ctx := context.Background()
	d := testDir(t)
	s := mustConfigure(t, d, testNet("flat", "10.0.0.0/24"))
	mustReserve(t, s, request("held", "c1"))
	ask := func(name, ip string) AdminRequest { return AdminRequest{Workload: pod(name), Addr: addr(ip)} }
	rows := func() []Reservation {
		t.Helper()
		snap, err := s.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return snap.Rows
	}
	before := rows()
	good := []AdminRequest{ask("a", "10.0.0.20"), ask("b", "10.0.0.21"), {Workload: pod("c")}}
	for name, tc := range map[string]struct {
		bad   AdminRequest
		index int
	}{
		"taken by a workload":    {ask("x", before[0].Addr.String()), 2},
		"taken by one of them":   {ask("x", "10.0.0.20"), 2},
		"a name that is none":    {AdminRequest{Workload: pod("x"), Hostname: "a_b"}, 2},
		"the workload of before": {AdminRequest{Workload: pod("a"), MAC: MAC{1}}, 2},
	} {
		_, err := s.ReserveAdmins(ctx, []AdminRequest{good[0], good[1], tc.bad, good[2]}, false)
		var which *RequestError
		if !errors.As(err, &which) || which.Index != tc.index {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, rows(), equal); diff != "" {
			t.Errorf("%s: something was made:\n%s", name, diff)
		}
	}
	trial, err := s.ReserveAdmins(ctx, good, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, rows(), equal); diff != "" {
		t.Errorf("a trial made something:\n%s", diff)
	}
	made, err := s.ReserveAdmins(ctx, good, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range trial {
		trial[i].Since = made[i].Since // the clock went on
	}
	if diff := cmp.Diff(trial, made, equal); diff != "" {
		t.Errorf("the trial said something else (-trial +made):\n%s", diff)
	}
	if got := rows(); len(got) != len(before)+3 || made[0].Addr != addr("10.0.0.20") || made[2].Workload != pod("c") {
		t.Errorf("made %v, rows %v", made, got)
	}
	if defects, err := s.Check(ctx); err != nil || len(defects) > 0 {
		t.Errorf("%v, %v", defects, err)
	}
}
