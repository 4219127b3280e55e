package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// defaultRoutes are the default routes of a container, in any table.
func (n *node) defaultRoutes(c *lab.Container) string {
	n.t.Helper()
	out, _, err := c.Run(n.within(), "ip", "-4", "route", "show", "default", "table", "all")
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// unchangedBut is unchanged beside a workload that stays: what the node remembers of its
// traffic is its own.
func (n *node) unchangedBut(stays *workload, before lab.State, what string) {
	n.t.Helper()
	diff := before.Diff(n.state())
	for line := range strings.Lines(diff) {
		if strings.HasPrefix(line, "+ ") || strings.HasPrefix(line, "- ") {
			if line[0] == '-' || !strings.Contains(line, stays.addr.String()+" ") {
				n.t.Errorf("%s left a difference:\n%s", what, diff)
				return
			}
		}
	}
}

// A container on two networks keeps the default route of its first, is reached on both,
// and leaves each alone.
func TestTwoNetworksInOneContainer(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	second := n.secondNetwork(keys{"allowSameNetTraffic": false})
	peer := second.attach("peer", lab.CNIOptions{})
	neighbour := n.attach("neighbour", lab.CNIOptions{})
	c := n.container("w")
	none := n.state()

	first := n.attachTo(c, lab.CNIOptions{})
	routes := n.defaultRoutes(c)
	if !strings.Contains(routes, "via 10.0.0.1 dev eth0") {
		t.Errorf("default route is %q", routes)
	}
	one := n.state()
	net1 := lab.CNIOptions{IfName: "net1"}
	other := second.attachTo(c, net1)
	if len(other.result.Routes) != 0 || n.defaultRoutes(c) != routes {
		t.Errorf("the second network's result has routes %v, and the container %q, had %q", other.result.Routes, n.defaultRoutes(c), routes)
	}
	reached := func(w *workload, gatewayOf string) {
		t.Helper()
		w.n.protected(w, "of two")
		if !answered(n, n.exec, w.addr) {
			t.Errorf("the node does not reach %s on %s", w.addr, w.n.network)
		}
		if err := w.exec("ping", "-c", "1", "-W", "20", "-I", w.ifName, gatewayOf); err != nil {
			t.Errorf("the container does not reach %s by %s: %v", gatewayOf, w.ifName, err)
		}
	}
	reached(first, "10.0.0.1")
	reached(other, "10.9.0.1")
	if !answered(n, neighbour.exec, first.addr) {
		t.Error("a neighbour on the first network does not reach the container")
	}
	// Each network has its own policy for the one container.
	p := newPath(peer, other)
	p.mustDrop("an echo request of a neighbour on the closed network", func(id uint16) []byte {
		return lab.Ethernet(other.mac, peer.mac, 0x0800, lab.Echo(peer.addr, other.addr, id, 1, nil))
	}, other.fallback())
	first.checked()
	other.checked()

	other.del()
	n.unchangedBut(first, one, "the second network's coming and going")
	reached(first, "10.0.0.1")

	other = second.attachTo(c, net1)
	first.del()
	reached(other, "10.9.0.1")
	if got := n.defaultRoutes(c); got != "" {
		t.Errorf("with the first network its default route %q did not go", got)
	}
	if out := n.run("flatctl", "reservations", "flat"); strings.Contains(out, c.ID()) {
		t.Errorf("the first network still has a row of the container:\n%s", out)
	}
	other.del()
	n.unchanged(none, "a container on two networks")
}

// A container that is in one network twice has two rows, two chains and two ports, and is
// reached on both addresses; each goes alone. Plugin sbr, which some chain for this, is in
// nobody's way.
func TestOneNetworkTwice(t *testing.T) {
	t.Parallel()
	for name, chained := range map[string][]keys{"alone": nil, "with sbr": {{"type": "sbr"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oneNetworkTwice(t, chained)
		})
	}
}

func oneNetworkTwice(t *testing.T, chained []keys) {
	n := newNode(t, nil)
	n.neighbours()
	peer := n.attach("peer", lab.CNIOptions{})
	n.chained = chained
	n.configure(nil)
	c := n.container("w")
	none := n.state()

	a := n.attachTo(c, lab.CNIOptions{})
	one := n.state()
	b := n.attachTo(c, lab.CNIOptions{IfName: "eth1"})
	if a.addr == b.addr || a.mac.String() == b.mac.String() || a.chain() == b.chain() || a.port() == b.port() {
		t.Errorf("two attachments share something: %s %s %s %s and %s %s %s %s",
			a.addr, a.mac, a.chain(), a.port(), b.addr, b.mac, b.chain(), b.port())
	}
	if rows := strings.Count(n.run("flatctl", "reservations", "-o", "json", network), `"containerID": "`+c.ID()+`"`); rows != 2 {
		t.Errorf("%d rows name the container, want 2", rows)
	}
	reached := func(w *workload) {
		t.Helper()
		n.protected(w, "of two")
		if !answered(n, n.exec, w.addr) {
			t.Errorf("the node does not reach %s", w.addr)
		}
		before := n.ruleCount(w.chain(), "-s 10.0.0.0/24 -j ACCEPT")
		if !answered(n, peer.exec, w.addr) {
			t.Errorf("a neighbour does not reach %s", w.addr)
		}
		if n.ruleCount(w.chain(), "-s 10.0.0.0/24 -j ACCEPT") == before {
			t.Errorf("what a neighbour sends to %s does not meet its chain %s", w.addr, w.chain())
		}
		w.checked()
	}
	reached(a)
	reached(b)

	b.del()
	n.unchangedBut(a, one, "the second attachment's coming and going")
	reached(a)

	b = n.attachTo(c, lab.CNIOptions{IfName: "eth1"})
	a.del()
	reached(b)
	b.del()
	n.unchanged(none, "a container in one network twice")
}

// A DHCP client on a container's second network is told of no router if the container had a
// default route when it was attached, so that what it configures does not take its place; one
// that had none is, and where isDefaultGateway says so both are.
func TestSecondNetworkByDHCPLeavesTheDefaultRoute(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	second := n.secondNetwork(keys{"addressing": "dhcp"})
	router := netip.MustParseAddr("10.9.0.1")
	d := n.daemon()
	net1 := lab.CNIOptions{IfName: "net1"}
	vm := func(name string) *lab.VM {
		t.Helper()
		v, err := n.VM(n.within(), name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	both, alone := vm("both"), vm("alone")
	n.attachTo(both.Container, lab.CNIOptions{})
	routes := n.defaultRoutes(both.Container)
	if !strings.Contains(routes, "via 10.0.0.1 dev eth0") {
		t.Fatalf("the first network's default route is %q", routes)
	}
	other, single := second.attachTo(both.Container, net1), second.attachTo(alone.Container, net1)
	if _, _, err := d.WaitLine(n.within(), 0, "DHCP, static leases only on 10.9.0."); err != nil {
		t.Fatal(err)
	}
	if lease := other.boot(both); lease.Router.IsValid() || lease.Addr.Addr() != other.addr {
		t.Errorf("beside another default route: %+v", lease)
	}
	if got := n.defaultRoutes(both.Container); got != routes {
		t.Errorf("the default route is %q, was %q", got, routes)
	}
	if lease := single.boot(alone); lease.Router != router {
		t.Errorf("the control, without another default route: %+v", lease)
	}
	other.checked()

	second.configure(keys{"isDefaultGateway": true})
	n.run("flatctl", "apply", lab.ConflistPath(second.network))
	if lease := other.boot(both); lease.Router != router {
		t.Errorf("with isDefaultGateway true: %+v", lease)
	}
}
