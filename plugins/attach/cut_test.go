package attach

import (
	"net/netip"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// What is cut is what the closed workload's chain would not let begin.
func TestStaysAllowed(t *testing.T) {
	closed, neighbour := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	network := ipam.Network{Name: "flat", Bridge: &ipam.Bridge{
		Published: true,
		Ingress:   []ipam.Rule{{Protocol: "tcp", Ports: []ipam.PortRange{{First: 80, Last: 80}}}},
	}}
	unpublished := network
	bridge := *network.Bridge
	bridge.Published = false
	unpublished.Bridge = &bridge
	tcp := func(from, to netip.Addr, port uint16, redirected bool) link.Connection {
		return link.Connection{From: from, To: to, Protocol: 6, Port: port, Redirected: redirected}
	}
	for _, c := range []struct {
		name    string
		network ipam.Network
		link.Connection
		want bool
	}{
		{"begun by a neighbour", network, tcp(neighbour, closed, 22, false), false},
		{"begun by a neighbour, as ingress allows", network, tcp(neighbour, closed, 80, false), true},
		{"begun by a neighbour, redirected here", network, tcp(neighbour, closed, 22, true), true},
		{"begun by a neighbour, redirected, without published", unpublished, tcp(neighbour, closed, 22, true), false},
		{"begun by the closed one itself", network, tcp(closed, neighbour, 22, false), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := staysAllowed(c.network, []netip.Addr{closed}, c.Connection); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}
