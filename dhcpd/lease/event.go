// Package lease keeps what is known of clients and their leases, for people to read.
// Nothing is answered from it: the reservation is the lease, so all of it may be lost
// without harm.
package lease

import (
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Kind says what happened. The words are those of streams and of JSON.
type Kind string

// Kinds of events.
const (
	Reserved Kind = "reserved" // a row came into the store, or another MAC into a row
	Offered  Kind = "offered"  // the client was offered its address
	Bound    Kind = "bound"    // a client that had no address was given it
	Renewed  Kind = "renewed"  // a client keeps its address
	Released Kind = "released" // the client gave its address up; the reservation stays
	Declined Kind = "declined" // the client found its address in use by another
	Refused  Kind = "refused"  // the client asked for an address that is not its own
)

// Event is something that happened to a known client's lease.
type Event struct {
	Kind    Kind      `json:"event"`
	Time    time.Time `json:"time"`
	Network string    `json:"network"`
	Bridge  string    `json:"bridge,omitempty"`
	MAC     ipam.MAC  `json:"mac"`
	// IP is the reserved address; of Refused the one that was asked for.
	IP       netip.Addr    `json:"ip"`
	Hostname string        `json:"hostname"` // reserved
	Workload ipam.Workload `json:"workload"`
	// Node is the peer that the workload is on; empty = this node.
	Node string `json:"node,omitempty"`
	// Seconds is how long an Offered, Bound or Renewed lease is good for; 0 = for ever.
	Seconds int64 `json:"leaseSeconds,omitempty"`
	// What the client says of itself: untrusted, but printable ASCII of bounded length.
	ClientHostname string `json:"clientHostname,omitempty"`
	VendorClass    string `json:"vendorClass,omitempty"`
	Reason         string `json:"reason,omitempty"` // of Refused and Declined

	// DataDir is the directory of the network's store: names are unique only there.
	DataDir string `json:"-"`
}
