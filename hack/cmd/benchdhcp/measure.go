package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"time"
)

const (
	// unanswered is how long a client waits in a measurement before it says again what
	// was lost, surely, by then: a busy machine keeps a server from its CPU for a second.
	unanswered = 3 * time.Second
	// slice is how long a server is measured before it is the next one's turn.
	slice = 500 * time.Millisecond

	// giveUp is how long those clients are waited for.
	giveUp = 8 * time.Second

	// floodRate and floodClients are the flood: messages of strangers a second, and the
	// known clients that begin one after the other meanwhile.
	floodRate    = 20_000
	floodClients = 200
)

// bench is one run.
type bench struct {
	options
	contenders []*contender
	progress   io.Writer
}

func (b *bench) run(ctx context.Context) (*report, error) {
	r := &report{CPUs: runtime.NumCPU(), Repetitions: b.repetitions, Seconds: b.duration.Seconds()}
	for i, n := range b.reservations {
		p := population{Reservations: n}
		for _, c := range b.contenders {
			p.Servers = append(p.Servers, figures{Name: c.name, Exchanges: map[mode]*rate{}})
		}
		if err := b.populated(ctx, n, i == 0, &p); err != nil {
			return nil, err
		}
		r.Populations = append(r.Populations, p)
	}
	return r, nil
}

// populated measures all servers with n reservations.
func (b *bench) populated(ctx context.Context, n int, first bool, p *population) (err error) {
	defer func() {
		for _, c := range b.contenders {
			err = errors.Join(err, c.end())
		}
	}()
	for _, c := range b.contenders {
		b.say("%d reservations: starting %s", n, c.name)
		if err := c.begin(ctx, n); err != nil {
			return err
		}
	}
	for rep := range b.repetitions {
		for _, m := range b.modes {
			if err := b.repetition(ctx, rep, m, n, p); err != nil {
				return err
			}
		}
		if !first {
			continue
		}
		for _, c := range b.inTurn(rep) {
			if err := b.burst(ctx, c, n, p.find(c.name)); err != nil {
				return err
			}
		}
	}
	p.settle()
	return nil
}

// inTurn returns the contenders, each repetition another one first: what disturbs the
// machine then disturbs not always the same.
func (b *bench) inTurn(rep int) []*contender {
	k := rep % len(b.contenders)
	return slices.Concat(b.contenders[k:], b.contenders[:k])
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "benchdhcp: "+format+"\n", args...) // for who waits
}

// spread returns k of n hosts, evenly.
func spread(k, n int) []int {
	k = min(k, n)
	hosts := make([]int, k)
	for i := range hosts {
		hosts[i] = i * n / k
	}
	return hosts
}

// repetition measures every server once: in slices, in turn, so that what disturbs one
// disturbs the others.
func (b *bench) repetition(ctx context.Context, rep int, m mode, n int, p *population) error {
	sums := map[*contender]*total{}
	turns := max(1, int(b.duration/slice))
	for i := range turns {
		for _, c := range b.inTurn(rep + i) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if sums[c] == nil {
				sums[c] = &total{window: b.window}
			}
			if err := b.exchanges(ctx, c, m, n, b.duration/time.Duration(turns), sums[c]); err != nil {
				return err
			}
		}
	}
	for c, s := range sums {
		f := p.find(c.name)
		if f.Exchanges[m] == nil {
			f.Exchanges[m] = &rate{}
		}
		f.Exchanges[m].Runs = append(f.Exchanges[m].Runs, s.run())
	}
	return nil
}

// total is what some slices came to, all with the same window.
type total struct {
	outcome
	cpu    time.Duration
	window int
}

func (s *total) run() rateRun {
	slices.Sort(s.latencies)
	return rateRun{
		PerSecond: float64(s.exchanges) / s.elapsed.Seconds(), P99: milliseconds(s.quantile(0.99)),
		CPU: float64(s.cpu.Microseconds()) / float64(s.all), Window: s.window, Drops: s.repeats + s.unserved,
	}
}

// exchanges measures a slice of one server, with as many clients at a time as lose nothing:
// with fewer, what was summed before counts no more.
func (b *bench) exchanges(ctx context.Context, c *contender, m mode, n int, d time.Duration, s *total) error {
	for {
		before, err := c.used()
		if err != nil {
			return err
		}
		out, err := c.run(load{
			mode: m, clients: spread(b.active, n), window: s.window, last: d, patience: d + giveUp, wait: constant(unanswered),
		})
		if err != nil {
			return err
		}
		after, err := c.used()
		if err != nil {
			return err
		}
		if err := c.forget(ctx); err != nil {
			return err
		}
		if lost := out.repeats + out.unserved; lost > 0 && s.window > 1 {
			fewer := max(1, s.window/4)
			b.say("%s loses %d messages with %d clients at a time (%s): again with %d", c.name, lost, s.window, m, fewer)
			*s = total{window: fewer}
			continue
		}
		if out.all == 0 {
			return fmt.Errorf("%s with %d reservations gave no lease in %v (%s)", c.name, n, d, m)
		}
		s.exchanges += out.exchanges
		s.all += out.all
		s.elapsed += out.elapsed
		s.latencies = append(s.latencies, out.latencies...)
		s.repeats += out.repeats
		s.unserved += out.unserved
		s.cpu += after.cpu - before.cpu
		return nil
	}
}

// burst measures a storm and a flood once.
func (b *bench) burst(ctx context.Context, c *contender, n int, f *figures) error {
	if b.storm > 0 {
		k := min(b.storm, n)
		out, err := c.run(load{mode: unicast, clients: spread(k, n), window: k, patience: patience, wait: backOff})
		if err != nil {
			return err
		}
		if err := c.forget(ctx); err != nil {
			return err
		}
		f.Storms = append(f.Storms, stormOf(out))
	}
	if b.flood > 0 {
		out, sent, took, err := b.underFlood(c, n)
		if err != nil {
			return err
		}
		used, err := c.used()
		if err != nil {
			return err
		}
		if err := c.forget(ctx); err != nil {
			return err
		}
		f.Floods = append(f.Floods, floodRun{
			stormRun: stormOf(out), Strangers: sent, PerSecond: float64(sent) / took.Seconds(), MB: float64(used.rss) / (1 << 20),
		})
	}
	return nil
}

func stormOf(out outcome) stormRun {
	return stormRun{
		Clients: len(out.latencies) + out.unserved, Repeats: out.repeats, Unserved: out.unserved,
		P50: milliseconds(out.quantile(0.5)), P99: milliseconds(out.quantile(0.99)),
	}
}

// underFlood lets known clients begin one after the other for as long as a flood lasts.
func (b *bench) underFlood(c *contender, n int) (out outcome, sent int, took time.Duration, err error) {
	l, err := openLink(c.clients.NetNS(), "eth0")
	if err != nil {
		return outcome{}, 0, 0, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- onCPU(c.cpu, func() (err error) {
			sent, took, err = flood(l, b.flood, floodRate, done)
			return err
		})
	}()
	hosts := spread(floodClients, n)
	lasts := time.Duration(float64(b.flood) / floodRate * float64(time.Second))
	out, err = c.run(load{
		mode: unicast, clients: hosts, window: len(hosts), every: lasts / time.Duration(len(hosts)+1), patience: patience, wait: backOff,
	})
	// Whoever is left waits for nothing any more.
	if err != nil {
		close(done)
	}
	return out, sent, took, errors.Join(err, <-ended)
}

// median returns the middle of the values; there must be one.
func median[T cmp.Ordered](values []T) T {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

func milliseconds(d time.Duration) float64 { return math.Round(float64(d.Microseconds())/10) / 100 }
