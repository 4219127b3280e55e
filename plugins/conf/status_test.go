package conf

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestStoreProblems(t *testing.T) {
	full := ipam.Stats{Size: 5, Used: 3, Reserved: 2}
	bridge := func(onExhaustion string) *ipam.Bridge { return &ipam.Bridge{StatusOnExhaustion: onExhaustion} }
	said := "network flat has no free address: 3 are in use, 2 are reserved by the administrator; see `flatctl reservations flat`"
	for name, tt := range map[string]struct {
		bridge *ipam.Bridge
		stats  ipam.Stats
		err    error
		want   []Problem
	}{
		"ready":              {stats: ipam.Stats{Size: 5, Free: 1, Used: 4}},
		"no store yet":       {},
		"kept addresses":     {stats: ipam.Stats{Size: 5, Used: 4, Retained: 1}},
		"full":               {bridge(""), full, nil, []Problem{{said, 51}}},
		"full, and fail":     {bridge(ipam.ExhaustionFail), full, nil, []Problem{{said, 51}}},
		"full, and ok":       {bridge(ipam.ExhaustionOK), full, nil, []Problem{{said, 0}}},
		"full, flat-ipam":    {nil, full, nil, []Problem{{said, 51}}},
		"busy":               {nil, ipam.Stats{}, fmt.Errorf("reading: %w", ipam.ErrLocked), []Problem{{"the store is busy: reading: store is busy", 0}}},
		"out of time":        {nil, ipam.Stats{}, context.DeadlineExceeded, []Problem{{"the store is busy: context deadline exceeded", 0}}},
		"cannot be read":     {nil, ipam.Stats{}, errors.New("reading: broken"), []Problem{{"reading: broken", 50}}},
		"of a later version": {nil, ipam.Stats{}, ipam.ErrNewerSchema, []Problem{{ipam.ErrNewerSchema.Error(), 50}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := StoreProblems(ipam.Network{Name: "flat", Bridge: tt.bridge}, tt.stats, tt.err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatusErrorNamesAllAndHasTheWorstCode(t *testing.T) {
	for name, tt := range map[string]struct {
		problems []Problem
		code     uint
		text     string
	}{
		"none":         {},
		"only logged":  {[]Problem{{"a", 0}}, 0, ""},
		"limited":      {[]Problem{{"a", 51}, {"b", 0}}, 51, "a"},
		"limited, off": {[]Problem{{"a", 51}, {"b", 50}}, 50, "a; b"},
		"off, limited": {[]Problem{{"b", 50}, {"a", 51}}, 50, "b; a"},
	} {
		t.Run(name, func(t *testing.T) {
			err := StatusError(tt.problems)
			var e *types.Error
			if !errors.As(err, &e) {
				e = &types.Error{}
			}
			if e.Code != tt.code || e.Msg != tt.text || (err == nil) != (tt.code == 0) {
				t.Errorf("got %v, want %d %q", err, tt.code, tt.text)
			}
		})
	}
}

// What hangs is abandoned, and what was found before it counts.
func TestInTime(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	one := func(context.Context) []Problem { return []Problem{{"one", 50}} }
	got := InTime(one, func(context.Context) []Problem { <-hang; return nil }, one)
	if len(got) != 2 || got[0].Text != "one" || got[1].Code != 0 || !strings.HasPrefix(got[1].Text, "not everything was found out within 500ms") {
		t.Errorf("got %v", got)
	}
	got = InTime(one, func(ctx context.Context) []Problem {
		<-ctx.Done()
		return []Problem{{ctx.Err().Error(), 0}}
	})
	if len(got) != 2 || got[1].Text != context.DeadlineExceeded.Error() {
		t.Errorf("who keeps to the deadline is heard: got %v", got)
	}
	if got = InTime(); got != nil {
		t.Errorf("got %v", got)
	}
}
