package main

import "fmt"

// The project's goals: how many times the exchanges a second of another server, at least,
// with so many reservations.
var goals = []struct {
	reservations int
	server       string
	times        float64
}{
	{1000, dnsmasq, 3},
	{1000, kea, 2},
	{1000, iscDHCPD, 2},
	{1000, floor, 0.75},
	{10_000, dnsmasq, 10},
	{10_000, floor, 0.75},
}

const (
	goalCPU   = 0.3 // of the CPU time that any peer takes for an exchange, at most
	goalStorm = 50  // milliseconds until bound, p99
)

// verdicts compares with the goals what was measured of what they are about.
func (r *report) verdicts() []string {
	var list []string
	say := func(ok bool, format string, args ...any) {
		word := "missed"
		if ok {
			word = "met"
		}
		list = append(list, word+": "+fmt.Sprintf(format, args...))
	}
	for _, p := range r.Populations {
		own := p.find(ours)
		if own == nil {
			continue
		}
		for _, m := range p.modes() {
			mine := own.Exchanges[m]
			if mine == nil {
				continue
			}
			for _, g := range goals {
				peer := p.find(g.server)
				if g.reservations != p.Reservations || peer == nil || peer.Exchanges[m] == nil {
					continue
				}
				got := mine.PerSecond / peer.Exchanges[m].PerSecond
				say(got >= g.times, "%d reservations, %s: %.2f times the exchanges of %s (goal: %.2f at least)", p.Reservations, m, got, g.server, g.times)
			}
			for _, f := range p.Servers {
				if f.Name == ours || f.Name == floor || f.Exchanges[m] == nil {
					continue
				}
				got := mine.CPU / f.Exchanges[m].CPU
				say(got <= goalCPU, "%d reservations, %s: %.2f of the CPU time of %s (goal: %.2f at most)", p.Reservations, m, got, f.Name, goalCPU)
			}
		}
		if len(own.Storms) > 0 {
			s := storm(own.Storms)
			say(s.Repeats == 0 && s.Unserved == 0 && s.P99 < goalStorm,
				"storm of %d: %d messages repeated, p99 %.1f ms (goal: none, under %d ms)", s.Clients, s.Repeats, s.P99, goalStorm)
		}
		if len(own.Floods) > 0 {
			// Not the median: one retry is one too many.
			repeats, strangers := 0, 0
			for _, f := range own.Floods {
				repeats += f.Repeats + f.Unserved
				strangers += f.Strangers
			}
			say(repeats == 0, "floods of %d messages of strangers: known clients repeated %d messages (goal: none)", strangers, repeats)
		}
	}
	return list
}
