package filter

import "github.com/flatdhcp/flatdhcp/ipam"

// multicast is never masqueraded, as in the reference bridge plugin.
const multicast = "224.0.0.0/4"

// natRules plans n's part of FLAT-POSTROUTING: nova's `-s NET -d NET -m conntrack !
// --ctstate DNAT -j ACCEPT` and its SNAT rule, with MASQUERADE for SNAT, as the
// reference bridge plugin has it for ipMasq.
//
// br_netfilter shows table nat frames that are merely switched, and somebody's
// MASQUERADE for a range that holds the subnet would give them the node's address. So
// every network settles what stays on it, whether or not it masquerades: ACCEPT ends
// the table, and only a connection's first packet comes here. An unfiltered network
// settles by address alone: xt_physdev loads br_netfilter, which that network is there
// to do without.
//
// What has been DNATed inside the subnet is masqueraded: the answer would go straight
// to the client, which does not know its sender. Only the gateway does so: nobody else
// has an address on the bridge to do it with. This comes before nonMasqueradeCIDRs, which
// may hold the subnet.
func natRules(n ipam.Network) []Rule {
	subnet, why := n.Pool.Subnet.String(), "network "+n.Name+": "
	var rules []Rule
	if n.Filtered() {
		rules = append(rules, Rule{Match: "-o " + n.Bridge.Name + " -m physdev --physdev-is-bridged -m conntrack ! --ctstate DNAT",
			Target: "ACCEPT", Why: why + "merely switched by the bridge, so nobody's to translate"})
	}
	rules = append(rules, Rule{Match: "-s " + subnet + " -d " + subnet + " -m conntrack ! --ctstate DNAT",
		Target: "ACCEPT", Why: why + "stays inside the subnet and keeps its source"})
	if n.ServesMetadata() && !n.Bridge.Metadata.Addr().IsLoopback() {
		rules = append(rules, metadataSource(n))
	}
	if !n.Bridge.IPMasq {
		return rules
	}
	if n.Bridge.IsGateway {
		rules = append(rules, Rule{Match: "-s " + subnet + " -d " + subnet + " -m conntrack --ctstate DNAT",
			Target: "MASQUERADE", Why: why + "DNATed inside the subnet: the answer must come back this way"})
	}
	for _, p := range n.Bridge.NonMasqueradeCIDRs {
		rules = append(rules, Rule{Match: "-s " + subnet + " -d " + p.String(),
			Target: "ACCEPT", Why: why + "nonMasqueradeCIDRs: sees workloads under their own addresses"})
	}
	rules = append(rules, Rule{Match: "-s " + subnet + " -d " + multicast, Target: "RETURN", Why: why + "multicast is not masqueraded"})
	return append(rules, leaving(n))
}

// leaving is the rule for what leaves the subnet; nova's snat, of which natAddress is
// routing_source_ip.
func leaving(n ipam.Network) Rule {
	subnet := n.Pool.Subnet.String()
	r := Rule{Match: "-s " + subnet + " ! -d " + subnet, Target: "MASQUERADE", Why: "network " + n.Name + ": ipMasq: leaves the subnet with the node's address"}
	if out := n.Bridge.PublicInterface; out != "" {
		r.Match += " -o " + out
	}
	if a := n.Bridge.NATAddress; a.IsValid() {
		r.Target, r.Why = "SNAT --to-source "+a.String(), "network "+n.Name+": ipMasq: leaves the subnet with natAddress"
	}
	return r
}
