package seed

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// singleCluster is the shape in which a compute host has no address in the subnet, as if it
// were a cluster's primary network.
func singleCluster() shape {
	sh := shape{name: "cluster, single-host", keys: map[string]keys{}}
	for name, k := range shapes[0].keys {
		sh.keys[name] = with(k, keys{"flatInterface": "eth2", "hairpinMode": true, "addressing": "static"})
	}
	return sh
}

// TestWhySingleHostIsNoClusterNetwork shows what docs/kubernetes.md says of it: what a compute
// host redirects to a pod, it then routes, and its only way leads off the flat network. Its
// kubelet does not reach its pods either.
func TestWhySingleHostIsNoClusterNetwork(t *testing.T) {
	labtest.RequireRoot(t)
	for _, open := range []bool{true, false} {
		t.Run(fmt.Sprintf("sameNet=%t", open), func(t *testing.T) {
			t.Parallel()
			p := newPods(t, singleCluster(), open)
			for _, n := range p.nodes() {
				n.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1") // as a Kubernetes node has it
			}
			lost := func(from labtest.Place, to netip.AddrPort, server *workload) func(*scene) outcome {
				return func(*scene) outcome { return p.routedAway(from, to, server) }
			}
			one := func(number uint16) netip.AddrPort { return port("compute-1", number) }
			for _, c := range []testCase{
				{id: "U01", action: "a node to its own pod (kubelet's probes)", run: func(*scene) outcome { return p.probe() }},
				{id: "U02", action: "ClusterIP, pod of the same node", run: lost(p.client, p.services["near"].at(), p.near)},
				{id: "U03", action: "ClusterIP, pod of another node", run: lost(p.client, p.services["far"].at(), p.far)},
				{id: "U04", action: "a pod to its own Service", run: lost(p.client, p.services["own"].at(), p.client)},
				{id: "U05", action: "outside to a NodePort, pod of that node", run: lost(p.outside, one(30080), p.near)},
				{id: "U06", action: "outside to a hostPort", run: lost(p.outside, one(8081), p.near)},
				{id: "U07", action: "U02 where kube-proxy runs on the controller alone", run: func(*scene) outcome { return p.controllerAlone() }},
				{id: "U08", action: "the controller to a pod, at its address", run: func(*scene) outcome {
					return p.reaches(p.controller, netip.AddrPortFrom(p.near.addr, 80), gateway, p.near.gatewayRule())
				}},
				{id: "U09", action: "U07 from a pod on the controller", run: func(*scene) outcome {
					guest := p.controller.attach("guest", lab.CNIOptions{})
					return p.reaches(guest, p.services["near"].at(), gateway, p.near.gatewayRule())
				}},
			} {
				t.Run(c.id, func(t *testing.T) {
					outer := p.t
					p.t = t
					defer func() { p.t = outer }()
					p.play(c)
				})
			}
		})
	}
	t.Cleanup(func() { t.Logf("\n%s", results.String()) })
}

// routedAway: the connection is redirected to the pod and leaves by the management network's
// NIC, where nobody knows the pod. That the client asked again proves that nobody answered.
func (p *pods) routedAway(from labtest.Place, to netip.AddrPort, server *workload) outcome {
	p.t.Helper()
	capture := p.watch(p.compute1.At("eth1"))
	suffix := fmt.Sprintf(" > %s.80: TCP [S]", server.addr)
	away := func() int {
		seen := 0
		for _, f := range p.sightings(capture) {
			if f.Sent && strings.HasSuffix(lab.Describe(f.Frame), suffix) {
				seen++
			}
		}
		return seen
	}
	o := outcome{expected: "not reached", observed: word(p.connected(from, to, false, func() bool { return away() > 1 }), "reached", "not reached")}
	o.decided = fmt.Sprintf("compute-1's routes: %q left by its eth1 (+%d); control: U08", "..."+suffix, away())
	return o
}

// probe: none of the node's addresses is of the subnet or counts as gateway.
func (p *pods) probe() outcome {
	p.t.Helper()
	r := p.near.fallback()
	before := r.count()
	err := p.compute1.send(netip.Addr{}, p.near.addr, "a probe")
	o := outcome{expected: "EPERM", observed: "EPERM"}
	if !errors.Is(err, unix.EPERM) {
		o.observed = fmt.Sprint(err)
	}
	o.decidedBy(r, before)
	return o
}

// controllerAlone: the compute hosts have no Services any more, so the controller redirects,
// as any gateway does. The bridge then keeps the frame, which would have to leave by the NIC
// that it came by. A request that was redirected twice never left: conntrack would know it.
func (p *pods) controllerAlone() outcome {
	p.t.Helper()
	for _, n := range []*node{p.compute1, p.compute2} {
		n.proxied(false, nil)
	}
	to := p.services["near"].at()
	r := p.controller.dnat(p.services["near"], p.near)
	before := r.count()
	o := outcome{expected: "not reached", observed: word(p.connected(p.client, to, false, r.counted(2)), "reached", "not reached")}
	o.decidedBy(r, before)
	o.decided += ", then the bridge: eth2 in and out (control: U09)"
	return o
}
