package conf

import (
	"encoding/json"

	"github.com/flatdhcp/flatdhcp/ipam"
)

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
