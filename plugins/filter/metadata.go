package filter

import (
	"fmt"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Requests for metadata, nova-network's way: workloads ask 169.254.169.254:80, a DNAT
// rule sends them to the server, and that knows who asks by the source address alone,
// so nothing may translate it. The guard makes it trustworthy.
//
// Each network has a server of its own, hence the rules are for its bridge.

// metadataOnly matches what metadataDNAT has sent on, wherever to.
var metadataOnly = "-m conntrack --ctstate DNAT --ctorigdst " + ipam.MetadataAddr.String()

// metadataDNAT is the rule of FLAT-PREROUTING. A loopback address stands for this node, by
// REDIRECT, nova's word for a metadata_host of 127.0.0.1: the kernel takes nothing from
// outside for the address itself, so the server must listen at the gateway's.
func metadataDNAT(n ipam.Network) Rule {
	to := n.Bridge.Metadata
	r := Rule{
		Match:  fmt.Sprintf("-s %s -d %s/32 -i %s -p tcp -m tcp --dport 80", n.Pool.Subnet, ipam.MetadataAddr, n.Bridge.Name),
		Target: "DNAT --to-destination " + to.String(),
		Why:    "network " + n.Name + ": metadata",
	}
	if to.Addr().IsLoopback() {
		r.Target = fmt.Sprintf("REDIRECT --to-ports %d", to.Port())
	}
	return r
}

// metadataInput is the rule of FLAT-INPUT: whatever the node's own policy.
func metadataInput(n ipam.Network) Rule {
	return Rule{
		Match:  fmt.Sprintf("-s %s -i %s -p tcp -m tcp --dport %d %s", n.Pool.Subnet, n.Bridge.Name, n.Bridge.Metadata.Port(), metadataOnly),
		Target: "ACCEPT", Why: "network " + n.Name + ": metadata, served here",
	}
}

// metadataSource is the rule of FLAT-POSTROUTING, for a server on another host.
func metadataSource(n ipam.Network) Rule {
	to := n.Bridge.Metadata
	return Rule{
		Match:  fmt.Sprintf("-s %s -d %s/32 -p tcp -m tcp --dport %d", n.Pool.Subnet, to.Addr(), to.Port()),
		Target: "ACCEPT", Why: "network " + n.Name + ": metadata: the server tells workloads by their addresses",
	}
}
