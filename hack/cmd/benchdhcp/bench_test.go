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
		"": {
			reservations: []int{1000, 10_000}, modes: []mode{unicast, broadcast, relayed}, repetitions: 3, duration: 2 * time.Second,
			window: 32, active: 800, storm: 1000, flood: 60_000,
		},
		"-contenders flat-dhcpd,echo -reservations 5 -modes relay -repetitions 1 -duration 1s -window 4 -active 3 -storm 0 -flood 0 -json": {
			contenders: []string{"flat-dhcpd", "echo"}, reservations: []int{5}, modes: []mode{relayed}, repetitions: 1, duration: time.Second,
			window: 4, active: 3, json: true,
		},
	} {
		got, err := parse(strings.Fields(line))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{})); err != nil || diff != "" {
			t.Errorf("%q: %v, %s", line, err, diff)
		}
	}
	for line, want := range map[string]string{
		"-contenders flat-dhcpd,x": `-contenders "flat-dhcpd,x": flat-dhcpd, dnsmasq, dnsmasq-lf, kea, isc, echo are known`,
		"-reservations 0":          `-reservations "0": numbers from 1 to 50000 are wanted`,
		"-reservations 10,x":       `-reservations "10,x": numbers from 1 to 50000 are wanted`,
		"-modes smoke":             `-modes "smoke": unicast, broadcast and relay are wanted`,
		"-window 0":                "-repetitions, -duration, -window and -active of more than 0, -storm and -flood of 0 at least are wanted",
		"now":                      `"now" is one argument too many`,
	} {
		if _, err := parse(strings.Fields(line)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", line, err, want)
		}
	}
}

func TestReport(t *testing.T) {
	server := func(name string, perSecond, cpu float64, s stormRun) figures {
		of := func(factor float64) *rate {
			r := &rate{}
			for _, f := range []float64{1, 0.9, 1.1} { // the median is 1
				r.Runs = append(r.Runs, rateRun{PerSecond: perSecond * f * factor, P99: 4 / f, CPU: cpu * f, Window: 32})
			}
			return r
		}
		return figures{
			Name: name, Exchanges: map[mode]*rate{unicast: of(1), broadcast: of(0.9)},
			Storms: []stormRun{s, s, s},
			Floods: []floodRun{{stormRun: stormRun{Clients: 200, Repeats: s.Repeats / 10, P50: 0.2, P99: 3}, Strangers: 60_000, PerSecond: 20_000, MB: 12}},
		}
	}
	lost := stormRun{Clients: 1000, Repeats: 870, P50: 3800, P99: 4900}
	servers := []figures{
		server(ours, 30_000, 20, stormRun{Clients: 1000, P50: 10, P99: 20}),
		server(dnsmasq, 7000, 100, lost), server(dnsmasqLease, 700, 900, lost), server(kea, 16_000, 60, lost), server(iscDHCPD, 10_000, 70, lost),
		server(floor, 38_000, 15, stormRun{Clients: 1000, P50: 8, P99: 9}),
	}
	for _, s := range servers[1:5] { // what only peers were measured at
		s.Exchanges[relayed] = &rate{Runs: []rateRun{{PerSecond: 5000, P99: 9, CPU: 80, Window: 2, Drops: 3}}}
	}
	p := population{1000, servers}
	p.settle()
	large := population{10_000, []figures{{Name: ours, Exchanges: servers[0].Exchanges}, {Name: dnsmasq, Exchanges: servers[2].Exchanges}}}
	r := &report{CPUs: 2, Repetitions: 3, Seconds: 2, Populations: []population{p, large}}
	// One server alone, without goals to compare, and nothing but what was measured.
	alone := &report{CPUs: 2, Repetitions: 1, Seconds: 1, Populations: []population{{10, []figures{{Name: floor, Exchanges: servers[5].Exchanges}}}}}
	got := r.String() + "\n=== alone\n\n" + alone.String()
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
