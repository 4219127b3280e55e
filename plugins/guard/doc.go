// Package guard keeps workload ports honest: an nftables table of the bridge
// family, `bridge flatdhcp`, that drops by the ports' name prefix and accepts by
// set membership. A port that is in no set passes nothing, in or out.
//
// A workload may send, checked before the bridge learns its MAC and before
// conntrack: IPv4 from its own MAC and addresses, plain ARP requests and replies of
// the same, ARP probes, and DHCP client messages in its own MAC's name. It is never
// a DHCP server, and nothing else leaves it: no IPv6, VLAN tag, 802.3 frame or BPDU.
// With its sources unchecked (antiSpoofing false) the last sentence still holds.
//
// How much ARP, broadcast, DHCP and DNS it sends is bounded, each kind by the port's own
// limit.
//
// A workload receives unicast IPv4 for its own addresses only, so that a frame to
// its MAC with another destination cannot pass by its chain. On a closed port
// (allowSameNetTraffic false) group-addressed frames are dropped but for the one
// exception, plain ARP, which replies and ingress rules need, and but for a
// gateway's DHCP replies. Whether unicast may reach a closed port, its chain decides.
//
// By an uplink, behind which is the whole LAN, nothing enters in the name of this node,
// of its gateway or of a workload that is here: source MAC, IPv4 source, ARP sender,
// also inside a VLAN tag that the node's own stack would take off. DHCP and a gateway
// that other nodes have as well stay on this side, as Uplink says. Whether the machine
// that answers for a *remote* gateway is that gateway, nobody can tell here.
//
// The rules are constant: they know no network, and every packet costs the same
// whatever the number of workloads. Attaching a workload adds set elements, and
// detaching it removes them, each in one netlink transaction.
//
// What no hook sees, the guard cannot stop: the bridge learns from the source of an
// LLDP frame (01:80:c2:00:00:0e) before it asks anybody. A port with checked sources
// must therefore have learning off, its MAC being a static entry.
//
// The planner (NewPlan, Plan.String) is pure. The applier (Attach, Detach, Apply,
// Remove, Counters) works in the network namespace of the calling thread and
// executes no program.
package guard
