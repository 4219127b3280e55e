package ipam

import (
	"net/netip"

	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// Request asks for a reservation. Its caller has settled who the workload is and
// which wishes count (see design.md, "Who may ask for what").
type Request struct {
	Workload Workload
	// Named is what else names the same workload, where Workload names it by something
	// it asked for (an identity, its MAC): an administrator reserves for a name, and no
	// request may be a way around that. Of several reservations the first counts.
	Named []Workload
	// Holder is the attachment that is to hold the reservation. Its ContainerID and
	// IfName are required.
	Holder Holder
	// Addr, MAC and Hostname are wishes; their zero values mean none. A wish that
	// cannot be granted is ErrRefused, never replaced by something else.
	Addr     netip.Addr
	MAC      MAC
	Hostname string
	// Asked says which wishes there are, whose, and how they were spelled, for the error
	// that refuses one; empty = say nothing.
	Asked string
	// HostnameHint is the name to use where nobody chose one, such as the pod's: it
	// gives way to Hostname, to an administrator's choice and to the name that a
	// returning workload had. Empty, or a valid host name.
	HostnameHint string
	// AllowSameNetTraffic is the workload's own toggle; nil = the network's. It lasts as
	// long as the holder does.
	AllowSameNetTraffic *bool
	// AllowedAddresses are what the workload may use besides its own. They last as long as
	// the holder does.
	AllowedAddresses []AllowedAddress
	// Dead is the holder that the caller found to be dead, as it read it from the
	// store (in HeldError.Row). Only if the row's holder is still exactly that one
	// is it replaced.
	Dead *Holder
}

// Grant is what Reserve gave.
type Grant struct {
	Reservation
	// Reused: the same attachment asked again; nothing was taken.
	Reused bool
	// TookOver is the dead holder that was replaced, nil if none was.
	TookOver *Holder
	// Unproven: the address was never given, or so long ago that a foreign host may have
	// taken it; the caller asks the wire, if there is one.
	Unproven bool
	// FromRetained is the workload for which the address was still retained, nil if
	// none: the caller logs it, since that workload will not get its address back.
	FromRetained *Workload
}

// AdminRequest asks for an administrator's reservation. Only Workload is required.
type AdminRequest struct {
	Workload Workload
	Addr     netip.Addr // may lie outside rangeStart..rangeEnd; zero = next free
	MAC      MAC
	Hostname string
	// Options come to those the reservation has, in the place of the same number;
	// ClearOptions gives those up first. LeaseTime is whole seconds; 0 means the network's
	// again, nil leaves it as it is.
	Options      dhcpoption.Set
	ClearOptions bool
	LeaseTime    *Duration
}

// Stats counts a network's addresses. Size is the sum of the others.
type Stats struct {
	Size     uint64 // what the network can give, and rows outside of that
	Used     uint64 // rows that an attachment holds
	Reserved uint64 // administrator's reservations that nothing holds now, and peers'
	Retained uint64 // released addresses that are still remembered (quarantine included)
	Free     uint64 // never used, or forgotten again
}

// Ident identifies a state of a store's file. Two equal values mean that nothing
// was committed in between.
type Ident struct {
	Dev, Ino uint64
	Size     int64  // bytes
	MTime    int64  // nanoseconds since 1970
	TxID     uint64 // bbolt's transaction ID
}

// Snapshot is all of a network at one moment.
type Snapshot struct {
	Network Network
	Rows    []Reservation // by address
	Ident   Ident         // of the file the snapshot was read from
}

// Defect is a broken invariant that Check found.
type Defect struct {
	File  string // the store's file
	Where string // bucket and key
	What  string
}

// String returns one line for a person.
func (d Defect) String() string { return d.File + ": " + d.Where + ": " + d.What }
