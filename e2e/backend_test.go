package e2e

import (
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// choose makes iptables stand for a back end, as update-alternatives does, on this host.
func (n *node) choose(backend string) {
	n.t.Helper()
	n.run("sh", "-ec", `
		if ! mountpoint -q /etc/alternatives; then
			cp -a /etc/alternatives/. /run/alternatives
			mount --bind /run/alternatives /etc/alternatives
		fi
		for p in iptables iptables-save iptables-restore; do
			ln -sfn /usr/sbin/iptables-`+backend+`${p#iptables} /etc/alternatives/$p
		done`)
}

// oursIn counts lines of ours in a back end.
func (n *node) oursIn(backend string) int {
	n.t.Helper()
	return strings.Count(n.run("sh", "-c", "iptables-"+backend+"-save -t filter; iptables-"+backend+"-save -t nat"), "FLAT-")
}

// An administrator changes the back end of iptables while workloads run.
func TestBackEndChangesUnderWorkloads(t *testing.T) {
	for _, way := range [][2]string{{"nft", "legacy"}, {"legacy", "nft"}} {
		old, now := way[0], way[1]
		t.Run(old+" to "+now, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, keys{"allowSameNetTraffic": false, "ipMasq": true})
			n.choose(old)
			a, b := n.attach("a", lab.CNIOptions{}), n.attach("b", lab.CNIOptions{})
			a.checked()
			if n.oursIn(old) == 0 || n.oursIn(now) != 0 {
				t.Fatalf("%d lines in %s, %d in %s", n.oursIn(old), old, n.oursIn(now), now)
			}

			n.choose(now)
			_, err := n.CNI(n.within(), "check", n.network, a.Container, a.o)
			if err == nil || !strings.Contains(err.Error(), "the rules are in the "+old+" back end of iptables") {
				t.Errorf("CHECK: %v", err)
			}
			chain := b.chain()
			b.detach()
			if saved := n.run("iptables-" + old + "-save"); strings.Contains(saved, chain) || !strings.Contains(saved, a.chain()) {
				t.Errorf("DEL left its rules where they were, or took others':\n%s", saved)
			}

			c := n.attach("c", lab.CNIOptions{})
			if left := n.oursIn(old); left != 0 {
				t.Errorf("%d lines are left in %s", left, old)
			}
			for _, w := range []*workload{a, c} {
				w.checked()
				if !answered(n, n.exec, w.addr) {
					t.Errorf("the node does not reach %s", w.addr)
				}
			}
			dropped := n.ruleCount(a.chain(), "-j FLAT-DROP")
			if _, _, err := c.Run(n.within(), "ping", "-c", "1", "-W", "1", a.addr.String()); err == nil {
				t.Error("a neighbour is reached although the toggle is off")
			}
			if n.ruleCount(a.chain(), "-j FLAT-DROP") == dropped {
				t.Error("the counter of the fallback did not move")
			}
			a.detach()
			c.detach()
			n.run("flatctl", "network", "rm", n.network)
			if left := n.oursIn(old) + n.oursIn(now); left != 0 {
				t.Errorf("%d lines are left", left)
			}
		})
	}
}

// A network that neither filters, nor is the gateway, nor masquerades works on a node
// without iptables; one that filters says what is missing, and changes nothing.
func TestWithoutIptables(t *testing.T) {
	n := newNode(t, keys{"filter": "none", "isGateway": false, "ipMasq": false})
	n.run("sh", "-c", "mount -t tmpfs none /etc/alternatives") // where every iptables leads
	a, b := n.attach("a", lab.CNIOptions{}), n.attach("b", lab.CNIOptions{})
	a.checked()
	if _, stderr, err := a.Run(n.within(), "ping", "-c", "1", "-W", "20", b.addr.String()); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	a.detach()
	b.detach()
	filtered := n.secondNetwork(nil)
	if got := filtered.errorCode("ADD", filtered.container("c"), ""); got != 101 {
		t.Errorf("CNI code %d, want 101", got)
	}
	n.run("umount", "/etc/alternatives")
	if w := filtered.attach("d", lab.CNIOptions{}); !answered(n, n.exec, w.addr) {
		t.Error("the control: with iptables the filtered network works")
	}
}
