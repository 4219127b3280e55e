package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testdns"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// asHolder makes this test binary a program that has a UDP port and does no more.
const asHolder = "FLAT_DHCPD_TEST_HOLD"

func hold(addr string) int {
	c, err := net.ListenPacket("udp4", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("held")
	buf := make([]byte, 1)
	for err == nil {
		_, _, err = c.ReadFrom(buf)
	}
	return 1
}

// forwarder is where the tests' upstream server is, in the node's own namespace.
var forwarder = netip.MustParseAddrPort("127.0.0.1:5353")

// withDNS has the daemon serve DNS, and the clients be told of nobody else.
func withDNS(n *ipam.Network) {
	n.Bridge.DNS = ipam.DNS{Enabled: true, Forwarders: []netip.AddrPort{forwarder}}
}

// dnsNode is a node with DNS, one workload with its address, and an upstream server that
// says 192.0.2.1 to everything.
func dnsNode(t testing.TB) (*node, *testnet.NS, *testdns.Server) {
	t.Helper()
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	c.Give(t, "eth0", netip.PrefixFrom(reserved, 24))
	n.reserve(t, "vm1", known, reserved, withDNS)
	var up *testdns.Server
	n.Do(t, func() error { up = testdns.New(t, forwarder.String(), testdns.Address("192.0.2.1", "60")); return nil })
	return n, c, up
}

// resolving waits until the daemon has said n times that it serves DNS.
func (d *daemon) resolving(t testing.TB, n int) {
	t.Helper()
	await(t, fmt.Sprintf("DNS for the %d. time", n), func() bool {
		return strings.Count(d.log.String(), "DNS on 10.0.0.1, domain novalocal") >= n
	})
}

// ask sends one question from a namespace, by the given source address if it is valid.
func ask(t testing.TB, ns *testnet.NS, network, name string, qtype uint16, from netip.Addr) (*dns.Msg, error) {
	t.Helper()
	var c net.Conn
	ns.Do(t, func() (err error) {
		d := net.Dialer{}
		if from.IsValid() {
			d.LocalAddr = &net.UDPAddr{IP: from.AsSlice()}
		}
		c, err = d.DialContext(context.Background(), network, "10.0.0.1:53")
		return err
	})
	defer func() { _ = c.Close() }()
	client := dns.Client{Net: network, Timeout: patience}
	r, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: c})
	return r, err
}

// answer is what a client gets, as text.
func answer(t testing.TB, ns *testnet.NS, network, name string, qtype uint16) string {
	t.Helper()
	r, err := ask(t, ns, network, name, qtype, netip.Addr{})
	if err != nil {
		return err.Error()
	}
	s := dns.RcodeToString[r.Rcode]
	for _, rr := range r.Answer {
		s += " " + strings.Join(strings.Fields(rr.String())[3:], " ")
	}
	return s
}

// TestDNSOnTheWire: workloads and the node itself, by a DNS library and by the resolvers
// that programs use.
func TestDNSOnTheWire(t *testing.T) {
	t.Parallel()
	busybox := testnet.RequireProgram(t, "busybox")
	n, c, up := dnsNode(t)
	d := n.start(t, "--log-level", "debug")
	d.resolving(t, 1)
	for name, ns := range map[string]*testnet.NS{"workload": c, "node": n.NS} {
		for _, network := range []string{"udp", "tcp"} {
			for _, tc := range []struct {
				name  string
				qtype uint16
				want  string
			}{
				{"vm1.novalocal.", dns.TypeA, "NOERROR A 10.0.0.2"},
				{"VM1.NOVALOCAL.", dns.TypeAAAA, "NOERROR"},
				{"2.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR PTR vm1.novalocal."},
				{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR PTR gateway.novalocal."},
				{"vm9.novalocal.", dns.TypeA, "NXDOMAIN"},
				{"www.example.org.", dns.TypeA, "NOERROR A 192.0.2.1"},
			} {
				if got := answer(t, ns, network, tc.name, tc.qtype); got != tc.want {
					t.Errorf("%s by %s: %s: %s, want %s", name, network, tc.name, got, tc.want)
				}
			}
		}
	}
	for _, q := range up.Asked() {
		if q.Name != "www.example.org." {
			t.Errorf("the upstream server was asked for %s", q.Name)
		}
	}
	// A row that comes now is a name at once.
	for i := range 20 {
		host := fmt.Sprintf("new%d", i)
		g := n.reserve(t, host, ipam.MAC{2, 0, 0, 0, 1, byte(i)}, netip.AddrFrom4([4]byte{10, 0, 0, 100 + byte(i)}), withDNS)
		if got, want := answer(t, c, "udp", host+".novalocal.", dns.TypeA), "NOERROR A "+g.Addr.String(); got != want {
			t.Fatalf("right after its ADD: %s, want %s", got, want)
		}
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 10.0.0.1\nsearch novalocal\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{busybox, "nslookup", "vm1.novalocal", "10.0.0.1"}, []string{"Name:\tvm1.novalocal\nAddress: 10.0.0.2"}},
		{[]string{busybox, "nslookup", "10.0.0.2", "10.0.0.1"}, []string{"name = vm1.novalocal"}},
		{[]string{busybox, "nslookup", "vm9.novalocal", "10.0.0.1"}, []string{"can't find vm9.novalocal: NXDOMAIN"}},
		// The C library's, by the search list.
		{[]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && getent ahostsv4 vm1; getent hosts 10.0.0.2; getent ahosts www.example.org`, conf},
			[]string{"10.0.0.2        STREAM vm1.novalocal", "10.0.0.2        vm1.novalocal", "192.0.2.1       STREAM www.example.org"}},
	} {
		cmd := exec.Command(tc.args[0], tc.args[1:]...)
		out := &testlog.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		<-c.Start(t, cmd)
		for _, want := range tc.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v: no %q in\n%s", tc.args, want, out)
			}
		}
	}
	for _, line := range []string{"query[A] vm1.novalocal from 10.0.0.2", "DHCP vm1.novalocal is 10.0.0.2", "forwarded www.example.org to 127.0.0.1", "using nameserver 127.0.0.1#5353"} {
		if !strings.Contains(d.log.String(), line) {
			t.Errorf("not logged: %s", line)
		}
	}
	// And clients are told where to ask.
	offer := exchange(t, c.Station(t, "eth0"), message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer)), testnet.Envelope{})
	if got := texts(offer.DNS()); !cmp.Equal(got, []string{"10.0.0.1"}) {
		t.Errorf("option 6 is %v", got)
	}
	_, metrics := n.get(t, "/metrics")
	for _, want := range []string{
		`flatdhcp_dns_served{network="flat"} 1`, `flatdhcp_dns_queries_total{network="flat",outcome="outsider"} 0`,
		// The cache's: what was asked of the upstream server once, however often.
		`flatdhcp_dns_forwards_total{network="flat",result="error"} 0`, `flatdhcp_dns_queries_total{network="flat",outcome="failed"} 0`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s in the metrics", want)
		}
	}
	for _, some := range []string{`queries_total{network="flat",outcome="found"}`, `queries_total{network="flat",outcome="nxdomain"}`, `queries_total{network="flat",outcome="nodata"}`,
		`queries_total{network="flat",outcome="cached"}`, `queries_total{network="flat",outcome="forwarded"}`, `tcp_queries_total{network="flat"}`,
		`cache_total{network="flat",result="hit"}`, `cache_total{network="flat",result="miss"}`, `forwards_total{network="flat",result="ok"}`, `cache_entries{network="flat"}`, `cache_bytes{network="flat"}`} {
		_, after, there := strings.Cut(metrics, "flatdhcp_dns_"+some+" ")
		if value, _, _ := strings.Cut(after, "\n"); !there || value == "0" {
			t.Errorf("flatdhcp_dns_%s is %q", some, value)
		}
	}
	d.stop(t)
	if got := ports(t, n.NS, "0100000A:0035"); got != 0 {
		t.Errorf("%d sockets on port 53 after the end", got)
	}
}

// TestNoOpenResolver: from outside nobody is answered, neither by an address of its own
// nor by one of the subnet's.
func TestNoOpenResolver(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]string{"own address": "203.0.113.2", "spoofed address": "10.0.0.77"} {
		t.Run(name, func(t *testing.T) {
			n, c, up := dnsNode(t)
			outside := testnet.New(t)
			n.Bridge(t, "wan0", ipam.MAC{2, 0, 0, 0, 9, 1}, netip.MustParsePrefix("203.0.113.1/24"))
			n.Port(t, "wan0", "tap1", outside, ipam.MAC{2, 0, 0, 0, 9, 2})
			outside.Give(t, "eth0", netip.MustParsePrefix("203.0.113.2/24"))
			outside.Give(t, "eth0", netip.MustParsePrefix("10.0.0.77/32"))
			outside.Route(t, netip.MustParseAddr("203.0.113.1"))
			d := n.start(t)
			d.resolving(t, 1)
			var socket net.Conn
			outside.Do(t, func() (err error) {
				socket, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: netip.MustParseAddr(from).AsSlice()}}).DialContext(context.Background(), "udp4", "10.0.0.1:53")
				return err
			})
			defer func() { _ = socket.Close() }()
			wire, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := socket.Write(wire); err != nil {
				t.Fatal(err)
			}
			await(t, "the daemon to see it", func() bool {
				return strings.Contains(d.log.String(), "ignoring query from non-local network "+from)
			})
			// The control: the same question of a workload, which the daemon reads after
			// it from the same socket, is answered.
			if got := answer(t, c, "udp", "www.example.org.", dns.TypeA); got != "NOERROR A 192.0.2.1" {
				t.Errorf("a workload gets %s", got)
			}
			if n := len(up.Asked()); n != 1 {
				t.Errorf("the upstream server was asked %d times: for the outsider too", n)
			}
			d.stop(t)
		})
	}
}

// TestDNSFollowsBridgeAndRecord: a bridge or gateway address made again, and DNS turned
// off and on in the configuration.
func TestDNSFollowsBridgeAndRecord(t *testing.T) {
	t.Parallel()
	n, c, _ := dnsNode(t)
	d := n.start(t)
	s := c.Station(t, "eth0")
	works := func() {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			if got := answer(t, c, network, "vm1.novalocal.", dns.TypeA); got != "NOERROR A 10.0.0.2" {
				t.Errorf("by %s: %s", network, got)
			}
		}
	}
	option6 := func() []string {
		t.Helper()
		m := message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer))
		return texts(exchange(t, s, m, testnet.Envelope{}).DNS())
	}
	d.resolving(t, 1)
	works()
	n.Delete(t, "br100") // the daemon makes it again
	d.resolving(t, 2)
	n.Rejoin(t, "br100", "tap0")
	works()
	n.Take(t, "br100", gatewayIn)
	await(t, "the address to be given back", func() bool {
		return strings.Contains(d.log.String(), "bridge br100 has gateway address 10.0.0.1/24 now")
	})
	await(t, "answers at it", func() bool {
		return answer(t, c, "udp", "vm1.novalocal.", dns.TypeA) == "NOERROR A 10.0.0.2"
	})

	configure := func(change func(*ipam.Network)) {
		t.Helper()
		if _, err := n.store.Configure(t.Context(), network(withDNS, change)); err != nil {
			t.Fatal(err)
		}
	}
	configure(func(r *ipam.Network) { r.Bridge.DNS.Enabled = false })
	await(t, "port 53 to be free", func() bool { return ports(t, n.NS, "0100000A:0035") == 0 })
	await(t, "no name server to be offered", func() bool { return len(option6()) == 0 })
	before := strings.Count(d.log.String(), "DNS on 10.0.0.1, domain novalocal")
	configure(func(*ipam.Network) {})
	d.resolving(t, before+1)
	works()
	await(t, "the gateway to be offered", func() bool { return cmp.Equal(option6(), []string{"10.0.0.1"}) })
	// What the conflist says comes before what is served.
	configure(func(r *ipam.Network) { r.Bridge.DNS.Nameservers = []netip.Addr{netip.MustParseAddr("9.9.9.9")} })
	await(t, "the configured server to be offered", func() bool { return cmp.Equal(option6(), []string{"9.9.9.9"}) })
	works()
	configure(func(r *ipam.Network) { r.Bridge.DNS.Domain = "lab.example" })
	await(t, "the other zone", func() bool { return answer(t, c, "udp", "vm1.lab.example.", dns.TypeA) == "NOERROR A 10.0.0.2" })
	d.stop(t)
}

// TestDNSUnderAPolicyOfDrop: where the node's INPUT drops what nobody accepts, the rules
// that the daemon puts in at its start let questions through, by UDP and by TCP; each is
// needed for its protocol.
func TestDNSUnderAPolicyOfDrop(t *testing.T) {
	t.Parallel()
	n, c, _ := dnsNode(t)
	d := n.start(t)
	d.resolving(t, 1)
	rule := func(network string) string {
		for line := range strings.Lines(n.iptables(t, "-S", "FLAT-INPUT")) {
			if strings.Contains(line, " -i br100 -p "+network+" ") && strings.Contains(line, " --dport 53 ") {
				return strings.TrimSpace(line)
			}
		}
		return ""
	}
	await(t, "the rules for DNS", func() bool { return rule("udp") != "" && rule("tcp") != "" })
	n.iptables(t, "-P", "INPUT", "DROP")
	dropped := func() (packets int) {
		t.Helper()
		head, _, _ := strings.Cut(n.iptables(t, "-L", "INPUT", "-v", "-x", "-n"), "\n")
		if _, err := fmt.Sscanf(head, "Chain INPUT (policy DROP %d packets", &packets); err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		return packets
	}
	const want = "NOERROR A 10.0.0.2"
	for _, network := range []string{"udp", "tcp"} {
		before := dropped()
		if got := answer(t, c, network, "vm1.novalocal.", dns.TypeA); got != want {
			t.Errorf("by %s: %s, want %s", network, got, want)
		}
		if now := dropped(); now != before {
			t.Errorf("by %s: INPUT's policy dropped %d packets", network, now-before)
		}
		front, rest, _ := strings.Cut(rule(network), `"`)
		comment, back, _ := strings.Cut(rest, `"`)
		own := slices.Concat(strings.Fields(front), []string{comment}, strings.Fields(back))
		own[0] = "-D"
		n.iptables(t, own...)
		if rule(network) != "" {
			t.Fatalf("%v deletes nothing", own)
		}
		asked := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			asked <- c.TryDo(func() error {
				conn, err := new(net.Dialer).DialContext(ctx, network, "10.0.0.1:53")
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				client := dns.Client{Net: network, Timeout: patience}
				stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
				defer stop()
				_, _, err = client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion("vm1.novalocal.", dns.TypeA), &dns.Conn{Conn: conn})
				return err
			})
		}()
		await(t, "INPUT's policy to drop a question by "+network, func() bool { return dropped() > before })
		cancel()
		if err := <-asked; err == nil {
			t.Errorf("by %s: answered without the rule", network)
		}
		own[0] = "-A"
		n.iptables(t, own...)
		if got := answer(t, c, network, "vm1.novalocal.", dns.TypeA); got != want {
			t.Errorf("by %s, the rule back: %s, want %s", network, got, want)
		}
	}
	d.stop(t)
}

// TestPort53Taken by another program: DHCP goes on and names whom to ask instead, the
// log names the program, and once it has gone DNS is served.
func TestPort53Taken(t *testing.T) {
	t.Parallel()
	n, c, _ := dnsNode(t)
	told := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("9.9.9.9:53"), forwarder, netip.MustParseAddrPort("192.0.2.9:53")}
	if _, err := n.store.Configure(t.Context(), network(withDNS, func(r *ipam.Network) { r.Bridge.DNS.Forwarders = told })); err != nil {
		t.Fatal(err)
	}
	holder, ended := n.occupy(t, "0.0.0.0:53")
	d := n.start(t)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	option6 := func() []string {
		t.Helper()
		m := message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer))
		return texts(exchange(t, s, m, testnet.Envelope{}).DNS())
	}
	// Those that a workload can ask: not on this node's loopback, not on another port.
	if got := option6(); !cmp.Equal(got, []string{"9.9.9.9", "192.0.2.9"}) {
		t.Errorf("option 6 is %v", got)
	}
	want := fmt.Sprintf("error: network flat has no DNS: port 53 of 10.0.0.1 is taken by probably dnsmasq (process %d)", holder.Process.Pid)
	if log := d.log.String(); !strings.Contains(log, want) || !strings.Contains(log, "its clients are told of 9.9.9.9, 192.0.2.9 instead") {
		t.Errorf("no %q in the log", want)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	n.Give(t, "br100", netip.MustParsePrefix("10.0.0.200/32")) // wakes the daemon
	d.resolving(t, 1)
	await(t, "the gateway to be offered", func() bool { return cmp.Equal(option6(), []string{"10.0.0.1"}) })
	if got := answer(t, c, "udp", "vm1.novalocal.", dns.TypeA); got != "NOERROR A 10.0.0.2" {
		t.Error(got)
	}
	d.stop(t)
}

// occupy has a program take a UDP port of the node. It is known by its name, dnsmasq, and
// no more: what sockets root's processes have, the daemon has given up to see.
func (n *node) occupy(t testing.TB, addr string) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "dnsmasq")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	holder, out := exec.Command(program), &testlog.Buffer{}
	holder.Env, holder.Stdout = append(os.Environ(), asHolder+"="+addr), out
	ended := n.Start(t, holder)
	await(t, "the port to be taken", func() bool { return strings.Contains(out.String(), "held") })
	return holder, ended
}

// ports counts the UDP sockets on an address, in /proc's form, in a namespace.
func ports(t testing.TB, ns *testnet.NS, local string) int {
	t.Helper()
	cmd := exec.Command("/bin/cat", "/proc/net/udp")
	var out testlog.Buffer
	cmd.Stdout = &out
	<-ns.Start(t, cmd)
	return strings.Count(out.String(), local+" ")
}
