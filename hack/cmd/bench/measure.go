package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// verbs in the order in which one workload sees them.
var verbs = []string{"ADD", "CHECK", "STATUS", "GC", "DEL"}

// bench is one run.
type bench struct {
	options
	contenders []*contender
	progress   io.Writer
	serial     int // of the measured containers: each is a new one
}

func (b *bench) run(ctx context.Context) (*report, error) {
	r := &report{Pairs: b.pairs}
	for _, n := range b.populations {
		row := population{Workloads: n}
		for _, c := range b.contenders {
			b.say("%d workloads: attaching them with %s", n, c.name)
			if err := c.populate(ctx, n); err != nil {
				return nil, err
			}
			row.Contenders = append(row.Contenders, figures{Name: c.name, Verbs: map[string]*figure{}})
		}
		b.say("%d workloads: measuring", n)
		if err := b.measure(ctx, row); err != nil {
			return nil, err
		}
		if b.counts > 0 {
			b.say("%d workloads: counting", n)
			if err := b.count(ctx, row); err != nil {
				return nil, err
			}
		}
		r.Populations = append(r.Populations, row)
	}
	return r, nil
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "bench: "+format+"\n", args...) // for who waits
}

// measure takes the times of pairs, one of each contender in turn, so that what else the
// machine does meets all of them; whose turn is first changes.
func (b *bench) measure(ctx context.Context, row population) error {
	samples := make([]map[string][]cost, len(b.contenders))
	for i := range samples {
		samples[i] = map[string][]cost{}
	}
	for pair := range b.pairs + 1 {
		b.serial++
		id := fmt.Sprintf("measured-%d", b.serial)
		results := make([][]byte, len(b.contenders))
		for _, verb := range []string{"ADD", "DEL"} {
			for turn := range b.contenders {
				i := (turn + pair) % len(b.contenders)
				k := call{verb: verb, id: id, netns: measured}
				if verb == "DEL" {
					k.extra = map[string]any{"prevResult": json.RawMessage(results[i])}
				}
				out, took, err := b.contenders[i].execute(ctx, b.contenders[i].stations[0], k)
				if err != nil {
					return err
				}
				if results[i] = out; pair > 0 { // the first is to warm up
					samples[i][verb] = append(samples[i][verb], took)
				}
			}
		}
	}
	for i, of := range samples {
		for verb, costs := range of {
			wall := func(c cost) time.Duration { return c.wall }
			row.Contenders[i].Verbs[verb] = &figure{
				Wall:    milliseconds(median(costs, wall)),
				Fastest: milliseconds(sorted(costs, wall)[0]),
				CPU:     milliseconds(median(costs, func(c cost) time.Duration { return c.cpu })),
			}
		}
	}
	return nil
}

// median of what of makes of each item; there must be one.
func median[T any, V int | time.Duration](items []T, of func(T) V) V {
	return sorted(items, of)[len(items)/2]
}

func sorted[T any, V int | time.Duration](items []T, of func(T) V) []V {
	var values []V
	for _, item := range items {
		values = append(values, of(item))
	}
	slices.Sort(values)
	return values
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
