package ipam

import (
	"net/netip"
	"testing"
)

func TestRuleAllows(t *testing.T) {
	neighbour := netip.MustParseAddr("10.0.0.3")
	subnet, elsewhere := netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24")
	web := []PortRange{{80, 80}, {8000, 8100}}
	for _, c := range []struct {
		name     string
		rule     Rule
		protocol uint8
		port     uint16
		want     bool
	}{
		{"its port", Rule{Protocol: "tcp", Ports: web}, 6, 80, true},
		{"a range's end", Rule{Protocol: "tcp", Ports: web}, 6, 8100, true},
		{"beside a range", Rule{Protocol: "tcp", Ports: web}, 6, 8101, false},
		{"another protocol", Rule{Protocol: "tcp", Ports: web}, 17, 80, false},
		{"no port means all", Rule{Protocol: "udp"}, 17, 9, true},
		{"from its range", Rule{Protocol: "icmp", From: []netip.Prefix{elsewhere, subnet}}, 1, 0, true},
		{"from elsewhere", Rule{Protocol: "icmp", From: []netip.Prefix{elsewhere}}, 1, 0, false},
		{"any protocol", Rule{Protocol: "any", From: []netip.Prefix{subnet}}, 47, 0, true},
		{"sctp", Rule{Protocol: "sctp", Ports: web}, 132, 80, true},
	} {
		if got := c.rule.Allows(neighbour, c.protocol, c.port); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
