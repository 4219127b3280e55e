package uplink

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// ErrUnfit says that a device cannot be an uplink, whatever is done to it.
var ErrUnfit = errors.New("no uplink")

// ErrMissing says that there is no device of the uplink's name.
var ErrMissing = errors.New("no such interface")

// Device is what decides whether a network card can be an uplink.
type Device struct {
	Index       int
	Name        string
	Kind        string // "vlan", "bond", "veth"; "device" = hardware
	Encap       string // "ether", "loopback", "none"
	MAC         ipam.MAC
	MTU         int // bytes
	Up          bool
	Carrier     bool // and up
	Promiscuity int  // how many want all frames; a bridge is one
	Wireless    bool
	BondMode    string   // of a bond, as ip prints it
	Master      int      // index, 0 = none
	MasterName  string   // of Master
	MasterKind  string   // of Master
	Above       []string // devices that take its frames before a bridge could (macvlan, ipvlan)
}

// Look finds a device: ErrMissing if there is none of that name.
func Look(name string) (Device, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return Device{}, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	if err != nil {
		return Device{}, fmt.Errorf("looking up %s: %w", name, err)
	}
	d := deviceOf(l)
	if d.Name != name {
		return d, fmt.Errorf("%q is only an alternative name of interface %s: give that", name, d.Name)
	}
	if d.Master != 0 {
		m, err := netlink.LinkByIndex(d.Master)
		if err != nil {
			return d, fmt.Errorf("looking up the device that %s belongs to: %w", name, err)
		}
		d.MasterName, d.MasterKind = m.Attrs().Name, m.Type()
	}
	return d, nil
}

// lookClosely is Look with what costs more: whether it is wireless, and what is above.
func lookClosely(name string) (Device, error) {
	d, err := Look(name)
	if err != nil {
		return d, err
	}
	if d.Wireless, err = wireless(d.Index); err != nil {
		return d, err
	}
	all, err := dump(func() ([]netlink.Link, error) { return netlink.LinkList() })
	if err != nil {
		return d, fmt.Errorf("listing what is above %s: %w", name, err)
	}
	for _, l := range all {
		if l.Attrs().ParentIndex == d.Index && slices.Contains(takers, l.Type()) {
			d.Above = append(d.Above, l.Attrs().Name)
		}
	}
	return d, nil
}

func deviceOf(l netlink.Link) Device {
	a := l.Attrs()
	d := Device{
		Index: a.Index, Name: a.Name, Kind: l.Type(), Encap: a.EncapType, MTU: a.MTU, Master: a.MasterIndex, Promiscuity: a.Promisc,
		Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_UP != 0,
	}
	if len(a.HardwareAddr) == len(d.MAC) {
		d.MAC = ipam.MAC(a.HardwareAddr)
	}
	if b, ok := l.(*netlink.Bond); ok {
		d.BondMode = b.Mode.String()
	}
	return d
}

// takers receive all frames of the device beneath them, as a bridge wants to, or only
// those to a MAC of their own.
var takers = []string{"macvlan", "macvtap", "ipvlan", "ipvtap"}

// Refuse says why d can be no uplink of bridge: ErrUnfit, with what to do.
func (d Device) Refuse(bridge string) error {
	unfit := func(format string, args ...any) error {
		return fmt.Errorf("flatInterface %s: %w: %s", d.Name, ErrUnfit, fmt.Sprintf(format, args...))
	}
	switch {
	case d.Encap == "loopback":
		return unfit("it is the loopback device: name the network card that leads to the other nodes")
	case strings.HasPrefix(d.Name, link.PortPrefix):
		return unfit("names that begin with %q are those of workload ports", link.PortPrefix)
	case d.Kind == "bridge" && d.Name == bridge:
		return unfit("it is the network's own bridge: name the network card that is to be its port")
	case d.Kind == "bridge":
		return unfit("it is a bridge, and a bridge cannot be another's port: set `bridge` to %s to use it as it is, or name its network card", d.Name)
	case d.Encap != "ether":
		return unfit("it is a %s device without Ethernet frames (%s), which a bridge needs", d.Kind, d.Encap)
	case d.Wireless:
		return unfit("it is wireless: an access point takes frames from the card's own MAC alone, and workloads have others")
	case slices.Contains(takers, d.Kind):
		return unfit("it is a %s, which gets only the frames to its own MAC: name the network card beneath it", d.Kind)
	case d.Kind == "bond" && d.BondMode == netlink.BOND_MODE_BALANCE_ALB.String():
		return unfit("it is a bond of mode balance-alb, which answers ARP with the MACs of its members in turn: "+
			"use another mode, such as 802.3ad or active-backup (`ip link set %s type bond mode active-backup`)", d.Name)
	case len(d.Above) > 0:
		return unfit("%s takes its frames before a bridge could: remove it, or give the network a card of its own", strings.Join(d.Above, ", "))
	case d.Master != 0 && d.MasterName != bridge:
		return unfit("it belongs to %s (%s) already: take it out (`ip link set %s nomaster`), or, if that is a bridge, set `bridge` to it",
			d.MasterName, d.MasterKind, d.Name)
	}
	return nil
}

// wireless asks nl80211, which knows every wireless card by its index.
func wireless(index int) (bool, error) {
	const (
		getInterface = 5 // NL80211_CMD_GET_INTERFACE of linux/nl80211.h
		ifindex      = 3 // NL80211_ATTR_IFINDEX
	)
	family, err := netlink.GenlFamilyGet("nl80211")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil // a kernel, or a machine, without such cards
	}
	if err != nil {
		return false, fmt.Errorf("asking for the kernel's wireless family: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: getInterface})
	req.AddData(nl.NewRtAttr(ifindex, nl.Uint32Attr(uint32(index))))
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking whether the interface is wireless: %w", err)
	}
	return true, nil
}

// dumpTries bounds how often a dump is asked for again that a change interrupted.
const dumpTries = 40

func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}
