package uplink

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Devices as kernels describe them, those that the machine's own cannot make among them.
func TestRefuse(t *testing.T) {
	card := Device{Index: 3, Name: "eth1", Kind: "device", Encap: "ether", MAC: ipam.MAC{0x52, 0x54}, MTU: 1500, Up: true}
	for _, tc := range []struct {
		name   string
		change func(*Device)
		want   string // "" = it is fit
	}{
		{"hardware", func(*Device) {}, ""},
		{"down", func(d *Device) { d.Up = false }, ""},
		{"a VLAN subinterface", func(d *Device) { d.Kind, d.Name = "vlan", "eth1.100" }, ""},
		{"a bond, 802.3ad", func(d *Device) { d.Kind, d.BondMode = "bond", "802.3ad" }, ""},
		{"a bond, active-backup", func(d *Device) { d.Kind, d.BondMode = "bond", "active-backup" }, ""},
		{"a port of the bridge", func(d *Device) { d.Master, d.MasterName, d.MasterKind = 9, "br100", "bridge" }, ""},
		{"a bond, balance-alb", func(d *Device) { d.Kind, d.BondMode = "bond", "balance-alb" }, "mode balance-alb, which answers ARP with the MACs of its members in turn"},
		{"wireless", func(d *Device) { d.Name, d.Wireless = "wlan0", true }, "it is wireless"},
		{"loopback", func(d *Device) { d.Name, d.Encap = "lo", "loopback" }, "it is the loopback device"},
		{"a workload port", func(d *Device) { d.Name, d.Kind = "fdp0123456789ab", "veth" }, `names that begin with "fdp"`},
		{"the bridge itself", func(d *Device) { d.Name, d.Kind = "br100", "bridge" }, "the network's own bridge"},
		{"a bridge", func(d *Device) { d.Name, d.Kind = "br0", "bridge" }, "set `bridge` to br0 to use it as it is"},
		{"WireGuard", func(d *Device) { d.Name, d.Kind, d.Encap = "wg0", "wireguard", "none" }, "it is a wireguard device without Ethernet frames (none)"},
		{"InfiniBand", func(d *Device) { d.Name, d.Encap = "ib0", "infiniband" }, "without Ethernet frames (infiniband)"},
		{"a macvlan", func(d *Device) { d.Kind = "macvlan" }, "which gets only the frames to its own MAC"},
		{"an ipvlan", func(d *Device) { d.Kind = "ipvlan" }, "which gets only the frames to its own MAC"},
		{"a macvlan's parent", func(d *Device) { d.Above = []string{"mv0", "mv1"} }, "mv0, mv1 takes its frames"},
		{"a bond's member", func(d *Device) { d.Master, d.MasterName, d.MasterKind = 9, "bond0", "bond" }, "it belongs to bond0 (bond) already"},
		{"another bridge's port", func(d *Device) { d.Master, d.MasterName, d.MasterKind = 9, "br0", "bridge" }, "it belongs to br0 (bridge) already"},
		{"Open vSwitch's", func(d *Device) { d.Master, d.MasterName, d.MasterKind = 9, "ovs-system", "openvswitch" }, "it belongs to ovs-system (openvswitch) already"},
		{"in a VRF", func(d *Device) { d.Master, d.MasterName, d.MasterKind = 9, "red", "vrf" }, "it belongs to red (vrf) already"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := card
			tc.change(&d)
			err := d.Refuse("br100")
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "flatInterface "+d.Name)):
				t.Errorf("error %v, want ErrUnfit that names %s and says %q", err, d.Name, tc.want)
			}
		})
	}
}

// What systemd-networkd and NetworkManager write about a device, and what we say of it.
func TestManaged(t *testing.T) {
	d := Device{Index: 7, Name: "eth1"}
	for _, tc := range []struct {
		name, networkd, nm string
		want               []string // a word of each line
	}{
		{"neither", "", "", nil},
		{"networkd leaves it", "ADMIN_STATE=unmanaged\n", "", nil},
		{"networkd has it", "# This is private data.\nADMIN_STATE=configured\nOPER_STATE=routable\nNETWORK_FILE=/etc/systemd/network/10-eth1.network\n", "",
			[]string{"systemd-networkd manages eth1 (configured, by /etc/systemd/network/10-eth1.network)"}},
		{"NetworkManager leaves it", "", "[device]\nmanaged=false\n", nil},
		{"NetworkManager has it", "", "[device]\nmanaged=true\nconnection-uuid=6c6c\n", []string{"unmanaged-devices=interface-name:eth1;interface-name:br100"}},
		{"both", "ADMIN_STATE=configuring\n", "[device]\nmanaged=true\n", []string{"systemd-networkd", "NetworkManager"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := t.TempDir()
			for dir, text := range map[string]string{"systemd/netif/links": tc.networkd, "NetworkManager/devices": tc.nm} {
				if text == "" {
					continue
				}
				path := filepath.Join(run, dir)
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
				for name, text := range map[string]string{"7": text, "8": "ADMIN_STATE=configured\nmanaged=true\n"} {
					if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := managed(run, d, "br100")
			if err != nil || len(got) != len(tc.want) {
				t.Fatalf("%q, %v; want %d lines", got, err, len(tc.want))
			}
			for i, want := range tc.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("line %q does not say %q", got[i], want)
				}
			}
		})
	}
}
