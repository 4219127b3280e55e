package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
)

// TestDropsAreLogged: hostile frames only, counted since the last look, one line a minute
// at most, and nothing of what was before the daemon.
func TestDropsAreLogged(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	counters := map[string]uint64{"in_mac": 40, "in_ethertype": 7}
	var trouble error
	d := &dropWatch{
		read: func(context.Context) (list []guard.Counter, err error) {
			for name, n := range counters {
				list = append(list, guard.Counter{Name: name, Packets: n})
			}
			return list, trouble
		},
		now: func() time.Time { return now },
		log: newLogger(&out, config{}),
	}
	for _, step := range []struct {
		name   string
		after  time.Duration
		change func()
		want   string // empty = no line
	}{
		{"what was before", 0, func() {}, ""},
		{"nothing", 10 * time.Second, func() {}, ""},
		{"what any guest sends", 10 * time.Second, func() { counters["in_ethertype"] += 100 }, ""},
		{"an attack", 10 * time.Second, func() { counters["in_mac"] += 2; counters["uplink_in_arp"] = 3 },
			"guard dropped 5 frames within 10s: 2 in_mac (the source MAC is not the port's), 3 uplink_in_arp (the ARP sender is this node or a workload here)"},
		{"more within the minute", 50 * time.Second, func() { counters["in_mac"] += 1000 }, ""},
		{"its end", 10 * time.Second, func() { counters["in_mac"]++ },
			"guard dropped 1001 frames within 1m: 1001 in_mac (the source MAC is not the port's)"},
		{"a table made anew", 2 * time.Minute, func() { clear(counters); counters["in_ipv4"] = 4 },
			"guard dropped 4 frames within 2m: 4 in_ipv4 (the IPv4 source is not the port's)"},
		{"trouble", 2 * time.Minute, func() { trouble = errors.New("no netlink today") }, "what the guard drops cannot be told: no netlink today"},
		{"the same trouble", 2 * time.Minute, func() {}, ""},
		{"better", time.Second, func() { trouble = nil; counters["in_ipv4"]++ },
			"guard dropped 1 frames within 4m1s: 1 in_ipv4 (the IPv4 source is not the port's)"},
	} {
		out.Reset()
		now = now.Add(step.after)
		step.change()
		d.look(t.Context())
		_, got, _ := strings.Cut(strings.TrimSpace(out.String()), "warn: ")
		if got != step.want {
			t.Errorf("%s: log is %q, want %q", step.name, got, step.want)
		}
	}
	var m report.Metrics
	d.metrics(&m)
	out.Reset()
	if _, err := m.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if want := `flatdhcp_guard_dropped_total{reason="in_ipv4"} 5` + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in\n%s", want, out.String())
	}
}
