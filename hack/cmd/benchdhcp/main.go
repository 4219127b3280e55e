// Benchdhcp compares flat-dhcpd with the DHCP servers of the field: exchanges a second
// without a drop, their latency, the server's CPU time for each; a storm of clients that
// boot together; a flood of strangers. Every server has a host of its own, made of
// namespaces, with the same network, and all take turns in the same run: figures are only
// good for their ratios.
//
// docs/performance.md says what the figures mean.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// options are the command line.
type options struct {
	contenders   []string // host names of setups; empty = all
	reservations []int
	modes        []mode
	repetitions  int
	duration     time.Duration // of one measurement
	window       int           // clients in the middle of an exchange, to begin with
	active       int           // clients that take part, of those with a reservation
	storm        int           // clients that begin at once; 0 = no storm
	flood        int           // messages of strangers; 0 = no flood
	json         bool
	// Not for people: what this program does on a contender's host.
	echo bool
	fill int
	data string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchdhcp:", err)
		os.Exit(2)
	}
	switch {
	case o.echo:
		err = echo()
	case o.fill > 0:
		err = fill(ctx, o.data, o.fill)
	default:
		err = compare(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchdhcp:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var contenders, reservations, modes string
	f := flag.NewFlagSet("benchdhcp", flag.ContinueOnError)
	f.StringVar(&contenders, "contenders", "", "which of "+strings.Join(hostNames(), ",")+" (default all)")
	f.StringVar(&reservations, "reservations", "1000,10000", "how many hosts are known")
	f.StringVar(&modes, "modes", "unicast,broadcast,relay", "ways of the replies")
	f.IntVar(&o.repetitions, "repetitions", 3, "how often each is measured")
	f.DurationVar(&o.duration, "duration", 2*time.Second, "how long each is measured")
	f.IntVar(&o.window, "window", 32, "clients in the middle of an exchange; fewer if that leads to drops")
	f.IntVar(&o.active, "active", 800, "how many of the known hosts are clients; the kernel's table of neighbours takes a thousand")
	f.IntVar(&o.storm, "storm", 1000, "clients that boot together; 0 = no storm")
	f.IntVar(&o.flood, "flood", 60_000, "messages of strangers, 20,000 a second, while 200 known clients get leases; 0 = no flood")
	f.BoolVar(&o.json, "json", false, "print JSON instead of tables")
	f.BoolVar(&o.echo, "echo", false, "be the server that answers without looking (used by this program itself)")
	f.IntVar(&o.fill, "fill", 0, "make a store with so many reservations (used by this program itself)")
	f.StringVar(&o.data, "data", "", "directory of the store that -fill makes")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is one argument too many", f.Arg(0))
	}
	if contenders != "" {
		o.contenders = strings.Split(contenders, ",")
		for _, name := range o.contenders {
			if !slices.Contains(hostNames(), name) {
				return o, fmt.Errorf("-contenders %q: %s are known", contenders, strings.Join(hostNames(), ", "))
			}
		}
	}
	for word := range strings.SplitSeq(reservations, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > maxHosts {
			return o, fmt.Errorf("-reservations %q: numbers from 1 to %d are wanted", reservations, maxHosts)
		}
		o.reservations = append(o.reservations, n)
	}
	var err error
	if o.modes, err = parseModes(modes); err != nil {
		return o, fmt.Errorf("-modes %q: %w", modes, err)
	}
	if o.repetitions < 1 || o.duration <= 0 || o.window < 1 || o.active < 1 || o.storm < 0 || o.flood < 0 {
		return o, errors.New("-repetitions, -duration, -window and -active of more than 0, -storm and -flood of 0 at least are wanted")
	}
	return o, nil
}

func hostNames() []string {
	var names []string
	for _, s := range setups() {
		names = append(names, s.host)
	}
	return names
}

func compare(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: sudo make bench-dhcp")
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the programs: %w", err)
	}
	bin := filepath.Dir(program)
	if _, err := os.Stat(filepath.Join(bin, "flat-dhcpd")); err != nil {
		return fmt.Errorf("finding the programs: %w; run it by make bench-dhcp", err)
	}
	l, err := lab.Start(ctx, lab.Options{Bin: bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &bench{options: o, progress: os.Stderr}
	for _, s := range setups() {
		if len(o.contenders) > 0 && !slices.Contains(o.contenders, s.host) {
			continue
		}
		c, err := newContender(ctx, l, s)
		if err != nil {
			return err
		}
		b.contenders = append(b.contenders, c)
	}
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err = fmt.Print(r)
	return err
}
