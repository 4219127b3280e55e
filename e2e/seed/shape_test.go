package seed

import (
	"net/netip"
)

// keys are keys of flat-bridge; those below "ipam." go into flat-ipam.
type keys map[string]any

// shape is a way to lay the network over the hosts.
type shape struct {
	name string
	// multi: each host is the gateway of its own workloads. Else the controller is
	// everybody's.
	multi bool
	// keys are a host's own, beside those that all hosts have (node).
	keys map[string]keys
}

// pool is the part of the subnet that a host gives addresses of.
func pool(gateway, first, last string) keys {
	return keys{"ipam.gateway": gateway, "ipam.rangeStart": first, "ipam.rangeEnd": last}
}

// sharedPool is a pool of a host that has the one gateway address of all, and an address of
// its own.
func sharedPool(node, first, last string) keys {
	return with(pool("10.0.0.1", first, last), keys{"gatewayShared": true, "nodeAddress": node})
}

// shared tells whether all hosts have the same gateway address.
func (s *scene) shared() bool { return s.compute1.keys["gatewayShared"] != nil }

// speaksAs is the address from which the node sends into the subnet; zero = it has none.
func (n *node) speaksAs() netip.Addr {
	for _, key := range []string{"nodeAddress", "ipam.gateway"} {
		if a, ok := n.keys[key].(string); ok && n.keys["isGateway"] == nil {
			return netip.MustParseAddr(a)
		}
	}
	return netip.Addr{}
}

func with(a, b keys) keys {
	all := keys{}
	for _, from := range []keys{a, b} {
		for k, v := range from {
			all[k] = v
		}
	}
	return all
}

// shapes are those of this version. In each the first workload of compute-1 has the seed's
// address, 10.0.0.2, and the gateway of that is 10.0.0.1.
var shapes = []shape{
	{
		name: "single-host",
		keys: map[string]keys{
			"controller": with(pool("10.0.0.1", "10.0.0.192", "10.0.0.254"), keys{"ipam.peers": []keys{
				{"node": "compute-1", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.63"},
				{"node": "compute-2", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"},
			}}),
			"compute-1": with(keys{"isGateway": false}, pool("10.0.0.1", "10.0.0.2", "10.0.0.63")),
			"compute-2": with(keys{"isGateway": false}, pool("10.0.0.1", "10.0.0.64", "10.0.0.127")),
		},
	},
	{
		name: "multi-host", multi: true,
		keys: map[string]keys{
			"controller": pool("10.0.0.128", "10.0.0.129", "10.0.0.191"),
			"compute-1":  pool("10.0.0.1", "10.0.0.2", "10.0.0.63"),
			"compute-2":  pool("10.0.0.64", "10.0.0.65", "10.0.0.127"),
		},
	},
	{
		name: "multi-host, shared", multi: true,
		keys: map[string]keys{
			"controller": sharedPool("10.0.0.250", "10.0.0.129", "10.0.0.191"),
			"compute-1":  sharedPool("10.0.0.251", "10.0.0.2", "10.0.0.63"),
			"compute-2":  sharedPool("10.0.0.252", "10.0.0.64", "10.0.0.127"),
		},
	},
}

var (
	gateway     = netip.MustParseAddr("10.0.0.1") // of vm1 and vm2
	outsideAddr = netip.MustParseAddr("192.168.56.1")
	management  = map[string]netip.Addr{
		"controller": netip.MustParseAddr("192.168.56.200"),
		"compute-1":  netip.MustParseAddr("192.168.56.202"),
		"compute-2":  netip.MustParseAddr("192.168.56.203"),
	}
)
