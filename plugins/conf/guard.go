package conf

import (
	"encoding/json"
	"slices"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// maxAllowed bounds allowedAddresses: each is several set elements for every port.
const maxAllowed = 64

// readAllowedAddresses reads what workloads may use besides their own. The addresses are
// excluded, so that none is ever some workload's own.
func (o *object) readAllowedAddresses(n *ipam.Network) error {
	items, err := o.list("allowedAddresses", "addresses and MACs")
	if err != nil {
		return err
	}
	if len(items) > maxAllowed {
		return o.invalid("allowedAddresses", "at most %d are accepted, since each is known for every workload", maxAllowed)
	}
	for _, item := range items {
		sub, err := asObject(item.path, item.raw)
		if err != nil {
			return err
		}
		if err := sub.checkKeys(allowedKeys); err != nil {
			return err
		}
		a, err := sub.readAllowed(item, n)
		if err != nil {
			return err
		}
		if n.Lists(a) {
			return invalid(item.path, item.raw, "it is listed twice")
		}
		n.Bridge.AllowedAddresses = append(n.Bridge.AllowedAddresses, a)
	}
	if len(items) > 0 && !anyLeft(&n.Pool) {
		return o.invalid("allowedAddresses", "nothing of the range %s to %s is left to give", n.Pool.RangeStart, n.Pool.RangeEnd)
	}
	return nil
}

// readAllowed reads one, and excludes its address.
func (o *object) readAllowed(item element, n *ipam.Network) (a ipam.AllowedAddress, err error) {
	if a.Addr, err = o.addr4("ip"); err != nil {
		return a, err
	}
	if a.MAC, err = o.allowedMAC(n.Pool); err != nil {
		return a, err
	}
	if a.OnRequest, err = o.boolean("onRequest", false); err != nil {
		return a, err
	}
	switch {
	case !a.Addr.IsValid() && a.MAC.IsZero():
		return a, invalid(item.path, item.raw, `"ip", "mac" or both are wanted`)
	case !a.Addr.IsValid():
		return a, nil
	case a.Addr == n.Pool.Gateway || slices.Contains(n.Pool.Nodes, a.Addr):
		return a, o.invalid("ip", "it is a gateway's or a node's")
	}
	if err := nodesOwn(n.Pool, o.at("ip"), a.Addr); err != nil {
		return a, err
	}
	if !slices.ContainsFunc(n.Pool.Exclude, func(r ipam.Range) bool { return r.Contains(a.Addr) }) {
		n.Pool.Exclude = append(n.Pool.Exclude, ipam.Range{Start: a.Addr, End: a.Addr})
	}
	return a, nil
}

// allowedMAC reads a MAC that can be no workload's own.
func (o *object) allowedMAC(p ipam.Pool) (ipam.MAC, error) {
	s, err := o.text("mac", "")
	if err != nil || s == "" {
		return ipam.MAC{}, err
	}
	m, err := ipam.ParseMAC(s)
	switch {
	case err != nil:
		return m, o.invalid("mac", "six octets are wanted, such as 00:00:5e:00:01:07")
	case m.IsZero():
		return m, o.invalid("mac", "all octets are zero")
	case m.IsMulticast():
		return m, o.invalid("mac", "it is multicast: the lowest bit of its first octet must be 0")
	case m.IsHostSide():
		return m, o.invalid("mac", "MACs that begin with fe are those of the ports' host sides")
	case ipam.MACPrefix(m[:3]) == p.MACPrefix:
		return m, o.invalid("mac", "MACs that begin with %s (macPrefix) name the network's own addresses", p.MACPrefix)
	}
	return m, nil
}

// defaultLimits are what no workload that means well reaches: a second's scan of a /24,
// a service that announces itself in bulk, a fleet's start through one port, a resolver
// without a cache.
var defaultLimits = ipam.Limits{ARP: 500, Broadcast: 1000, DHCP: 100, DNS: 2000}

// maxLimit is more than any port carries (packets a second).
const maxLimit = 10_000_000

// readLimits reads how much of a kind a workload may send. What is not named keeps its
// default; 0 is no limit.
func (o *object) readLimits(b *ipam.Bridge) error {
	b.Limits = defaultLimits
	sub, ok, err := o.object("limits")
	if err != nil || !ok {
		return err
	}
	if err := sub.checkKeys(limitKeys); err != nil {
		return err
	}
	for _, l := range []struct {
		key string
		to  *int
	}{{"arp", &b.Limits.ARP}, {"broadcast", &b.Limits.Broadcast}, {"dhcp", &b.Limits.DHCP}, {"dns", &b.Limits.DNS}} {
		raw, ok := sub.raw(l.key)
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, l.to); err != nil || *l.to < 0 || *l.to > maxLimit {
			return sub.invalid(l.key, "a number of packets a second is wanted, at most %d; 0 means no limit", maxLimit)
		}
	}
	return nil
}

// readUplinkDHCP reads whether DHCP crosses the uplink. Where it is served here it does
// not, lest two servers answer one client, unless peers' workloads are served as well,
// who are beyond the uplink.
func (o *object) readUplinkDHCP(n ipam.Network) (err error) {
	absent := ipam.UplinkDHCPPass
	if n.Bridge.IsGateway && len(n.Pool.Peers) == 0 {
		absent = ipam.UplinkDHCPBlock
	}
	n.Bridge.UplinkDHCP, err = o.word("uplinkDHCP", absent, ipam.UplinkDHCPBlock, ipam.UplinkDHCPPass)
	return err
}
