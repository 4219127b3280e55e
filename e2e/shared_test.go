package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// sharedKeys make the gateway one that other nodes have as well.
var sharedKeys = keys{"gatewayShared": true, "nodeAddress": "10.0.0.251"}

var (
	nodeAddr = netip.MustParseAddr("10.0.0.251")
	sharedIs = "fa:16:3e:00:00:01"
)

// knows returns the MAC that the workload has for an address.
func (w *workload) knows(addr netip.Addr) string {
	w.n.t.Helper()
	out, _, err := w.Run(w.n.within(), "ip", "neighbour", "show", addr.String(), "dev", w.ifName)
	if err != nil {
		w.n.t.Fatal(err)
	}
	return word(out, "lladdr")
}

// What a gateway does for its workloads it does by a shared address as well: lease, names,
// way out, metadata. The node itself speaks from an address of its own.
func TestSharedGatewayDoesAllThatAGatewayDoes(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, keys{"metadata": "192.0.2.1:8775", "hostAccess": "services"})
	n.configure(leaseKeys)
	n.configure(sharedKeys)
	for _, policy := range []string{"INPUT", "FORWARD"} {
		n.run("iptables", "-P", policy, "DROP")
	}
	n.run("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1")
	d := n.daemon()
	w, vm := n.vm("vm", lab.CNIOptions{})
	peer, peerVM := n.vm("peer", lab.CNIOptions{})
	n.serving(d)
	n.dns(d)
	lease := w.boot(vm)
	wantLease(t, w, lease)
	wantLease(t, peer, peer.boot(peerVM))
	w.resolves(lease.Hostname, w.addr.String())

	serveMetadata(t, n, "192.0.2.1:8775", map[netip.Addr]string{w.addr: "i-00000009"})
	w.bootsFromMetadata("i-00000009")
	if _, _, err := w.Run(n.within(), "ip", "route", "add", "169.254.0.0/16", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	w.bootsFromMetadata("i-00000009")
	if got := w.knows(netip.MustParseAddr("169.254.169.254")); got != sharedIs {
		t.Errorf("the guest has %q for the metadata address, want %s", got, sharedIs)
	}
	n.run("iptables", "-P", "INPUT", "ACCEPT")

	n.serve(outside, 80)
	n.serve(peer, 80)
	n.seenFrom("a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
	n.seenFrom("a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
	n.seenFrom("the node, at a workload,", n, at(peer.addr, 80), nodeAddr)
	n.run("iptables", "-t", "nat", "-A", "PREROUTING", "-d", gateway.String(), "-p", "tcp", "--dport", "8081", "-j", "DNAT", "--to-destination", at(peer.addr, 80).String())
	n.seenFrom("a workload, at its neighbour, redirected at the gateway,", w, at(gateway, 8081), nodeAddr)
	if err := w.exec("ping", "-c", "1", "-W", "20", gateway.String()); err != nil {
		t.Errorf("the gateway does not answer: %v", err)
	}
	if got := w.knows(gateway); got != sharedIs {
		t.Errorf("the workload has %q for the gateway, want %s", got, sharedIs)
	}
	// Asked for again once it is stale: by unicast, which meets the leg like the first.
	if _, _, err := w.Run(n.within(), "arping", "-c", "2", "-w", "20", "-I", "eth0", gateway.String()); err != nil {
		t.Error(err)
	}

	// hostAccess holds for what comes by the shared address, too.
	n.serve(n, 8080)
	n.stopped("a workload, at a port of the node's, by the shared address,", w, at(gateway, 8080), n.rule("FLAT-INPUT", "-j FLAT-DROP"))
	n.apply(keys{"hostAccess": "all"})
	n.seenFrom("the control: with hostAccess all,", w, at(gateway, 8080), w.addr)
	w.checked()
	peer.checked()

	n.apply(keys{"allowSameNetTraffic": false})
	n.seenFrom("the node, at a closed workload,", n, at(peer.addr, 80), nodeAddr)
	wantLease(t, w, w.boot(vm))
	w.checked()
}

// The same where workloads have no chains, or may send from any address; and where metadata is
// the node's, which is at the bridge's own address then.
func TestSharedGatewayWithLessAround(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		more keys
	}{
		{"unfiltered", keys{"filter": "none"}},
		{"unchecked", keys{"antiSpoofing": false}},
		{"MACs alone", keys{"antiSpoofing": false, "macspoofchk": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, outside := newNodeWithOutside(t, keys{"metadata": "127.0.0.1:8775"})
			n.configure(sharedKeys)
			n.configure(c.more)
			n.configure(keys{"addressing": "dhcp", "leaseTime": "120s"})
			d := n.daemon()
			w, vm := n.vm("vm", lab.CNIOptions{})
			n.serving(d)
			wantLease(t, w, w.boot(vm))
			n.serve(outside, 80)
			n.seenFrom("a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
			serveMetadata(t, n, nodeAddr.String()+":8775", map[netip.Addr]string{w.addr: "i-00000009"})
			w.bootsFromMetadata("i-00000009")
			w.checked()
		})
	}
}

// Without the guard's hand the gateway answers, but nothing is masqueraded: what crosses the
// bridge to the leg has met conntrack by then.
func TestWhySharedGatewayTakesIPv4InByTheBridge(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, sharedKeys)
	w := n.attach("w", lab.CNIOptions{})
	n.serve(outside, 80)
	n.seenFrom("a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
	n.run("nft", "delete", "element", "bridge", "flatdhcp", "gateway_macs", "{", w.port(), ".", sharedIs, "}")
	if err := w.exec("ping", "-c", "1", "-W", "20", gateway.String()); err != nil {
		t.Errorf("the gateway does not answer: %v", err)
	}
	tap, err := outside.Tap("in0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tap.Close() }()
	if err := w.exec("ping", "-c", "1", "-W", "1", outsideAddr.String()); err == nil {
		t.Error("outside answers a workload that nothing masquerades")
	}
	if out, err := n.CNI(n.within(), "check", n.network, w.Container, w.o); err == nil || !strings.Contains(err.Error()+string(out), "gateway_macs") {
		t.Errorf("CHECK: %v", err)
	}
	n.apply(nil)
	n.seenFrom("a workload, outside, mended,", w, at(outsideAddr, 80), nodeOutside)
	w.checked()
}

// The leg is part of the node's side: the first ADD makes it and undoes it, CHECK and STATUS
// know it, and it goes with the network, or when the gateway is shared no more.
func TestLegComesAndGoesWithTheSharedGateway(t *testing.T) {
	t.Parallel()
	n := newNode(t, sharedKeys)
	leg, legPort := link.LegName("br100"), link.LegPort("br100")
	c := n.container("first")
	n.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	before := n.state()
	out, err := n.armed("ADD", c, "ADD/rules/after/fail")
	if err == nil {
		t.Fatalf("the ADD was to fail: %s", out)
	}
	for _, name := range []string{"br100", leg, legPort} {
		if err := n.exec("ip", "link", "show", name); err == nil {
			t.Errorf("the failed first ADD left %s: %s", name, before.Diff(n.state()))
		}
	}

	n.run("ip", "link", "add", leg, "type", "bridge")
	if code, message := n.status(); code != 50 || !strings.Contains(message, leg) || !strings.Contains(message, "rename it") {
		t.Errorf("STATUS with the leg's name taken: %d %s", code, message)
	}
	n.run("ip", "link", "del", leg)
	if code, message := n.status(); code != 0 {
		t.Errorf("STATUS: %d %s", code, message)
	}

	w := n.attachTo(c, lab.CNIOptions{})
	w.checked()
	// A second ADD that fails leaves what the first relies on.
	if out, err := n.armed("ADD", n.container("second"), "ADD/rules/after/fail"); err == nil {
		t.Fatalf("the ADD was to fail: %s", out)
	}
	w.checked()
	n.run("ip", "link", "del", legPort)
	if _, err := n.CNI(n.within(), "check", n.network, w.Container, w.o); err == nil || !strings.Contains(err.Error(), "bridge br100 has no leg for its shared gateway 10.0.0.1: the next ADD mends it") {
		t.Errorf("CHECK without the leg: %v", err)
	}
	third := n.attach("third", lab.CNIOptions{})
	w.checked()

	// No address of a node is given, not by request either.
	for _, addr := range []string{"10.0.0.251", "10.0.0.1"} {
		if _, err := n.tryAttach(n.container("thief-"+strings.ReplaceAll(addr, ".", "-")), lab.CNIOptions{Args: "IP=" + addr}); err == nil {
			t.Errorf("%s was given", addr)
		}
	}

	// The bridge has the node's address, which only a person may take away.
	delete(n.extra, "gatewayShared")
	delete(n.extra, "nodeAddress")
	n.configure(nil)
	if _, err := n.tryAttach(n.container("fourth"), lab.CNIOptions{}); err == nil || !strings.Contains(err.Error(), "ip address del 10.0.0.251/24 dev br100") {
		t.Errorf("ADD where the gateway is shared no more: %v", err)
	}
	n.run("ip", "address", "del", "10.0.0.251/24", "dev", "br100")
	fifth := n.attach("fifth", lab.CNIOptions{})
	if err := n.exec("ip", "link", "show", leg); err == nil {
		t.Error("the leg is there although the gateway is shared no more")
	}
	fifth.checked()

	n.configure(sharedKeys)
	n.run("ip", "address", "del", "10.0.0.1/24", "dev", "br100")
	sixth := n.attach("sixth", lab.CNIOptions{})
	sixth.checked()
	for _, w := range []*workload{w, third, fifth, sixth} {
		w.detach()
	}
	n.run("flatctl", "network", "rm", network)
	if err := n.exec("ip", "link", "show", leg); err == nil {
		t.Error("the leg is there although its network is not")
	}
}

// A gateway that was its node's own becomes one that others have as well, with workloads on:
// a person takes the address from the bridge, and the MAC, and both times is told how.
func TestGatewayBecomesShared(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, nil)
	w := n.attach("w", lab.CNIOptions{})
	n.serve(outside, 80)
	n.seenFrom("before, a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
	n.configure(sharedKeys)
	late := n.container("late")
	refused := func(words ...string) {
		t.Helper()
		_, err := n.tryAttach(late, lab.CNIOptions{})
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("ADD does not say %q: %v", word, err)
			}
		}
	}
	refused("bridge br100 has address 10.0.0.1/24, which is not the node address 10.0.0.251/24 of the same subnet", "ip address del 10.0.0.1/24 dev br100")
	n.run("ip", "address", "del", "10.0.0.1/24", "dev", "br100")
	refused("MAC fa:16:3e:00:00:01 of bridge br100: it is the shared gateway's", "ip link set br100 address 02:")
	code, message := n.status()
	_, rest, found := strings.Cut(message, "`ip link set ")
	command, _, whole := strings.Cut(rest, "`")
	if code != 50 || !found || !whole {
		t.Fatalf("STATUS: %d %s", code, message)
	}
	n.run(append([]string{"ip", "link", "set"}, strings.Fields(command)...)...)
	l := n.attachTo(late, lab.CNIOptions{})
	n.apply(nil)
	for _, w := range []*workload{w, l} {
		n.seenFrom("afterwards, a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
		w.checked()
	}
	n.serve(w, 80)
	n.seenFrom("afterwards, the node, at a workload,", n, at(w.addr, 80), nodeAddr)
}

// Each bridge has a leg of its own, and each network's gateway its MAC.
func TestTwoNetworksEachShareTheirGateway(t *testing.T) {
	t.Parallel()
	n := newNode(t, sharedKeys)
	second := n.secondNetwork(keys{"gatewayShared": true, "nodeAddress": "10.9.0.251"})
	first, other := n.attach("first", lab.CNIOptions{}), second.attach("other", lab.CNIOptions{})
	for _, c := range []struct {
		w       *workload
		gateway netip.Addr
		mac     string
	}{{first, gateway, sharedIs}, {other, netip.MustParseAddr("10.9.0.1"), "fa:16:3e:09:00:01"}} {
		if err := c.w.exec("ping", "-c", "1", "-W", "20", c.gateway.String()); err != nil {
			t.Errorf("gateway %s does not answer: %v", c.gateway, err)
		}
		if got := c.w.knows(c.gateway); got != c.mac {
			t.Errorf("%s is at %q, want %s", c.gateway, got, c.mac)
		}
		c.w.checked()
	}
	other.detach()
	n.run("flatctl", "network", "rm", "second")
	if err := n.exec("ip", "link", "show", link.LegName("br200")); err == nil {
		t.Error("the second network's leg is there although the network is not")
	}
	first.checked()
}
