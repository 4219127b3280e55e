package report

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestTextFormat compares with what Prometheus' format description asks for: families
// together, HELP and TYPE once, buckets that contain one another, three escapes.
func TestTextFormat(t *testing.T) {
	var m Metrics
	m.Gauge("flatdhcp_reservations", "Rows.", 12, "network", "flat")
	m.Counter("flatdhcp_messages_total", "Messages by\ntype, \\ and all.", 18446744073709551615, "network", "flat", "type", "discover")
	m.Histogram("flatdhcp_reply_seconds", "Time.", []time.Duration{50 * time.Microsecond, time.Millisecond, time.Second},
		[]uint64{3, 2, 0, 1}, 3*time.Second+time.Microsecond, "network", "flat")
	m.Gauge("flatdhcp_reservations", "Rows.", 0.5, "network", "a \"b\"\n\\c\xff")
	m.Gauge("flatdhcp_up", "Plain.", 1)
	var b strings.Builder
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
