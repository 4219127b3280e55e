package filter

import (
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Base plans the chains that all networks share; networks without a bridge of
// ours have no part in them. FLAT-FORWARD first dispatches for all networks and
// only then accepts for any: a packet from one network to another's workload must
// meet that workload's chain.
func Base(networks []ipam.Network) []Chain {
	drop := Chain{Name: chainDrop, Rules: []Rule{
		{Target: "DROP", Why: "fallback drop"},
	}}
	reject := Chain{Name: chainReject, Rules: []Rule{
		{Match: "-p tcp", Target: "REJECT --reject-with tcp-reset", Why: "fallback reject: TCP is refused as a closed port does"},
		{Target: "REJECT --reject-with icmp-port-unreachable", Why: "fallback reject"},
	}}
	for _, c := range []Chain{drop, reject} {
		comment := networkComment(sharedMarker, contentHash(c.specs()...))
		for i := range c.Rules {
			c.Rules[i].Comment = comment
		}
	}
	provider := Chain{Name: chainProvider}
	input := Chain{Name: chainInput}
	forward := Chain{Name: chainForward}
	output := Chain{Name: chainOutput}
	bridged := withBridge(networks)
	for _, n := range bridged {
		provider.Rules = append(provider.Rules, n.deny...)
		input.Rules = append(input.Rules, n.input...)
		forward.Rules = append(forward.Rules, n.dispatch)
		output.Rules = append(output.Rules, n.dispatch)
	}
	for _, n := range bridged {
		forward.Rules = append(forward.Rules, n.accept...)
	}
	return []Chain{drop, reject, provider, {Name: chainProviderUser, Operator: true}, input, forward, output}
}

// baseLines are one network's rules in the shared chains.
type baseLines struct {
	name     string
	deny     []Rule
	input    []Rule
	dispatch Rule
	accept   []Rule
}

func withBridge(networks []ipam.Network) []baseLines {
	var all []baseLines
	for _, n := range networks {
		if n.Bridge != nil {
			all = append(all, linesOf(n))
		}
	}
	slices.SortFunc(all, func(a, b baseLines) int { return strings.Compare(a.name, b.name) })
	return all
}

func linesOf(n ipam.Network) baseLines {
	to := "-d " + n.Pool.Subnet.String()
	from, out := "-i "+n.Bridge.Name, "-o "+n.Bridge.Name
	l := baseLines{
		name:     n.Name,
		dispatch: Rule{Match: to, Target: treeName(n.Pool.Subnet), Why: "network " + n.Name + ": find the workload's chain"},
		accept: []Rule{
			{Match: from, Target: "ACCEPT", Why: "network " + n.Name + ": out of the bridge, whatever FORWARD's policy"},
			{Match: out, Target: "ACCEPT", Why: "network " + n.Name + ": into the bridge, to what has no chain on this node"},
		},
	}
	if n.Bridge.IsGateway {
		l.input = []Rule{{Match: from + " -p udp -m udp --dport 67", Target: "ACCEPT", Why: "network " + n.Name + ": DHCP, served here"}}
	}
	for _, rule := range n.Bridge.Deny {
		for _, match := range matches(rule) {
			// iptables-save prints the source before the destination.
			source, rest := "", match
			if words := strings.SplitN(match, " ", 3); words[0] == "-s" {
				source, rest = words[0]+" "+words[1]+" ", strings.Join(words[2:], " ")
			}
			l.deny = append(l.deny, Rule{Match: strings.TrimSpace(source + to + " " + rest), Target: "DROP", Why: "network " + n.Name + ": deny"})
		}
	}

	content := []string{n.Name, l.dispatch.spec()}
	for _, part := range [][]Rule{l.accept, l.input, l.deny} {
		content = append(content, "")
		for _, r := range part {
			content = append(content, r.spec())
		}
	}
	comment := networkComment(markedName(n.Name), contentHash(content...))
	l.dispatch.Comment = comment
	for _, part := range [][]Rule{l.accept, l.input, l.deny} {
		for i := range part {
			part[i].Comment = comment
		}
	}
	return l
}
