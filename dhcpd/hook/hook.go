// Package hook tells a program of leases, with the arguments and the environment of
// dnsmasq's --dhcp-script: "add MAC ADDRESS HOSTNAME" for a lease that is new, "old"
// for one that goes on, "del" for one that was released or declined, or whose client
// has another address now.
package hook

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	// queueLength is how many events may wait for the program; more are lost and counted.
	queueLength = 1024
	// deadline is how long one run of the program may take before it is killed.
	deadline = 10 * time.Second
	// tellEvery bounds the lines about a program that fails.
	tellEvery = 10 * time.Second
)

// Run is one run of the program.
type Run struct {
	Args []string
	Env  []string
}

// Counters counts since the Hook was made. Each is read by itself.
type Counters struct {
	Done   atomic.Uint64 // runs that ended with exit code 0
	Failed atomic.Uint64
	Lost   atomic.Uint64 // events for which there was no room
}

// Hook runs a program for every change of a lease, one after the other.
type Hook struct {
	Counters Counters

	exec  func(context.Context, Run) (output string, err error)
	log   *slog.Logger
	queue chan lease.Event
	known map[client]netip.Addr // whom the program believes to have a lease
	told  time.Time
}

type client struct {
	network string
	mac     ipam.MAC
}

// New returns a Hook that runs the program at path, which must be absolute.
func New(path string, log *slog.Logger) *Hook {
	return newHook(func(ctx context.Context, r Run) (string, error) { return execute(ctx, path, r) }, log)
}

func newHook(exec func(context.Context, Run) (string, error), log *slog.Logger) *Hook {
	return &Hook{exec: exec, log: log, queue: make(chan lease.Event, queueLength), known: map[client]netip.Addr{}}
}

// Note queues an event. It never waits.
func (h *Hook) Note(e lease.Event) {
	switch e.Kind {
	case lease.Bound, lease.Renewed, lease.Released, lease.Declined:
	default:
		return
	}
	select {
	case h.queue <- e:
	default:
		h.Counters.Lost.Add(1)
	}
}

// Run tells the program of the leases that there are, as "old" (dnsmasq does so when it
// starts), and then of every event, until ctx is done.
func (h *Hook) Run(ctx context.Context, leases []lease.Lease) {
	for _, l := range leases {
		if l.State != lease.StateBound || ctx.Err() != nil {
			continue
		}
		e := lease.Event{Kind: lease.Renewed, Time: l.LastSeen, Network: l.Network, MAC: l.MAC, IP: l.IP, Hostname: l.Hostname,
			ClientHostname: l.ClientHostname, VendorClass: l.VendorClass}
		if !l.Expires.IsZero() {
			e.Seconds = int64(l.Expires.Sub(l.LastSeen) / time.Second)
		}
		h.known[client{l.Network, l.MAC}] = l.IP
		h.run(ctx, run("old", e))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-h.queue:
			for _, r := range h.plan(e) {
				h.run(ctx, r)
			}
		}
	}
}

// plan returns what the program is to be told of an event. Where a client has another
// address now, the old one's end comes first.
func (h *Hook) plan(e lease.Event) []Run {
	who := client{e.Network, e.MAC}
	had, known := h.known[who]
	if e.Kind == lease.Released || e.Kind == lease.Declined {
		if !known {
			return nil // dnsmasq says nothing of a lease that it does not have either
		}
		delete(h.known, who)
		return []Run{run("del", e)}
	}
	h.known[who] = e.IP
	switch {
	case !known:
		return []Run{run("add", e)}
	case had != e.IP:
		gone := e
		gone.IP, gone.Seconds = had, 0
		return []Run{run("del", gone), run("add", e)}
	default:
		return []Run{run("old", e)}
	}
}

// run builds one run. What comes from the client is in the environment alone, and was
// cleaned to printable ASCII; host names, which are the arguments, are the store's.
func run(action string, e lease.Event) Run {
	name, domain, _ := strings.Cut(e.Hostname, ".")
	r := Run{Args: []string{action, e.MAC.String(), e.IP.String()}}
	if name != "" {
		r.Args = append(r.Args, name)
	}
	set := func(key, value string) {
		if value != "" {
			r.Env = append(r.Env, "DNSMASQ_"+key+"="+value)
		}
	}
	set("INTERFACE", e.Bridge)
	set("DOMAIN", domain)
	set("SUPPLIED_HOSTNAME", e.ClientHostname)
	set("VENDOR_CLASS", e.VendorClass)
	if action != "del" {
		expires := int64(0) // dnsmasq's word for a lease without an end
		if e.Seconds > 0 {
			expires = e.Time.Unix() + e.Seconds
			set("TIME_REMAINING", strconv.FormatInt(e.Seconds, 10))
		}
		set("LEASE_EXPIRES", strconv.FormatInt(expires, 10))
	}
	r.Env = append(r.Env, "FLATDHCP_NETWORK="+e.Network)
	return r
}

func (h *Hook) run(ctx context.Context, r Run) {
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	output, err := h.exec(limited, r)
	if err == nil {
		h.Counters.Done.Add(1)
		return
	}
	if ctx.Err() != nil {
		return // the daemon stops
	}
	h.Counters.Failed.Add(1)
	if now := time.Now(); now.Sub(h.told) >= tellEvery {
		h.told = now
		h.log.Warn(fmt.Sprintf("the hook failed for %q: %v", strings.Join(r.Args, " "), err), "output", output)
	}
}
