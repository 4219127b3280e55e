package conf

import "github.com/flatdhcp/flatdhcp/ipam"

// readHostAccess reads what workloads reach on the node. Their ports tell them from others
// on the bridge, and chains see ports only where bridged frames come to iptables.
func (o *object) readHostAccess(n ipam.Network) error {
	access, err := o.word("hostAccess", ipam.HostAccessAll, ipam.HostAccessAll, ipam.HostAccessServices)
	if err != nil || access == ipam.HostAccessAll {
		return err
	}
	if !n.Filtered() {
		return o.invalid("hostAccess", `it needs bridged frames in iptables, which "filter": "none" does without`)
	}
	n.Bridge.HostAccess = access
	return nil
}
