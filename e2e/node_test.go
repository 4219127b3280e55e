// Package e2e drives the built programs as a runtime does: through cnitool, on hosts
// made of network namespaces, with real DHCP clients.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// patience is how long anything may take before a test gives up. Nothing is measured
// by it.
const patience = 30 * time.Second

const network = "flat"

var gateway = netip.MustParseAddr("10.0.0.1")

// keys are keys of flat-bridge; those below "ipam" go into flat-ipam.
type keys map[string]any

// node is a host with a network's conflist, and what was attached to it.
type node struct {
	*lab.Host
	t       *testing.T
	network string
	extra   keys
	chained []keys // plugins behind flat-bridge
}

// newNode makes a host of its own for the test.
func newNode(t *testing.T, extra keys) *node {
	t.Helper()
	n := &node{Host: labtest.Host(t, "node"), t: t, network: network, extra: keys{}}
	n.configure(extra)
	return n
}

// secondNetwork is the same host with another network, 10.9.0.0/24 on br200.
func (n *node) secondNetwork(extra keys) *node {
	n.t.Helper()
	second := &node{Host: n.Host, t: n.t, network: "second", extra: keys{"bridge": "br200", "ipam.subnet": "10.9.0.0/24"}}
	second.configure(extra)
	return second
}

// configure writes the conflist with some keys changed; nothing is applied.
func (n *node) configure(change keys) {
	n.t.Helper()
	for k, v := range change {
		n.extra[k] = v
	}
	plugins := []keys{n.plugin()}
	list, err := json.MarshalIndent(keys{"cniVersion": "1.1.0", "name": n.network, "plugins": append(plugins, n.chained...)}, "", " ")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.WriteConflist(n.within(), n.network, string(list)); err != nil {
		n.t.Fatal(err)
	}
}

// plugin is the plugin's configuration.
func (n *node) plugin() keys {
	ipam := keys{"type": "flat-ipam", "subnet": "10.0.0.0/24"}
	plugin := keys{"type": "flat-bridge", "ipam": ipam}
	for k, v := range n.extra {
		if sub, ok := strings.CutPrefix(k, "ipam."); ok {
			ipam[sub] = v
		} else {
			plugin[k] = v
		}
	}
	return plugin
}

// apply changes the conflist and puts it in force, as an administrator does.
func (n *node) apply(change keys) {
	n.t.Helper()
	n.configure(change)
	n.run("flatctl", "apply", lab.ConflistPath(n.network))
}

func (n *node) within() context.Context { return labtest.Within(n.t, patience) }

// run runs a program on the host that must succeed, and returns what it printed.
func (n *node) run(argv ...string) string {
	n.t.Helper()
	out, stderr, err := n.Run(n.within(), argv...)
	if err != nil {
		n.t.Fatalf("%v\n%s", err, stderr)
	}
	return out
}

// workload is a container with an interface on the network.
type workload struct {
	*lab.Container
	n      *node
	o      lab.CNIOptions // as it was attached: a runtime sends the same with DEL
	ifName string
	result *types100.Result
	addr   netip.Addr
	mac    net.HardwareAddr
}

// container makes a container without interface.
func (n *node) container(name string) *lab.Container {
	n.t.Helper()
	c, err := n.Container(n.within(), name)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// attach makes a container and attaches it.
func (n *node) attach(name string, o lab.CNIOptions) *workload {
	n.t.Helper()
	return n.attachTo(n.container(name), o)
}

func (n *node) attachTo(c *lab.Container, o lab.CNIOptions) *workload {
	n.t.Helper()
	w, err := n.tryAttach(c, o)
	if err != nil {
		n.t.Fatal(err)
	}
	return w
}

func (n *node) tryAttach(c *lab.Container, o lab.CNIOptions) (*workload, error) {
	out, err := n.CNI(n.within(), "add", n.network, c, o)
	if err != nil {
		return nil, err
	}
	w := &workload{Container: c, n: n, o: o, ifName: "eth0", result: &types100.Result{}}
	if o.IfName != "" {
		w.ifName = o.IfName
	}
	if err := json.Unmarshal(out, w.result); err != nil {
		return nil, fmt.Errorf("decoding the result %s: %w", out, err)
	}
	w.addr, _ = netip.AddrFromSlice(w.result.IPs[0].Address.IP.To4())
	w.mac, err = net.ParseMAC(w.result.Interfaces[2].Mac)
	return w, err
}

// detach DELs the workload and removes its container.
func (w *workload) detach() {
	w.n.t.Helper()
	w.del()
	if err := w.Delete(w.n.within()); err != nil {
		w.n.t.Fatal(err)
	}
}

func (w *workload) del() {
	w.n.t.Helper()
	if _, err := w.n.CNI(w.n.within(), "del", w.n.network, w.Container, w.o); err != nil {
		w.n.t.Fatal(err)
	}
}

// checked fails the test unless CHECK passes.
func (w *workload) checked() {
	w.n.t.Helper()
	if _, err := w.n.CNI(w.n.within(), "check", w.n.network, w.Container, w.o); err != nil {
		w.n.t.Errorf("CHECK: %v", err)
	}
}

func (w *workload) port() string  { return link.PortName(w.ID(), w.ifName) }
func (w *workload) chain() string { return filter.ChainName(w.n.network, w.ID(), w.ifName) }

func (w *workload) endpoint() lab.Endpoint { return lab.Endpoint{MAC: w.mac, Addr: w.addr} }

// tap captures and sends on the workload's own interface.
func (w *workload) tap() *lab.Tap {
	w.n.t.Helper()
	tap, err := w.Tap(w.ifName)
	if err != nil {
		w.n.t.Fatal(err)
	}
	w.n.t.Cleanup(func() { _ = tap.Close() }) // a capture: nothing to lose
	return tap
}

// state is the whole host, to be compared.
func (n *node) state() lab.State {
	n.t.Helper()
	s, err := n.State(n.within())
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// unchanged fails the test if the host is not as it was.
func (n *node) unchanged(before lab.State, what string) {
	n.t.Helper()
	if diff := before.Diff(n.state()); diff != "" {
		n.t.Errorf("%s left a difference:\n%s", what, diff)
	}
}

// eventually waits for a condition; a test that needs time waits for what it needs.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	ctx := n.within()
	for !ok() {
		select {
		case <-ctx.Done():
			n.t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// combinations runs a test with the toggle on and off, each with FORWARD's policy
// ACCEPT and DROP (Docker's).
func combinations(t *testing.T, extra keys, test func(t *testing.T, n *node, open bool)) {
	t.Helper()
	labtest.RequireRoot(t)
	for _, open := range []bool{true, false} {
		for _, policy := range []string{"ACCEPT", "DROP"} {
			t.Run(fmt.Sprintf("sameNet=%t/FORWARD=%s", open, policy), func(t *testing.T) {
				t.Parallel()
				all := keys{"allowSameNetTraffic": open}
				for k, v := range extra {
					all[k] = v
				}
				n := newNode(t, all)
				n.run("iptables", "-P", "FORWARD", policy)
				test(t, n, open)
			})
		}
	}
}

// ruleCount returns how many packets the rule of a chain has matched: the only rule of
// which iptables prints text.
func (n *node) ruleCount(chain, text string) int {
	n.t.Helper()
	number, count := 0, 0
	for line := range strings.Lines(n.run("iptables-save", "-c", "-t", "filter")) {
		counters, rule, _ := strings.Cut(strings.TrimSpace(line), "] ")
		if !strings.HasPrefix(rule, "-A "+chain+" ") || !strings.HasSuffix(rule, text) {
			continue
		}
		packets, _, _ := strings.Cut(strings.TrimPrefix(counters, "["), ":")
		c, err := strconv.Atoi(packets)
		if err != nil {
			n.t.Fatalf("reading the counter of %q: %v", line, err)
		}
		number, count = number+1, c
	}
	if number != 1 {
		n.t.Fatalf("%d rules of %s end with %q, want one", number, chain, text)
	}
	return count
}

// guardCount returns one of the guard's counters by reason.
func (n *node) guardCount(reason string) int {
	n.t.Helper()
	out := n.run("nft", "-j", "list", "counter", "bridge", "flatdhcp", reason)
	var list struct {
		Nftables []struct {
			Counter *struct{ Packets int }
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		n.t.Fatalf("decoding %s: %v", out, err)
	}
	for _, o := range list.Nftables {
		if o.Counter != nil {
			return o.Counter.Packets
		}
	}
	n.t.Fatalf("the guard has no counter %s", reason)
	return 0
}
