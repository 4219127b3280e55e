package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Metrics collects samples and writes them in Prometheus' text format (version 0.0.4),
// families and samples in order, so that two scrapes can be compared. It is used by one
// goroutine.
type Metrics struct{ families map[string]*family }

type family struct {
	kind, help string
	lines      []string
}

// Source adds samples to a scrape. It is called for every one, by several goroutines.
type Source func(*Metrics)

// Counter adds a sample of a family that only grows; its name ends in _total. Labels
// are names and values in turn.
func (m *Metrics) Counter(name, help string, value uint64, labels ...string) {
	m.family(name, "counter", help).add(name, strconv.FormatUint(value, 10), labels)
}

// Gauge adds a sample of a family that goes up and down.
func (m *Metrics) Gauge(name, help string, value float64, labels ...string) {
	m.family(name, "gauge", help).add(name, number(value), labels)
}

// Histogram adds one of durations, in seconds. counts has, for each bound, how many took
// at most that and more than the bound before, and at its end those beyond all bounds.
func (m *Metrics) Histogram(name, help string, bounds []time.Duration, counts []uint64, sum time.Duration, labels ...string) {
	f := m.family(name, "histogram", help)
	var n uint64
	for i, c := range counts {
		n += c
		le := math.Inf(1)
		if i < len(bounds) {
			le = bounds[i].Seconds()
		}
		f.add(name+"_bucket", strconv.FormatUint(n, 10), append(slices.Clone(labels), "le", number(le)))
	}
	f.add(name+"_sum", number(sum.Seconds()), labels)
	f.add(name+"_count", strconv.FormatUint(n, 10), labels)
}

func (m *Metrics) family(name, kind, help string) *family {
	if m.families == nil {
		m.families = map[string]*family{}
	}
	f, ok := m.families[name]
	if !ok {
		f = &family{kind: kind, help: help}
		m.families[name] = f
	}
	return f
}

func (f *family) add(name, value string, labels []string) {
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		// The format knows these three escapes and takes any other byte of UTF-8 as it is.
		value := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(labels[i+1], "?"))
		fmt.Fprintf(&b, `%s="%s"`, labels[i], value)
	}
	if len(labels) > 1 {
		b.WriteByte('}')
	}
	f.lines = append(f.lines, b.String()+" "+value)
}

// number writes a float as the format wants it.
func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// WriteTo writes what was collected.
func (m *Metrics) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.families)) {
		f := m.families[name]
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.help), name, f.kind)
		for _, line := range f.lines {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}
