package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// Addresses of the cable between the node and a host outside.
var (
	nodeOutside = netip.MustParseAddr("192.0.2.1")
	outsideAddr = netip.MustParseAddr("192.0.2.2")
)

// newNodeWithOutside is newNode with a cable to another host, which knows no way to the
// network: who appears there under an address of it gets no answer.
func newNodeWithOutside(t *testing.T, extra keys) (*node, *lab.Host) {
	t.Helper()
	n, outside := newBareNode(t)
	n.configure(extra)
	return n, outside
}

// newBareNode is newNodeWithOutside without a conflist.
func newBareNode(t *testing.T) (*node, *lab.Host) {
	t.Helper()
	labtest.RequireRoot(t)
	l := labtest.New(t, labtest.Options(t))
	n := &node{Host: labtest.AddHost(t, l, "node"), t: t, network: network, extra: keys{}}
	outside := labtest.AddHost(t, l, "outside")
	cable(t, l, n.Host, outside)
	return n, outside
}

// cable links a node, which is not routing yet, and a host outside.
func cable(t *testing.T, l *lab.Lab, node, outside *lab.Host) {
	t.Helper()
	ctx := labtest.Within(t, patience)
	if err := l.Link(ctx, node, "out0", outside, "in0"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		host *lab.Host
		argv []string
	}{
		{node, []string{"sysctl", "-q", "-w", "net.ipv4.ip_forward=0"}},
		{node, []string{"ip", "address", "add", nodeOutside.String() + "/24", "dev", "out0"}},
		{outside, []string{"ip", "address", "add", outsideAddr.String() + "/24", "dev", "in0"}},
	} {
		if _, _, err := s.host.Run(ctx, s.argv...); err != nil {
			t.Fatal(err)
		}
	}
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// A network that masquerades: outside sees the node, inside everybody sees everybody, and
// the first ADD lets the node route. One that does not shows its workloads outside.
func TestWhoIsSeenWhere(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, nil)
	n.run("iptables", "-P", "FORWARD", "DROP")
	w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
	if v := n.run("sysctl", "-n", "net.ipv4.ip_forward"); v != "1\n" {
		t.Errorf("net.ipv4.ip_forward is %s", v)
	}
	n.serve(outside, 80)
	n.serve(peer, 80)
	n.serve(n, 80)
	n.seenFrom("a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
	n.seenFrom("a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
	n.seenFrom("a workload, at the gateway,", w, at(gateway, 80), w.addr)
	n.seenFrom("a workload, at another address of the node,", w, at(nodeOutside, 80), w.addr)
	n.seenFrom("the node, at a workload,", n, at(peer.addr, 80), gateway)

	n.apply(keys{"ipMasq": false})
	if _, _, err := outside.Run(n.within(), "ip", "route", "add", "10.0.0.0/24", "via", nodeOutside.String()); err != nil {
		t.Fatal(err)
	}
	n.seenFrom("the control: without ipMasq a workload, outside,", w, at(outsideAddr, 80), w.addr)
	n.apply(keys{"ipMasq": true})
	n.seenFrom("with ipMasq again a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
}

// natAddress need not be an address of the node's, if it is routed there; publicInterface and
// nonMasqueradeCIDRs leave out what they do not name. Each change counts at once.
func TestHowWorkloadsAreSeenOutside(t *testing.T) {
	t.Parallel()
	const routed = "203.0.113.7"
	n, outside := newNodeWithOutside(t, nil)
	w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
	for _, to := range []string{"10.0.0.0/24", routed} {
		if _, _, err := outside.Run(n.within(), "ip", "route", "add", to, "via", nodeOutside.String()); err != nil {
			t.Fatal(err)
		}
	}
	n.serve(outside, 80)
	n.serve(peer, 80)
	for _, c := range []struct {
		name string
		keys keys
		want netip.Addr
	}{
		{"without any key", keys{}, nodeOutside},
		{"with natAddress", keys{"natAddress": routed}, netip.MustParseAddr(routed)},
		{"with publicInterface too", keys{"publicInterface": "out0"}, netip.MustParseAddr(routed)},
		{"with publicInterface alone", keys{"natAddress": nil}, nodeOutside},
		{"with another publicInterface", keys{"publicInterface": "elsewhere0"}, w.addr},
		{"with none again", keys{"publicInterface": nil}, nodeOutside},
		{"in nonMasqueradeCIDRs", keys{"nonMasqueradeCIDRs": []string{"10.0.0.0/8", "192.0.2.0/29"}}, w.addr},
		{"beside nonMasqueradeCIDRs", keys{"nonMasqueradeCIDRs": []string{"10.0.0.0/8"}}, nodeOutside},
	} {
		n.apply(c.keys)
		n.seenFrom(c.name+" a workload, outside,", w, at(outsideAddr, 80), c.want)
		n.seenFrom(c.name+" a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
		w.checked()
	}
}

// br_netfilter shows other people's NAT rules the frames that a bridge merely switches.
// Ours settles them first.
func TestForeignMasqueradeSparesSwitchedTraffic(t *testing.T) {
	t.Parallel()
	for _, masq := range []bool{true, false} {
		t.Run(map[bool]string{true: "gateway", false: "without ipMasq"}[masq], func(t *testing.T) {
			t.Parallel()
			n := newNode(t, keys{"ipMasq": masq})
			w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
			n.serve(peer, 80)
			foreign := []string{"POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE"}
			n.run(append([]string{"iptables", "-t", "nat", "-A"}, foreign...)...)
			count := func() string {
				t.Helper()
				for line := range strings.Lines(n.run("iptables-save", "-c", "-t", "nat")) {
					if counter, ok := strings.CutSuffix(strings.TrimSpace(line), "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE"); ok {
						return counter
					}
				}
				t.Fatal("the foreign rule is gone")
				return ""
			}
			n.seenFrom("beside a foreign MASQUERADE rule a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
			if c := count(); c != "[0:0] " {
				t.Errorf("the foreign rule counted %s", c)
			}
			n.run("iptables", "-t", "nat", "-D", "POSTROUTING", "-j", "FLAT-POSTROUTING")
			n.seenFrom("the control: without our jump a workload, at its neighbour,", w, at(peer.addr, 80), gateway)
			if c := count(); c == "[0:0] " {
				t.Error("the control: the foreign rule counted nothing")
			}
			n.apply(nil)
			counted := count()
			n.seenFrom("after flatctl apply a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
			if c := count(); c != counted {
				t.Errorf("after flatctl apply the foreign rule counts: %s, was %s", c, counted)
			}
		})
	}
}

// The same across two nodes whose bridges are joined: each sees the frame pass, and neither
// rule of somebody else's touches it.
func TestForeignMasqueradeSparesTrafficBetweenNodes(t *testing.T) {
	t.Parallel()
	labtest.RequireRoot(t)
	l := labtest.New(t, labtest.Options(t))
	host := func(name string, extra keys) *node {
		n := &node{Host: labtest.AddHost(t, l, name), t: t, network: network, extra: keys{}}
		n.configure(extra)
		return n
	}
	a := host("a", keys{"ipam.rangeStart": "10.0.0.2", "ipam.rangeEnd": "10.0.0.63"})
	b := host("b", keys{"ipam.rangeStart": "10.0.0.64", "ipam.rangeEnd": "10.0.0.127", "isGateway": false})
	w, peer := a.attach("w", lab.CNIOptions{}), b.attach("peer", lab.CNIOptions{})
	if err := l.Link(a.within(), a.Host, "up0", b.Host, "up0"); err != nil {
		t.Fatal(err)
	}
	theirs := func(n *node) string {
		t.Helper()
		for line := range strings.Lines(n.run("iptables-save", "-c", "-t", "nat")) {
			if counter, ok := strings.CutSuffix(strings.TrimSpace(line), "-A POSTROUTING -s 10.0.0.0/8 -p tcp -j MASQUERADE"); ok {
				return strings.TrimSpace(counter)
			}
		}
		t.Fatal("the foreign rule is gone")
		return ""
	}
	for _, n := range []*node{a, b} {
		n.run("ip", "link", "set", "up0", "master", "br100")
		n.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.0.0.0/8", "-p", "tcp", "-j", "MASQUERADE")
	}
	a.serve(w, 80)
	b.serve(peer, 80)
	a.seenFrom("a workload, on the other node,", w, at(peer.addr, 80), w.addr)
	a.seenFrom("and back", peer, at(w.addr, 80), peer.addr)
	a.seenFrom("the gateway, on the other node,", a, at(peer.addr, 80), gateway)
	for _, n := range []*node{a, b} {
		if c := theirs(n); c != "[0:0]" {
			t.Errorf("on %s the foreign rule counted %s", n.Name(), c)
		}
	}
	a.run("iptables", "-t", "nat", "-D", "POSTROUTING", "-j", "FLAT-POSTROUTING")
	a.seenFrom("the control: without our jump a workload, on the other node,", w, at(peer.addr, 80), gateway)
	if c := theirs(a); c == "[0:0]" {
		t.Error("the control: the foreign rule counted nothing")
	}
}
