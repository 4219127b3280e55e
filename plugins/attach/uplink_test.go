package attach

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Which addresses of a card may come to the bridge with it.
func TestAdmitOnBridge(t *testing.T) {
	network := func(change func(*ipam.Network)) ipam.Network {
		n := ipam.Network{
			Name: "flat",
			Pool: ipam.Pool{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
				Exclude: []ipam.Range{{Start: netip.MustParseAddr("10.0.0.250"), End: netip.MustParseAddr("10.0.0.251")}}},
			Bridge: &ipam.Bridge{Name: "br100", IsGateway: true, FlatInterface: "eth2", MoveAddresses: true},
		}
		change(&n)
		return n
	}
	gateway := network(func(*ipam.Network) {})
	compute := network(func(n *ipam.Network) { n.Bridge.IsGateway = false })
	shared := network(func(n *ipam.Network) {
		n.Bridge.GatewayShared, n.Bridge.NodeAddress = true, netip.MustParseAddr("10.0.0.251")
	})
	for _, tc := range []struct {
		name    string
		network ipam.Network
		addr    string
		want    string // "" = it may
	}{
		{"another subnet's", gateway, "192.0.2.5/24", ""},
		{"the gateway's, on the gateway", gateway, "10.0.0.1/24", ""},
		{"the gateway's, of another length", gateway, "10.0.0.1/16", "set ipam.gateway to 10.0.0.1"},
		{"another one, on the gateway", gateway, "10.0.0.250/24", "set ipam.gateway to 10.0.0.250"},
		{"a wider subnet's, on the gateway", gateway, "10.0.9.9/8", "set ipam.gateway to 10.0.9.9"},
		{"the node's, with a shared gateway", shared, "10.0.0.251/24", ""},
		{"another one, with a shared gateway", shared, "10.0.0.250/24", "set nodeAddress to 10.0.0.250"},
		{"an excluded one", compute, "10.0.0.250/24", ""},
		{"one that is given", compute, "10.0.0.70/24", `put it into ipam.exclude: ["10.0.0.70"]`},
		{"the gateway's, elsewhere", compute, "10.0.0.1/24", "set isGateway to true"},
		{"a wider subnet's", compute, "10.0.9.9/8", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := admitOnBridge(tc.network, []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix(tc.addr)})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (!errors.Is(err, ErrUplink) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.addr)):
				t.Errorf("error %v, want ErrUplink that says %q", err, tc.want)
			}
		})
	}
}
