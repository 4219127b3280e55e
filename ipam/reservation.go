package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// Kinds of identity, in the order in which the first one known names a workload.
const (
	KindID   = "id"   // given explicitly
	KindMAC  = "mac"  // a requested MAC (KubeVirt's pods change name, their VM's MAC does not)
	KindPod  = "pod"  // Kubernetes namespace and name
	KindName = "name" // a name alone (podman)
	KindCID  = "cid"  // the container ID
	// KindPeer is another node's workload, which is never named so where it runs: NODE, or
	// NODE:KIND:VALUE if more is known.
	KindPeer = "peer"
)

// Workload names what an address is kept for, however often its container is
// replaced. Identities, however given, are scoped to their namespace.
type Workload struct {
	Namespace string // empty outside Kubernetes
	Kind      string
	Value     string
	IfName    string
}

// String returns NAMESPACE/KIND:VALUE/IFNAME, the key under which it is stored.
func (w Workload) String() string {
	return w.Namespace + "/" + w.Kind + ":" + w.Value + "/" + w.IfName
}

// ParseWorkload is the inverse of String. Neither part may contain a slash.
func ParseWorkload(s string) (Workload, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 3 {
		if kind, value, ok := strings.Cut(parts[1], ":"); ok && value != "" && parts[2] != "" {
			return Workload{Namespace: parts[0], Kind: kind, Value: value, IfName: parts[2]}, nil
		}
	}
	return Workload{}, fmt.Errorf("%q is no workload: NAMESPACE/KIND:VALUE/IFNAME is wanted", s)
}

// MarshalText implements encoding.TextMarshaler.
func (w Workload) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Workload) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWorkload(string(b))
	return err
}

// Holder is the attachment that holds a reservation: one interface of one
// container in one boot of the node.
type Holder struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	NetNS       string `json:"netns,omitempty"`      // path, a hint only
	NetNSInode  uint64 `json:"netnsInode,omitempty"` // 0 = unknown
	BootID      string `json:"bootID,omitempty"`
	// Ported says that flat-bridge made (or will make) a port for it: its death is
	// then the port's absence, never the path's.
	Ported bool `json:"ported,omitempty"`
	// OtherDefaultRoute says that the container had a default route by another interface
	// when it was attached.
	OtherDefaultRoute bool `json:"otherDefaultRoute,omitempty"`
}

// Reservation is one row of the store. The address is its key.
type Reservation struct {
	Addr     netip.Addr `json:"addr"`
	MAC      MAC        `json:"mac"`
	Hostname string     `json:"hostname"`
	Workload Workload   `json:"workload"`
	// Holder is nil for an administrator's reservation that nothing holds now, and for
	// what a peer's workload has.
	Holder *Holder `json:"holder,omitempty"`
	// Pending is a second holder during live migration (later).
	Pending *Holder `json:"pending,omitempty"`
	// MACRequested says that the MAC was asked for and is not the derived one.
	MACRequested bool `json:"macRequested,omitempty"`
	// Admin marks `flatctl reserve`: never given to another, never released by DEL.
	Admin bool `json:"admin,omitempty"`
	// AllowSameNetTraffic is the workload's own toggle, for as long as its holder holds
	// the row; nil = the network's.
	AllowSameNetTraffic *bool `json:"allowSameNetTraffic,omitempty"`
	// AllowedAddresses are what the workload asked for besides its own, for as long as its
	// holder holds the row.
	AllowedAddresses []AllowedAddress `json:"allowedAddresses,omitempty"`
	// PreviousMAC is the MAC the address's last owner had, if it was another one:
	// neighbours may still remember it, so the address must be announced.
	PreviousMAC MAC `json:"previousMAC,omitzero"`
	// Options are DHCP options for this workload alone, in the place of the network's of
	// the same number, and LeaseTime its lease time; 0 = the network's. Only the
	// administrator sets them.
	Options   dhcpoption.Set `json:"options,omitempty"`
	LeaseTime Duration       `json:"leaseTime,omitempty"`
	Since     time.Time      `json:"since"` // when the holder (or the administrator) reserved it
}

// HeldBy reports whether the attachment (containerID, ifName) holds r.
func (r Reservation) HeldBy(containerID, ifName string) bool {
	return r.Holder != nil && r.Holder.ContainerID == containerID && r.Holder.IfName == ifName
}

// DefaultHostname is the name of a workload that has none: host-10-0-0-2.
func DefaultHostname(addr netip.Addr) string {
	return "host-" + strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
}
