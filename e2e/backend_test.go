package e2e

import (
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// alternatives makes the host's iptables the administrator's choice, nft or legacy; "" is
// none, as in the middle of an upgrade. What is in force by an earlier choice stays.
func (n *node) alternatives(backend string) {
	n.t.Helper()
	n.run("sh", "-ec", `[ -d /run/alternatives ] || cp -a /run/lab/etc/alternatives /run/alternatives
		rm -f /etc/alternatives && ln -s /run/alternatives /etc/alternatives
		for p in iptables iptables-save iptables-restore; do
			rm -f /run/alternatives/$p
			[ -z "$1" ] || ln -s "/usr/sbin/iptables-$1${p#iptables}" /run/alternatives/$p
		done`, "sh", backend)
	if backend == "" {
		if err := n.exec("iptables", "--version"); err == nil {
			n.t.Fatal("iptables is still there: it is no alternative on this machine")
		}
		return
	}
	want := map[string]string{"nft": "nf_tables", "legacy": "legacy"}[backend]
	if v := n.run("iptables", "--version"); !strings.Contains(v, want) {
		n.t.Fatalf("iptables is %s, not %s", v, backend)
	}
}

// ours are the rules and chains of ours in a back end.
func (n *node) ours(backend string) string {
	n.t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(n.run("iptables-" + backend + "-save")) {
		if strings.Contains(line, "FLAT-") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

func other(backend string) string {
	return map[string]string{"nft": "legacy", "legacy": "nft"}[backend]
}

// Workloads come, meet the toggle and go with either back end, and the other one never
// holds anything of ours.
func TestEitherBackEnd(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, nil)
			n.alternatives(backend)
			n.run("iptables", "-P", "FORWARD", "DROP")
			n.neighbours()
			peer := n.attach("peer", lab.CNIOptions{})
			before := n.state()
			n.attach("w", lab.CNIOptions{}).detach()
			n.unchanged(before, "a workload that came and went with "+backend)
			w := n.attach("w", lab.CNIOptions{})
			n.protected(w, "with "+backend)
			w.checked()
			p := newPath(peer, w)
			echo := func(id uint16) []byte {
				return lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, id, 1, nil))
			}
			p.mustPass("an echo request of a neighbour", echo(9))
			n.apply(keys{"allowSameNetTraffic": false})
			w.checked()
			p.mustDrop("an echo request of a neighbour", echo, w.fallback())
			n.serve(w, 80)
			n.seenFrom("the node, at a closed workload,", n, at(w.addr, 80), gateway)
			n.apply(keys{"allowSameNetTraffic": true})
			w.checked()
			p.mustPass("an echo request of a neighbour, with the toggle on again,", echo(10))
			if rules := n.ours(other(backend)); rules != "" {
				t.Errorf("the other back end holds:\n%s", rules)
			}
			if rules := n.ours(backend); !strings.Contains(rules, w.chain()) {
				t.Errorf("this back end does not hold the workload's chain:\n%s", rules)
			}
		})
	}
}

// The administrator changes the back end while workloads live. CHECK says so; until the
// next ADD, or flatctl apply, takes the rules along, the old ones judge, and then the new.
func TestBackEndChangesUnderLivingWorkloads(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "legacy"} {
		t.Run("from "+backend, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, keys{"allowSameNetTraffic": false})
			n.alternatives(backend)
			w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
			p := newPath(peer, w)
			echo := func(id uint16) []byte {
				return lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, id, 1, nil))
			}
			changed := func(from, to, by string, mend func()) {
				t.Helper()
				n.alternatives(to)
				_, err := n.CNI(n.within(), "check", network, w.Container, w.o)
				for _, want := range []string{"the rules are in the " + from + " back end", "is " + to + " now", "flatctl apply"} {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("CHECK after a change to %s: %v; want it to say %q", to, err, want)
					}
				}
				if p.passes(echo(20)) {
					t.Errorf("after a change to %s, and before the rules are taken along, a closed workload is reached", to)
				}
				mend()
				if rules := n.ours(from); rules != "" {
					t.Errorf("%s left in the %s back end:\n%s", by, from, rules)
				}
				w.checked()
				n.protected(w, "after "+by)
				p.mustDrop("an echo request of a neighbour, after "+by, echo, w.fallback())
			}
			changed(backend, other(backend), "the next ADD", func() { n.attach("next", lab.CNIOptions{}) })
			changed(other(backend), backend, "flatctl apply", func() { n.apply(nil) })
			// A DEL that is the first to come after a change finds its rules all the same.
			n.alternatives(other(backend))
			w.detach()
			peer.detach()
			for _, b := range []string{"nft", "legacy"} {
				if rules := n.ours(b); strings.Contains(rules, w.chain()) || strings.Contains(rules, peer.chain()) {
					t.Errorf("DEL left in the %s back end:\n%s", b, rules)
				}
			}
		})
	}
}

// While iptables is no alternative, as in the middle of its upgrade, the back end in use is
// gone on with under its own name, and STATUS says nothing. A node where none is in use yet
// cannot go on.
func TestIPTablesIsNoAlternativeForAWhile(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.alternatives("")
	if code, msg := n.status(); code != 50 || !strings.Contains(msg, "no usable iptables program") {
		t.Errorf("STATUS where no back end is in use is %d: %s", code, msg)
	}
	n.alternatives("legacy")
	n.attach("first", lab.CNIOptions{})
	n.alternatives("")
	if code, msg := n.status(); code != 0 {
		t.Errorf("STATUS is %d: %s", code, msg)
	}
	w := n.attach("w", lab.CNIOptions{})
	w.checked()
	if rules := n.ours("legacy"); !strings.Contains(rules, w.chain()) {
		t.Errorf("the workload's chain is not in the back end in use:\n%s", rules)
	}
	w.detach()
	if rules := n.ours("legacy") + n.ours("nft"); strings.Contains(rules, w.chain()) {
		t.Errorf("DEL left:\n%s", rules)
	}
}
