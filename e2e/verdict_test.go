package e2e

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// cause is the rule that is to drop something: how often it has, and how to do
// without it.
type cause struct {
	name    string
	count   func() int
	remove  func()
	restore func()
}

// fallback is the last rule of a workload's chain.
func (w *workload) fallback() cause {
	rule := []string{w.chain(), "-j", "FLAT-DROP"}
	return cause{
		name:    w.chain() + " -j FLAT-DROP",
		count:   func() int { return w.n.ruleCount(w.chain(), "-j FLAT-DROP") },
		remove:  func() { w.n.run(append([]string{"iptables", "-D"}, rule...)...) },
		restore: func() { w.n.run(append([]string{"iptables", "-A"}, rule...)...) },
	}
}

// guardRule is the guard's rule of which nft prints text, with its counter.
func (n *node) guardRule(chain, reason, text string) cause {
	return cause{
		name:  "guard " + chain + ": " + text,
		count: func() int { return n.guardCount(reason) },
		remove: func() {
			n.t.Helper()
			out := n.run("nft", "-a", "list", "chain", "bridge", "flatdhcp", chain)
			found := regexp.MustCompile(regexp.QuoteMeta(text) + `.* # handle (\d+)`).FindStringSubmatch(out)
			if found == nil {
				n.t.Fatalf("chain %s of the guard has no rule %q:\n%s", chain, text, out)
			}
			n.run("nft", "delete", "rule", "bridge", "flatdhcp", chain, "handle", found[1])
		},
		restore: func() { n.run("flatctl", "apply", lab.ConflistPath(network)) },
	}
}

// path is the way of a frame from one workload to another, with a frame that always
// passes, so that absence is proven and not waited for.
type path struct {
	n        *node
	from, to *lab.Tap
	marker   []byte
}

func newPath(from, to *workload) path {
	marker, _ := lab.Marker(from.endpoint(), to.endpoint())
	return path{n: from.n, from: from.tap(), to: to.tap(), marker: marker}
}

func (p path) passes(frame []byte) bool {
	p.n.t.Helper()
	ok, err := lab.Delivered(p.n.within(), p.from, p.to, frame, p.marker)
	if err != nil {
		p.n.t.Fatal(err)
	}
	return ok
}

// mustPass fails the test if the frame does not arrive.
func (p path) mustPass(what string, frame []byte) {
	p.n.t.Helper()
	if !p.passes(frame) {
		p.n.t.Errorf("%s does not arrive", what)
	}
}

// mustDrop fails the test unless the frame is dropped, by c, and arrives without it.
// The frame is made anew for each try: one that arrived makes the next of its flow
// ESTABLISHED.
func (p path) mustDrop(what string, frame func(try uint16) []byte, c cause) {
	p.n.t.Helper()
	before := c.count()
	if p.passes(frame(1)) {
		p.n.t.Errorf("%s arrives", what)
	}
	if got := c.count() - before; got != 1 {
		p.n.t.Errorf("%s: %q counted %d packets, want 1", what, c.name, got)
	}
	c.remove()
	p.mustPass(what+", the control without "+c.name+",", frame(2))
	c.restore()
	if p.passes(frame(3)) {
		p.n.t.Errorf("%s arrives after %s was restored", what, c.name)
	}
}

// answered reports whether a ping of addr, run by run, was answered. It ends with the
// answer: how long it waits otherwise only matters to a busy machine.
func answered(n *node, run func(argv ...string) error, addr netip.Addr) bool {
	n.t.Helper()
	err := run("ping", "-c", "1", "-W", "20", addr.String())
	var failed *lab.RunError
	if err != nil && !errors.As(err, &failed) {
		n.t.Fatal(err)
	}
	return err == nil
}

func (n *node) exec(argv ...string) error {
	_, _, err := n.Run(n.within(), argv...)
	return err
}

func (w *workload) exec(argv ...string) error {
	_, _, err := w.Run(w.n.within(), argv...)
	return err
}

// B1 and B2: the gateway reaches a workload whatever the toggle says, which is our
// documented choice (nova drops B2). B3: the workload reaches the gateway.
func TestGatewayAndWorkloadReachEachOther(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, _ bool) {
		vm := n.attach("vm1", lab.CNIOptions{})
		if !answered(n, n.exec, vm.addr) {
			t.Errorf("the gateway does not reach %s", vm.addr)
		}
		if !answered(n, vm.exec, gateway) {
			t.Errorf("%s does not reach the gateway", vm.addr)
		}
	})
}

// containing tells the frames that carry a payload.
func containing(payload string) func([]byte) bool {
	return func(f []byte) bool { return bytes.Contains(f, []byte(payload)) }
}

// C1: what the node sends from an address that is not on the bridge is refused with
// EPERM, by the same chain.
func TestForeignAddressOfTheNodeIsRefused(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, _ bool) {
		vm := n.attach("vm1", lab.CNIOptions{})
		foreign := netip.MustParseAddr("192.0.2.7")
		n.run("ip", "address", "add", foreign.String()+"/32", "dev", "lo")
		tap := vm.tap()
		send := func(from netip.Addr, payload string) (err error) {
			doErr := n.Do(func() error {
				fd, e := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if e != nil {
					return e
				}
				defer func() { _ = unix.Close(fd) }()
				if e := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); e != nil {
					return e
				}
				err = unix.Sendto(fd, []byte(payload), 0, &unix.SockaddrInet4{Port: 9, Addr: vm.addr.As4()})
				return nil
			})
			if doErr != nil {
				t.Fatal(doErr)
			}
			return err
		}
		c := vm.fallback()
		before := c.count()
		if err := send(foreign, "refused"); !errors.Is(err, unix.EPERM) {
			t.Errorf("sendto from %s: %v, want %v", foreign, err, unix.EPERM)
		}
		if got := c.count() - before; got != 1 {
			t.Errorf("%q counted %d packets, want 1", c.name, got)
		}
		if err := send(gateway, "of the gateway"); err != nil {
			t.Errorf("sendto from the gateway address: %v", err)
		}
		// What the node sent before that would have come before it.
		frames, err := tap.Until(n.within(), containing("of the gateway"))
		if err != nil {
			t.Errorf("a datagram from the gateway address: %v", err)
		}
		if slices.ContainsFunc(frames, containing("refused")) {
			t.Error("what sendto refused arrives")
		}
		c.remove()
		if err := send(foreign, "refused before"); err != nil {
			t.Errorf("the control without %s: %v", c.name, err)
		}
		if _, err := tap.Until(n.within(), containing("refused before")); err != nil {
			t.Errorf("the control without %s does not arrive: %v", c.name, err)
		}
	})
}

// Rule 5 on a node whose gateway is elsewhere: the node reaches its workloads from the
// address that it has on an adopted bridge, and keeps its connections when the toggle
// closes; from no other address of its own.
func TestNodeWithoutGatewayReachesItsWorkloads(t *testing.T) {
	n := newNode(t, keys{"isGateway": false})
	own, foreign := netip.MustParseAddr("10.0.0.250"), netip.MustParseAddr("192.0.2.7")
	n.run("ip", "link", "add", "br100", "type", "bridge")
	n.run("ip", "address", "add", own.String()+"/24", "dev", "br100")
	n.run("ip", "address", "add", foreign.String()+"/32", "dev", "lo")
	vm := n.attach("vm1", lab.CNIOptions{})
	if !answered(n, n.exec, vm.addr) {
		t.Fatalf("the node does not reach %s with the toggle on", vm.addr)
	}
	tracked := func() bool { return strings.Contains(n.state().Section("conntrack"), own.String()) }
	if !tracked() {
		t.Fatal("the ping is not tracked, so that its survival would prove nothing")
	}
	n.apply(keys{"allowSameNetTraffic": false})
	if !tracked() {
		t.Error("closing the toggle cut the node's own connection, which stays allowed")
	}
	const rule = "-o br100 -m physdev ! --physdev-is-bridged -m addrtype --src-type LOCAL --limit-iface-out -j ACCEPT"
	before := n.ruleCount(vm.chain(), vm.chain()+" "+rule)
	if !answered(n, n.exec, vm.addr) {
		t.Errorf("the node does not reach %s with the toggle off", vm.addr)
	}
	if n.ruleCount(vm.chain(), vm.chain()+" "+rule) == before {
		t.Error("another rule than the node's own let the ping pass")
	}
	c := vm.fallback()
	dropped := c.count()
	ping := []string{"ping", "-c", "1", "-W", "1", "-I", foreign.String(), vm.addr.String()}
	if err := n.exec(ping...); err == nil || c.count() == dropped {
		t.Errorf("from %s: error %v, and %q counted %d", foreign, err, c.name, c.count()-dropped)
	}
	n.run(append([]string{"iptables", "-D", vm.chain()}, strings.Fields(rule)...)...)
	dropped = c.count()
	if err := n.exec("ping", "-c", "1", "-W", "1", vm.addr.String()); err == nil || c.count() == dropped {
		t.Error("the control: without its rule the node still reaches the workload")
	}
}

// D1: a neighbour on the same node reaches a workload with the toggle on; with it off
// the workload's chain drops it.
func TestNeighbourMeetsTheToggle(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, open bool) {
		vm1, vm2 := n.attach("vm1", lab.CNIOptions{}), n.attach("vm2", lab.CNIOptions{})
		p := newPath(vm2, vm1)
		echo := func(id uint16) []byte {
			return lab.Ethernet(vm1.mac, vm2.mac, 0x0800, lab.Echo(vm2.addr, vm1.addr, id, 1, nil))
		}
		datagram := lab.Ethernet(vm1.mac, vm2.mac, 0x0800, lab.UDP(
			netip.AddrPortFrom(vm2.addr, 4000), netip.AddrPortFrom(vm1.addr, 9), []byte("hello")))
		if open {
			p.mustPass("an echo request of a neighbour", echo(1))
			p.mustPass("a datagram of a neighbour", datagram)
			return
		}
		p.mustDrop("an echo request of a neighbour", echo, vm1.fallback())
	})
}

// D4: a workload that poses as a DHCP server is not heard, whatever the toggle says.
func TestRogueDHCPServerIsDropped(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, open bool) {
		vm1, vm2 := n.attach("vm1", lab.CNIOptions{}), n.attach("vm2", lab.CNIOptions{})
		p := newPath(vm2, vm1)
		offer := lab.Ethernet(lab.Broadcast, vm2.mac, 0x0800, lab.UDP(
			netip.AddrPortFrom(vm2.addr, 67), netip.MustParseAddrPort("255.255.255.255:68"), make([]byte, 300)))
		rule := n.guardRule("no_dhcp_server", "in_dhcp_server", `udp sport 67 counter name "in_dhcp_server" drop`)
		if !open {
			// A closed port has a second line of defence: the control needs both away.
			second := n.guardRule("to_closed", "out_closed", `counter name "out_closed" drop`)
			first := rule
			rule.remove = func() {
				first.remove()
				malformed := n.guardRule("no_dhcp_server", "in_malformed", `counter name "in_malformed" drop`)
				malformed.remove()
				before := second.count()
				if p.passes(offer) {
					t.Error("a rogue offer reaches a closed port once the sender's rule is gone")
				}
				if second.count() == before {
					t.Errorf("%q did not count it", second.name)
				}
				second.remove()
			}
		} else {
			first := rule
			rule.remove = func() {
				first.remove()
				n.guardRule("no_dhcp_server", "in_malformed", `counter name "in_malformed" drop`).remove()
			}
		}
		p.mustDrop("a broadcast DHCP offer of a neighbour", func(uint16) []byte { return offer }, rule)
	})
}

// The toggle stops and resumes a ping that is running, and the rule says so.
func TestToggleStopsAndResumesARunningPing(t *testing.T) {
	n := newNode(t, nil)
	vm1, vm2 := n.attach("vm1", lab.CNIOptions{}), n.attach("vm2", lab.CNIOptions{})
	ping, err := vm2.Start("ping", "-i", "0.05", vm1.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ping.Kill() }()
	if _, _, err := ping.WaitLine(n.within(), 0, "bytes from "+vm1.addr.String()); err != nil {
		t.Fatal(err)
	}
	n.apply(keys{"allowSameNetTraffic": false})
	before := n.ruleCount(vm1.chain(), "-j FLAT-DROP")
	n.eventually("ten dropped requests", func() bool { return n.ruleCount(vm1.chain(), "-j FLAT-DROP") >= before+10 })
	n.apply(keys{"allowSameNetTraffic": true})
	// Sequence numbers tell what was answered, whenever the test gets to read it. That
	// requests went unanswered shows once a later one is answered again.
	var gaps []int
	n.eventually("the ping to resume", func() bool {
		gaps = unanswered(ping.Lines())
		return len(gaps) > 0
	})
	if len(gaps) != 1 || gaps[0] < 10 {
		t.Errorf("requests without a reply, in a row: %d; want 10 or more, once:\n%s", gaps, strings.Join(ping.Lines(), "\n"))
	}
}

// unanswered returns how many requests there were between replies that ping printed, where
// there were any.
func unanswered(lines []string) []int {
	var gaps []int
	last := 0
	for _, line := range lines {
		_, after, ok := strings.Cut(line, "bytes from ")
		if !ok {
			continue
		}
		_, after, _ = strings.Cut(after, "icmp_seq=")
		digits, _, _ := strings.Cut(after, " ")
		seq, err := strconv.Atoi(digits)
		if err != nil {
			continue
		}
		if missing := seq - last - 1; missing > 0 {
			gaps = append(gaps, missing)
		}
		last = seq
	}
	return gaps
}

// ARP spoofing of the gateway is alive with the guard off, dead with it on.
func TestARPSpoofOfTheGateway(t *testing.T) {
	n := newNode(t, nil)
	victim, attacker := n.attach("vm1", lab.CNIOptions{}), n.attach("vm2", lab.CNIOptions{})
	p := newPath(attacker, victim)
	spoof := lab.ARP(victim.mac, attacker.mac, lab.ARPReply,
		lab.Endpoint{MAC: attacker.mac, Addr: gateway}, victim.endpoint())
	before := n.guardCount("in_arp")
	if p.passes(spoof) {
		t.Error("a spoofed ARP reply passes the guard")
	}
	if got := n.guardCount("in_arp") - before; got != 1 {
		t.Errorf("guard counter in_arp counted %d, want 1", got)
	}
	n.apply(keys{"antiSpoofing": false})
	p.mustPass("the same reply without antiSpoofing", spoof)
	n.apply(keys{"antiSpoofing": true})
	if p.passes(spoof) {
		t.Error("the reply passes after the guard was turned on again")
	}
}

// A workload cannot take the place of a LAN host in the bridge's table: LLDP frames are
// learned from before any filter sees them, so its port does not learn at all.
func TestPortTakesNoLANHostsPlace(t *testing.T) {
	n := newNode(t, nil)
	w := n.attach("vm1", lab.CNIOptions{})
	lan := n.container("lan")
	const lanMAC = "02:00:00:00:00:99"
	n.run("ip", "link", "add", "lan0", "master", "br100", "type", "veth", "peer", "name", "eth0", "address", lanMAC, "netns", "lan")
	n.run("ip", "link", "set", "lan0", "up")
	// Nothing that the LAN host says by itself may put it back in its place.
	for _, argv := range [][]string{
		{"sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"},
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "address", "add", "10.0.0.200/24", "dev", "eth0"},
	} {
		if _, _, err := lan.Run(n.within(), argv...); err != nil {
			t.Fatal(err)
		}
	}
	n.eventually("the LAN host to be heard", func() bool {
		_, _, err := lan.Run(n.within(), "ping", "-c", "1", "-W", "1", gateway.String())
		return err == nil
	})
	place := func() string {
		_, dev, _ := strings.Cut(n.run("sh", "-c", "bridge fdb show br br100 | grep ^"+lanMAC), " dev ")
		return strings.Fields(dev)[0]
	}
	if got := place(); got != "lan0" {
		t.Fatalf("the LAN host is learned at %s", got)
	}
	mac, err := net.ParseMAC(lanMAC)
	if err != nil {
		t.Fatal(err)
	}
	tap := w.tap()
	lldp := lab.Ethernet(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac, 0x88cc, make([]byte, 46))
	// No hook counts LLDP; what follows it on the same way is counted.
	marker := lab.Ethernet(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}, w.mac, 0x0027, make([]byte, 46))
	before := n.guardCount("in_bpdu")
	steal := func() {
		t.Helper()
		if err := tap.Send(lldp, marker); err != nil {
			t.Fatal(err)
		}
		seen := before
		n.eventually("the guard to count the marker", func() bool {
			before = n.guardCount("in_bpdu")
			return before > seen
		})
	}
	steal()
	if got := place(); got != "lan0" {
		t.Errorf("a workload's LLDP frame moved the LAN host to %s", got)
	}
	n.apply(keys{"antiSpoofing": false})
	steal()
	if got := place(); got != w.port() {
		t.Errorf("the control without antiSpoofing leaves the LAN host at %s", got)
	}
}
