package attach

import (
	"net/netip"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
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
