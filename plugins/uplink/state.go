package uplink

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is a device and what the node has on it.
type Link struct {
	Device
	Addresses  []Address   // in the kernel's order
	Routes     []Route     // that lead to it, in all tables, but for those that the kernel makes by itself
	Connected  []Route     // IPv6 routes to the subnets of Addresses, which the kernel made
	Neighbours []Neighbour // IP addresses whose MAC the node knows there
	// IPv6 holds the settings of net.ipv6.conf.NAME that decide what a link does with
	// IPv6; nil if the kernel has no IPv6.
	IPv6 map[string]string
}

// Neighbour is an IP address and its MAC.
type Neighbour struct {
	netlink.Neigh
	Addr      netip.Addr
	Permanent bool // somebody set it
}

// State is both ends of a move.
type State struct{ NIC, Bridge Link }

// ipv6Settings are taken over in this order: what says whether there is IPv6 at all is last.
var ipv6Settings = []string{"forwarding", "accept_ra", "accept_ra_defrtr", "accept_ra_pinfo", "autoconf", "use_tempaddr", "disable_ipv6"}

// sysctlIPv6 has the calling thread's namespace's IPv6 settings, by link.
const sysctlIPv6 = "/proc/sys/net/ipv6/conf"

// read returns the state of a NIC and of a bridge, whose index is 0 if it is not there.
func read(nic, bridge string) (s State, err error) {
	if s.NIC.Device, err = Look(nic); err != nil {
		return s, err
	}
	if s.Bridge.Device, err = Look(bridge); err != nil && !errors.Is(err, ErrMissing) {
		return s, err
	}
	addresses, err := dumpMessages(unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, unix.AF_INET, unix.AF_INET6)
	if err != nil {
		return s, fmt.Errorf("listing addresses: %w", err)
	}
	routes, err := dumpMessages(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, unix.AF_INET, unix.AF_INET6)
	if err != nil {
		return s, fmt.Errorf("listing routes: %w", err)
	}
	for _, l := range []*Link{&s.NIC, &s.Bridge} {
		if l.Index == 0 {
			continue
		}
		if err := l.fill(addresses, routes); err != nil {
			return s, fmt.Errorf("reading what is on %s: %w", l.Name, err)
		}
	}
	return s, nil
}

func (l *Link) fill(addresses, routes [][]byte) (err error) {
	for _, raw := range addresses {
		a, err := newAddress(raw)
		if err != nil {
			return err
		}
		if p, _ := a.parse(); p.link == l.Index {
			l.Addresses = append(l.Addresses, a)
		}
	}
	for _, raw := range routes {
		list, err := routesTo(l.Index, raw)
		if err != nil {
			return err
		}
		for _, r := range list {
			p, _ := r.parse()
			switch {
			case !r.kernelMade(l.Addresses):
				l.Routes = append(l.Routes, r)
			case r.ipv6() && p.kind == unix.RTN_UNICAST && p.table != unix.RT_TABLE_LOCAL && !p.dst.Addr().IsLinkLocalUnicast():
				l.Connected = append(l.Connected, r)
			}
		}
	}
	known, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(l.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing neighbours: %w", err)
	}
	const alive = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE
	for _, n := range known {
		permanent := n.State&netlink.NUD_PERMANENT != 0
		addr, _ := netip.AddrFromSlice(n.IP)
		if (permanent || n.State&alive != 0) && len(n.HardwareAddr) == 6 && !addr.IsMulticast() {
			l.Neighbours = append(l.Neighbours, Neighbour{n, addr.Unmap(), permanent})
		}
	}
	l.IPv6, err = readIPv6(l.Name)
	return err
}

func readIPv6(name string) (map[string]string, error) {
	conf := map[string]string{}
	for _, key := range ipv6Settings {
		b, err := os.ReadFile(filepath.Join(sysctlIPv6, name, key))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		conf[key] = strings.TrimSpace(string(b))
	}
	return conf, nil
}

// dumpMessages lists addresses or routes of families, as the kernel writes them.
func dumpMessages(get, answer, header int, families ...uint8) ([][]byte, error) {
	var all [][]byte
	for _, family := range families {
		msgs, err := dump(func() ([][]byte, error) {
			req := nl.NewNetlinkRequest(get, unix.NLM_F_DUMP)
			b := make([]byte, header)
			b[0] = family
			req.AddRawData(b)
			return req.Execute(unix.NETLINK_ROUTE, uint16(answer))
		})
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if len(m) > 0 && m[0] == family { // a kernel without a family answers with another's
				all = append(all, m)
			}
		}
	}
	return all, nil
}
