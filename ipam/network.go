package ipam

import (
	"encoding"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// Network is a network as last configured. It is kept in the store, so that the
// daemon and flatctl need no configuration of their own.
type Network struct {
	Name string `json:"name"`
	Pool Pool   `json:"pool"`
	// Bridge is how flat-bridge attaches workloads; nil when flat-ipam works under
	// another main plugin, which then has neither chains, guard nor DHCP of ours.
	Bridge *Bridge `json:"bridge,omitempty"`
}

// Pool is the address side of a network: what may be given to whom, and when again.
type Pool struct {
	Subnet netip.Prefix `json:"subnet"` // masked, /8 to /30
	// RangeStart and RangeEnd, both inclusive, bound what is given without being
	// asked for by name; zero never occurs in a validated pool.
	RangeStart netip.Addr `json:"rangeStart"`
	RangeEnd   netip.Addr `json:"rangeEnd"`
	Gateway    netip.Addr `json:"gateway"` // never given
	Routes     []Route    `json:"routes,omitempty"`
	// ResolvConf is the path of a resolv.conf whose DNS settings the result carries,
	// as in host-local; empty = none.
	ResolvConf string    `json:"resolvConf,omitempty"`
	Exclude    []Range   `json:"exclude,omitempty"` // never given
	Peers      []Peer    `json:"peers,omitempty"`   // by RangeStart, disjoint; never given here
	Domain     string    `json:"domain"`
	ReuseDelay Duration  `json:"reuseDelay"` // quarantine of a released address
	Retain     Duration  `json:"retain"`     // how long a released address is kept for its workload
	MACPrefix  MACPrefix `json:"macPrefix"`
	// Nodes are the addresses that nodes have of the subnet themselves, by the bridge's
	// gatewayAddresses and nodeAddress; ascending, the gateway's not among them. Never given.
	Nodes []netip.Addr `json:"nodes,omitempty"`
}

// Route is a route of the container; the zero GW means the gateway.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw,omitzero"`
	// What version 1.1.0 of the CNI specification adds. 0 and nil = the kernel's own.
	MTU      int  `json:"mtu,omitempty"`      // bytes
	AdvMSS   int  `json:"advmss,omitempty"`   // bytes
	Priority int  `json:"priority,omitempty"` // the metric; less comes first
	Table    *int `json:"table,omitempty"`    // rtnetlink's number; nil = main
	Scope    *int `json:"scope,omitempty"`    // rtnetlink's number
}

// Range is an inclusive range of addresses.
type Range struct {
	Start netip.Addr `json:"start"`
	End   netip.Addr `json:"end"`
}

// Contains reports whether a lies in r.
func (r Range) Contains(a netip.Addr) bool {
	return r.Start.Compare(a) <= 0 && a.Compare(r.End) <= 0
}

// Addressing says who configures the address inside a workload.
const (
	AddressingStatic = "static" // flat-bridge does
	AddressingDHCP   = "dhcp"   // the workload's own DHCP client does
)

// Fallback says what ends a workload's chain.
const (
	FallbackDrop   = "drop"
	FallbackReject = "reject"
)

// Filter says whether workloads have chains.
const (
	FilterOn   = "on"
	FilterNone = "none"
)

// HostAccess says what workloads reach on the node.
const (
	HostAccessAll      = "all"
	HostAccessServices = "services" // DHCP, DNS, metadata and ping
)

// StatusOnExhaustion says whether STATUS fails when no address is left.
const (
	ExhaustionFail = "fail"
	ExhaustionOK   = "ok"
)

// Bridge is the attachment side of a network. Every field has its effective value:
// defaults are filled in when a conflist is read.
type Bridge struct {
	Name      string `json:"name"`      // the Linux bridge, br100 by default
	IsGateway bool   `json:"isGateway"` // this node carries the gateway address and DHCP
	// GatewayShared: other nodes carry the same gateway address and MAC. NodeAddress is what
	// this one has of its own then, and is zero otherwise.
	GatewayShared bool       `json:"gatewayShared,omitempty"`
	NodeAddress   netip.Addr `json:"nodeAddress,omitzero"`
	// GatewayAddresses count as gateways beside the network's own; ascending.
	GatewayAddresses []netip.Addr `json:"gatewayAddresses,omitempty"`
	// IsDefaultGateway: nil = install the default route unless the container has one
	// already; false also withholds DHCP option 3.
	IsDefaultGateway    *bool  `json:"isDefaultGateway,omitempty"`
	AllowSameNetTraffic bool   `json:"allowSameNetTraffic"` // the toggle; false = closed ports
	Ingress             []Rule `json:"ingress,omitempty"`
	Deny                []Rule `json:"deny,omitempty"`
	Fallback            string `json:"fallback"`
	Published           bool   `json:"published"` // accept what this node itself DNATed
	AntiSpoofing        bool   `json:"antiSpoofing"`
	// FlatInterface is the uplink: the port by which the bridge reaches the physical
	// network; empty = none. UplinkDHCP is UplinkDHCPBlock or UplinkDHCPPass: see BlocksDHCP.
	FlatInterface string `json:"flatInterface,omitempty"`
	UplinkDHCP    string `json:"uplinkDHCP,omitempty"`
	// DetectConflict: the segment behind FlatInterface is asked before an address is used
	// that a foreign host may have.
	DetectConflict bool `json:"detectConflict,omitempty"`
	// MoveAddresses lets what the node has on FlatInterface, addresses and routes, go to
	// the bridge with it.
	MoveAddresses bool   `json:"moveAddresses,omitempty"`
	Limits        Limits `json:"limits,omitzero"` // of each workload
	// AllowedAddresses are what every workload may use besides its own; each address is
	// excluded. See Allowed.
	AllowedAddresses []AllowedAddress `json:"allowedAddresses,omitempty"`
	MACSpoofCheck    bool             `json:"macspoofchk,omitempty"` // the guard's MAC part, also without AntiSpoofing
	// Filter is FilterOn, or FilterNone: no workload chains, and no need of
	// br_netfilter. Empty = FilterOn.
	Filter      string `json:"filter,omitempty"`
	LogDrops    bool   `json:"logDrops,omitempty"`    // log what a chain's end drops, rate-limited
	IPMasq      bool   `json:"ipMasq,omitempty"`      // masquerade what leaves the subnet by routing
	HairpinMode bool   `json:"hairpinMode,omitempty"` // a port may send to itself
	// NATAddress is what IPMasq shows workloads under; zero = the address of the interface
	// by which a packet leaves.
	NATAddress netip.Addr `json:"natAddress,omitzero"`
	// PublicInterface is the only one by which IPMasq masquerades; empty = any.
	PublicInterface string `json:"publicInterface,omitempty"`
	// NonMasqueradeCIDRs see workloads under their own addresses all the same.
	NonMasqueradeCIDRs []netip.Prefix `json:"nonMasqueradeCIDRs,omitempty"`
	// Metadata is where requests for MetadataAddr go: an address of this node or of another
	// host; a loopback address is this node's port, at the gateway. Zero = nowhere.
	Metadata netip.AddrPort `json:"metadata,omitzero"`
	// HostAccess is HostAccessServices or HostAccessAll. Empty = HostAccessAll.
	HostAccess string `json:"hostAccess,omitempty"`
	// Annotations lists what tenants may ask for, by the part behind flatdhcp.io/.
	Annotations []string `json:"annotations,omitempty"`
	// StatusOnExhaustion is ExhaustionFail or ExhaustionOK: what STATUS says when no
	// address is left. Empty = ExhaustionFail.
	StatusOnExhaustion string   `json:"statusOnExhaustion,omitempty"`
	Addressing         string   `json:"addressing"`
	MTU                int      `json:"mtu,omitempty"` // bytes; 0 = 1500
	LeaseTime          Duration `json:"leaseTime"`     // DHCP option 51
	// DHCPOptions come beside those the network's other keys make, or in their place.
	DHCPOptions dhcpoption.Set `json:"dhcpOptions,omitempty"`
	DHCP        DHCP           `json:"dhcp,omitzero"`
	DNS         DNS            `json:"dns,omitzero"`
}

// DHCP is what the DHCP server does beyond the usual.
type DHCP struct {
	// Relays are the addresses (giaddr) of relay agents that may forward to it; none =
	// relayed messages meet silence.
	Relays []netip.Addr `json:"relays,omitempty"`
	// RapidCommit: a client that asks for it is given its lease in two messages (RFC 4039).
	RapidCommit bool `json:"rapidCommit,omitempty"`
}

// Open reports whether neighbours may reach the workload of r: the network's toggle,
// unless the operator let the workload have its own.
func (n Network) Open(r Reservation) bool {
	if r.AllowSameNetTraffic != nil {
		return *r.AllowSameNetTraffic
	}
	return n.Bridge != nil && n.Bridge.AllowSameNetTraffic
}

// Filtered reports whether n's workloads have chains of ours.
func (n Network) Filtered() bool { return n.Bridge != nil && n.Bridge.Filter != FilterNone }

// Rule is one entry of ingress or deny. No From = anywhere, no Ports = all.
type Rule struct {
	Protocol string         `json:"protocol"` // tcp, udp, sctp, icmp or any
	Ports    []PortRange    `json:"ports,omitempty"`
	From     []netip.Prefix `json:"from,omitempty"`
}

// Allows says whether the rule, as one of ingress, is met by what comes from an address: by
// IP protocol number, to a port. A protocol without ports has port 0.
func (r Rule) Allows(from netip.Addr, protocol uint8, port uint16) bool {
	numbers := map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
	return (r.Protocol == "any" || numbers[r.Protocol] == protocol) &&
		(len(r.From) == 0 || slices.ContainsFunc(r.From, func(p netip.Prefix) bool { return p.Contains(from) })) &&
		(len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.First <= port && port <= p.Last }))
}

// PortRange is an inclusive range of transport ports; First == Last is one port.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// DNS is the specification's dns key, what the container is told, option 6 included; and
// what the daemon serves.
type DNS struct {
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	Domain      string       `json:"domain,omitempty"`
	Search      []string     `json:"search,omitempty"`
	Options     []string     `json:"options,omitempty"`
	// Enabled says that the daemon answers DNS at the gateway address.
	Enabled bool `json:"enabled,omitempty"`
	// Forwarders are asked for what is not the network's; empty = those of the node's
	// own /etc/resolv.conf, as it is at the time.
	Forwarders []netip.AddrPort `json:"forwarders,omitempty"`
}

// ServesDNS reports whether this node's daemon answers DNS for n's workloads.
func (n Network) ServesDNS() bool {
	return n.Bridge != nil && n.Bridge.IsGateway && n.Bridge.DNS.Enabled
}

// MetadataAddr is where workloads look for their metadata, at TCP port 80: every cloud's,
// since EC2.
var MetadataAddr = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// ServesMetadata reports whether this node sends n's workloads' requests for metadata on.
func (n Network) ServesMetadata() bool {
	return n.Bridge != nil && n.Bridge.IsGateway && n.Bridge.Metadata.IsValid()
}

// Zone returns the domain of the workloads' names, without a final dot: dns.domain if
// that is given, else domain.
func (n Network) Zone() string {
	if n.Bridge != nil && n.Bridge.DNS.Domain != "" {
		return strings.TrimSuffix(n.Bridge.DNS.Domain, ".")
	}
	return n.Pool.Domain
}

// Duration is a time.Duration whose text form is Go's, such as "60s" or "24h".
type Duration time.Duration

var (
	_ encoding.TextMarshaler   = Duration(0)
	_ encoding.TextUnmarshaler = (*Duration)(nil)
)

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// String returns Go's form, such as "1m0s".
func (d Duration) String() string { return time.Duration(d).String() }
