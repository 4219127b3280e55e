package filter

import (
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Base plans the chains that all networks share; networks that need nothing of
// iptables have no part in them. FLAT-FORWARD first dispatches for all networks and
// only then accepts for any: a packet from one network to another's workload must
// meet that workload's chain. Before either, connections that were cut are kept from
// coming back: no chain of a peer elsewhere could, and the closed side's own packets meet
// none of its own.
func Base(networks []ipam.Network) []Chain {
	drop := Chain{Name: chainDrop, Rules: []Rule{
		{Target: "DROP", Why: "fallback drop"},
	}}
	reject := Chain{Name: chainReject, Rules: []Rule{
		{Match: "-p tcp", Target: "REJECT --reject-with tcp-reset", Why: "fallback reject: TCP is refused as a closed port does"},
		{Target: "REJECT --reject-with icmp-port-unreachable", Why: "fallback reject"},
	}}
	stale := Chain{Name: chainMidstream, Rules: []Rule{
		{Match: "-m conntrack --ctstate NEW", Target: "DROP", Why: "TCP that began unseen: a connection that was cut must not come back by its own middle"},
	}}
	for _, c := range []Chain{drop, reject, stale} {
		comment := networkComment(sharedMarker, contentHash(c.specs()...))
		for i := range c.Rules {
			c.Rules[i].Comment = comment
		}
	}
	provider := Chain{Name: chainProvider}
	input := Chain{Name: chainInput}
	forward := Chain{Name: chainForward}
	output := Chain{Name: chainOutput}
	prerouting := Chain{Name: chainPrerouting}
	postrouting := Chain{Name: chainPostrouting}
	all := linesOfAll(networks)
	for _, n := range all {
		forward.Rules = append(forward.Rules, n.midstream...)
	}
	for _, n := range all {
		forward.Rules = append(forward.Rules, n.dispatch...)
	}
	for _, n := range all {
		provider.Rules = append(provider.Rules, n.deny...)
		input.Rules = append(input.Rules, n.input...)
		output.Rules = append(output.Rules, n.dispatch...)
		prerouting.Rules = append(prerouting.Rules, n.dnat...)
		postrouting.Rules = append(postrouting.Rules, n.nat...)
	}
	for _, n := range all {
		forward.Rules = append(forward.Rules, n.accept...)
	}
	return []Chain{drop, reject, stale, provider, {Name: chainProviderUser, Operator: true}, input, forward, output, prerouting, postrouting}
}

// hasLines says whether n needs anything of iptables on this node. An unfiltered
// network that this node neither is the gateway of nor translates for is a bridge and
// no more: it must work where there is no iptables.
func hasLines(n ipam.Network) bool {
	return n.Filtered() || n.Bridge != nil && (n.Bridge.IsGateway || n.Bridge.IPMasq)
}

// baseLines are one network's rules in the shared chains.
type baseLines struct {
	name      string
	deny      []Rule
	input     []Rule
	midstream []Rule
	dispatch  []Rule
	accept    []Rule
	dnat      []Rule
	nat       []Rule
}

func linesOfAll(networks []ipam.Network) []baseLines {
	var all []baseLines
	for _, n := range networks {
		if hasLines(n) {
			all = append(all, linesOf(n))
		}
	}
	slices.SortFunc(all, func(a, b baseLines) int { return strings.Compare(a.name, b.name) })
	return all
}

func linesOf(n ipam.Network) baseLines {
	why := func(text string) string { return "network " + n.Name + ": " + text }
	to := "-d " + n.Pool.Subnet.String()
	from, out := "-i "+n.Bridge.Name, "-o "+n.Bridge.Name
	l := baseLines{
		name: n.Name,
		accept: []Rule{
			{Match: from, Target: "ACCEPT", Why: why("out of the bridge, whatever FORWARD's policy")},
			{Match: out, Target: "ACCEPT", Why: why("into the bridge, to what has no chain on this node")},
		},
		nat: natRules(n),
	}
	if n.Bridge.IsGateway {
		l.input = []Rule{{Match: from + " -p udp -m udp --dport 67", Target: "ACCEPT", Why: why("DHCP, served here")}}
	}
	if n.ServesDNS() {
		// By the bridge, as DHCP: what comes from elsewhere to the gateway's port 53 is the
		// node's own policy's affair, and meets silence from the daemon. To the gateway: at
		// its other addresses the node may have a resolver that is not for workloads.
		for _, proto := range []string{"udp", "tcp"} {
			l.input = append(l.input, Rule{Match: "-d " + n.Pool.Gateway.String() + "/32 " + from + " -p " + proto + " -m " + proto + " --dport 53",
				Target: "ACCEPT", Why: why("DNS, served here")})
		}
	}
	if n.ServesMetadata() {
		l.dnat = []Rule{metadataDNAT(n)}
		l.input = append(l.input, metadataInput(n))
	}
	l.input = append(l.input, hostAccess(n)...)
	if n.Filtered() {
		l.midstream = []Rule{midstream(n)}
		l.dispatch = []Rule{{Match: to, Target: treeName(n.Pool.Subnet), Why: why("find the workload's chain")}}
		l.deny = denyRules(n)
	}

	parts := [][]Rule{l.midstream, l.dispatch, l.accept, l.input, l.deny, l.dnat, l.nat}
	content := []string{n.Name}
	for _, part := range parts {
		content = append(content, "")
		for _, r := range part {
			content = append(content, r.spec())
		}
	}
	comment := networkComment(markedName(n.Name), contentHash(content...))
	for _, part := range parts {
		for i := range part {
			part[i].Comment = comment
		}
	}
	return l
}

// midstream sends to FLAT-MIDSTREAM what is switched within n and may belong to a
// connection that began unseen. With nf_conntrack_tcp_loose, the kernel's default and the
// whole machine's, conntrack takes any segment for a connection's first: after closing the
// toggle has cut a connection, the closed side's next one would bring it back, as its own.
func midstream(n ipam.Network) Rule {
	subnet := n.Pool.Subnet.String()
	return Rule{Match: "-s " + subnet + " -d " + subnet + " -p tcp -m physdev --physdev-is-bridged -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
		Target: chainMidstream, Why: "network " + n.Name + ": no connection's beginning"}
}

func denyRules(n ipam.Network) (rules []Rule) {
	to := "-d " + n.Pool.Subnet.String()
	for _, rule := range n.Bridge.Deny {
		for _, match := range matches(rule) {
			// iptables-save prints the source before the destination.
			source, rest := "", match
			if words := strings.SplitN(match, " ", 3); words[0] == "-s" {
				source, rest = words[0]+" "+words[1]+" ", strings.Join(words[2:], " ")
			}
			rules = append(rules, Rule{Match: strings.TrimSpace(source + to + " " + rest), Target: "DROP", Why: "network " + n.Name + ": deny"})
		}
	}
	return rules
}
