package lab

import (
	"context"
	_ "embed" // the VM's DHCP script
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

//go:embed udhcpc.sh
var udhcpcSource string

const udhcpcScript = "/run/lab/udhcpc.sh"

// VM is a container whose address is left to a real DHCP client (`"addressing": "dhcp"`), as
// a virtual machine's is.
type VM struct{ *Container }

// VM makes a VM port's namespace.
func (h *Host) VM(ctx context.Context, name string) (*VM, error) {
	c, err := h.Container(ctx, name)
	if err != nil {
		return nil, err
	}
	return &VM{c}, nil
}

// Lease is what a DHCP client was given.
type Lease struct {
	Addr     netip.Prefix
	Router   netip.Addr // zero if none was given
	Server   netip.Addr
	DNS      []netip.Addr
	Domain   string
	Hostname string
	Time     time.Duration
}

// ErrNoLease is returned when the client got no answer that it accepted.
var ErrNoLease = errors.New("no lease")

// Boot runs busybox's udhcpc on the interface until it has a lease, which it configures, and
// returns the lease and what the client printed. Extra flags are passed on. A client that
// nobody answers gives up after about three seconds, with [ErrNoLease].
func (v *VM) Boot(ctx context.Context, ifName string, flags ...string) (Lease, string, error) {
	argv := append([]string{"udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", ifName, "-s", udhcpcScript}, flags...)
	stdout, stderr, err := v.Run(ctx, argv...)
	console := stderr
	for line := range strings.Lines(stdout) {
		fields, ok := strings.CutPrefix(line, "lease: ")
		if !ok {
			continue
		}
		lease, parseErr := parseLease(fields)
		return lease, console, errors.Join(err, parseErr)
	}
	return Lease{}, console, fmt.Errorf("%w: %w", ErrNoLease, err)
}

// parseLease reads the line that udhcpc.sh prints: key=value, lists in one key separated
// by blanks.
func parseLease(line string) (Lease, error) {
	values, key := map[string][]string{}, ""
	for word := range strings.FieldsSeq(line) {
		if k, v, ok := strings.Cut(word, "="); ok {
			key, word = k, v
		}
		if word != "" {
			values[key] = append(values[key], word)
		}
	}
	first := func(key string) string {
		if v := values[key]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	var l Lease
	var err error
	if l.Addr, err = netip.ParsePrefix(first("ip") + "/" + first("mask")); err != nil {
		return Lease{}, fmt.Errorf("reading lease %q: %w", line, err)
	}
	// A field that the server left out stays zero.
	l.Router, _ = netip.ParseAddr(first("router"))
	l.Server, _ = netip.ParseAddr(first("server"))
	for _, dns := range values["dns"] {
		if a, err := netip.ParseAddr(dns); err == nil {
			l.DNS = append(l.DNS, a)
		}
	}
	l.Domain, l.Hostname = first("domain"), first("hostname")
	if seconds, err := strconv.ParseUint(first("seconds"), 10, 32); err == nil {
		l.Time = time.Duration(seconds) * time.Second
	}
	return l, nil
}
