package seed

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// clusters are the shapes in which flat-bridge is a cluster's primary network: each node is
// gateway, by an address of its own or by that of all, and knows the others.
func clusters() []shape {
	var all []shape
	for _, sh := range []shape{ownGateways, sharedGateway} {
		nodes := []string{"10.0.0.1", "10.0.0.64", "10.0.0.128"}
		if sh.name == sharedGateway.name {
			nodes = []string{"10.0.0.251", "10.0.0.252", "10.0.0.253"}
		}
		cluster := shape{name: "cluster, " + sh.name, multi: true, keys: map[string]keys{}}
		for name, own := range sh.keys {
			cluster.keys[name] = with(own, keys{"gatewayAddresses": nodes, "hairpinMode": true, "addressing": "static"})
		}
		all = append(all, cluster)
	}
	return all
}

// pods are the cluster's: client and near on compute-1, far on compute-2, each a server, too.
type pods struct {
	*scene
	client, near, far *workload
	echo              *workload // on compute-1, says back what it is told
	services          map[string]service

	// The addresses from which compute-1 and compute-2 speak to pods: their gateways', or
	// their own where that is shared.
	firstNode, secondNode netip.Addr
}

// hostPort is what a runtime sends portmap for a pod with a hostPort.
var hostPort = lab.CNIOptions{CapArgs: `{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`}

func newPods(t *testing.T, sh shape, open bool) *pods {
	t.Helper()
	p := &pods{scene: newHosts(t, sh, open, lab.Seed(2))}
	if sh.multi {
		p.firstNode, p.secondNode = p.compute1.own(), p.compute2.own()
	}
	for _, n := range p.nodes() {
		n.chained = []keys{{"type": "portmap", "capabilities": keys{"portMappings": true}}}
		n.configure(nil)
		n.proxied(true, nil) // kube-proxy starts before the first pod does
	}
	p.client = p.compute1.attach("client", hostPort)
	p.near = p.compute1.attach("near", lab.CNIOptions{CapArgs: `{"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]}`})
	p.far = p.compute2.attach("far", hostPort)
	p.echo = p.compute1.attach("echo", lab.CNIOptions{})
	p.echoes(p.echo, 80)
	address := func(last int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("172.20.0.%d", last)) }
	list := []service{
		{"near", address(10), 30080, false, []*workload{p.near}},
		{"far", address(11), 30081, false, []*workload{p.far}},
		{"own", address(12), 0, false, []*workload{p.client}},
		{"both", address(13), 0, false, []*workload{p.near, p.far}},
		{"kept", address(14), 30084, true, []*workload{p.far}},
		{"echo", address(15), 0, false, []*workload{p.echo}},
	}
	p.services = map[string]service{}
	for _, v := range list {
		p.services[v.name] = v
	}
	for _, n := range p.nodes() {
		n.proxied(false, list)
	}
	for _, w := range []*workload{p.client, p.near, p.far} {
		p.tells(w)
	}
	return p
}

// published lets by what the workload's own node has redirected to it.
func (w *workload) published() rule { return w.chainRule("-m conntrack --ctstate DNAT -j ACCEPT") }

// fromGateway lets by what comes from a node's gateway address.
func (w *workload) fromGateway(addr netip.Addr) rule {
	return w.chainRule("-s " + addr.String() + "/32 -j ACCEPT")
}

// dnat is the rule of kube-proxy that sends a Service's connections to a backend.
func (n *node) dnat(v service, w *workload) rule {
	return n.ruleLike("nat "+v.endpointChain(w)+" ", "--to-destination "+w.addr.String()+":80")
}

// TestKubeProxyAndPortmap plays the ways to a pod that kube-proxy and portmap make. What a
// node has redirected comes by its hand, so the toggle does not hold against it, as against
// nothing of the nodes': published, and gatewayAddresses for the other nodes, say whether.
func TestKubeProxyAndPortmap(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range clusters() {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/sameNet=%t", sh.name, open), func(t *testing.T) {
				t.Parallel()
				newPods(t, sh, open).playAll()
			})
		}
	}
	t.Cleanup(func() { t.Logf("\n%s", results.String()) })
}

// playAll plays the cases, and then CHECK.
func (p *pods) playAll() {
	for _, c := range p.cases() {
		p.whole.Run(c.id, func(t *testing.T) {
			outer := p.t
			p.t = t
			defer func() { p.t = outer }()
			p.play(c)
		})
	}
	for _, w := range []*workload{p.client, p.near, p.far} {
		if _, err := w.n.CNI(p.within(), "check", network, w.Container, w.o); err != nil {
			p.t.Errorf("CHECK of %s: %v", w.name, err)
		}
	}
}

func port(host string, port uint16) netip.AddrPort { return netip.AddrPortFrom(management[host], port) }

// cases are in the order in which they are played; those that change keys come last.
func (p *pods) cases() []testCase {
	reached := func(from labtest.Place, to netip.AddrPort, source netip.Addr, r rule) func(*scene) outcome {
		return func(s *scene) outcome { return s.reaches(from, to, source, r) }
	}
	near, far, own := p.services["near"], p.services["far"], p.services["own"]
	one, two := management["compute-1"], management["compute-2"]
	return []testCase{
		{id: "S01", action: "a pod to a pod of its node, at its address", run: p.direct(p.client, p.near)},
		{id: "S02", action: "a pod to a pod of another node, at its address", run: p.direct(p.client, p.far)},
		{id: "S03", action: "ClusterIP, pod of the same node", run: reached(p.client, near.at(), p.firstNode, p.near.published())},
		{id: "S04", action: "ClusterIP, pod of another node", run: reached(p.client, far.at(), p.firstNode, p.far.fromGateway(p.firstNode))},
		{id: "S05", action: "ClusterIP of two pods, on both nodes", run: func(s *scene) outcome { return p.both() }},
		{id: "S06", action: "a pod to its own Service", run: reached(p.client, own.at(), p.firstNode, p.client.published())},
		{id: "S07", action: "a node to a ClusterIP, pod of the same node", run: reached(p.compute1, near.at(), p.firstNode, p.near.published())},
		{id: "S08", action: "a node to a ClusterIP, pod of another node", run: reached(p.compute1, far.at(), p.firstNode, p.far.fromGateway(p.firstNode))},
		{id: "S09", action: "outside to a NodePort, pod of that node", run: reached(p.outside, port("compute-1", 30080), p.firstNode, p.near.published())},
		{id: "S10", action: "outside to a NodePort, pod of another node", run: reached(p.outside, port("compute-1", 30081), p.firstNode, p.far.fromGateway(p.firstNode))},
		{id: "S11", action: "outside to a NodePort with externalTrafficPolicy Local", run: reached(p.outside, port("compute-2", 30084), outsideAddr, p.far.published())},
		{id: "S12", action: "a pod to its node's NodePort, pod of the same node", run: reached(p.client, port("compute-1", 30080), p.firstNode, p.near.published())},
		{id: "S13", action: "a pod to another node's NodePort, pod of that node", run: reached(p.client, port("compute-2", 30081), p.secondNode, p.far.published())},
		{id: "S14", action: "outside to a hostPort", run: reached(p.outside, port("compute-2", 8080), outsideAddr, p.far.published())},
		{id: "S15", action: "a pod to a hostPort of its node", run: reached(p.client, port("compute-1", 8081), p.firstNode, p.near.published())},
		{id: "S16", action: "a pod to a hostPort of another node", run: reached(p.client, port("compute-2", 8080), one, p.far.published())},
		{id: "S17", action: "a pod to its own hostPort", run: reached(p.client, port("compute-1", 8080), p.firstNode, p.client.published())},
		{id: "S18", action: "a node to its own hostPort", run: reached(p.compute2, port("compute-2", 8080), two, p.far.published())},
		{id: "S24", action: "a node to a pod of its own, at its address", run: reached(p.compute1, netip.AddrPortFrom(p.near.addr, 80), p.firstNode, p.near.fromGateway(p.firstNode))},
		{id: "S25", action: "a node to a pod of another node, at its address", run: reached(p.compute1, netip.AddrPortFrom(p.far.addr, 80), p.firstNode, p.far.fromGateway(p.firstNode))},
		{id: "S19", action: "S06 with hairpinMode false", run: func(*scene) outcome { return p.withoutHairpin() }},
		{id: "S20", action: "S03 with published false", run: p.without(p.compute1, keys{"published": false}, p.client, near.at(), p.near, p.firstNode)},
		{id: "S21", action: "S14 with published false", run: p.unpublished()},
		{id: "S22", action: "S04 without gatewayAddresses", run: p.without(p.compute2, keys{"gatewayAddresses": nil}, p.client, far.at(), p.far, p.firstNode)},
		{id: "S23", action: "S04 with ipMasq false", run: p.without(p.compute1, keys{"ipMasq": false}, p.client, far.at(), p.far, p.client.addr)},
		{id: "S26", action: "S01 once kube-proxy has put its rules first", run: p.kubeProxyFirst},
		{id: "S27", action: "a connection by a ClusterIP, flatctl apply on all nodes", run: p.kept},
	}
}

// kept: what a node has redirected stays, on the pod's node and on the client's.
func (p *pods) kept(s *scene) outcome {
	s.t.Helper()
	at := p.services["echo"].at()
	streams := []*stream{s.stream("a pod, by ClusterIP", p.client, nil, at), s.stream("a pod of another node, by ClusterIP", p.far, nil, at)}
	for _, f := range streams {
		s.goesOn(f)
	}
	for _, n := range s.nodes() {
		n.run("flatctl", "apply", lab.ConflistPath(network))
	}
	for _, f := range streams {
		s.goesOn(f)
	}
	return outcome{expected: "goes on", observed: "goes on", decided: "conntrack entries of what is published stay"}
}

// kubeProxyFirst: kube-proxy has come after the pods, as when it is installed later.
func (p *pods) kubeProxyFirst(s *scene) outcome {
	s.t.Helper()
	p.compute1.kubeJumps("-D")
	p.compute1.kubeJumps("-I")
	o := p.direct(p.client, p.near)(s)
	p.compute1.run("flatctl", "apply", lab.ConflistPath(network))
	if first := strings.SplitN(p.compute1.run("iptables", "-S", "FORWARD"), "\n", 3)[1]; first != "-A FORWARD -j FLAT-FORWARD" {
		o.fault("after flatctl apply FORWARD begins with %q", first)
	}
	return o
}

// direct is the control of all cases: between the pods themselves the toggle holds.
func (p *pods) direct(from, to *workload) func(*scene) outcome {
	return func(s *scene) outcome {
		s.t.Helper()
		at := netip.AddrPortFrom(to.addr, 80)
		if s.open {
			return s.reaches(from, at, from.addr, to.subnetRule())
		}
		return s.refuses(from, at, to.fallback())
	}
}

// without plays a connection with some keys changed on a node: the source alone then decides,
// as between pods.
func (p *pods) without(n *node, change keys, from labtest.Place, to netip.AddrPort, server *workload, source netip.Addr) func(*scene) outcome {
	return func(s *scene) outcome {
		s.t.Helper()
		before := keys{}
		for k := range change {
			before[k] = n.keys[k]
		}
		n.apply(change)
		defer n.apply(before)
		if s.open {
			return s.reaches(from, to, source, server.subnetRule())
		}
		return s.refuses(from, to, server.fallback())
	}
}

// unpublished: who comes from outside the subnet then needs an ingress rule, whatever the
// toggle says.
func (p *pods) unpublished() func(*scene) outcome {
	return func(s *scene) outcome {
		s.t.Helper()
		p.compute2.apply(keys{"published": false})
		defer p.compute2.apply(keys{"published": nil})
		return s.refuses(p.outside, port("compute-2", 8080), p.far.fallback())
	}
}

// both asks until each of the two pods has answered: each answer is let by another rule.
func (p *pods) both() outcome {
	p.t.Helper()
	to := p.services["both"].at()
	near, far := p.near.published(), p.far.fromGateway(p.firstNode)
	beforeNear, beforeFar := near.count(), far.count()
	o := outcome{expected: "reached, both", observed: "reached, both"}
	for tries := 1; near.count() == beforeNear || far.count() == beforeFar; tries++ {
		if got, err := ask(p.within(), p.client, to); err != nil || got != p.firstNode {
			o.observed = fmt.Sprintf("seen as %v at the try %d: %v", got, tries, err)
			return o
		}
		if tries > 100 { // by chance once in 2^100 runs
			o.observed = "one pod alone"
			return o
		}
	}
	o.decidedBy(near, beforeNear)
	o.decidedBy(far, beforeFar)
	return o
}

// withoutHairpin: the bridge does not give a frame back to the port that it came by, which no
// rule sees. A request that was redirected twice never left: conntrack would know it else.
func (p *pods) withoutHairpin() outcome {
	p.t.Helper()
	own := p.services["own"]
	p.compute1.apply(keys{"hairpinMode": false})
	defer p.compute1.apply(keys{"hairpinMode": true})
	redirects := p.compute1.dnat(own, p.client)
	before := redirects.count()
	o := outcome{expected: "dropped", observed: word(p.connected(p.client, own.at(), false, redirects.counted(2)), "reached", "dropped")}
	o.decidedBy(redirects, before)
	o.decided += ", then the bridge: hairpin is off at the port (control: S06)"
	return o
}
