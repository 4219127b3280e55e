// Bench compares what ADD and DEL cost with what the reference plugins bridge and
// host-local take for theirs, on hosts made of namespaces, in the same run: times are only
// good for their ratio. It counts programs and system calls of every verb as well.
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

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// maxPorts is how many workloads a bridge takes (BR_MAX_PORTS less the one measured).
const maxPorts = 1022

// options are the command line.
type options struct {
	populations []int // workloads that are attached already, ascending
	pairs       int   // of ADD and DEL, for each contender and population
	counts      int   // of each verb under strace; 0 = do not count
	data        string
	json        bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var populations string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&populations, "workloads", "0,250,1000", "how many are attached already, ascending")
	f.IntVar(&o.pairs, "pairs", 30, "how often ADD and DEL are measured, for each plugin and number of workloads")
	f.IntVar(&o.counts, "counts", 3, "how often each verb is counted; 0 = not at all (needs strace)")
	f.StringVar(&o.data, "data", "", "directory for the stores of both (default: a temporary one)")
	f.BoolVar(&o.json, "json", false, "print JSON instead of tables")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is one argument too many", f.Arg(0))
	}
	for word := range strings.SplitSeq(populations, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 || n > maxPorts {
			return o, fmt.Errorf("-workloads %q: numbers from 0 to %d are wanted", populations, maxPorts)
		}
		o.populations = append(o.populations, n)
	}
	if !slices.IsSorted(o.populations) {
		return o, fmt.Errorf("-workloads %q: ascending numbers are wanted, for nothing is detached between them", populations)
	}
	if o.pairs < 1 || o.counts < 0 {
		return o, errors.New("-pairs of 1 and -counts of 0 at least are wanted")
	}
	return o, nil
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: sudo make bench")
	}
	bin, err := programs()
	if err != nil {
		return err
	}
	// On a disk, as a node's are: the hosts' own /var/lib is in memory, where fsync is free.
	data, err := os.MkdirTemp(o.data, "flatdhcp-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	l, err := lab.Start(ctx, lab.Options{Bin: bin, CNIBin: filepath.Join(bin, "tools", "cni")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &bench{options: o, progress: os.Stderr}
	for _, s := range setups(data) {
		c, err := newContender(ctx, l, s, data)
		if err != nil {
			return err
		}
		defer c.close()
		b.contenders = append(b.contenders, c)
	}
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if r.Machine, err = describe(ctx, b.contenders[0].host, data); err != nil {
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

// programs is the directory that make builds into: the one this program is in.
func programs() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the programs: %w", err)
	}
	dir := filepath.Dir(self)
	for _, p := range []string{"flat-bridge", "tools/cni/bridge", "tools/cni/host-local"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return "", fmt.Errorf("finding the programs: %w; run it by make bench", err)
		}
	}
	return dir, nil
}
