package link

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// BridgeSpec is the bridge a network wants.
type BridgeSpec struct {
	Name           string
	MAC            ipam.MAC     // of a bridge made here; an adopted one keeps its own
	MTU            int          // bytes, of a bridge made here; 0 = the kernel's 1500
	Gateway        netip.Prefix // the gateway address with the subnet's length; zero = none
	NFCallIPTables bool         // bridged IPv4 frames meet iptables, by the bridge's own flag
}

// BridgeInfo is the bridge as it is after EnsureBridge.
type BridgeInfo struct {
	Name         string
	Index        int
	MAC          ipam.MAC
	MTU          int
	STP          bool
	Created      bool // by this call: RemoveCreatedBridge may undo it
	AddedAddress bool // the gateway address came by this call
}

func EnsureBridge(ctx context.Context, spec BridgeSpec) (BridgeInfo, []string, error) {
	return BridgeInfo{}, nil, errTODO
}

// UndoBridge takes back what EnsureBridge reported as its own doing.
func RemoveCreatedBridge(ctx context.Context, spec BridgeSpec, info BridgeInfo) error { return errTODO }

// ErrNoBridgeNetfilter: br_netfilter is not loaded, bridged frames meet no iptables.
var ErrNoBridgeNetfilter = errors.New("br_netfilter is not loaded")

func NFCallIPTables(ctx context.Context, bridge string) (set, global bool, err error) {
	return false, false, errTODO
}

// ErrIfNameTaken: the container already has an interface of the wanted name.
var ErrIfNameTaken = errors.New("interface name is taken in the container")

// PortSpec is a port to make.
type PortSpec struct {
	Name            string // PortName
	Alias           string // Alias
	Bridge          string
	ContainerNetNS  string // path
	ContainerIfName string
	MAC             ipam.MAC // of the container's side; the host's is MAC.HostSide
	MTU             int      // bytes, both sides; 0 = the kernel's 1500
	Hairpin         bool
}

// PortInfo is a port as it is.
type PortInfo struct {
	Name   string
	Index  int
	Alias  string
	Bridge string   // empty = enslaved to none
	MAC    ipam.MAC // host side
	MTU    int
	Up     bool
}

func CreatePort(ctx context.Context, spec PortSpec) (PortInfo, error) { return PortInfo{}, errTODO }
func PortUp(ctx context.Context, name string) error                   { return errTODO }
func PortDown(ctx context.Context, name string) error                 { return errTODO }
func DeletePort(ctx context.Context, name string) error               { return errTODO }
func WaitForwarding(ctx context.Context, name string, max time.Duration) (bool, error) {
	return false, errTODO
}
func PortByName(ctx context.Context, name string) (PortInfo, bool, error) {
	return PortInfo{}, false, errTODO
}
func Ports(ctx context.Context) (map[string]PortInfo, error) { return nil, errTODO }

// ContainerSpec is what the inside of a container is to become.
type ContainerSpec struct {
	NetNS, IfName string
	Addr          netip.Prefix // zero = addressing dhcp: interface up, nothing else
	Gateway       netip.Addr   // zero = none
	Routes        []ipam.Route
	DefaultRoute  *bool // nil = unless the container has one already
	MTU           int   // bytes; 0 = leave
}

// ContainerInfo is what the inside became.
type ContainerInfo struct {
	Index           int
	MAC             ipam.MAC
	MTU             int
	DefaultRouteSet bool         // by this call, explicitly given ones included
	Routes          []ipam.Route // set by this call, gateways filled in, default route included
}

func ConfigureContainer(ctx context.Context, spec ContainerSpec) (ContainerInfo, error) {
	return ContainerInfo{}, errTODO
}

// Announce sends count gratuitous ARPs (request and reply form each) from inside.
func Announce(ctx context.Context, netns, ifName string, mac ipam.MAC, addr netip.Addr, count int) error {
	return errTODO
}

// AnnounceHost is Announce on an interface of the host, such as the bridge.
func AnnounceHost(ctx context.Context, ifName string, mac ipam.MAC, addr netip.Addr, count int) error {
	return errTODO
}
func FlushNeighbour(ctx context.Context, bridge string, addr netip.Addr) error { return errTODO }
func FlushConntrack(ctx context.Context, addr netip.Addr) (int, error)         { return 0, errTODO }
func FlushConntrackBetween(ctx context.Context, addr netip.Addr, subnet netip.Prefix, except []netip.Addr) (int, error) {
	return 0, errTODO
}
func NetNSInode(path string) (uint64, error) { return 0, errTODO }
func SameNetNS(path string) (bool, error)    { return false, errTODO }
