package filter

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// ChainName returns the chain of an attachment: FLAT-WL- and 16 hex digits of
// SHA-256(network, container ID, interface name; NUL between). Names have one
// width and are compared whole: nova lost the rules of inst-10 when inst-1 went.
func ChainName(network, containerID, ifName string) string {
	sum := sha256.Sum256([]byte(network + "\x00" + containerID + "\x00" + ifName))
	return workloadPrefix + hex.EncodeToString(sum[:8])
}

// ownAddress matches what the node sends from an address that the interface a packet
// leaves by has itself; with the bridge for that interface: the node's own addresses there,
// and none of its others. The kernel looks them up with each packet, so that one added later
// counts at once, and the plan needs no knowledge of the node. What is switched comes from
// somebody else, who poses as the node: behind an uplink that may be anybody. (Nobody's
// packet with an address of the node's is ever routed: the kernel takes it for martian.)
const ownAddress = "-m physdev ! --physdev-is-bridged -m addrtype --src-type LOCAL --limit-iface-out"

// WorkloadChain plans the chain of r, which must have a holder, on n, which must
// have a bridge: nova's instance chain, in nova's order but for rules 2 and 5.
// It judges what is sent to r's address, from the bridge, routed or from the node.
func WorkloadChain(n ipam.Network, r ipam.Reservation) Chain {
	c := Chain{Name: ChainName(n.Name, r.Holder.ContainerID, r.Holder.IfName)}
	add := func(match, target, why string) {
		c.Rules = append(c.Rules, Rule{Match: match, Target: target, Why: why})
	}
	subnet := "-s " + n.Pool.Subnet.String()
	// Without an address on the bridge the node's way to the workload is another interface,
	// of which it has an address, too.
	out := "-o " + n.Bridge.Name
	var gateways []string
	for _, a := range n.Gateways() {
		if a.Is4() {
			gateways = append(gateways, "-s "+hostPrefix(a).String())
		}
	}

	add("-m conntrack --ctstate INVALID", "DROP", "belongs to no connection that conntrack can follow")
	if !n.Open(r) {
		// iptables has no "this source but not that one" in one rule. Gateway and node
		// are accepted rather than let by: rule 2b would accept them at once.
		for _, gateway := range gateways {
			add(gateway+" -m conntrack --ctstate RELATED", "ACCEPT", "ICMP errors of the gateway (fragmentation needed, unreachable)")
		}
		add(out+" -m conntrack --ctstate RELATED "+ownAddress, "ACCEPT", "the same of the node itself, from an address that it has on the bridge")
		add(subnet+" -m conntrack --ctstate RELATED", "DROP",
			"toggle off: an ICMP error of a neighbour that quotes another's flow would pass as related")
	}
	add("-m conntrack --ctstate RELATED,ESTABLISHED", "ACCEPT", "answers to what the workload itself, or somebody allowed, began")
	add("", chainProvider, "the networks' deny rules")
	add("", chainProviderUser, "the operator's own rules")
	for _, gateway := range gateways {
		add(gateway+" -p udp -m udp --sport 67 --dport 68", "ACCEPT", "DHCP server to client")
		add(gateway, "ACCEPT", "the gateway")
	}
	add(out+" "+ownAddress, "ACCEPT", "the node, from any address that it has on the bridge, but from no other")
	if n.Bridge.Published {
		add("-m conntrack --ctstate DNAT", "ACCEPT", "published: what this node itself sent here by DNAT (hostPort, Service)")
	}
	if n.Open(r) {
		add(subnet, "ACCEPT", "allowSameNetTraffic: neighbours on the network")
	}
	for i, rule := range n.Bridge.Ingress {
		for _, match := range matches(rule) {
			add(match, "ACCEPT", fmt.Sprintf("ingress rule %d", i+1))
		}
	}
	if n.Bridge.LogDrops {
		add(logLimit, `LOG --log-prefix "`+logPrefix(r.Workload)+`"`, "logDrops: to the kernel's log, "+logRate+" for this workload")
	}
	if n.Bridge.Fallback == ipam.FallbackReject {
		add("", chainReject, "nothing above allowed it: refuse, with an answer")
	} else {
		add("", chainDrop, "nothing above allowed it: drop")
	}

	workload := r.Workload.String()
	hash := contentHash(append(c.specs(), n.Name, workload)...)
	c.Rules[0].Comment = workloadComment(n.Name, r.Addr, hash, workload)
	return c
}

// maxMultiport is how many ports xt_multiport takes; a range counts as two.
const maxMultiport = 15

// matches returns the matches of one ingress or deny rule: sources times chunks of
// ports. What is not IPv4 matches nothing here, never everything.
func matches(rule ipam.Rule) []string {
	sources := []string{""}
	if len(rule.From) > 0 {
		sources = nil
		for _, from := range rule.From {
			switch {
			case !from.Addr().Is4():
			case from.Bits() == 0:
				sources = append(sources, "")
			default:
				sources = append(sources, "-s "+from.Masked().String())
			}
		}
	}
	protocols := portMatches(rule.Protocol, rule.Ports)
	var all []string
	for _, source := range sources {
		for _, protocol := range protocols {
			all = append(all, strings.TrimSpace(source+" "+protocol))
		}
	}
	return all
}

// portMatches returns matches that together are protocol with one of ports. (What
// reads conflists refuses ports for icmp and any.)
func portMatches(protocol string, ports []ipam.PortRange) []string {
	if protocol == "any" {
		return []string{""}
	}
	match := "-p " + protocol
	if len(ports) == 0 {
		return []string{match}
	}
	// xt_sctp is rarer than xt_multiport in small kernels, so sctp always uses that.
	if len(ports) == 1 && protocol != "sctp" {
		return []string{match + " -m " + protocol + " --dport " + portText(ports[0])}
	}
	var all, chunk []string
	room := maxMultiport
	flush := func() {
		all = append(all, match+" -m multiport --dports "+strings.Join(chunk, ","))
		chunk, room = nil, maxMultiport
	}
	for _, p := range ports {
		size := 1
		if p.First != p.Last {
			size = 2
		}
		if size > room {
			flush()
		}
		chunk, room = append(chunk, portText(p)), room-size
	}
	flush()
	return all
}

func portText(p ipam.PortRange) string {
	first := strconv.Itoa(int(p.First))
	if p.First == p.Last {
		return first
	}
	return first + ":" + strconv.Itoa(int(p.Last))
}

// dispatchTo returns the way to r's chain on n.
func dispatchTo(n ipam.Network, r ipam.Reservation) Dispatch {
	return Dispatch{Addr: r.Addr, Chain: ChainName(n.Name, r.Holder.ContainerID, r.Holder.IfName)}
}

func hostPrefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
