package filter

import (
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestAttachAndDetachAreThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/24", "br100", closed,
			ingress(
				ipam.Rule{Protocol: "tcp", Ports: ports(80, 0, 443, 0, 8000, 8100), From: prefixes("192.0.2.0/24")},
				ipam.Rule{Protocol: "tcp", Ports: ports(22, 0)}, ipam.Rule{Protocol: "udp", Ports: ports(5000, 5010)},
				ipam.Rule{Protocol: "sctp", Ports: ports(5060, 0)}, ipam.Rule{Protocol: "icmp"},
				ipam.Rule{Protocol: "any", From: prefixes("203.0.113.0/24")}),
			deny(ipam.Rule{Protocol: "any", From: prefixes("198.51.100.7/32")}))
		wide := network("wide", "172.16.0.0/12", "br1", func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject })
		nets := networksOf(flat, wide)
		table := k.table()
		rows := rowsOf("10.0.0.2", "10.0.0.3", "10.0.0.18")

		k.attach(table, nets, flat, rows...)
		k.holds(Held{flat, rows}, Held{wide, nil})
		k.attach(table, nets, flat, rows...)
		k.holds(Held{flat, rows}, Held{wide, nil})
		far := row("172.31.255.254")
		k.attach(table, nets, wide, far)
		k.holds(Held{flat, rows}, Held{wide, []ipam.Reservation{far}})
		k.detach(table, flat, rows[1], rows[2])
		k.holds(Held{flat, rows[:1]}, Held{wide, []ipam.Reservation{far}})
		k.detach(table, flat, rows...)
		k.detach(table, wide, far)
		k.holds(Held{flat, nil}, Held{wide, nil})
	})
}
