package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// What runtimes really do, beyond the specification's examples.

// An interface that is there already is an error, and stays as it is.
func TestADDTwice(t *testing.T) {
	n := newNode(t, nil)
	c := n.attach("c1")
	before := n.state()
	n.says(n.fails(call{verb: "ADD", of: c}, 4), "interface name is taken in the container: eth0", c.ns)
	n.unchanged(before, "a second ADD")
	n.ok(c.check())
}

// So is one that somebody else made.
func TestADDOfATakenName(t *testing.T) {
	n := newNode(t, nil)
	n.attach("neighbour")
	c := n.container("c1")
	c.exec("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x")
	before := n.state()
	n.says(n.fails(call{verb: "ADD", of: c}, 4), "interface name is taken in the container: eth0")
	n.unchanged(before, "a refused ADD")
	c.exec("ip", "link", "show", "dev", "eth0")
}

// DEL bears to come often, without namespace, and for what never was.
func TestDELManyTimes(t *testing.T) {
	n := newNode(t, nil)
	n.attach("neighbour")
	before := n.state()
	c := n.attach("c1")
	n.ok(call{verb: "DEL", of: c, prev: c.result})
	n.unchanged(before, "DEL")
	for range 2 {
		n.ok(call{verb: "DEL", of: c, noNetNS: true, bare: true, version: "0.3.1"})
	}
	n.ok(call{verb: "DEL", of: &container{id: "never", ifName: "eth0"}})
	n.unchanged(before, "DEL again and again")
}

// A runtime that gives the node's own namespace would have it rewired. The library finds
// that out only after the result is printed.
func TestADDIntoTheNodeItself(t *testing.T) {
	n := newNode(t, nil)
	n.attach("neighbour")
	before := n.state()
	n.says(n.fails(call{verb: "ADD", of: &container{id: "c1", ifName: "eth0", ns: "/run/netns/" + n.name}}, 8), "share one network namespace")
	n.unchanged(before, "a refused ADD")
}

// The first network's default route stays the container's only one, unless the second
// insists.
func TestTwoNetworksInOneContainer(t *testing.T) {
	for _, insist := range []bool{false, true} {
		t.Run(fmt.Sprintf("isDefaultGateway=%t", insist), func(t *testing.T) {
			n := newNode(t, nil)
			first := n.attach("c1")
			second := &container{n: n, id: "c1", ns: first.ns, ifName: "eth1"}
			flat := n.keys
			n.keys = keys{"bridge": "br200", "ipam.subnet": "10.2.0.0/24"}
			if insist {
				n.keys["isDefaultGateway"] = true
			}
			second.result = n.ok(call{verb: "ADD", of: second, network: "other"})
			got := first.exec("ip", "-4", "route", "show", "default")
			want := "default via 10.0.0.1 dev eth0 \n"
			if insist {
				want = "default via 10.2.0.1 dev eth1 \ndefault via 10.0.0.1 dev eth0 \n"
			}
			if got != want {
				t.Errorf("default routes:\n%swant\n%s", got, want)
			}
			if strings.Contains(second.result, `"routes"`) != insist {
				t.Errorf("the second result: %s", second.result)
			}
			for _, to := range []string{"10.0.0.1", "10.2.0.1"} {
				first.exec("ping", "-c", "1", "-W", "5", to)
			}
			check := call{verb: "CHECK", of: second, network: "other", prev: second.result}
			n.ok(check)
			n.keys = flat
			n.ok(first.check())
			n.ok(call{verb: "DEL", of: first})
			n.keys = keys{"bridge": "br200", "ipam.subnet": "10.2.0.0/24"}
			n.ok(check)
		})
	}
}

// Two interfaces in one network are two attachments of two workloads' addresses.
func TestOneContainerTwiceInANetwork(t *testing.T) {
	n := newNode(t, nil)
	first := n.attach("c1")
	second := &container{n: n, id: "c1", ns: first.ns, ifName: "net1"}
	second.add()
	if first.address == second.address || first.port == second.port {
		t.Fatalf("both have %s, %s", first.address, first.port)
	}
	neighbour := n.attach("neighbour")
	reached := func(c *container) {
		t.Helper()
		n.ok(c.check())
		n.exec("ping", "-c", "1", "-W", "5", strings.TrimSuffix(c.address, "/24"))
		neighbour.exec("ping", "-c", "1", "-W", "5", strings.TrimSuffix(c.address, "/24"))
	}
	reached(first)
	reached(second)
	// The second comes and goes alone; the container lives on.
	n.ok(call{verb: "DEL", of: second})
	reached(first)
	second.add()
	reached(first)
	reached(second)
	if rules := first.exec("ip", "rule"); strings.Count(rules, "from "+strings.TrimSuffix(second.address, "/24")) != 1 {
		t.Errorf("rules:\n%s", rules)
	}
	n.ok(call{verb: "DEL", of: first})
	reached(second)
	n.ok(call{verb: "DEL", of: second})
	n.ok(call{verb: "DEL", of: neighbour})
	if rows := n.rows(); len(rows) > 0 {
		t.Errorf("left: %q", rows)
	}
}

// A bridge has 1023 ports: the last ADD is refused with the reason and leaves nothing.
// When another workload has gone it succeeds.
func TestTheBridgeIsFull(t *testing.T) {
	n := newNode(t, keys{"ipam.subnet": "10.0.0.0/16"})
	first := n.attach("c1")
	n.fill(1022)
	last := n.attach("c2")
	before := n.state()
	c := n.container("c3")
	n.says(n.fails(call{verb: "ADD", of: c}, 11), "on bridge br100", "has 1023 ports", "use another network")
	n.unchanged(before, "an ADD to a full bridge")
	n.ok(last.check())
	n.ok(call{verb: "DEL", of: first})
	c.add()
	n.ok(c.check())
}

// fill gives the bridge ports until it has so many.
func (n *node) fill(ports int) {
	n.t.Helper()
	var batch strings.Builder
	for i := 1; i < ports; i += 2 {
		fmt.Fprintf(&batch, "link add p%d master br100 type veth peer name q%d\n", i, i)
		if i+1 < ports {
			fmt.Fprintf(&batch, "link set q%d master br100\n", i)
		}
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+n.name, "--", "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	n.output(cmd)
}

// Without chains and masquerading a network needs neither br_netfilter nor iptables; the
// guard is there all the same.
func TestFilterNoneOnANodeWithoutIPTables(t *testing.T) {
	n := newNode(t, keys{"filter": "none", "ipMasq": false})
	n.before = hideNetfilter + ";" + hideIPTables
	c, d := n.attach("c1"), n.attach("c2")
	n.ok(c.check())
	if out := n.exec("iptables-save"); strings.Contains(out, "FLAT") {
		t.Errorf("rules:\n%s", out)
	}
	ping := []string{"nsenter", "--net=" + d.ns, "ping", "-c", "1", "-W", "5"}
	if err := n.outputErr(append(ping, strings.TrimSuffix(c.address, "/24"))...); err != nil {
		t.Errorf("control: neighbours do not reach each other: %v", err)
	}
	d.exec("ip", "addr", "add", "10.0.0.77/24", "dev", "eth0")
	dropped := n.exec("nft", "list", "counter", "bridge", "flatdhcp", "in_ipv4") + n.exec("nft", "list", "counter", "bridge", "flatdhcp", "in_arp")
	if err := n.outputErr("nsenter", "--net="+d.ns, "ping", "-c", "1", "-W", "1", "-I", "10.0.0.77", strings.TrimSuffix(c.address, "/24")); err == nil {
		t.Error("a stolen address is answered")
	}
	if after := n.exec("nft", "list", "counter", "bridge", "flatdhcp", "in_ipv4") + n.exec("nft", "list", "counter", "bridge", "flatdhcp", "in_arp"); after == dropped {
		t.Errorf("the guard counted nothing:\n%s", after)
	}
	n.ok(gc(c))
	n.ok(call{verb: "DEL", of: c})
	if rows := n.rows(); len(rows) > 0 {
		t.Errorf("left: %q", rows)
	}
}

// A runtime that keeps capabilities to itself hears which are missing, before anything is
// done.
func TestWithoutPrivileges(t *testing.T) {
	for capability, name := range map[string]string{"net_admin": "CAP_NET_ADMIN", "sys_admin": "CAP_SYS_ADMIN"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, nil)
			c, d := n.attach("c1"), n.container("c2")
			before := n.state()
			n.wrap = []string{"setpriv", "--bounding-set=-" + capability, "--inh-caps=-" + capability}
			for _, call := range []call{{verb: "ADD", of: d}, {verb: "DEL", of: c}, c.check(), gc()} {
				n.says(n.fails(call, 101), name+" is missing: the runtime must run plugins as root")
			}
			n.says(n.fails(call{verb: "STATUS"}, 50), name+" is missing: the runtime must run plugins as root")
			n.wrap = nil
			n.unchanged(before, "verbs without privileges")
			d.add()
		})
	}
}
