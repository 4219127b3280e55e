package attach

import (
	"net/netip"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

func TestMachinesAndBridgesDifferInMAC(t *testing.T) {
	const machine = "0123456789abcdef0123456789abcdef"
	mac := machineMAC(machine, "br100")
	if mac[0] != 0x02 {
		t.Errorf("%s is not locally administered unicast as 02 is", mac)
	}
	if again := machineMAC(machine, "br100"); again != mac {
		t.Errorf("the same bridge has %s and %s", mac, again)
	}
	for _, other := range []ipam.MAC{machineMAC(machine, "br101"), machineMAC("another", "br100"), machineMAC(machine+"br", "100")} {
		if other == mac {
			t.Errorf("%s is another's, too", mac)
		}
	}
}

// The gateway's MAC names its address; on another node it would be two bridges'.
func TestOnlyTheGatewayHasItsMAC(t *testing.T) {
	network := ipam.Network{
		Name:   "flat",
		Pool:   ipam.Pool{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"), MACPrefix: ipam.DefaultMACPrefix},
		Bridge: &ipam.Bridge{Name: "br100"},
	}
	for _, gateway := range []bool{true, false} {
		network.Bridge.IsGateway = gateway
		spec, err := sideSpec(network)
		if err != nil {
			t.Fatal(err)
		}
		if has := spec.MAC == ipam.DeriveMAC(ipam.DefaultMACPrefix, network.Pool.Gateway); has != gateway {
			t.Errorf("isGateway %t: MAC %s", gateway, spec.MAC)
		}
		if spec.Gateway.IsValid() != gateway {
			t.Errorf("isGateway %t: gateway address %s", gateway, spec.Gateway)
		}
	}
}

// A shared gateway's MAC is its leg's: bridges of one segment differ in theirs, and have
// what the node has of its own.
func TestBridgeBesideASharedGatewayIsTheNodes(t *testing.T) {
	network := ipam.Network{
		Name:   "flat",
		Pool:   ipam.Pool{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"), MACPrefix: ipam.DefaultMACPrefix},
		Bridge: &ipam.Bridge{Name: "br100", IsGateway: true, GatewayShared: true, NodeAddress: netip.MustParseAddr("10.0.0.251")},
	}
	spec, err := sideSpec(network)
	if err != nil {
		t.Fatal(err)
	}
	leg := legSpec(network, spec.MAC, 1500)
	if spec.MAC == leg.MAC || spec.MAC[0] != 0x02 {
		t.Errorf("the bridge has MAC %s, the leg %s", spec.MAC, leg.MAC)
	}
	if want := netip.MustParsePrefix("10.0.0.251/24"); spec.Gateway != want || leg.Addr != network.Pool.Gateway {
		t.Errorf("the bridge has %s, the leg %s", spec.Gateway, leg.Addr)
	}
	network.Bridge.Metadata = netip.MustParseAddrPort("192.0.2.1:8775")
	if more := legSpec(network, spec.MAC, 1500).More; len(more) != 1 || more[0] != ipam.MetadataAddr {
		t.Errorf("with metadata the leg has %v, too", more)
	}
}

// What no bridge or uplink may be called is known to three packages.
func TestOwnLinksHaveOneName(t *testing.T) {
	if guard.PortPrefix != link.PortPrefix || guard.LegPrefix != link.LegPortPrefix {
		t.Errorf("ports are %s and %s to the guard, %s and %s to link", guard.PortPrefix, guard.LegPrefix, link.PortPrefix, link.LegPortPrefix)
	}
	for _, name := range []string{link.PortName("c", "eth0"), link.LegName("br100"), link.LegPort("br100")} {
		if !link.Reserved(name) || len(name) > 15 {
			t.Errorf("%s could be a bridge's", name)
		}
	}
}
