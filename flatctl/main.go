// flatctl is the administrator's command line: it configures networks, lists and
// makes reservations, and shows and checks what flatdhcp keeps.
package main

import (
	"os"
	"time"

	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// version is set by the linker.
var version = "dev"

func main() {
	c := &control{
		in:     os.Stdin,
		out:    os.Stdout,
		errOut: os.Stderr,
		now:    time.Now,
		node:   thisNode,
		host:   os.Hostname,

		counters: kernelCounters(),
		daemon:   daemonClient{rundir.FromEnv(os.Getenv).DaemonSocket()},
	}
	os.Exit(c.run(os.Args[1:]))
}
