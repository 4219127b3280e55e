package main

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// dhcpcd runs Roy Marples's client until the test ends. It keeps state in fixed places of
// the machine and leaves helpers behind: so it gets /var/lib/dhcpcd and /run of its own,
// and a process namespace that ends with it.
func (c *realClient) dhcpcd(t testing.TB, args ...string) {
	t.Helper()
	unshare, program := testnet.RequireProgram(t, "unshare"), testnet.RequireProgram(t, "dhcpcd")
	conf := "option interface_mtu, host_name, domain_name, domain_name_servers, routers\noption dhcp_server_identifier\n"
	if err := os.WriteFile(c.path("dhcpcd.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	const inside = `mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/dhcpcd && exec "$@"`
	cmd := exec.Command(unshare, append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside, "sh",
		program, "-4", "-B", "-d", "-f", c.path("dhcpcd.conf"), "-c", c.path("script"),
	}, append(args, "eth0")...)...)
	c.run(t, "dhcpcd", cmd)
}

// TestDhcpcd has what the other clients' tests have, by the client's own clock: it takes
// no lease of less than 20 seconds.
func TestDhcpcd(t *testing.T) {
	t.Parallel()
	lease := func(n *ipam.Network) { n.Bridge.LeaseTime = ipam.Duration(20 * time.Second) }
	want := strings.Replace(wantLease, "lease=120", "lease=20", 1)
	t.Run("lease, renewal by unicast after a restart, rebinding after another", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t, lease)
		observer := n.Station(t, "br100")
		c.dhcpcd(t) // with its probes for a conflicting address
		if got := c.event(t, "BOUND", 1); got != "BOUND "+want {
			t.Fatalf("got  %s\nwant BOUND %s", got, want)
		}
		d.stop(t)
		d = n.start(t)
		d.serving(t, 1)
		c.event(t, "RENEW", 1)
		if _, err := observer.Receive(patience, func(r *testnet.Received) bool {
			return r.MessageType() == dhcpv4.MessageTypeRequest && r.To == gateway && r.ClientIPAddr.Equal(reserved.AsSlice())
		}); err != nil {
			t.Errorf("a renewal sent to the gateway: %v", err)
		}
		if s := d.log.String(); strings.Contains(s, "DHCPDISCOVER") || strings.Contains(s, "DHCPNAK") {
			t.Error("the lease was not simply renewed")
		}
		d.stop(t)
		// Nobody hears the next renewal; it then asks everybody.
		if _, err := observer.Receive(30*time.Second, func(r *testnet.Received) bool {
			return r.MessageType() == dhcpv4.MessageTypeRequest && r.To == testnet.BroadcastIP && r.ClientIPAddr.Equal(reserved.AsSlice())
		}); err != nil {
			t.Fatalf("a rebinding request: %v", err)
		}
		d = n.start(t)
		d.serving(t, 1)
		c.event(t, "REBIND", 1)
		if s := d.log.String(); strings.Contains(s, "DHCPDISCOVER") || strings.Contains(s, "DHCPNAK") {
			t.Error("the client had to begin anew")
		}
	})
	t.Run("a moved reservation: refused at the first renewal, then the new address", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t, lease)
		observer := n.Station(t, "br100")
		c.dhcpcd(t, "-A")
		c.event(t, "BOUND", 1)
		n.release(t, "cirros")
		n.reserve(t, "moved", known, netip.MustParseAddr("10.0.0.44"), lease)
		if got := c.event(t, "BOUND", 2); !strings.Contains(got, "ip=10.0.0.44 ") {
			t.Errorf("got %s, want 10.0.0.44", got)
		}
		if !strings.Contains(d.log.String(), "DHCPNAK(br100) 10.0.0.2 fa:16:3e:00:00:02 wrong address") {
			t.Error("no NAK")
		}
		// It did not have to wait until it asked everybody.
		renewed := false
		for {
			r, err := observer.Receive(time.Millisecond, nil)
			if err != nil {
				break
			}
			if r.MessageType() != dhcpv4.MessageTypeRequest || r.ClientIPAddr.IsUnspecified() {
				continue
			}
			renewed = true
			if r.To == testnet.BroadcastIP {
				t.Error("the client heard of it only when it rebound")
			}
		}
		if !renewed {
			t.Error("positive control: the renewal itself was not seen")
		}
	})
}
