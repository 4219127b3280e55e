package guard

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// PortPrefix begins the name of every workload port, and of nothing else on the
// node: the guard hooks all bridges and tells ours by it.
const PortPrefix = "fdp"

// LegPrefix begins the name of the bridge's port that leads to a shared gateway.
const LegPrefix = "fgp"

// maxPortName is IFNAMSIZ without its terminating zero.
const maxPortName = 15

// Port is what the guard must know of one workload port.
type Port struct {
	Name string // host side of the pair, PortPrefix and up to 12 more bytes
	MAC  ipam.MAC
	// Addrs are the IPv4 addresses that may be sent from and reached behind the port.
	Addrs []netip.Addr
	// Closed is the toggle turned off: of group-addressed frames, only plain ARP
	// and a gateway's DHCP replies leave by the port.
	Closed bool
	// CheckSource is antiSpoofing. Without it the workload may use any source MAC
	// and address; it still is no DHCP server, sends no BPDU and no ethertype but
	// IPv4 and ARP, and receives unicast IPv4 only for Addrs.
	CheckSource bool
	// CheckMAC is macspoofchk for a port without CheckSource: the workload may use any
	// address, but its own MAC alone, also in ARP and DHCP.
	CheckMAC bool
	// Uplink is the one of the port's network: nothing enters by it in the workload's
	// name. Empty = none.
	Uplink string
	// Gateway is the MAC of a gateway that other nodes have as well; zero = none. IPv4 that
	// the workload sends to it is taken in by the bridge itself: see link.LegSpec.
	Gateway ipam.MAC
	// Allowed are what the workload may send from, and be reached by, besides its own:
	// addresses that move between workloads, MACs that it bridges. An entry without an
	// address is a MAC for its own addresses, one without a MAC an address for its own MAC.
	Allowed []ipam.AllowedAddress
	// Limits bound what the workload may send, whatever else is checked.
	Limits ipam.Limits
}

// PortFor returns the port of reservation r in network n.
func PortFor(n ipam.Network, r ipam.Reservation, portName string) Port {
	p := Port{Name: portName, MAC: r.MAC, Addrs: []netip.Addr{r.Addr}, Closed: !n.Open(r), CheckSource: true}
	if n.Bridge != nil {
		p.CheckSource = n.Bridge.AntiSpoofing
		p.CheckMAC = n.Bridge.MACSpoofCheck && !p.CheckSource
		p.Uplink = n.Bridge.FlatInterface
		if n.SharesGateway() {
			p.Gateway = n.GatewayMAC()
		}
		p.Limits = n.Bridge.Limits
		p.Allowed = n.Allowed(r)
	}
	return p
}

// validate refuses what would make an element that matches nothing, or too much.
func (p Port) validate() error {
	if err := validatePortName(p.Name); err != nil {
		return err
	}
	if p.MAC.IsZero() || p.MAC.IsMulticast() {
		return fmt.Errorf("port %s: %s is no workload's MAC: a unicast one is wanted", p.Name, p.MAC)
	}
	if p.Gateway.IsMulticast() {
		return fmt.Errorf("port %s: %s is no gateway's MAC: a unicast one is wanted", p.Name, p.Gateway)
	}
	if len(p.Addrs) == 0 {
		return fmt.Errorf("port %s has no address", p.Name)
	}
	for _, a := range p.Addrs {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("port %s: %s is no workload's address: a unicast IPv4 one is wanted", p.Name, a)
		}
	}
	for _, a := range p.Allowed {
		if a.MAC.IsMulticast() || a.MAC.IsZero() && !a.Addr.IsValid() || a.Addr.IsValid() && (!a.Addr.Is4() || a.Addr.IsUnspecified() || a.Addr.IsMulticast()) {
			return fmt.Errorf("port %s: %s can be no workload's: a unicast IPv4 address, a unicast MAC or both are wanted", p.Name, a)
		}
	}
	if err := cmp.Or((Uplink{Name: p.Uplink}).validate(), validateLimits(p.Limits)); err != nil {
		return fmt.Errorf("port %s: %w", p.Name, err)
	}
	return nil
}

func validatePortName(name string) error {
	if len(name) <= len(PortPrefix) || len(name) > maxPortName || !strings.HasPrefix(name, PortPrefix) ||
		strings.ContainsAny(name, "\x00/ \t\n\"*") {
		return fmt.Errorf("%q is no workload port: %s and up to %d more characters are wanted",
			name, PortPrefix, maxPortName-len(PortPrefix))
	}
	return nil
}

func validateGateways(gateways []netip.Addr) error {
	var errs []error
	for _, g := range gateways {
		if !g.Is4() || g.IsUnspecified() || g.IsMulticast() {
			errs = append(errs, fmt.Errorf("%s is no gateway: a unicast IPv4 address is wanted", g))
		}
	}
	return errors.Join(errs...)
}
