package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// found is a reservation and the network it is in.
type found struct {
	Network ipam.Network
	ipam.Reservation
}

// matcher returns which rows the argument WORKLOAD means.
func matcher(arg string) func(ipam.Reservation) bool {
	if addr, err := netip.ParseAddr(arg); err == nil {
		return func(r ipam.Reservation) bool { return r.Addr == addr.Unmap() }
	}
	// As reservations print it: NAMESPACE/KIND:VALUE/IFNAME.
	if w, err := ipam.ParseWorkload(arg); err == nil {
		return func(r ipam.Reservation) bool { return r.Workload == w }
	}
	if namespace, name, ok := strings.Cut(arg, "/"); ok {
		return func(r ipam.Reservation) bool {
			return r.Workload.Namespace == namespace && (r.Workload.Value == name || r.Workload.Kind+":"+r.Workload.Value == name)
		}
	}
	return func(r ipam.Reservation) bool {
		return r.Holder != nil && strings.HasPrefix(r.Holder.ContainerID, arg) ||
			r.Workload.Kind == ipam.KindName && r.Workload.Value == arg
	}
}

// workload finds the one reservation that arg means, in all networks.
func (c *control) workload(ctx context.Context, arg string) (found, error) {
	if arg == "" {
		return found{}, usageError{"WORKLOAD is empty: NAMESPACE/NAME, an address or the beginning of a container ID is wanted"}
	}
	rows, err := c.rows(ctx, nil)
	var hits []found
	matches := matcher(arg)
	for _, r := range rows {
		if matches(r.Reservation) {
			hits = append(hits, r)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		// A store that cannot be read may be the one that has it.
		return found{}, errors.Join(fmt.Errorf("%w: nothing matches %q (`flatctl reservations` lists what there is)", ipam.ErrNotFound, arg), err)
	}
	var b strings.Builder
	for _, h := range hits {
		fmt.Fprintf(&b, "\n  %s (network %s)", describe(h.Reservation), h.Network.Name)
	}
	return found{}, fmt.Errorf("%q is ambiguous, it matches %d reservations; name one by its address:%s", arg, len(hits), b.String())
}

// rows returns the reservations of the named networks, or of all; the error joins
// which stores could not be read.
func (c *control) rows(ctx context.Context, names []string) ([]found, error) {
	if names == nil {
		var err error
		if names, err = c.stores().Names(ctx); err != nil {
			return nil, err
		}
	}
	var all []found
	var errs []error
	for _, name := range names {
		s, err := c.stores().Store(name).Snapshot(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range s.Rows {
			all = append(all, found{s.Network, r})
		}
	}
	return all, errors.Join(errs...)
}

// describe names a reservation in one line.
func describe(r ipam.Reservation) string {
	s := fmt.Sprintf("%s workload %s", r.Addr, r.Workload)
	if r.Holder != nil {
		s += fmt.Sprintf(", container %s, interface %s", r.Holder.ContainerID, r.Holder.IfName)
	}
	return s
}

// parseWorkload reads --workload: NAMESPACE/NAME for a Kubernetes pod, NAME alone for
// a container that its runtime names so, NAMESPACE/KIND:VALUE for another identity.
func parseWorkload(s, ifName string) (ipam.Workload, error) {
	w := ipam.Workload{Kind: ipam.KindPod, IfName: ifName}
	namespace, value, scoped := strings.Cut(s, "/")
	if !scoped {
		namespace, value = "", s
	}
	w.Namespace = namespace
	if kind, v, ok := strings.Cut(value, ":"); ok && isKind(kind) {
		w.Kind, value = kind, v
	} else if namespace == "" {
		w.Kind = ipam.KindName
	}
	w.Value = value
	if value == "" || strings.Contains(value, "/") || strings.ContainsAny(s, " \t\n") {
		return w, usageError{fmt.Sprintf("--workload %q: NAMESPACE/NAME is wanted, such as default/db-0", s)}
	}
	if ifName == "" || len(ifName) > 15 || strings.ContainsAny(ifName, "/: \t\n") {
		return w, usageError{fmt.Sprintf("--ifname %q: an interface's name is wanted, such as eth0", ifName)}
	}
	if w.Kind == ipam.KindMAC {
		m, err := ipam.ParseMAC(value)
		if err != nil {
			return w, usageError{fmt.Sprintf("--workload %q: %v", s, err)}
		}
		w.Value = m.String()
	}
	return w, nil
}

func isKind(s string) bool {
	switch s {
	case ipam.KindID, ipam.KindMAC, ipam.KindPod, ipam.KindName, ipam.KindCID:
		return true
	}
	return false
}
