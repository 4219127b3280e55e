package filter

import (
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Dispatch says which chain judges what is sent to an address.
type Dispatch struct {
	Addr  netip.Addr
	Chain string
}

// Held is a network and those of its rows that have rules.
type Held struct {
	Network ipam.Network
	Rows    []ipam.Reservation
}

// ChainName returns the chain of an attachment: FLAT-WL- and 16 hex digits of
// SHA-256(network, container ID, interface name; NUL between).
func ChainName(network, containerID, ifName string) string { panic("not yet") }

// WorkloadChain plans the chain of r, which must have a holder, on n.
func WorkloadChain(n ipam.Network, r ipam.Reservation) Chain { panic("not yet") }

// Base plans the chains that all networks share.
func Base(networks []ipam.Network) []Chain { panic("not yet") }

// Tree plans the dispatch tree of a subnet, root first; the root is there even if
// no row is.
func Tree(subnet netip.Prefix, rows []Dispatch) []Chain { panic("not yet") }

// PlanAll plans everything, for golden texts and for reconciling.
func PlanAll(held []Held) Plan { panic("not yet") }
