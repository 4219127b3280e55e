package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what a run found. Its JSON names are for programs.
type report struct {
	CPUs        int          `json:"cpus"`
	Repetitions int          `json:"repetitions"`
	Seconds     float64      `json:"seconds"`
	Populations []population `json:"populations"`
}

// population is what was found with a number of reservations.
type population struct {
	Reservations int       `json:"reservations"`
	Servers      []figures `json:"servers"`
}

// figures are one server's.
type figures struct {
	Name      string         `json:"name"`
	Exchanges map[mode]*rate `json:"exchanges"`
	Storms    []stormRun     `json:"storms,omitempty"`
	Floods    []floodRun     `json:"floods,omitempty"`
}

// rate is the median of some runs, each figure for itself.
type rate struct {
	rateRun
	Best float64   `json:"bestExchangesPerSecond"`
	Runs []rateRun `json:"runs"`
}

// rateRun is one measurement with as many clients at a time as lose nothing, or with a few
// if something is lost even then.
type rateRun struct {
	PerSecond float64 `json:"exchangesPerSecond"`
	P99       float64 `json:"p99Milliseconds"`
	CPU       float64 `json:"cpuMicrosecondsPerExchange"`
	Window    int     `json:"clientsAtATime"`
	Drops     int     `json:"drops"`
}

// stormRun is one exchange for each of some clients.
type stormRun struct {
	Clients  int     `json:"clients"`
	Repeats  int     `json:"messagesRepeated"`
	Unserved int     `json:"clientsWithoutLease"`
	P50      float64 `json:"medianMilliseconds"`
	P99      float64 `json:"p99Milliseconds"`
}

// floodRun is a storm's figures of clients during a flood.
type floodRun struct {
	stormRun
	Strangers int     `json:"strangers"`
	PerSecond float64 `json:"strangersPerSecond"`
	MB        float64 `json:"serverMegabytes"` // in memory after it
}

func (p *population) find(name string) *figures {
	if i := slices.IndexFunc(p.Servers, func(f figures) bool { return f.Name == name }); i >= 0 {
		return &p.Servers[i]
	}
	return nil
}

// settle computes the medians.
func (p *population) settle() {
	for _, f := range p.Servers {
		for _, r := range f.Exchanges {
			r.PerSecond = middle(r.Runs, func(x rateRun) float64 { return x.PerSecond })
			r.Best = slices.MaxFunc(r.Runs, func(x, y rateRun) int { return cmp.Compare(x.PerSecond, y.PerSecond) }).PerSecond
			r.P99 = middle(r.Runs, func(x rateRun) float64 { return x.P99 })
			r.CPU = middle(r.Runs, func(x rateRun) float64 { return x.CPU })
			r.Window = int(middle(r.Runs, func(x rateRun) float64 { return float64(x.Window) }))
			r.Drops = int(middle(r.Runs, func(x rateRun) float64 { return float64(x.Drops) }))
		}
	}
}

func middle[T any](items []T, of func(T) float64) float64 {
	var values []float64
	for _, item := range items {
		values = append(values, of(item))
	}
	return median(values)
}

// modes that were measured, in their order.
func (p *population) modes() []mode {
	var list []mode
	for _, m := range []mode{unicast, broadcast, relayed} {
		if slices.ContainsFunc(p.Servers, func(f figures) bool { return f.Exchanges[m] != nil }) {
			list = append(list, m)
		}
	}
	return list
}

// String is the text for people.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d CPUs; medians of %d runs of %g s each. Exchanges a second and those of the best run, p99 in ms, CPU time of the server for an exchange in us;\n"+
		"in brackets what ours is of it. CLIENTS: at a time. DROPS: messages that had to be repeated even so.\n\n", r.CPUs, r.Repetitions, r.Seconds)
	b.WriteString(table(r.rates()))
	if rows := r.bursts(); len(rows) > 1 {
		b.WriteString("\nClients that boot together (storm) and during a flood of strangers: medians; messages repeated, ms until bound.\n\n")
		b.WriteString(table(rows))
	}
	if list := r.verdicts(); len(list) > 0 {
		b.WriteString("\n" + strings.Join(list, "\n") + "\n")
	}
	return b.String()
}

func (r *report) rates() [][]string {
	rows := [][]string{{"RESERVATIONS", "REPLIES", "SERVER", "EXCHANGES/S", "BEST", "P99", "CPU", "CLIENTS", "DROPS"}}
	for _, p := range r.Populations {
		for _, m := range p.modes() {
			var own *rate
			if f := p.find(ours); f != nil {
				own = f.Exchanges[m]
			}
			for _, f := range p.Servers {
				x := f.Exchanges[m]
				if x == nil {
					continue
				}
				perSecond, best, cpu := fmt.Sprintf("%.0f", x.PerSecond), fmt.Sprintf("%.0f", x.Best), fmt.Sprintf("%.1f", x.CPU)
				if own != nil && own != x {
					perSecond += fmt.Sprintf("  (%.2fx)", own.PerSecond/x.PerSecond)
					best += fmt.Sprintf("  (%.2fx)", own.Best/x.Best)
					cpu += fmt.Sprintf("  (%.2fx)", own.CPU/x.CPU)
				}
				rows = append(rows, []string{
					fmt.Sprint(p.Reservations), string(m), f.Name, perSecond, best, fmt.Sprintf("%.2f", x.P99), cpu, fmt.Sprint(x.Window), fmt.Sprint(x.Drops),
				})
			}
		}
	}
	return rows
}

func (r *report) bursts() [][]string {
	rows := [][]string{{"", "SERVER", "CLIENTS", "REPEATED", "WITHOUT LEASE", "MEDIAN", "P99", "STRANGERS/S", "MB"}}
	row := func(what, name string, s stormRun, more ...string) {
		rows = append(rows, append([]string{
			what, name, fmt.Sprint(s.Clients), fmt.Sprint(s.Repeats), fmt.Sprint(s.Unserved), fmt.Sprintf("%.1f", s.P50), fmt.Sprintf("%.1f", s.P99),
		}, more...))
	}
	for _, p := range r.Populations {
		for _, f := range p.Servers {
			if len(f.Storms) > 0 {
				row("storm", f.Name, storm(f.Storms), "", "")
			}
		}
		for _, f := range p.Servers {
			if len(f.Floods) > 0 {
				row("flood", f.Name, storm(bare(f.Floods)),
					fmt.Sprintf("%.0f", middle(f.Floods, func(x floodRun) float64 { return x.PerSecond })),
					fmt.Sprintf("%.0f", middle(f.Floods, func(x floodRun) float64 { return x.MB })))
			}
		}
	}
	return rows
}

func bare(floods []floodRun) []stormRun {
	var list []stormRun
	for _, f := range floods {
		list = append(list, f.stormRun)
	}
	return list
}

// storm is the median of some, each figure for itself.
func storm(runs []stormRun) stormRun {
	of := func(f func(stormRun) float64) float64 { return middle(runs, f) }
	return stormRun{
		Clients:  int(of(func(s stormRun) float64 { return float64(s.Clients) })),
		Repeats:  int(of(func(s stormRun) float64 { return float64(s.Repeats) })),
		Unserved: int(of(func(s stormRun) float64 { return float64(s.Unserved) })),
		P50:      of(func(s stormRun) float64 { return s.P50 }),
		P99:      of(func(s stormRun) float64 { return s.P99 }),
	}
}

func table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")) // to memory
	}
	_ = w.Flush()
	return b.String()
}
