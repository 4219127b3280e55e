package e2e

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// publish is what a runtime sends portmap for hostPort 8080.
var publish = lab.CNIOptions{CapArgs: `{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`}

// A hostPort of a closed workload is reached, by the rule for what this node itself has
// redirected, and by that alone. The node's own address stands for a neighbour and for
// the workload itself, whose answers must come back the same way.
func TestChainedPortmap(t *testing.T) {
	t.Parallel()
	n, outside := newNodeWithOutside(t, keys{"allowSameNetTraffic": false, "hairpinMode": true, "published": true})
	n.run("iptables", "-P", "FORWARD", "DROP")
	n.chained = []keys{{"type": "portmap", "capabilities": keys{"portMappings": true}}}
	n.configure(nil)
	neighbour := n.attach("neighbour", lab.CNIOptions{})
	first := n.attach("first", publish)
	first.checked()
	first.detach() // portmap keeps the chains that all its ports share
	n.attach("second", publish).detach()
	if !answered(n, n.exec, outsideAddr) || !answered(n, n.exec, neighbour.addr) {
		t.Fatal("the node does not reach its neighbours")
	}
	before := n.state()
	w := n.attach("w", publish)
	n.serve(w, 80)

	hostPort := at(nodeOutside, 8080)
	published := n.rule(w.chain(), "-m conntrack --ctstate DNAT -j ACCEPT")
	counted := published.count()
	n.seenFrom("outside, at a hostPort,", outside, hostPort, outsideAddr)
	if published.count() != counted+1 {
		t.Errorf("%q counted %d connections, want 1", published.name, published.count()-counted)
	}
	n.seenFrom("the node, at its own hostPort,", n, hostPort, nodeOutside)
	n.seenFrom("a neighbour, at a hostPort,", neighbour, hostPort, gateway)
	n.seenFrom("a workload, at its own hostPort,", w, hostPort, gateway)
	n.apply(keys{"hairpinMode": false})
	if w.reachesItself(hostPort) {
		t.Error("without hairpinMode what a workload sends to its own hostPort comes back to it")
	}
	n.apply(keys{"hairpinMode": true})
	if !w.reachesItself(hostPort) {
		t.Error("the control: with hairpinMode again it does not")
	}
	n.stopped("a neighbour of a closed workload", neighbour, at(w.addr, 80), w.fallback())

	n.apply(keys{"published": false})
	n.stopped("the control: without published outside, at a hostPort,", outside, hostPort, w.fallback())
	n.apply(keys{"published": true})
	n.seenFrom("with published again outside, at a hostPort,", outside, hostPort, outsideAddr)

	w.checked()
	w.detach()
	n.unchangedBut(neighbour, before, "a workload with a hostPort")
}

// reachesItself reports whether a connection request of the workload to its own hostPort
// comes back to it before what the node sends once portmap's rule has redirected the request.
func (w *workload) reachesItself(hostPort netip.AddrPort) bool {
	n := w.n
	n.t.Helper()
	redirected := func() string {
		var counters strings.Builder
		for line := range strings.Lines(n.run("iptables-save", "-c", "-t", "nat")) {
			if strings.Contains(line, "--to-destination "+w.addr.String()) {
				counters.WriteString(line)
			}
		}
		return counters.String()
	}
	tap := w.tap()
	bridge, err := n.Tap(w.result.Interfaces[0].Name)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = bridge.Close() }()
	ctx, cancel := context.WithCancel(n.within())
	before := redirected()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = ask(ctx, w, hostPort) // what comes of it is seen at the tap
	}()
	n.eventually("portmap's rule to redirect", func() bool { return redirected() != before })
	marker, is := lab.Marker(lab.Endpoint{MAC: bridge.MAC(), Addr: gateway}, w.endpoint())
	if err := bridge.Send(marker); err != nil {
		n.t.Fatal(err)
	}
	frames, err := tap.Until(n.within(), is)
	if err != nil {
		n.t.Fatal(err)
	}
	cancel()
	<-done
	return slices.ContainsFunc(frames, func(f []byte) bool { // TCP to the container's port
		return len(f) > 38 && f[12] == 8 && f[13] == 0 && f[23] == 6 && f[36] == 0 && f[37] == 80
	})
}

// Plugin firewall accepts what its containers send, and puts that before our chains when it
// runs for the first time. CHECK says so of a closed workload; the next ADD puts ours
// first, before it has a port, and there they stay.
func TestChainedFirewallAndTheToggle(t *testing.T) {
	t.Parallel()
	n := newNode(t, keys{"allowSameNetTraffic": false})
	n.chained = []keys{{"type": "firewall", "backend": "iptables"}}
	n.configure(nil)
	w := n.attach("w", lab.CNIOptions{})
	_, err := n.CNI(n.within(), "check", network, w.Container, w.o)
	if err == nil || !strings.Contains(err.Error(), "FORWARD of table filter jumps to FLAT-FORWARD, but something else comes first") {
		t.Errorf("CHECK after plugin firewall's first run: %v", err)
	}
	peer := n.attach("peer", lab.CNIOptions{})
	w.checked()
	peer.checked()
	newPath(peer, w).mustDrop("an echo request of a neighbour that plugin firewall accepts", func(id uint16) []byte {
		return lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, id, 1, nil))
	}, w.fallback())
}

// What tuning changes behind flat-bridge: MTU and sysctls are its to change. A MAC is not,
// for the guard lets no other pass; given to flat-bridge, by capability, it is.
func TestChainedTuning(t *testing.T) {
	t.Parallel()
	inside := func(n *node, w *workload, argv ...string) string {
		out, _, err := w.Run(n.within(), argv...)
		if err != nil {
			n.t.Fatal(err)
		}
		return out
	}
	t.Run("mtu and sysctl", func(t *testing.T) {
		n := newNode(t, nil)
		n.chained = []keys{{"type": "tuning", "mtu": 1400, "sysctl": keys{"net.ipv4.conf.eth0.arp_filter": "1"}}}
		n.configure(nil)
		n.attach("neighbour", lab.CNIOptions{})
		before := n.state()
		w := n.attach("w", lab.CNIOptions{})
		if out := inside(n, w, "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
			t.Errorf("tuning has not tuned: %s", out)
		}
		if out := inside(n, w, "sysctl", "-n", "net.ipv4.conf.eth0.arp_filter"); out != "1\n" {
			t.Errorf("tuning has not set the sysctl: %s", out)
		}
		w.checked()
		if !answered(n, n.exec, w.addr) {
			t.Error("the workload is not reached")
		}
		w.detach()
		n.unchanged(before, "a workload behind which tuning is chained")
	})
	const mac = "02:00:00:00:00:07"
	t.Run("mac", func(t *testing.T) {
		n := newNode(t, nil)
		n.attach("neighbour", lab.CNIOptions{})
		n.chained = []keys{{"type": "tuning", "mac": mac}}
		n.configure(nil)
		before := n.state()
		w := n.attach("w", lab.CNIOptions{})
		if out := inside(n, w, "ip", "link", "show", "eth0"); !strings.Contains(out, mac) {
			t.Fatalf("tuning has not changed the MAC: %s", out)
		}
		_, err := n.CNI(n.within(), "check", network, w.Container, w.o)
		for _, want := range []string{mac, n.row(w).MAC.String(), "capability mac"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("CHECK: %v; want it to say %q", err, want)
			}
		}
		dropped := n.guardCount("in_mac")
		if err := w.exec("ping", "-c", "1", "-W", "1", gateway.String()); err == nil {
			t.Error("a MAC that the guard does not know passes")
		}
		if n.guardCount("in_mac") == dropped {
			t.Error("guard counter in_mac counted nothing")
		}
		w.detach()
		n.unchanged(before, "a workload whose MAC was changed")
	})
	t.Run("mac by capability", func(t *testing.T) {
		n := newNode(t, keys{"capabilities": keys{"mac": true}})
		n.chained = []keys{{"type": "tuning", "capabilities": keys{"mac": true}}}
		n.configure(nil)
		w := n.attach("w", lab.CNIOptions{CapArgs: `{"mac": "` + mac + `"}`})
		if w.mac.String() != mac {
			t.Errorf("the MAC is %s, want %s", w.mac, mac)
		}
		w.checked()
		if !answered(n, w.exec, gateway) {
			t.Error("the workload does not reach the gateway")
		}
	})
}
