package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// conflist writes the network's conflist, as an editor does, and returns its path.
func (n *node) conflist(t testing.TB, dir, more string) string {
	t.Helper()
	path := filepath.Join(dir, "10-flat.conflist")
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "flat", "plugins": [{"type": "flat-bridge", "addressing": "dhcp"%s,
 "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": %q}}]}`, more, n.data)
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConflistsAreFollowed: from an empty node a conflist alone makes bridge, gateway
// address and service, by a daemon without most of its capabilities; what is edited
// is in force for the next client, and for the chain of a workload that lives.
func TestConflistsAreFollowed(t *testing.T) {
	t.Parallel()
	n, c := newNode(t), testnet.New(t)
	n.Delete(t, "br100")
	dir := t.TempDir()
	path := n.conflist(t, dir, `, "leaseTime": "2m"`)
	d := n.start(t, "--conf-dir", dir)
	d.serving(t, 1)

	port := link.PortName("cirros", "eth0")
	n.Port(t, "br100", port, c, known)
	s := c.Station(t, "eth0")
	reservation := n.hold(t, "cirros", known, reserved)
	open := "-s 10.0.0.0/24 -j ACCEPT"
	record := network()
	chain := func() string { return n.chain(t, filter.WorkloadChain(record, reservation).Name) }
	// What an ADD does itself, as it would by this very file: until then the guard drops
	// what comes from the port.
	await(t, "the chain of the open network", func() bool { return strings.Contains(chain(), open) })
	lease := func() (time.Duration, []string) {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer)), testnet.Envelope{})
		return r.IPAddressLeaseTime(0), texts(r.DNS())
	}
	if got, _ := lease(); got != 2*time.Minute {
		t.Fatalf("lease time %v", got)
	}

	n.conflist(t, dir, `, "leaseTime": "5m", "dns": {"nameservers": ["10.0.0.53"]}`)
	await(t, "the edit in an answer", func() bool {
		got, dns := lease()
		return got == 5*time.Minute && cmp.Equal(dns, []string{"10.0.0.53"})
	})
	n.conflist(t, dir, `, "leaseTime": "5m", "allowSameNetTraffic": false`)
	await(t, "the toggle in the workload's chain", func() bool {
		rules := chain()
		return strings.Contains(rules, "-j FLAT-DROP") && !strings.Contains(rules, open)
	})
	if got, _ := lease(); got != 5*time.Minute {
		t.Errorf("lease time %v", got)
	}

	web := "-p tcp -m tcp --dport 8080 -j ACCEPT"
	if rules := chain(); strings.Contains(rules, web) {
		t.Fatalf("%q is in\n%s", web, rules)
	}
	const edited = `, "leaseTime": "5m", "allowSameNetTraffic": false, "ingress": [{"protocol": "tcp", "ports": "8080"}], "dhcpOptions": {"42": ["10.0.0.9"]}`
	n.conflist(t, dir, edited)
	await(t, "the port in the workload's chain", func() bool { return strings.Contains(chain(), web) })
	ntp := message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionNTPServers))
	if got := texts(exchange(t, s, ntp, testnet.Envelope{}).NTPServers()); !cmp.Equal(got, []string{"10.0.0.9"}) {
		t.Errorf("option 42 is %v", got)
	}

	before := chain()
	n.conflist(t, dir, `, "leaseTime": "6m", "allowSameNetTraffic": "yes"`)
	await(t, "the refusal", func() bool {
		return strings.Contains(d.log.String(), "error: "+path+" is refused: line 1: key allowSameNetTraffic")
	})
	if got, _ := lease(); got != 5*time.Minute {
		t.Errorf("lease time %v after an edit that was refused", got)
	}
	if diff := cmp.Diff(before, chain()); diff != "" {
		t.Errorf("an edit that was refused changed the chain:\n%s", diff)
	}
	if _, m := n.get(t, "/metrics"); !strings.Contains(m, "\nflatdhcp_config_refused_total 1\n") {
		t.Error("the refusal is not counted")
	}

	// An ADD with an older file wrote the record: the file wins.
	if _, err := n.store.Configure(t.Context(), network(func(r *ipam.Network) { r.Bridge.LeaseTime = ipam.Duration(time.Hour) })); err != nil {
		t.Fatal(err)
	}
	n.conflist(t, dir, `, "leaseTime": "7m"`)
	await(t, "the file's lease time", func() bool { got, _ := lease(); return got == 7*time.Minute })
	await(t, "the open chain again", func() bool { return strings.Contains(chain(), open) })
	d.stop(t)
}

// TestBridgeOfAConflistIsMadeAgain: a gateway has its bridge as long as its conflist is there.
func TestBridgeOfAConflistIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	dir := t.TempDir()
	n.conflist(t, dir, "")
	d := n.start(t, "--conf-dir", dir)
	d.serving(t, 1)
	n.Delete(t, "br100")
	d.serving(t, 2)
	// Who serves may see the bridge before who made it says so.
	await(t, "word of the bridge", func() bool {
		return strings.Contains(d.log.String(), "bridge br100 is made, with gateway address 10.0.0.1/24")
	})
	d.stop(t)
}

// TestRecordIsAppliedWithoutConflists: what is in the store when the daemon starts, and
// what an ADD changes later, is in force for all workloads that live; so it is for one
// whose chain was flushed or damaged while no daemon ran.
func TestRecordIsAppliedWithoutConflists(t *testing.T) {
	t.Parallel()
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", link.PortName("cirros", "eth0"), c, known)
	reservation := n.reserve(t, "cirros", known, reserved).Reservation
	open, closed := network(), network(func(r *ipam.Network) { r.Bridge.AllowSameNetTraffic = false })
	name := filter.WorkloadChain(open, reservation).Name
	const subnet = "-s 10.0.0.0/24 -j ACCEPT"
	whole := func() bool {
		rules := n.chain(t, name)
		return strings.Contains(rules, subnet) && strings.Contains(rules, "-j FLAT-DROP")
	}
	inForce := func(d *daemon, times int) {
		t.Helper()
		await(t, "word of it", func() bool {
			return strings.Count(d.log.String(), "network flat is in force for living workloads (1)") == times
		})
	}
	d := n.start(t)
	await(t, "the workload's chain", whole)
	inForce(d, 1)
	d.stop(t)

	for _, damage := range [][]string{{"-F", name}, {"-D", name, "-j", "FLAT-DROP"}} {
		n.iptables(t, damage...)
		if whole() {
			t.Fatalf("%v does no damage", damage)
		}
		d = n.start(t)
		await(t, "the chain as it was", whole)
		inForce(d, 1)
		d.stop(t)
	}

	// Nothing to change is nothing to log.
	d = n.start(t)
	await(t, "a look at the chains", func() bool {
		_, m := n.get(t, "/metrics")
		return strings.Contains(m, `flatdhcp_reconciles_total{result="same"} 1`)
	})
	inForce(d, 0)
	if _, err := n.store.Configure(t.Context(), closed); err != nil {
		t.Fatal(err)
	}
	await(t, "the closed chain", func() bool {
		rules := n.chain(t, name)
		return strings.Contains(rules, "-j FLAT-DROP") && !strings.Contains(rules, subnet)
	})
	inForce(d, 1)
	d.stop(t)
}

// hold is reserve for a network that is configured already.
func (n *node) hold(t testing.TB, host string, mac ipam.MAC, addr netip.Addr) ipam.Reservation {
	t.Helper()
	g, err := n.tryReserve(host, mac, addr)
	if err != nil {
		t.Fatal(err)
	}
	return g.Reservation
}

// chain returns a chain's rules as iptables lists them; empty = there is none.
func (n *node) chain(t testing.TB, name string) string {
	t.Helper()
	return n.iptables(t, "-S", name)
}

// iptables returns what the program prints, empty if it fails.
func (n *node) iptables(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(testnet.RequireProgram(t, "iptables"), args...)
	var out testlog.Buffer
	cmd.Stdout = &out
	<-n.Start(t, cmd)
	return out.String()
}

// TestGatewayIsBroughtUpFromItsRecord: without conflist and without workload, bridge,
// gateway address, routing, shared chains and guard are there, and a peer's workload is
// served; also after all of it was taken away. On a node whose gateway is elsewhere nothing
// is made.
func TestGatewayIsBroughtUpFromItsRecord(t *testing.T) {
	t.Parallel()
	theirs, theirsIP := ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 66}, netip.MustParseAddr("10.0.0.66")
	n, c := newNode(t), testnet.New(t)
	n.Delete(t, "br100")
	record := network(func(r *ipam.Network) {
		r.Pool.RangeEnd = netip.MustParseAddr("10.0.0.63")
		r.Pool.Peers = []ipam.Peer{{Node: "compute-1", RangeStart: netip.MustParseAddr("10.0.0.64"), RangeEnd: netip.MustParseAddr("10.0.0.127")}}
		r.Bridge.IPMasq = true
	})
	elsewhere := network(func(r *ipam.Network) {
		r.Name, r.Bridge.Name, r.Bridge.IsGateway = "elsewhere", "br101", false
		r.Pool.Subnet, r.Pool.Gateway = netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("10.1.0.1")
		r.Pool.RangeStart, r.Pool.RangeEnd = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.254")
	})
	for _, r := range []ipam.Network{record, elsewhere} {
		if _, err := ipam.OpenDir(n.data).Store(r.Name).Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	n.setForwarding(t, "0")
	d := n.start(t)
	d.serving(t, 1)
	await(t, "word of what is in force", func() bool { return strings.Contains(d.log.String(), "network flat is in force") })
	complete := func() {
		t.Helper()
		for _, has := range []struct{ what, in, want string }{
			{"the bridge's flag", n.program(t, "ip", "-d", "link", "show", "br100"), "nf_call_iptables 1"},
			{"the gateway address", n.program(t, "ip", "address", "show", "br100"), "inet 10.0.0.1/24"},
			{"DHCP through INPUT", n.chain(t, "FLAT-INPUT"), "-i br100 -p udp -m udp --dport 67"},
			{"the jump of FORWARD", n.chain(t, "FORWARD"), "-A FORWARD -j FLAT-FORWARD"},
			{"masquerading", n.program(t, "iptables", "-t", "nat", "-S", "FLAT-POSTROUTING"), "-j MASQUERADE"},
			{"the guard", n.program(t, "nft", "list", "set", "bridge", "flatdhcp", "gateways"), "10.0.0.1"},
			{"routing", n.program(t, "cat", "/proc/sys/net/ipv4/ip_forward"), "1\n"},
		} {
			if !strings.Contains(has.in, has.want) {
				t.Errorf("%s: no %q in\n%s", has.what, has.want, has.in)
			}
		}
	}
	complete()
	n.Port(t, "br100", "eth2", c, theirs)
	s := c.Station(t, "eth0")
	if r := exchange(t, s, message(t, theirs, dhcpv4.MessageTypeDiscover), testnet.Envelope{}); !r.YourIPAddr.Equal(theirsIP.AsSlice()) {
		t.Errorf("offered %v", r.YourIPAddr)
	}
	// The control of silence.
	if _, err := n.store.ReserveAdmin(t.Context(), ipam.AdminRequest{Workload: ipam.Workload{Kind: ipam.KindName, Value: "cirros", IfName: "eth0"}, Addr: reserved, MAC: known}); err != nil {
		t.Fatal(err)
	}
	silent(t, s, message(t, ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 200}, dhcpv4.MessageTypeDiscover), testnet.Envelope{})

	n.program(t, "nft", "delete", "table", "bridge", "flatdhcp")
	n.program(t, "iptables", "-F", "FLAT-INPUT")
	n.Delete(t, "br100")
	d.serving(t, 2)
	await(t, "word of what is in force again", func() bool { return strings.Count(d.log.String(), "network flat is in force") == 2 })
	complete()
	if out := n.program(t, "ip", "link"); strings.Contains(out, "br101") {
		t.Errorf("the bridge of a network whose gateway is elsewhere was made:\n%s", out)
	}
	d.stop(t)
}

// setForwarding writes net.ipv4.ip_forward of the node's namespace.
func (n *node) setForwarding(t testing.TB, value string) {
	t.Helper()
	n.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0) })
}

// program runs a program in the node's namespace and returns what it prints.
func (n *node) program(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testnet.RequireProgram(t, name), args...)
	var out testlog.Buffer
	cmd.Stdout = &out
	<-n.Start(t, cmd)
	return out.String()
}
