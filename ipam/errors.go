package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Sentinels for errors.Is. Callers add what was tried; these say what was wrong.
var (
	// ErrNoNetwork: the data directory has no store for the network.
	ErrNoNetwork = errors.New("network is not configured")
	// ErrNotFound: no reservation matches.
	ErrNotFound = errors.New("no such reservation")
	// ErrLocked: the store stayed busy until the caller's deadline; try again.
	ErrLocked = errors.New("store is busy")
	// ErrConfig: the network's configuration contradicts itself or another network.
	ErrConfig = errors.New("impossible network configuration")
	// ErrRefused: an address, MAC or hostname that may not be had by who asks.
	ErrRefused = errors.New("request refused")
	// ErrDamaged: the store file cannot be read; it is never replaced silently.
	ErrDamaged = errors.New("store is damaged")
	// ErrNewerSchema: a later version of flatdhcp wrote the store.
	ErrNewerSchema = errors.New("store was written by a later version")
)

// HeldError says that a living (or not yet known to be dead) attachment holds the
// reservation asked for. The caller finds out whether Row.Holder is dead and, if
// so, asks again with Request.Dead set to it.
type HeldError struct{ Row Reservation }

func (e *HeldError) Error() string {
	return fmt.Sprintf("address %s of workload %s is held by container %s, interface %s",
		e.Row.Addr, e.Row.Workload, e.Row.Holder.ContainerID, e.Row.Holder.IfName)
}

// ExhaustedError says that no address can be given now.
type ExhaustedError struct {
	Network     string
	Quarantined int       // released addresses still within reuseDelay
	Until       time.Time // when the first of them may be given again; zero if none
}

func (e *ExhaustedError) Error() string {
	s := fmt.Sprintf("network %s has no free address", e.Network)
	if e.Quarantined > 0 {
		s += fmt.Sprintf(": %d in quarantine (reuseDelay), the first until %s",
			e.Quarantined, e.Until.UTC().Format(time.RFC3339))
	}
	return s
}

// StrandedError says that a configuration change would leave reservations outside
// what the network then gives out.
type StrandedError struct {
	Network string
	Count   int
	First   netip.Addr
	Why     string // the network would never give First
}

func (e *StrandedError) Error() string {
	what := "reservations (the first is "
	if e.Count == 1 {
		what = "reservation ("
	}
	return fmt.Sprintf("the change to network %s would strand %d %s%s: %s): "+
		"see `flatctl reservations %s`, release with `flatctl release` or end the workload first",
		e.Network, e.Count, what, e.First, e.Why, e.Network)
}

// InUseError says that a network still has living workloads.
type InUseError struct {
	Network string
	Rows    []Reservation
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("network %s has %d live workloads", e.Network, len(e.Rows))
}

// RequestError says which of several requests failed.
type RequestError struct {
	Index int // from 0
	Err   error
}

func (e *RequestError) Error() string { return e.Err.Error() }

func (e *RequestError) Unwrap() error { return e.Err }
