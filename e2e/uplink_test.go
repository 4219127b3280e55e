package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// uplinked returns the compute hosts of a lab as nodes of one network that is joined by
// their eth2, each with addresses of its own to give.
func uplinked(t *testing.T, hosts int, extra keys) (l *lab.Lab, nodes []*node) {
	t.Helper()
	labtest.RequireRoot(t)
	l = labtest.New(t, labtest.Options(t))
	if err := l.Build(labtest.Within(t, patience), lab.Seed(hosts)); err != nil {
		t.Fatal(err)
	}
	for i := range hosts {
		n := &node{Host: l.Host(fmt.Sprintf("compute-%d", i+1)), t: t, network: network, extra: keys{
			"isGateway": false, "flatInterface": "eth2",
			"ipam.rangeStart": fmt.Sprintf("10.0.0.%d", 64*(i+1)), "ipam.rangeEnd": fmt.Sprintf("10.0.0.%d", 64*(i+1)+63),
		}}
		n.configure(extra)
		nodes = append(nodes, n)
	}
	return l, nodes
}

// link is what `ip -details link` says of an interface.
func (n *node) link(name string) string {
	n.t.Helper()
	return n.run("ip", "-details", "link", "show", "dev", name)
}

// A compute host is untouched until its first ADD; from then on its network card is a port
// of the bridge, which has its MAC and MTU, and workloads of two hosts meet.
func TestWorkloadsOfTwoHostsMeetByTheirUplinks(t *testing.T) {
	l, nodes := uplinked(t, 2, nil)
	a, b := nodes[0], nodes[1]
	a.run("ip", "link", "set", "eth2", "mtu", "1400")
	b.run("ip", "link", "set", "eth2", "mtu", "1400")
	if out, _, err := a.Run(a.within(), "ip", "link", "show", "br100"); err == nil {
		t.Errorf("a bridge before the first ADD: %s", out)
	}
	before := a.state()
	wa, wb := a.attach("a", lab.CNIOptions{}), b.attach("b", lab.CNIOptions{})
	for what, argv := range map[string][]string{
		"a's card":   {"eth2", "master br100", "promiscuity 1", "52:54:00:00:03:02"},
		"a's bridge": {"br100", "mtu 1400", "52:54:00:00:03:02", "state UP"},
		"a's port":   {wa.port(), "mtu 1400"},
	} {
		out := a.link(argv[0])
		for _, want := range argv[1:] {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q: %s", what, want, out)
			}
		}
	}
	for _, name := range []string{"eth2", "br100"} {
		if out := a.run("ip", "-4", "address", "show", "dev", name); out != "" {
			t.Errorf("%s of a compute host has an address: %s", name, out)
		}
	}
	wa.checked()
	if !answered(a, wa.exec, wb.addr) {
		t.Errorf("%s on one host does not reach %s on another", wa.addr, wb.addr)
	}
	// Its carrier goes and comes: nothing needs to be done.
	flat := l.Host("flat")
	port := func(state string) {
		t.Helper()
		if _, _, err := flat.Run(a.within(), "ip", "link", "set", "compute-1-eth2", state); err != nil {
			t.Fatal(err)
		}
	}
	port("down")
	a.eventually("the carrier to go", func() bool { return strings.Contains(a.link("eth2"), "NO-CARRIER") })
	wa.checked()
	port("up")
	// A ping that is sent before is lost, and there is only one.
	a.eventually("the carrier to come back", func() bool {
		far, _, err := flat.Run(a.within(), "ip", "-details", "link", "show", "dev", "compute-1-eth2")
		return err == nil && strings.Contains(far, "state forwarding") && strings.Contains(a.link("eth2"), "state forwarding")
	})
	if !answered(a, wa.exec, wb.addr) {
		t.Errorf("once the carrier is back %s does not reach %s", wa.addr, wb.addr)
	}
	wa.detach()
	if out := a.link("eth2"); !strings.Contains(out, "master br100") {
		t.Errorf("DEL took the uplink: %s", out)
	}
	if out := a.run("flatctl", "uplink", "restore", network); !strings.Contains(out, "eth2") {
		t.Errorf("flatctl uplink restore: %s", out)
	}
	after := a.state()
	for _, section := range []string{"addresses", "routes", "routes6"} {
		if got, want := linesOf(after.Section(section), "eth2"), linesOf(before.Section(section), "eth2"); got != want {
			t.Errorf("%s of eth2 after the restore:\n%s\nbefore:\n%s", section, got, want)
		}
	}
	if out := a.link("eth2"); strings.Contains(out, "master") || !strings.Contains(out, "promiscuity 0") {
		t.Errorf("eth2 after the restore: %s", out)
	}
	// Who asked for it back is not to lose it again, unless it is said so.
	if _, err := a.tryAttach(a.container("c"), lab.CNIOptions{}); err == nil || !strings.Contains(err.Error(), "flatctl uplink restore") {
		t.Errorf("ADD after the restore: %v", err)
	}
	a.run("flatctl", "apply", lab.ConflistPath(network))
	wc := a.attach("d", lab.CNIOptions{})
	if !answered(a, wc.exec, wb.addr) {
		t.Errorf("after an apply %s does not reach %s", wc.addr, wb.addr)
	}
}

func linesOf(text, word string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// What an uplink must not be, and what ADD and STATUS say of it; nothing is touched.
func TestUplinksThatAreRefused(t *testing.T) {
	_, nodes := uplinked(t, 1, nil)
	n := nodes[0]
	n.run("sh", "-c", `set -e
ip link add brx type bridge
ip link add taken type veth peer name taken1
ip link set taken master brx
ip link add below type veth peer name below1
ip link add mv link below type macvlan mode bridge
ip address add 10.0.0.70/24 dev below1
ip address add 172.30.0.1/24 dev taken1
ip tuntap add tun0 mode tun`)
	before := n.state()
	c := n.container("w")
	for _, tc := range []struct {
		name   string
		change keys
		want   []string
	}{
		{"missing", keys{"flatInterface": "eth9"}, []string{"eth9", "no such interface"}},
		{"a bridge", keys{"flatInterface": "brx"}, []string{"brx", "it is a bridge"}},
		{"another's port", keys{"flatInterface": "taken"}, []string{"taken", "belongs to brx"}},
		{"beneath a macvlan", keys{"flatInterface": "below"}, []string{"mv takes its frames"}},
		{"a macvlan", keys{"flatInterface": "mv"}, []string{"mv", "only the frames to its own MAC"}},
		{"no Ethernet", keys{"flatInterface": "tun0"}, []string{"tun0", "without Ethernet frames"}},
		{"addresses that may not be moved", keys{"flatInterface": "taken1", "moveAddresses": false}, []string{"172.30.0.1/24", "moveAddresses true"}},
		{"an address that a workload could get", keys{"flatInterface": "below1", "moveAddresses": true}, []string{"10.0.0.70/24", "ipam.exclude"}},
		{"an address beside the gateway's", keys{"flatInterface": "below1", "isGateway": true}, []string{"10.0.0.70/24", "set ipam.gateway to 10.0.0.70"}},
		{"an MTU that it does not take", keys{"flatInterface": "eth2", "mtu": 9000}, []string{"mtu is 9000", "1500"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := keys{"isGateway": false, "moveAddresses": true, "mtu": 0}
			for k, v := range tc.change {
				conf[k] = v
			}
			n.configure(conf)
			_, err := n.tryAttach(c, lab.CNIOptions{})
			if err == nil {
				t.Fatal("ADD succeeded")
			}
			_, statusErr := n.CNI(n.within(), "status", network, c, lab.CNIOptions{})
			if statusErr == nil {
				t.Error("STATUS is content")
				statusErr = err
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("ADD does not say %q: %v", want, err)
				}
				if !strings.Contains(statusErr.Error(), want) {
					t.Errorf("STATUS does not say %q: %v", want, statusErr)
				}
			}
			for _, section := range []string{"links", "addresses", "routes"} {
				if got := n.state().Section(section); got != before.Section(section) {
					t.Errorf("%s changed:\n%s", section, got)
				}
			}
		})
	}
}

// A first ADD that fails gives the network card back as it was, and one that is killed leaves
// what the next one goes on with, at whatever change of the move.
func TestFirstADDFailsOrDiesWhileItTakesTheUplink(t *testing.T) {
	_, nodes := uplinked(t, 1, nil)
	n := nodes[0]
	n.run("sh", "-c", `set -e
ip address add 172.30.0.5/24 brd + dev eth2
ip -6 address add 2001:db8::5/64 dev eth2 nodad
ip route add 10.50.0.0/16 via 172.30.0.1 dev eth2 metric 7
ip -6 route add 2001:db8:5::/48 via 2001:db8::1 dev eth2`)
	c := n.container("w")
	w := &workload{Container: c, n: n, ifName: "eth0"}
	// differs tells what of the node itself, store and run directory aside, is not as before.
	differs := func(before lab.State) string {
		var b strings.Builder
		after := n.state()
		for _, section := range []string{"links", "addresses", "routes", "routes6", "nft", "iptables", "sysctl"} {
			was, is := before.Section(section), after.Section(section)
			for line := range strings.Lines(was) {
				if !strings.Contains(is, line) {
					b.WriteString("- " + line)
				}
			}
			for line := range strings.Lines(is) {
				if !strings.Contains(was, line) {
					b.WriteString("+ " + line)
				}
			}
			if was != is && b.Len() == 0 {
				b.WriteString(section + " has other lines\n" + is)
			}
		}
		return b.String()
	}
	var steps []string
	const file = "/run/lab/steps"
	if out, err := n.armed("ADD", c, "trace:"+file); err != nil {
		t.Fatalf("ADD: %v, %s", err, out)
	}
	for line := range strings.Lines(n.run("cat", file)) {
		steps = append(steps, strings.TrimSpace(line))
	}
	moved := n.state().String()
	for _, want := range []string{"172.30.0.5/24 brd 172.30.0.255 scope global br100", "2001:db8::5/64", "10.50.0.0/16 via 172.30.0.1 dev br100 metric 7", "2001:db8:5::/48 via 2001:db8::1 dev br100"} {
		if !strings.Contains(moved, want) {
			t.Errorf("after ADD there is no %q:\n%s", want, moved)
		}
	}
	free := func() {
		t.Helper()
		w.del()
		n.run("flatctl", "uplink", "restore", network)
		n.run("sh", "-c", "ip link del br100; rm -f /run/flatdhcp/uplink/*")
	}
	free() // the guard's table and the base chains stay
	before := n.state()
	for _, want := range []string{"172.30.0.5/24 brd 172.30.0.255 scope global eth2", "10.50.0.0/16 via 172.30.0.1 dev eth2 metric 7"} {
		if !strings.Contains(before.String(), want) {
			t.Errorf("after the restore there is no %q", want)
		}
	}
	if len(steps) < 20 {
		t.Fatalf("ADD has the steps %q", steps)
	}
	for _, step := range sample(t, "failures of the first ADD with an uplink", 4, steps) {
		t.Run("fail at "+step, func(t *testing.T) {
			out, err := n.armed("ADD", c, step+"/after/fail")
			if err == nil {
				t.Fatalf("ADD succeeded: %s", out)
			}
			if diff := differs(before); diff != "" {
				t.Errorf("a failed ADD leaves a difference: %s\n%s", out, diff)
			}
			w.del()
		})
	}
	var moves []string
	for _, step := range steps {
		if strings.HasPrefix(step, "UPLINK/") {
			moves = append(moves, step)
		}
	}
	for _, step := range sample(t, "ADDs killed while they take the uplink", 4, moves) {
		t.Run("killed at "+step, func(t *testing.T) {
			n.kill("ADD", c, step+"/after/kill", "")
			n.attachTo(c, lab.CNIOptions{}).checked()
			free()
			if diff := differs(before); diff != "" {
				t.Errorf("a killed ADD, another, DEL and restore leave a difference:\n%s", diff)
			}
		})
	}
}

// What an ADD that was killed has left of a move the daemon finishes when it starts, on a
// node that is a gateway: nobody need attach anything.
func TestDaemonFinishesAMoveThatDied(t *testing.T) {
	_, nodes := uplinked(t, 1, keys{"isGateway": true})
	n := nodes[0]
	n.run("ip", "address", "add", "172.30.0.5/24", "dev", "eth2")
	n.run("ip", "route", "add", "10.50.0.0/16", "via", "172.30.0.1", "dev", "eth2")
	c := n.container("w")
	w := &workload{Container: c, n: n, ifName: "eth0"}
	const file = "/run/lab/steps"
	if out, err := n.armed("ADD", c, "trace:"+file); err != nil {
		t.Fatalf("ADD: %v, %s", err, out)
	}
	var moves []string
	for step := range strings.Lines(n.run("cat", file)) {
		if strings.HasPrefix(step, "UPLINK/") {
			moves = append(moves, strings.TrimSpace(step))
		}
	}
	w.del()
	n.run("flatctl", "uplink", "restore", network)
	n.run("sh", "-c", "ip link del br100; rm -f /run/flatdhcp/uplink/*")
	where := func() string {
		return linesOf(n.run("ip", "-o", "-4", "address", "show"), "172.30.0.5") + linesOf(n.run("ip", "route", "show"), "10.50.0.0/16")
	}
	before := where()
	moved := func() bool {
		got := where()
		return strings.Count(got, "\n") == 2 && strings.Count(got, "br100") >= 2 && !strings.Contains(got, "eth2")
	}
	for _, step := range []string{moves[0], moves[len(moves)/2]} {
		t.Run("killed at "+step, func(t *testing.T) {
			n.kill("ADD", c, step+"/after/kill", "")
			if moved() {
				t.Fatalf("the control: the move was over at %s", step)
			}
			d := n.daemon()
			n.eventually("the daemon to finish the move", moved)
			if out := n.link("eth2"); !strings.Contains(out, "master br100") {
				t.Errorf("eth2: %s", out)
			}
			n.attachTo(c, lab.CNIOptions{}).checked()
			w.del()
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
			n.run("flatctl", "uplink", "restore", network)
			if got := where(); got != before {
				t.Errorf("after the restore there is\n%s\nwant\n%s", got, before)
			}
			n.run("sh", "-c", "ip link del br100; rm -f /run/flatdhcp/uplink/*")
		})
	}
}

// foreign gives the foreign host addresses on the flat segment.
func foreign(t *testing.T, l *lab.Lab, addrs ...string) *node {
	t.Helper()
	stranger := &node{Host: l.Host("stranger"), t: t, network: network, extra: keys{}}
	for _, a := range addrs {
		stranger.run("ip", "address", "add", a+"/24", "dev", "eth2")
	}
	return stranger
}

// withStranger is uplinked with one compute host and a foreign host on the flat segment.
func withStranger(t *testing.T, extra keys, addrs ...string) (n, stranger *node) {
	t.Helper()
	labtest.RequireRoot(t)
	l := labtest.New(t, labtest.Options(t))
	topology := lab.Seed(1).With(lab.Machine{Name: "stranger", NICs: []lab.NIC{{Name: "eth2", Switch: "flat"}}})
	if err := l.Build(labtest.Within(t, patience), topology); err != nil {
		t.Fatal(err)
	}
	n = &node{Host: l.Host("compute-1"), t: t, network: network, extra: keys{"isGateway": false, "flatInterface": "eth2", "ipam.rangeStart": "10.0.0.64"}}
	n.configure(extra)
	return n, foreign(t, l, addrs...)
}

// An address that a foreign host has goes to no workload: it is logged with the host's MAC
// and another one is taken. One that was held of late is not asked for.
func TestForeignHostsAddressIsLeftToIt(t *testing.T) {
	n, stranger := withStranger(t, keys{"ipam.rangeEnd": "10.0.0.70"}, "10.0.0.64", "10.0.0.65")
	c := n.container("w")
	out, err := n.armed("ADD", c, "")
	if err != nil {
		t.Fatalf("ADD: %v, %s", err, out)
	}
	const mac = "52:54:00:00:04:01" // the fourth host's first card
	if strings.Count(out, mac) != 2 || !strings.Contains(out, "10.0.0.64") || !strings.Contains(out, "10.0.0.65") {
		t.Errorf("the foreign host's two addresses are not logged with its MAC %s: %s", mac, out)
	}
	w := &workload{Container: c, n: n, ifName: "eth0"}
	if r := n.run("flatctl", "reservations", network); !strings.Contains(r, "10.0.0.66") || strings.Contains(r, "10.0.0.64 ") {
		t.Errorf("reservations:\n%s", r)
	}
	if port := n.link(w.port()); !strings.Contains(port, "fe:16:3e:00:00:42") { // 66 is 0x42
		t.Errorf("the port has not the address's MAC: %s", port)
	}
	// The foreign host's own use of its address is not disturbed, and the workload reaches it.
	if _, _, err := c.Run(n.within(), "ping", "-c", "1", "-W", "20", "10.0.0.64"); err != nil {
		t.Errorf("the workload does not reach the foreign host: %v", err)
	}
	// Asked for by name there is no other: the ADD is refused, and says whose it is.
	stranger.run("ip", "address", "add", "10.0.0.69/24", "dev", "eth2")
	b, err := n.verb("ADD", n.container("asked"), "", "IP=10.0.0.69").CombinedOutput()
	if err == nil || !strings.Contains(string(b), `"code": 100`) || !strings.Contains(string(b), mac) {
		t.Errorf("an ADD that asks for a foreign host's address: %v, %s", err, b)
	}
	// What was held of late is not asked for: the foreign host that takes it meanwhile is
	// not seen.
	w.del()
	stranger.run("ip", "address", "add", "10.0.0.66/24", "dev", "eth2")
	if out, err := n.armed("ADD", c, ""); err != nil || strings.Contains(out, mac) {
		t.Errorf("an ADD that gets its address back: %v, %s", err, out)
	}
	// Where all are foreign, the ADD may succeed later.
	for _, a := range []string{"10.0.0.67", "10.0.0.68", "10.0.0.70"} {
		stranger.run("ip", "address", "add", a+"/24", "dev", "eth2")
	}
	if out, err := n.armed("ADD", n.container("late"), ""); err == nil || !strings.Contains(out, `"code": 11`) {
		t.Errorf("an ADD where no address is free on the wire: %v, %s", err, out)
	}
	// Nor is it asked for where that is switched off.
	n.configure(keys{"detectConflict": false, "ipam.rangeEnd": "10.0.0.80", "ipam.rangeStart": "10.0.0.71"})
	stranger.run("ip", "address", "add", "10.0.0.71/24", "dev", "eth2")
	if out, err := n.armed("ADD", n.container("blind"), ""); err != nil || !strings.Contains(out, "10.0.0.71") {
		t.Errorf("an ADD with detectConflict false: %v, %s", err, out)
	}
}

// Two nodes that were given the same range by mistake, which neither can know: each address
// goes to one workload all the same, for the second node finds the first one's on the wire.
func TestSameRangeOnTwoNodesGivesNoAddressTwice(t *testing.T) {
	_, nodes := uplinked(t, 2, nil)
	a, b := nodes[0], nodes[1]
	b.configure(keys{"ipam.rangeStart": a.extra["ipam.rangeStart"], "ipam.rangeEnd": a.extra["ipam.rangeEnd"]})
	first := a.attach("first", lab.CNIOptions{})
	var said string
	second := b.attach("second", lab.CNIOptions{Log: &said})
	if second.addr != first.addr.Next() || second.mac.String() == first.mac.String() {
		t.Errorf("on one node a workload has %s at %s, on the other %s at %s", first.addr, first.mac, second.addr, second.mac)
	}
	for _, word := range []string{"a foreign host beyond the uplink has the address", first.addr.String(), first.mac.String()} {
		if !strings.Contains(said, word) {
			t.Errorf("the second ADD does not say %q: %s", word, said)
		}
	}
	if !answered(b, second.exec, first.addr) || !answered(a, first.exec, second.addr) {
		t.Error("the two do not reach each other")
	}
	first.checked()
	second.checked()
}

// The node does not take an address for its own that a foreign host has: the gateway's, or
// with a shared gateway the node's.
func TestOwnAddressOfAForeignHostIsRefused(t *testing.T) {
	for name, extra := range map[string]keys{
		"gateway":      {"isGateway": true},
		"node address": {"isGateway": true, "gatewayShared": true, "nodeAddress": "10.0.0.251"},
	} {
		t.Run(name, func(t *testing.T) {
			n, stranger := withStranger(t, extra, map[string]string{"gateway": "10.0.0.1", "node address": "10.0.0.251"}[name])
			n.run("ip", "link", "set", "eth2", "down")
			before := n.state()
			c := n.container("w")
			out, err := n.armed("ADD", c, "")
			for _, want := range []string{`"code": 11`, "52:54:00:00:04:01", name} {
				if err == nil || !strings.Contains(out, want) {
					t.Errorf("ADD: %v; it does not say %q: %s", err, want, out)
				}
			}
			after := n.state()
			for _, section := range []string{"links", "addresses", "routes"} {
				if before.Section(section) != after.Section(section) {
					t.Errorf("%s are not as before:\n%s", section, after.Section(section))
				}
			}
			// It leaves the segment, and all is well.
			stranger.run("ip", "address", "flush", "dev", "eth2")
			if out, err := n.armed("ADD", c, ""); err != nil {
				t.Errorf("ADD once nobody has the address: %v, %s", err, out)
			}
		})
	}
}

// So does the daemon, which brings a gateway's side up without any workload: it says who has
// the address, leaves the card alone, and comes up once the other has gone.
func TestDaemonLeavesAForeignHostItsAddress(t *testing.T) {
	t.Parallel() // the daemon tries again after ten seconds
	n, stranger := withStranger(t, keys{"isGateway": true}, "10.0.0.1")
	n.apply(nil) // the record alone: there is no bridge
	before := n.state()
	d := n.daemon()
	line, _, err := d.WaitLine(n.within(), 0, "a foreign host beyond the uplink has the node's own address")
	if err != nil || !strings.Contains(line, "10.0.0.1") || !strings.Contains(line, "52:54:00:00:04:01") {
		t.Errorf("the daemon says %q, %v; want who has 10.0.0.1", line, err)
	}
	after := n.state()
	for _, section := range []string{"links", "addresses", "routes"} {
		if before.Section(section) != after.Section(section) {
			t.Errorf("%s are not as before:\n%s", section, after.Section(section))
		}
	}
	stranger.run("ip", "address", "flush", "dev", "eth2")
	if _, _, err := d.WaitLine(n.within(), 0, "DHCP, static leases only on "); err != nil {
		t.Errorf("once nobody has the address: %v", err)
	}
	if out := n.run("ip", "-o", "-4", "address", "show", "dev", "br100"); !strings.Contains(out, "10.0.0.1/24") {
		t.Errorf("br100: %s", out)
	}
}

// What somebody does to an uplink CHECK names, and the next ADD mends, as far as it can.
func TestDamagedUplinksAreNamedAndMended(t *testing.T) {
	_, nodes := uplinked(t, 1, nil)
	n := nodes[0]
	w := n.attach("w", lab.CNIOptions{})
	for i, tc := range []struct {
		name, damage, want string
	}{
		{"down", "ip link set eth2 down", "uplink eth2 is down"},
		{"taken out", "ip link set eth2 nomaster", "uplink eth2 is no port of bridge br100"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.checked()
			n.run("sh", "-c", tc.damage)
			if _, err := n.CNI(n.within(), "check", network, w.Container, w.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("CHECK: %v; want %q", err, tc.want)
			}
			n.attach(fmt.Sprintf("next%d", i), lab.CNIOptions{})
			w.checked()
		})
	}
	t.Run("with an address", func(t *testing.T) {
		n.run("ip", "address", "add", "172.30.0.5/24", "dev", "eth2") // as a DHCP client does
		if _, err := n.CNI(n.within(), "check", network, w.Container, w.o); err == nil || !strings.Contains(err.Error(), "uplink eth2 has 172.30.0.5/24") {
			t.Errorf("CHECK: %v", err)
		}
		n.run("ip", "address", "del", "172.30.0.5/24", "dev", "eth2")
		w.checked()
	})
	t.Run("gone", func(t *testing.T) {
		n.run("ip", "link", "del", "eth2")
		const want = "eth2"
		for _, verb := range []string{"check", "status"} {
			if _, err := n.CNI(n.within(), verb, network, w.Container, w.o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want one that names %s", verb, err, want)
			}
		}
		if _, err := n.tryAttach(n.container("late"), lab.CNIOptions{}); err == nil || !strings.Contains(err.Error(), "no such interface") {
			t.Errorf("ADD: %v", err)
		}
		w.del()
	})
}

// The card by which the node itself reaches the world becomes the uplink, another one in its
// place, and none: each has back what it had, and the world is reached all the time.
func TestUplinkChangesWithItsConflist(t *testing.T) {
	l, nodes := uplinked(t, 1, keys{"flatInterface": "eth1"})
	n := nodes[0]
	world := func(when string) {
		t.Helper()
		if !answered(n, n.exec, netip.MustParseAddr("192.168.56.1")) {
			t.Errorf("%s: the node does not reach its router", when)
		}
	}
	had := linesOf(n.run("ip", "-4", "address", "show"), "192.168.56.") + linesOf(n.run("ip", "route", "show"), "eth1")
	now := func() string {
		return linesOf(n.run("ip", "-4", "address", "show"), "192.168.56.") + linesOf(n.run("ip", "route", "show"), "192.168.56.")
	}
	n.attach("w", lab.CNIOptions{})
	world("eth1 is the uplink")
	if got, want := now(), strings.ReplaceAll(had, "eth1", "br100"); got != want {
		t.Errorf("the bridge has\n%s\nwant\n%s", got, want)
	}
	// The world is told nothing: the bridge has the card's MAC.
	if out, _, err := l.Host("outside").Run(n.within(), "ping", "-c", "1", "-W", "20", "192.168.56.202"); err != nil {
		t.Errorf("the world does not reach the node: %s, %v", out, err)
	}
	n.apply(keys{"flatInterface": "eth2"})
	world("eth2 is the uplink")
	if got := now(); got != had {
		t.Errorf("eth1 has\n%s\nwant\n%s", got, had)
	}
	if out := n.link("eth2"); !strings.Contains(out, "master br100") {
		t.Errorf("eth2: %s", out)
	}
	delete(n.extra, "flatInterface")
	n.apply(nil)
	for _, name := range []string{"eth1", "eth2"} {
		if out := n.link(name); strings.Contains(out, "master") {
			t.Errorf("%s: %s", name, out)
		}
	}
	if guard := n.run("nft", "list", "ruleset"); strings.Contains(guard, `"eth1"`) || strings.Contains(guard, `"eth2"`) {
		t.Errorf("the guard knows an uplink still:\n%s", guard)
	}
	world("there is no uplink")
}

// A bridge that somebody else made, with the card in it and the node's addresses on it, is
// taken as it is, and nobody is given anything back.
func TestAdoptedUplinkStaysAsItIs(t *testing.T) {
	_, nodes := uplinked(t, 2, nil)
	n, other := nodes[0], nodes[1]
	n.run("sh", "-c", `set -e
ip link add br100 address 52:54:00:00:03:02 type bridge forward_delay 0
ip link set br100 up
ip link set eth2 master br100
ip address add 172.30.0.5/24 dev br100`)
	before := n.state()
	w, far := n.attach("w", lab.CNIOptions{}), other.attach("far", lab.CNIOptions{})
	if !answered(n, w.exec, far.addr) {
		t.Errorf("%s does not reach %s by the adopted uplink", w.addr, far.addr)
	}
	w.checked()
	w.detach()
	if out := n.run("flatctl", "uplink", "restore", network); !strings.Contains(out, "nothing to restore") {
		t.Errorf("flatctl uplink restore: %s", out)
	}
	after := n.state()
	for _, section := range []string{"addresses", "routes"} {
		if got := after.Section(section); got != before.Section(section) {
			t.Errorf("%s are not as before:\n%s", section, got)
		}
	}
	if out := n.link("eth2"); !strings.Contains(out, "master br100") {
		t.Errorf("eth2: %s", out)
	}
}

// A network manager that has the card for its own is named, with what to configure, when
// the card is taken, and not with every container.
func TestNetworkManagersAreWarnedOf(t *testing.T) {
	_, nodes := uplinked(t, 1, nil)
	n := nodes[0]
	n.run("sh", "-c", `set -e
index=$(ip -o link show eth2 | cut -d: -f1)
mkdir -p /run/systemd/netif/links /run/NetworkManager/devices
printf 'ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/20-all.network\n' >/run/systemd/netif/links/$index
printf '[device]\nmanaged=true\nconnection-uuid=1c2d\n' >/run/NetworkManager/devices/$index`)
	for i, want := range []bool{true, false} {
		out, err := n.armed("ADD", n.container(fmt.Sprint("w", i)), "")
		if err != nil {
			t.Fatalf("ADD: %v, %s", err, out)
		}
		for _, word := range []string{"systemd-networkd manages eth2", "20-all.network", "NetworkManager manages eth2", "unmanaged-devices=interface-name:eth2"} {
			if strings.Contains(out, word) != want {
				t.Errorf("ADD %d says %q: %t, want %t: %s", i+1, word, !want, want, out)
			}
		}
	}
}

// With its network a card has back what it had, and the guard forgets it.
func TestRemovedNetworkGivesItsUplinkBack(t *testing.T) {
	_, nodes := uplinked(t, 1, nil)
	n := nodes[0]
	n.run("ip", "address", "add", "172.30.0.5/24", "dev", "eth2")
	w := n.attach("w", lab.CNIOptions{})
	if _, _, err := n.Run(n.within(), "flatctl", "network", "rm", network); err == nil {
		t.Error("a network with a workload was removed")
	}
	if out := n.link("eth2"); !strings.Contains(out, "master br100") {
		t.Errorf("a refused removal took the uplink: %s", out)
	}
	w.detach()
	n.run("flatctl", "network", "rm", network)
	if out := n.link("eth2") + n.run("ip", "address", "show", "dev", "eth2"); strings.Contains(out, "master") || !strings.Contains(out, "172.30.0.5/24") {
		t.Errorf("eth2: %s", out)
	}
	if guard := n.run("nft", "list", "ruleset"); strings.Contains(guard, `"eth2"`) {
		t.Errorf("the guard knows the uplink still:\n%s", guard)
	}
}
