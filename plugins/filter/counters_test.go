package filter

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCounter(t *testing.T) {
	for _, c := range []struct {
		line string
		want RuleCounter
	}{
		{"-A FLAT-DROP -m comment --comment \"flatdhcp - 9673cefc\" -c 12 3456 -j DROP", // legacy
			RuleCounter{12, 3456, `-A FLAT-DROP -m comment --comment "flatdhcp - 9673cefc" -j DROP`}},
		{"-A FLAT-DROP -j DROP -c 18446744073709551615 0", RuleCounter{18446744073709551615, 0, "-A FLAT-DROP -j DROP"}},
		{`-A X -m comment --comment "a -c 1 2 b" -c 3 4 -j DROP`, RuleCounter{3, 4, `-A X -m comment --comment "a -c 1 2 b" -j DROP`}},
	} {
		got, err := parseCounter(c.line)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
	for _, line := range []string{"-A FLAT-DROP -j DROP", "-A X -c 99999999999999999999 0 -j DROP", ""} {
		if got, err := parseCounter(line); err == nil {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func FuzzParseCounter(f *testing.F) {
	f.Add("-A X -c 3 4 -j DROP")
	f.Add("-A X -j DROP -c 3 4")
	f.Fuzz(func(_ *testing.T, line string) { _, _ = parseCounter(line) })
}

func TestCountersListTheChain(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, table := everything(), k.table()
		k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
		want := WorkloadChain(flat, row("10.0.0.2"))
		var got []RuleCounter
		k.must(func(ctx context.Context) (err error) {
			got, err = table.Counters(ctx, want.Name)
			return err
		})
		text := ""
		for _, r := range got {
			text += r.Rule + "\n"
		}
		if diff := cmp.Diff(want.String(), text); diff != "" {
			t.Error(diff)
		}
		if err := k.try(func(ctx context.Context) error {
			_, err := table.Counters(ctx, "FLAT-WL-absent")
			return err
		}); err == nil {
			t.Error("no error for a chain that does not exist")
		}
	})
}
