package filter

import "github.com/flatdhcp/flatdhcp/ipam"

// fromPorts matches what came into the node by a workload's port (link.PortPrefix). The
// bridge alone would not do: behind an uplink the whole LAN enters by it, the operator's
// own session among it.
const fromPorts = "-m physdev --physdev-in fdp+"

// hostAccess are the last of n's rules in FLAT-INPUT, behind those that accept what is
// served here: with "services" the hole of OpenStack's OSSN-0018 is closed, by which
// workloads reached all that the node listens on, at any of its addresses.
//
// Answers to what the node itself began go on to the node's own rules, as does ping; a
// connection that a workload began does not, however old it is: its packets have the
// original direction.
func hostAccess(n ipam.Network) []Rule {
	if !n.Filtered() || n.Bridge.HostAccess != ipam.HostAccessServices {
		return nil
	}
	from, why, end := "-i "+n.Bridge.Name, "network "+n.Name+": hostAccess: ", chainDrop
	if n.Bridge.Fallback == ipam.FallbackReject {
		end = chainReject
	}
	return []Rule{
		{Match: from + " " + fromPorts + " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY", Target: "RETURN", Why: why + "answers to what the node began"},
		{Match: from + " -p icmp " + fromPorts + " -m icmp --icmp-type 8", Target: "RETURN", Why: why + "ping"},
		{Match: from + " " + fromPorts, Target: end, Why: why + "nothing else from workloads"},
	}
}
