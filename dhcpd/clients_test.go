package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// script configures the interface as clients' scripts do and notes each event. It
// understands the variables of udhcpc and those of dhclient.
const script = `#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
event=${reason:-$1}
dev=$interface
ip=${new_ip_address:-$ip}
prefix=${new_subnet_mask:+24}; prefix=${prefix:-${mask:-24}}
case $event in
deconfig|PREINIT|EXPIRE|FAIL|STOP|RELEASE) ip addr flush dev $dev; ip link set $dev up ;;
bound|renew|BOUND|RENEW|REBIND|REBOOT) ip addr replace $ip/$prefix dev $dev ;;
esac
echo "$event ip=$ip router=${new_routers:-$router} dns=${new_domain_name_servers:-$dns} domain=${new_domain_name:-$domain} host=${new_host_name:-$hostname} lease=${new_dhcp_lease_time:-$lease} server=${new_dhcp_server_identifier:-$serverid} mtu=${new_interface_mtu:-$mtu}" >>EVENTS
`

// realClient is a DHCP client from a package, in a namespace of its own.
type realClient struct {
	ns     *testnet.NS
	dir    string
	events string
}

func newRealClient(t testing.TB, ns *testnet.NS) *realClient {
	t.Helper()
	c := &realClient{ns: ns, dir: t.TempDir()}
	c.events = filepath.Join(c.dir, "events")
	text := strings.ReplaceAll(script, "EVENTS", c.events)
	for name, content := range map[string]string{
		"script": text, "events": "", "leases": "",
		"conf": "timeout 10;\nretry 2;\ninitial-interval 1;\nbackoff-cutoff 2;\nrequest subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, host-name, interface-mtu;\n",
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events of the client:\n%s", c.said(t))
		}
	})
	return c
}

func (c *realClient) path(name string) string { return filepath.Join(c.dir, name) }

// run has a client run in its namespace until the test ends; one that fails shows what it said.
func (c *realClient) run(t testing.TB, name string, cmd *exec.Cmd) {
	t.Helper()
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	c.ns.Start(t, cmd)
	t.Cleanup(func() {
		_ = log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", name, b)
		}
	})
}

func (c *realClient) said(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(c.events)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// event waits for the n-th event of a kind and returns its line.
func (c *realClient) event(t testing.TB, kind string, n int) string {
	t.Helper()
	var lines []string
	await(t, fmt.Sprintf("%s no. %d of the client", kind, n), func() bool {
		lines = lines[:0]
		for l := range strings.Lines(c.said(t)) {
			if strings.HasPrefix(l, kind+" ") && strings.HasSuffix(l, "\n") {
				lines = append(lines, strings.TrimSpace(l))
			}
		}
		return len(lines) >= n
	})
	return lines[n-1]
}

// udhcpc runs busybox's client until the test ends.
func (c *realClient) udhcpc(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testnet.RequireProgram(t, "udhcpc"), append([]string{
		"-i", "eth0", "-f", "-s", c.path("script"), "-t", "10", "-T", "2", "-A", "1", "-O", "mtu", "-O", "hostname",
	}, args...)...)
	c.ns.Start(t, cmd)
	return cmd
}

// dhclient runs ISC's client until the test ends; its leases stay for the next one.
func (c *realClient) dhclient(t testing.TB, args ...string) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(testnet.RequireProgram(t, "dhclient"), append([]string{
		"-4", "-d", "--no-pid", "-lf", c.path("leases"), "-cf", c.path("conf"), "-sf", c.path("script"),
	}, append(args, "eth0")...)...)
	return cmd, c.ns.Start(t, cmd)
}

// clientNode is a running daemon with one known client's port and an observer of the
// bridge.
func clientNode(t testing.TB, change ...func(*ipam.Network)) (*node, *realClient, *daemon) {
	t.Helper()
	n, ns := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", ns, known)
	n.reserve(t, "cirros", known, reserved, change...)
	d := n.start(t)
	d.serving(t, 1)
	return n, newRealClient(t, ns), d
}

const wantLease = "ip=10.0.0.2 router=10.0.0.1 dns=9.9.9.9 domain=novalocal host=cirros lease=120 server=10.0.0.1 mtu=1500"

func TestUdhcpc(t *testing.T) {
	t.Parallel() // they mostly wait, each in namespaces of its own
	for name, args := range map[string][]string{"": nil, "with broadcast flag": {"-B"}} {
		t.Run("lease and renewal "+name, func(t *testing.T) {
			t.Parallel()
			_, c, d := clientNode(t)
			cmd := c.udhcpc(t, args...)
			if got := c.event(t, "bound", 1); got != "bound "+wantLease {
				t.Fatalf("got  %s\nwant bound %s", got, wantLease)
			}
			discovers := strings.Count(d.log.String(), "DHCPDISCOVER") // a slow answer is asked for again
			kick(t, cmd, syscall.SIGUSR1)
			if got := c.event(t, "renew", 1); got != "renew "+wantLease {
				t.Errorf("got  %s\nwant renew %s", got, wantLease)
			}
			if n := strings.Count(d.log.String(), "DHCPDISCOVER"); n != discovers {
				t.Errorf("%d DISCOVERs, there were %d: the renewal must not begin anew", n, discovers)
			}
		})
	}
	t.Run("renewal after the daemon was restarted", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		cmd := c.udhcpc(t)
		c.event(t, "bound", 1)
		d.stop(t)
		d = n.start(t)
		d.serving(t, 1)
		kick(t, cmd, syscall.SIGUSR1)
		c.event(t, "renew", 1)
		if s := d.log.String(); strings.Contains(s, "DHCPNAK") || strings.Contains(s, "DHCPDISCOVER") {
			t.Error("the restarted daemon did not simply renew the lease")
		}
	})
	t.Run("rebinding when the server comes back", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		cmd := c.udhcpc(t)
		c.event(t, "bound", 1)
		observer := n.Station(t, "br100")
		d.stop(t)
		kick(t, cmd, syscall.SIGUSR1)
		// Its unicast is refused; then it turns to everybody.
		if _, err := observer.Receive(patience, func(r *testnet.Received) bool {
			return r.MessageType() == dhcpv4.MessageTypeRequest && r.To == testnet.BroadcastIP && r.ClientIPAddr.Equal(reserved.AsSlice())
		}); err != nil {
			t.Fatalf("a rebinding request: %v", err)
		}
		d = n.start(t)
		d.serving(t, 1)
		c.event(t, "renew", 1)
		if strings.Contains(d.log.String(), "DHCPDISCOVER") {
			t.Error("the client had to begin anew")
		}
	})
	t.Run("a moved reservation: refused, then the new address", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		cmd := c.udhcpc(t)
		c.event(t, "bound", 1)
		n.release(t, "cirros")
		n.reserve(t, "moved", known, netip.MustParseAddr("10.0.0.44"))
		kick(t, cmd, syscall.SIGUSR1)
		if got := c.event(t, "bound", 2); !strings.Contains(got, "ip=10.0.0.44 ") {
			t.Errorf("got %s, want 10.0.0.44", got)
		}
		if !strings.Contains(d.log.String(), "DHCPNAK(br100) 10.0.0.2 fa:16:3e:00:00:02 wrong address") {
			t.Error("no NAK")
		}
	})
	t.Run("a stranger meets silence, a known one beside it does not", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		ns := testnet.New(t)
		n.Port(t, "br100", "tap1", ns, stranger)
		other := newRealClient(t, ns)
		other.udhcpc(t)
		await(t, "the stranger's third DISCOVER", func() bool {
			return strings.Count(d.log.String(), "DHCPDISCOVER(br100) fa:16:3e:00:00:63 no address available") >= 3
		})
		c.udhcpc(t)
		c.event(t, "bound", 1)
		if s := other.said(t); strings.Contains(s, "bound") {
			t.Errorf("the stranger has a lease: %s", s)
		}
		if s := d.log.String(); strings.Contains(s, "DHCPOFFER(br100) 10.0.0.99") || strings.Contains(s, "DHCPNAK") {
			t.Error("the daemon answered the stranger")
		}
		// Known from now on, without a restart of anything.
		n.reserve(t, "stranger", stranger, netip.MustParseAddr("10.0.0.99"))
		if got := other.event(t, "bound", 1); !strings.Contains(got, "ip=10.0.0.99 ") {
			t.Errorf("got %s, want 10.0.0.99", got)
		}
	})
}

func TestDhclient(t *testing.T) {
	t.Parallel()
	stop := func(t *testing.T, c *realClient, cmd *exec.Cmd, done <-chan struct{}) {
		t.Helper()
		// It writes the lease down after its script has run.
		await(t, "the client to note its lease", func() bool {
			b, err := os.ReadFile(c.path("leases"))
			return err == nil && strings.Contains(string(b), "expire")
		})
		kick(t, cmd, syscall.SIGKILL)
		<-done
	}
	t.Run("lease, then init-reboot with its lease file", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		cmd, done := c.dhclient(t)
		if got := c.event(t, "BOUND", 1); got != "BOUND "+wantLease {
			t.Fatalf("got  %s\nwant BOUND %s", got, wantLease)
		}
		stop(t, c, cmd, done)
		d.stop(t)
		d = n.start(t)
		d.serving(t, 1)
		c.dhclient(t)
		if got := c.event(t, "REBOOT", 1); got != "REBOOT "+wantLease {
			t.Errorf("got  %s\nwant REBOOT %s", got, wantLease)
		}
		if strings.Contains(d.log.String(), "DHCPDISCOVER") {
			t.Error("the client had to begin anew")
		}
	})
	t.Run("init-reboot with an address that is no longer its own", func(t *testing.T) {
		t.Parallel()
		n, c, d := clientNode(t)
		cmd, done := c.dhclient(t)
		c.event(t, "BOUND", 1)
		stop(t, c, cmd, done)
		n.release(t, "cirros")
		n.reserve(t, "moved", known, netip.MustParseAddr("10.0.0.44"))
		c.dhclient(t)
		if got := c.event(t, "BOUND", 2); !strings.Contains(got, "ip=10.0.0.44 ") {
			t.Errorf("got %s, want 10.0.0.44", got)
		}
		if !strings.Contains(d.log.String(), "DHCPNAK(br100) 10.0.0.2 fa:16:3e:00:00:02 wrong address") {
			t.Error("no NAK")
		}
	})
	t.Run("a moved reservation: refused at the first renewal, then the new address", func(t *testing.T) {
		t.Parallel()
		lease := func(r *ipam.Network) { r.Bridge.LeaseTime = ipam.Duration(16 * time.Second) }
		n, c, d := clientNode(t, lease)
		c.dhclient(t)
		c.event(t, "BOUND", 1)
		n.release(t, "cirros")
		n.reserve(t, "moved", known, netip.MustParseAddr("10.0.0.44"), lease)
		if got := c.event(t, "BOUND", 2); !strings.Contains(got, "ip=10.0.0.44 ") {
			t.Errorf("got %s, want 10.0.0.44", got)
		}
		if !strings.Contains(d.log.String(), "DHCPNAK(br100) 10.0.0.2 fa:16:3e:00:00:02 wrong address") {
			t.Error("no NAK")
		}
	})
	t.Run("renewal by unicast after a restart, rebinding after another", func(t *testing.T) {
		t.Parallel()
		// T1 comes after some 15 seconds, T2 after some 27.
		n, c, d := clientNode(t, func(r *ipam.Network) { r.Bridge.LeaseTime = ipam.Duration(32 * time.Second) })
		observer := n.Station(t, "br100")
		asked := func(to netip.Addr) {
			t.Helper()
			if _, err := observer.Receive(2*patience, func(r *testnet.Received) bool {
				return r.MessageType() == dhcpv4.MessageTypeRequest && r.To == to && r.ClientIPAddr.Equal(reserved.AsSlice())
			}); err != nil {
				t.Fatalf("a request to %s: %v", to, err)
			}
		}
		restart := func() {
			t.Helper()
			d = n.start(t)
			d.serving(t, 1)
		}
		unbroken := func() {
			t.Helper()
			if s := d.log.String(); strings.Contains(s, "DHCPDISCOVER") || strings.Contains(s, "DHCPNAK") {
				t.Error("the client had to begin anew")
			}
		}
		c.dhclient(t)
		c.event(t, "BOUND", 1)
		d.stop(t)
		restart()
		asked(gateway)
		c.event(t, "RENEW", 1)
		unbroken()
		d.stop(t)
		asked(testnet.BroadcastIP) // nobody heard its renewals
		restart()
		c.event(t, "RENEW", 2) // dhclient calls both so
		unbroken()
	})
}

func kick(t testing.TB, cmd *exec.Cmd, s os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}
