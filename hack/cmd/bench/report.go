package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Goals of the project: ADD and DEL against the bare reference without workloads, and how
// much they may grow with them.
const (
	goalRatio = 0.8
	goalFlat  = 1.25
)

// report is what a run found. Its JSON names are for programs.
type report struct {
	Machine     string       `json:"machine"`
	Pairs       int          `json:"pairs"`
	Populations []population `json:"populations"`
}

// population is what was found with a number of workloads attached.
type population struct {
	Workloads  int       `json:"workloads"`
	Contenders []figures `json:"contenders"` // ours, the bare reference, the reference with ipMasq
}

type figures struct {
	Name  string             `json:"name"`
	Verbs map[string]*figure `json:"verbs"`
}

// figure is one verb: medians, and the fastest, which a busy machine disturbs least. Times
// are 0 where only calls were counted.
type figure struct {
	Wall     float64 `json:"milliseconds,omitempty"`
	Fastest  float64 `json:"fastestMilliseconds,omitempty"`
	CPU      float64 `json:"cpuMilliseconds,omitempty"`
	Programs int     `json:"programs,omitempty"`
	Calls    int     `json:"systemCalls,omitempty"`
	Syncs    int     `json:"fsyncs,omitempty"`
}

// String is the text for people.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nMilliseconds: median of %d, fastest, CPU time; behind the others' the ratio of ours to each of them.\n\n", r.Machine, r.Pairs)
	b.WriteString(r.table([]string{"ADD", "DEL"}, func(f, ours *figure) string {
		text := fmt.Sprintf("%.1f  %.1f  %.1f", f.Wall, f.Fastest, f.CPU)
		if f != ours {
			text += fmt.Sprintf("  (%.2fx  %.2fx  %.2fx)", ours.Wall/f.Wall, ours.Fastest/f.Fastest, ours.CPU/f.CPU)
		}
		return text
	}))
	b.WriteString("\n" + r.verdicts())
	if !r.counted() {
		return b.String()
	}
	b.WriteString("\nPrograms that are run, the plugin among them; system calls of them all; how many of these are fsync.\n\n")
	b.WriteString(r.table(verbs, func(f, _ *figure) string {
		return fmt.Sprintf("%d  %d  %d", f.Programs, f.Calls, f.Syncs)
	}))
	return b.String()
}

func (r *report) counted() bool {
	for _, p := range r.Populations {
		for _, c := range p.Contenders {
			for _, f := range c.Verbs {
				if f.Calls > 0 {
					return true
				}
			}
		}
	}
	return false
}

// table has a line for each verb and population, a column for each contender.
func (r *report) table(verbs []string, cell func(f, ours *figure) string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	heads := []string{"VERB", "WORKLOADS"}
	for _, c := range r.Populations[0].Contenders {
		heads = append(heads, strings.ToUpper(c.Name))
	}
	rows := [][]string{heads}
	for _, verb := range verbs {
		for _, p := range r.Populations {
			row := []string{verb, fmt.Sprint(p.Workloads)}
			for _, c := range p.Contenders {
				text := "-"
				if f := c.Verbs[verb]; f != nil {
					text = cell(f, p.Contenders[0].Verbs[verb])
				}
				row = append(row, text)
			}
			rows = append(rows, row)
		}
	}
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")) // to memory
	}
	_ = w.Flush()
	return b.String()
}

// verdicts compares with the goals: the ratio at the smallest population, and growth to
// the largest.
func (r *report) verdicts() string {
	var b strings.Builder
	first, last := r.Populations[0], r.Populations[len(r.Populations)-1]
	for _, verb := range []string{"ADD", "DEL"} {
		ours, bare := first.Contenders[0].Verbs[verb], first.Contenders[1].Verbs[verb]
		fmt.Fprintf(&b, "%s with %d workloads: %.2fx of bare %s (goal: at most %.2fx)\n",
			verb, first.Workloads, ours.Wall/bare.Wall, first.Contenders[1].Name, goalRatio)
		if last.Workloads > first.Workloads {
			fmt.Fprintf(&b, "%s with %d workloads: %.2fx of that with %d (goal: at most %.2fx)\n",
				verb, last.Workloads, last.Contenders[0].Verbs[verb].Wall/ours.Wall, first.Workloads, goalFlat)
		}
	}
	return b.String()
}
