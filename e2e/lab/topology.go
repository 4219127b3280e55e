package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Topology is a lab as a value: which hosts there are, and into which switches their NICs
// are plugged. [Lab.Build] makes it.
type Topology struct {
	Switches []string
	Hosts    []Machine
}

// Machine is a host of a topology.
type Machine struct {
	Name string
	NICs []NIC
	Via  string // the router of its default route; empty: it has none
}

// NIC is a host's end of a cable; the other end is a port of a switch, named HOST-NIC.
type NIC struct {
	Name   string
	Switch string
	Addr   string // with its prefix length; empty: up, without an address
}

// Seed is the network that the project re-creates: a controller and compute hosts that share
// a management network (eth1) and a flat one (eth2, without addresses). The host outside is
// the router of the management network, and stands for the world.
func Seed(computes int) Topology {
	t := Topology{
		Switches: []string{"management", "flat"},
		Hosts: []Machine{
			{"outside", []NIC{{"eth1", "management", "192.168.56.1/24"}}, ""},
			{"controller", []NIC{{"eth1", "management", "192.168.56.200/24"}, {"eth2", "flat", ""}}, "192.168.56.1"},
		},
	}
	for i := 1; i <= computes; i++ {
		management := fmt.Sprintf("192.168.56.%d/24", 201+i)
		t.Hosts = append(t.Hosts, Machine{
			fmt.Sprintf("compute-%d", i), []NIC{{"eth1", "management", management}, {"eth2", "flat", ""}}, "192.168.56.1"})
	}
	return t
}

// With is the topology with more hosts.
func (t Topology) With(more ...Machine) Topology {
	t.Hosts = append(append([]Machine(nil), t.Hosts...), more...)
	return t
}

// portName is the switch's end of the cable of a NIC.
func portName(m Machine, n NIC) string { return m.Name + "-" + n.Name }

// check says what of the topology cannot be made, before anything is.
func (t Topology) check() error {
	switches := map[string]bool{}
	for _, s := range t.Switches {
		switches[s] = true
	}
	for _, m := range t.Hosts {
		if m.Via != "" {
			if _, err := netip.ParseAddr(m.Via); err != nil {
				return fmt.Errorf("default route of %s: %w", m.Name, err)
			}
		}
		for _, n := range m.NICs {
			if !switches[n.Switch] {
				return fmt.Errorf("%s of %s: there is no switch %q; there are: %s", n.Name, m.Name, n.Switch, strings.Join(t.Switches, ", "))
			}
			if n.Addr != "" {
				if _, err := netip.ParsePrefix(n.Addr); err != nil {
					return fmt.Errorf("%s of %s: %w", n.Name, m.Name, err)
				}
			}
			if port := portName(m, n); len(port) > 15 {
				return fmt.Errorf("%s of %s: the switch's port %s has more than the 15 letters of an interface's name", n.Name, m.Name, port)
			}
		}
	}
	return nil
}

// Build makes the switches, the hosts and the cables of a topology. What was made before an
// error stays, until [Lab.Close].
func (l *Lab) Build(ctx context.Context, t Topology) error {
	if err := t.check(); err != nil {
		return fmt.Errorf("building the lab: %w", err)
	}
	for _, name := range t.Switches {
		if _, err := l.AddSwitch(ctx, name); err != nil {
			return fmt.Errorf("building the lab: %w", err)
		}
	}
	for i, m := range t.Hosts {
		h, err := l.AddHost(ctx, m.Name)
		if err != nil {
			return fmt.Errorf("building the lab: %w", err)
		}
		for j, n := range m.NICs {
			// A MAC that tells a reader of captures whose it is.
			mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i+1, j+1)
			if err := l.plug(ctx, h, m, n, mac); err != nil {
				return fmt.Errorf("building the lab: %w", err)
			}
		}
		if m.Via != "" {
			if _, _, err := h.Run(ctx, "ip", "route", "add", "default", "via", m.Via); err != nil {
				return fmt.Errorf("building the lab: default route of %s: %w", m.Name, err)
			}
		}
	}
	return nil
}

// plug joins a NIC to its switch.
func (l *Lab) plug(ctx context.Context, h *Host, m Machine, n NIC, mac string) error {
	s := l.Host(n.Switch)
	if err := link(ctx, h, n.Name, []string{"address", mac}, s, portName(m, n)); err != nil {
		return err
	}
	_, _, err := s.Run(ctx, "ip", "link", "set", portName(m, n), "master", switchBridge)
	if err == nil && n.Addr != "" {
		_, _, err = h.Run(ctx, "ip", "address", "add", n.Addr, "broadcast", "+", "dev", n.Name)
	}
	if err != nil {
		return fmt.Errorf("plugging %s of %s into switch %s: %w", n.Name, m.Name, n.Switch, err)
	}
	return nil
}

// switchBridge is the bridge that a switch is made of.
const switchBridge = "switch"

// switchScript makes one. A switch says nothing by itself: it has no address, of either
// family, and no IGMP or STP of its own; and no frame on it meets a filter.
const switchScript = `set -e
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
for table in iptables ip6tables arptables; do
	[ ! -e /proc/sys/net/bridge ] || sysctl -q -w net.bridge.bridge-nf-call-$table=0
done
ip link add ` + switchBridge + ` type bridge forward_delay 0 stp_state 0 mcast_snooping 0
ip link set ` + switchBridge + ` up`

// AddSwitch makes a switch: a host that is nothing but a bridge. [Lab.Host] finds it, for
// captures on its ports; [Lab.Hosts] leaves it out.
func (l *Lab) AddSwitch(ctx context.Context, name string) (*Host, error) {
	h, err := l.add(ctx, name, true)
	if err != nil {
		return nil, err
	}
	if _, _, err := h.Run(ctx, "sh", "-c", switchScript); err != nil {
		return nil, errors.Join(fmt.Errorf("making switch %s: %w", name, err), h.holder.close())
	}
	return h, nil
}
