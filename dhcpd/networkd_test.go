package main

import (
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// networkd is a systemd-networkd with one DHCP client, in a /run and a /sys of its own. It
// runs without systemd, D-Bus and udev: a read-only /sys has it take links for initialized.
type networkd struct{ leases string }

// networkd runs it in the client's namespace until the test ends.
func (c *realClient) networkd(t testing.TB) networkd {
	t.Helper()
	program, unshare := "/lib/systemd/systemd-networkd", testnet.RequireProgram(t, "unshare")
	testnet.RequireProgram(t, program)
	w := networkd{leases: filepath.Join(c.dir, "netif", "leases")}
	if err := os.MkdirAll(w.leases, 0o755); err != nil {
		t.Fatal(err)
	}
	const conf = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n" +
		"[DHCPv4]\nRequestBroadcast=no\nUseMTU=yes\nUseDomains=yes\n"
	if err := os.WriteFile(c.path("eth0.network"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	// It gives up root for a user of its own, who must be able to write, and with that loses
	// the signal that would end it with its parent: the shell keeps it, and the namespace's
	// processes end with their first.
	const inside = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif
cp "$1/eth0.network" /run/systemd/network/
mount --bind "$1/netif" /run/systemd/netif
mkdir -p /run/systemd/netif/links /run/systemd/netif/lldp
chown -R systemd-network: /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
"$2" &
wait`
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside, "sh", c.dir, program)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console")
	c.run(t, "systemd-networkd", cmd)
	return w
}

// lease waits until it has noted a lease of addr, and returns what it noted.
func (w networkd) lease(t testing.TB, addr netip.Addr) map[string]string {
	t.Helper()
	lease := map[string]string{}
	await(t, "a lease of "+addr.String(), func() bool {
		files, err := filepath.Glob(filepath.Join(w.leases, "*"))
		if err != nil || len(files) != 1 {
			return false
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return false
		}
		clear(lease)
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				lease[key] = value
			}
		}
		return lease["ADDRESS"] == addr.String()
	})
	return lease
}

// TestNetworkd has what the other clients' tests have, by the client's own clock.
func TestNetworkd(t *testing.T) {
	t.Parallel()
	// T1 comes after some 11 seconds, T2 after some 20. While it renews or rebinds it asks
	// again after a minute only.
	lease := func(n *ipam.Network) { n.Bridge.LeaseTime = ipam.Duration(24 * time.Second) }
	t.Run("lease, renewal after a restart, rebinding", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t, lease)
		observer := n.Station(t, "br100")
		got := c.networkd(t).lease(t, reserved)
		maps.DeleteFunc(got, func(key, _ string) bool { return key == "T1" || key == "T2" || key == "CLIENTID" })
		if diff := cmp.Diff(map[string]string{
			"ADDRESS": "10.0.0.2", "NETMASK": "255.255.255.0", "ROUTER": "10.0.0.1", "SERVER_ADDRESS": "10.0.0.1", "DNS": "9.9.9.9",
			"DOMAINNAME": "novalocal", "HOSTNAME": "cirros", "MTU": "1500", "LIFETIME": "24",
		}, got); diff != "" {
			t.Errorf("lease (-want +got):\n%s", diff)
		}
		renewal := func(to netip.Addr) {
			t.Helper()
			if _, err := observer.Receive(2*patience, func(r *testnet.Received) bool {
				return r.MessageType() == dhcpv4.MessageTypeRequest && r.To == to && r.ClientIPAddr.Equal(reserved.AsSlice())
			}); err != nil {
				t.Fatalf("a request to %s: %v", to, err)
			}
		}
		acked := func(d *daemon) {
			t.Helper()
			await(t, "its acknowledgement", func() bool { return strings.Contains(d.log.String(), "DHCPACK(br100) 10.0.0.2") })
			if s := d.log.String(); strings.Contains(s, "DHCPDISCOVER") || strings.Contains(s, "DHCPNAK") {
				t.Error("the client had to begin anew")
			}
		}
		d.stop(t)
		d = n.start(t)
		d.serving(t, 1)
		renewal(gateway)
		acked(d)
		d.stop(t)
		renewal(gateway) // which nobody hears
		d = n.start(t)
		d.serving(t, 1)
		renewal(testnet.BroadcastIP)
		acked(d)
		d.stop(t)
	})
	t.Run("a moved reservation: refused at the first renewal, then the new address", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t, lease)
		w := c.networkd(t)
		w.lease(t, reserved)
		n.release(t, "cirros")
		n.reserve(t, "moved", known, netip.MustParseAddr("10.0.0.44"), lease)
		if got := w.lease(t, netip.MustParseAddr("10.0.0.44")); got["HOSTNAME"] != "moved" {
			t.Errorf("lease %v", got)
		}
		if !strings.Contains(d.log.String(), "DHCPNAK(br100) 10.0.0.2 fa:16:3e:00:00:02 wrong address") {
			t.Error("no NAK")
		}
	})
}
