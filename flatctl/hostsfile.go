package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// hostLine is a line of dnsmasq's --dhcp-hostsfile: MAC,NAME,ADDRESS,LEASE-TIME, all but
// MAC and ADDRESS optional and in any order.
type hostLine struct {
	number   int // from 1
	mac      ipam.MAC
	addr     netip.Addr
	hostname string        // as it is there, with or without a domain
	lease    time.Duration // 0 = none
	workload *ipam.Workload
	ignored  []string // fields without a meaning here
}

// workloadMark begins a comment that says whose the next line is: what dnsmasq has no
// word for.
const workloadMark = "# workload "

// hostsFile returns the reservations of a network as nova-network wrote them for dnsmasq,
// each after a comment with its workload.
func hostsFile(n ipam.Network, rows []ipam.Reservation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# network %s\n", n.Name)
	for _, r := range rows {
		name := r.Hostname
		if domain := zone(n); domain != "" && !strings.Contains(name, ".") {
			name += "." + domain
		}
		fmt.Fprintf(&b, "%s%s\n%s,%s,%s", workloadMark, r.Workload, r.MAC, name, r.Addr)
		if r.LeaseTime != 0 {
			fmt.Fprintf(&b, ",%d", int64(time.Duration(r.LeaseTime)/time.Second))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// zone is the domain that a network's bare names are in.
func zone(n ipam.Network) string {
	if n.Bridge != nil && n.Bridge.DNS.Domain != "" {
		return n.Bridge.DNS.Domain
	}
	return n.Pool.Domain
}

// parseHosts reads a hosts file, or the dhcp-host lines of a dnsmasq.conf. The error
// joins one for each line that cannot be taken over.
func parseHosts(text string) ([]hostLine, error) {
	var lines []hostLine
	var errs []error
	var workload *ipam.Workload
	number := 0
	for raw := range strings.Lines(text) {
		number++
		line := strings.TrimSpace(raw)
		if name, ok := strings.CutPrefix(line, workloadMark); ok {
			w, err := ipam.ParseWorkload(name)
			if err != nil {
				errs = append(errs, fmt.Errorf("line %d: %w", number, err))
				continue
			}
			workload = &w
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		line, _, _ = strings.Cut(line, " #")
		if key, value, ok := strings.Cut(line, "="); ok && !strings.Contains(key, ",") {
			if key = strings.TrimSpace(key); key != "dhcp-host" {
				errs = append(errs, fmt.Errorf("line %d: %q is no line of a hosts file", number, key))
				continue
			}
			line = value
		}
		l, err := parseHost(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
		}
		l.number, l.workload, workload = number, workload, nil
		lines = append(lines, l)
	}
	return lines, errors.Join(errs...)
}

// parseHost reads one line's fields, each of which dnsmasq knows by its form.
func parseHost(line string) (l hostLine, err error) {
	for field := range strings.SplitSeq(line, ",") {
		field = strings.TrimSpace(field)
		word, _, tagged := strings.Cut(field, ":")
		switch {
		case field == "":
		case tagged && (word == "set" || word == "net" || word == "tag"):
			l.ignored = append(l.ignored, field)
		case field == "ignore", tagged && word == "id", strings.HasPrefix(field, "["), strings.Contains(field, "*"):
			return l, fmt.Errorf("%q has no meaning here: a reservation is one MAC and one IPv4 address", field)
		case isMAC(field):
			mac, err := ipam.ParseMAC(field)
			if err != nil {
				return l, err
			}
			if !l.mac.IsZero() {
				return l, fmt.Errorf("two MACs, %s and %s: give each a line and an address of its own", l.mac, mac)
			}
			l.mac = mac
		default:
			if addr, err := netip.ParseAddr(field); err == nil {
				if l.addr.IsValid() {
					return l, fmt.Errorf("two addresses, %s and %s: one is accepted", l.addr, addr)
				}
				l.addr = addr
				continue
			}
			if d, ok := leaseTime(field); ok {
				l.lease = d
				continue
			}
			if l.hostname != "" {
				return l, fmt.Errorf("two names, %q and %q: one is accepted", l.hostname, field)
			}
			l.hostname = field
		}
	}
	switch {
	case l.mac.IsZero():
		return l, errors.New("a MAC is missing")
	case !l.addr.IsValid():
		return l, errors.New("an address is missing")
	}
	return l, nil
}

// isMAC reports whether a field is meant for one.
func isMAC(field string) bool { return strings.Count(field, ":") >= 2 }

// leaseTime reads dnsmasq's lease times: seconds, or a number with s, m, h, d or w;
// "infinite" is the greatest that can be reserved.
func leaseTime(field string) (time.Duration, bool) {
	if field == "infinite" {
		return ipam.MaxLeaseTime, true
	}
	unit := time.Second
	switch field[len(field)-1] {
	case 's':
	case 'm':
		unit = time.Minute
	case 'h':
		unit = time.Hour
	case 'd':
		unit = 24 * time.Hour
	case 'w':
		unit = 7 * 24 * time.Hour
	default:
		field += "s"
	}
	n, err := strconv.ParseUint(field[:len(field)-1], 10, 32)
	if err != nil || time.Duration(n) > ipam.MaxLeaseTime/unit {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
