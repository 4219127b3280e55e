package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
)

const (
	// dropsEvery is how often drops are logged at most: a flood must not fill a disk.
	dropsEvery = time.Minute
	// dropsGroup holds the counts of a line, for programs that read it.
	dropsGroup = "dropped"
	// dropsTimeout bounds the reading of counters, for a scrape and in the daemon's loop.
	dropsTimeout = 500 * time.Millisecond
)

// dropWatch counts and logs what the guard drops. look is for one goroutine, metrics for any.
type dropWatch struct {
	read func(context.Context) ([]guard.Counter, error)
	now  func() time.Time
	log  *slog.Logger

	last   map[string]uint64 // nil before the first reading
	since  time.Time         // when last was read
	told   time.Time         // when something was logged
	failed bool
}

// counters reads them within the time there is.
func (d *dropWatch) counters(ctx context.Context) ([]guard.Counter, error) {
	ctx, cancel := context.WithTimeout(ctx, dropsTimeout)
	defer cancel()
	return d.read(ctx)
}

// look logs what was dropped of hostile frames since it last looked, one line a minute at
// most. What was dropped before the daemon started is history.
func (d *dropWatch) look(ctx context.Context) {
	now := d.now()
	if now.Sub(d.told) < dropsEvery {
		return
	}
	counters, err := d.counters(ctx)
	if err != nil {
		if !d.failed {
			d.log.Warn(fmt.Sprintf("what the guard drops cannot be told: %v", err))
		}
		d.failed = true
		return
	}
	d.failed = false
	values := map[string]uint64{}
	for _, c := range counters {
		values[c.Name] = c.Packets
	}
	if d.last != nil {
		d.tell(now, values)
	}
	d.last, d.since = values, now
}

func (d *dropWatch) tell(now time.Time, values map[string]uint64) {
	var total uint64
	var parts []string
	var attrs []any
	for _, r := range guard.Reasons() {
		n, before := values[r.Counter], d.last[r.Counter]
		if n < before { // the table was made anew
			before = 0
		}
		if !r.Hostile || n == before {
			continue
		}
		total += n - before
		parts = append(parts, fmt.Sprintf("%d %s (%s)", n-before, r.Counter, r.Why))
		attrs = append(attrs, slog.Uint64(r.Counter, n-before))
	}
	if total == 0 {
		return
	}
	d.told = now
	d.log.Warn(fmt.Sprintf("guard dropped %d frames within %s: %s", total, short(now.Sub(d.since).Round(time.Second)), strings.Join(parts, ", ")),
		slog.Group(dropsGroup, attrs...))
}

// metrics adds the counters; none where there is no guard.
func (d *dropWatch) metrics(m *report.Metrics) {
	counters, err := d.counters(context.Background())
	if err != nil {
		return
	}
	for _, c := range counters {
		m.Counter("flatdhcp_guard_dropped_total", "Frames that the guard dropped, by reason.", c.Packets, "reason", c.Name)
	}
}
