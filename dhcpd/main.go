// Flat-dhcpd is the node's DHCP and DNS server: it serves every network of the data
// directories whose bridge and gateway address are on this node, from the
// reservations alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// version is set when a release is linked: -ldflags "-X main.version=...".
var version = "dev"

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `flat-dhcpd serves DHCP and DNS on every flat network whose bridge and gateway address
are on this node. Clients get the address reserved for their MAC; others meet silence.

Usage: flat-dhcpd [flags]

  --data-dir DIR       directory of the stores; repeatable (default /var/lib/flatdhcp)
  --conf-dir DIR       directory of conflists, such as /etc/cni/net.d, to follow: what they
                       say is written into the stores. Without it the records in the stores
                       are served as they are
  --run-dir DIR        directory of locks and signs of life
                       (default $FLATDHCP_RUN_DIR, else /run/flatdhcp)
  --listen [HOST]:PORT serve metrics, health, leases and events on TCP as well; without
                       a host on 127.0.0.1. They are on RUN-DIR/flat-dhcpd.sock anyway
  --hook PROGRAM       run PROGRAM for every lease, with dnsmasq's arguments (add, old or
                       del, MAC, address, host name) and environment
  --log-format FORMAT  text or json (default text), on standard error
  --log-level LEVEL    debug, info, warn or error (default info)
  --version            print the version and exit
  --help               print this and exit
`

// config is the command line.
type config struct {
	dataDirs  []string
	confDir   string // empty = none
	runDir    rundir.Dir
	listen    string // empty = not on TCP
	hook      string // empty = none
	logFormat string
	logLevel  slog.Level
}

// errInfo says that the command line asked for a text which has been printed.
var errInfo = errors.New("printed what was asked for")

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main less the process: it returns the exit code.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := parse(args, getenv, stdout)
	if errors.Is(err, errInfo) {
		return exitDone
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "flat-dhcpd: %v\nTry flat-dhcpd --help.\n", err)
		return exitUsage
	}
	log := newLogger(stderr, c)
	if err := confine(log); err != nil {
		log.Error(err.Error())
		return exitFailed
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, c, log); err != nil {
		log.Error(err.Error())
		return exitFailed
	}
	return exitDone
}

// parse reads the command line; what it was asked to print goes to stdout.
func parse(args []string, getenv func(string) string, stdout io.Writer) (config, error) {
	c := config{runDir: rundir.FromEnv(getenv)}
	var showVersion bool
	f := flag.NewFlagSet("flat-dhcpd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.Func("data-dir", "", func(s string) error {
		if s == "" {
			return errors.New("a directory is wanted")
		}
		c.dataDirs = append(c.dataDirs, s)
		return nil
	})
	f.StringVar(&c.confDir, "conf-dir", "", "")
	f.StringVar((*string)(&c.runDir), "run-dir", string(c.runDir), "")
	f.StringVar(&c.listen, "listen", "", "")
	f.StringVar(&c.hook, "hook", "", "")
	f.StringVar(&c.logFormat, "log-format", "text", "")
	f.Func("log-level", "", func(s string) error { return c.logLevel.UnmarshalText([]byte(s)) })
	f.BoolVar(&showVersion, "version", false, "")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err = io.WriteString(stdout, usage)
		return c, errors.Join(err, errInfo)
	case err != nil:
		return c, err
	case showVersion:
		_, err = fmt.Fprintf(stdout, "flat-dhcpd %s\n", version)
		return c, errors.Join(err, errInfo)
	case f.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q: every setting is a flag", f.Arg(0))
	case c.logFormat != "text" && c.logFormat != "json":
		return c, fmt.Errorf("--log-format %q: text or json is wanted", c.logFormat)
	case c.hook != "" && !filepath.IsAbs(c.hook):
		return c, fmt.Errorf("--hook %q: an absolute path is wanted", c.hook)
	case c.listen != "" && !strings.Contains(c.listen, ":"):
		return c, fmt.Errorf("--listen %q: HOST:PORT or :PORT is wanted", c.listen)
	case strings.TrimSpace(string(c.runDir)) == "":
		return c, errors.New("--run-dir is empty")
	}
	if len(c.dataDirs) == 0 {
		c.dataDirs = []string{"/var/lib/flatdhcp"}
	}
	return c, nil
}
