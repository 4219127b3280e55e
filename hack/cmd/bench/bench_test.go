package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func TestParseOptions(t *testing.T) {
	for line, want := range map[string]options{
		"": {populations: []int{0, 250, 1000}, pairs: 30, counts: 3},
		"-workloads 5 -pairs 1 -counts 0 -json -data /x": {populations: []int{5}, pairs: 1, data: "/x", json: true},
	} {
		got, err := parse(strings.Fields(line))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{})); err != nil || diff != "" {
			t.Errorf("%q: %v, %s", line, err, diff)
		}
	}
	for line, want := range map[string]string{
		"-workloads 0,x":    `-workloads "0,x": numbers from 0 to 1022 are wanted`,
		"-workloads 2000":   `-workloads "2000": numbers from 0 to 1022 are wanted`,
		"-workloads 250,10": `-workloads "250,10": ascending numbers are wanted, for nothing is detached between them`,
		"-pairs 0":          "-pairs of 1 and -counts of 0 at least are wanted",
		"now":               `"now" is one argument too many`,
	} {
		if _, err := parse(strings.Fields(line)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", line, err, want)
		}
	}
}

func TestParseSummary(t *testing.T) {
	// As strace 6.1 prints it.
	got, err := parseSummary([]byte(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 40.12    0.004321          12       341        21 futex
 10.00    0.001000         500         2           fdatasync
  5.00    0.000500         500         1           fsync
  0.50    0.000050           7         7         4 execve
------ ----------- ----------- --------- --------- ----------------
100.00    0.009876           9      1120        25 total
`))
	if want := (tally{programs: 3, calls: 1120, syncs: 3}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "strace: attach: Operation not permitted\n"} {
		if got, err := parseSummary([]byte(text)); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []time.Duration
		want   time.Duration
	}{{[]time.Duration{3}, 3}, {[]time.Duration{9, 1, 5}, 5}, {[]time.Duration{4, 1, 3, 2}, 3}} {
		if got := median(tc.values, func(d time.Duration) time.Duration { return d }); got != tc.want {
			t.Errorf("median of %v: %d, want %d", tc.values, got, tc.want)
		}
	}
}

func TestReport(t *testing.T) {
	verb := func(wall, fastest, cpu float64, programs, calls, syncs int) *figure {
		return &figure{wall, fastest, cpu, programs, calls, syncs}
	}
	two := func(n int, of float64) population {
		return population{n, []figures{
			{"flat-bridge", map[string]*figure{"ADD": verb(40*of, 38, 10, 2, 500, 2), "DEL": verb(20*of, 19, 5, 2, 400, 2), "STATUS": {Programs: 1, Calls: 90}}},
			{"bridge + host-local", map[string]*figure{"ADD": verb(50, 45, 9, 2, 700, 0), "DEL": verb(30, 25, 8, 2, 600, 0), "STATUS": {Programs: 2, Calls: 200}}},
			{"bridge + host-local, ipMasq", map[string]*figure{"ADD": verb(80, 70, 25, 13, 3000, 0), "DEL": verb(90, 75, 25, 11, 2000, 0)}},
		}}
	}
	r := &report{Machine: "flatdhcp v1, Linux 6.1", Pairs: 30, Populations: []population{two(0, 1), two(1000, 1.1)}}
	counted := r.String()
	// Without counts there is no second table.
	for _, p := range r.Populations {
		for _, c := range p.Contenders {
			delete(c.Verbs, "STATUS")
			for _, f := range c.Verbs {
				f.Programs, f.Calls, f.Syncs = 0, 0, 0
			}
		}
	}
	got := counted + "\n=== without counts\n\n" + r.String()
	path := filepath.Join("testdata", "report.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}
