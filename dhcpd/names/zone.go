package names

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	// maxTTL is how long a resolver may keep a name, in seconds. A released address is
	// given to another workload only after the network's reuseDelay (60 s unless
	// configured), so with a TTL no longer than that no cached name ever leads to a
	// stranger; and a name that moved is followed within half a minute.
	maxTTL = 30
	// negativeTTL is how long it may keep that there is no such name: who asks for a
	// neighbour a moment too early must not wait long after its ADD.
	negativeTTL   = 5
	defaultDomain = "novalocal"
	// maxName is the longest domain name in text with its final dot (RFC 1035 section
	// 2.3.4: 255 octets on the wire).
	maxName = 254
)

// Names of the infrastructure, which no workload can have. Gateway and ns are answered
// with the gateway's address. The others do not exist: a workload named wpad would be
// every browser's proxy, and localhost must never lead off the host (RFC 6761).
const (
	nameGateway   = "gateway"
	nameServer    = "ns"
	nameProxy     = "wpad"
	nameLocalhost = "localhost"
)

// Zone is what a network's names mean at one moment. It is immutable, so any number of
// goroutines may ask it; a question costs two map look-ups, however many rows there are.
type Zone struct {
	Origin  string       // lower case, with its final dot
	Subnet  netip.Prefix // the reverse zone is its
	Gateway netip.Addr
	TTL     uint32 // seconds, of every record
	Serial  uint32

	// hosts has every name of the zone, lower case with its final dot. No address means
	// that the name exists only because others are below it.
	hosts map[string]netip.Addr
	// pointers has the name of every address that has one.
	pointers map[netip.Addr]string
	// pool says which addresses are peers'; taken are those of them whose MAC a row here has.
	pool  *ipam.Pool
	taken map[netip.Addr]bool
}

// NewZone works out the zone of n from all its rows. The rows' order does not matter.
// A name that several workloads have belongs to an administrator's reservation first,
// else to the one that was reserved first; the others answer under their namespace
// alone, and where they have none by the name that their address gives.
func NewZone(n *ipam.Network, rows []ipam.Reservation, serial uint32) *Zone {
	z := &Zone{
		// A record without a domain was made by hand; the root is not ours.
		Origin:   strings.ToLower(cmp.Or(n.Zone(), defaultDomain)) + ".",
		Subnet:   n.Pool.Subnet.Masked(),
		Gateway:  n.Pool.Gateway,
		TTL:      uint32(min(maxTTL, time.Duration(n.Pool.ReuseDelay)/time.Second)),
		Serial:   serial,
		hosts:    make(map[string]netip.Addr, 2*len(rows)+4),
		pointers: make(map[netip.Addr]string, len(rows)+1),
		pool:     &n.Pool,
		taken:    map[netip.Addr]bool{},
	}
	z.hosts[z.Origin] = netip.Addr{}
	z.hosts[nameServer+"."+z.Origin] = z.Gateway
	z.claim(nameGateway+"."+z.Origin, z.Gateway)

	order := make([]*ipam.Reservation, len(rows))
	for i := range rows {
		order[i] = &rows[i]
	}
	slices.SortFunc(order, func(a, b *ipam.Reservation) int {
		if a.Admin != b.Admin {
			if a.Admin {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Since.Compare(b.Since), a.Addr.Compare(b.Addr))
	})
	for _, r := range order {
		z.add(r)
	}
	return z
}

// add gives r the names that nobody has before it.
func (z *Zone) add(r *ipam.Reservation) {
	if a, _, ok := z.pool.PeerOfMAC(r.MAC); ok {
		z.taken[a] = true
	}
	own := ipam.DefaultHostname(r.Addr)
	host := Hostname(r)
	if host != nameProxy && host != nameLocalhost {
		if host == own || !z.reserved(host) {
			z.claim(host+"."+z.Origin, r.Addr)
		}
		if ns := strings.ToLower(r.Workload.Namespace); ns != "" && !strings.Contains(ns, ".") {
			if z.claim(host+"."+ns+"."+z.Origin, r.Addr) {
				if _, there := z.hosts[ns+"."+z.Origin]; !there {
					z.hosts[ns+"."+z.Origin] = netip.Addr{}
				}
			}
		}
	}
	if _, named := z.pointers[r.Addr]; !named {
		z.claim(own+"."+z.Origin, r.Addr)
	}
}

// claim gives name to addr unless another has it, and reports whether it is addr's. The
// first name an address gets is the one its PTR record gives: the bare one if it has it.
func (z *Zone) claim(name string, addr netip.Addr) bool {
	if len(name) > maxName {
		return false
	}
	if other, taken := z.hosts[name]; taken && other.IsValid() {
		return other == addr
	}
	z.hosts[name] = addr
	if _, named := z.pointers[addr]; !named {
		z.pointers[addr] = name
	}
	return true
}

// reserved reports whether a bare name is no workload's to choose: the infrastructure's,
// or the one that an address of the subnet gives.
func (z *Zone) reserved(host string) bool {
	if host == nameGateway || host == nameServer {
		return true
	}
	addr, ok := defaultAddr(host)
	return ok && z.Subnet.Contains(addr)
}

// defaultAddr returns the address whose default name a bare one is.
func defaultAddr(host string) (netip.Addr, bool) {
	digits, ok := strings.CutPrefix(host, "host-")
	if !ok || strings.Contains(digits, ".") {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(digits, "-", "."))
	return addr, err == nil
}

// ofPeer reports whether an address has its default name because a peer gives it, as DHCP
// leases it without a row here (ipam.PeerLease): a row here, by address or by the MAC that
// the address gives, counts before.
func (z *Zone) ofPeer(addr netip.Addr) bool {
	_, named := z.pointers[addr]
	_, _, ok := z.pool.PeerOfMAC(ipam.DeriveMAC(z.pool.MACPrefix, addr))
	return ok && !named && !z.taken[addr]
}

// Hostname returns the bare name that DHCP gives the client of r, lower case.
func Hostname(r *ipam.Reservation) string {
	name, _, _ := strings.Cut(r.Hostname, ".")
	if name == "" {
		name = ipam.DefaultHostname(r.Addr)
	}
	return strings.ToLower(name)
}

// Len returns the number of names that have an address.
func (z *Zone) Len() (n int) {
	for _, addr := range z.hosts {
		if addr.IsValid() {
			n++
		}
	}
	return n
}

// String lists the zone as a zone file does, sorted, the forward part first.
func (z *Zone) String() string {
	var forward, reverse []string
	for name, addr := range z.hosts {
		if addr.IsValid() {
			forward = append(forward, fmt.Sprintf("%s %d IN A %s\n", name, z.TTL, addr))
		}
	}
	for addr, name := range z.pointers {
		reverse = append(reverse, fmt.Sprintf("%s %d IN PTR %s\n", reverseName(addr), z.TTL, name))
	}
	slices.Sort(forward)
	slices.Sort(reverse)
	return strings.Join(append(forward, reverse...), "")
}
