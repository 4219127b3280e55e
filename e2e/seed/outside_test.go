package seed

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// outsideCases: the world beyond the gateway.
var outsideCases = []testCase{
	{id: "E1", action: "vm1 pings outside", run: (*scene).toOutside},
	{id: "E2", action: "vm1 pings outside, net.ipv4.ip_forward=0 on the gateway", run: (*scene).withoutForwarding},
	{id: "E3", action: "outside pings vm1 by the gateway", run: (*scene).fromOutside},
	{id: "E4", action: "vm1 pings eth1's address of compute-1", run: func(s *scene) outcome {
		// Nothing filters what a workload sends to a host.
		return accepts(answered, s.vm1.established(), func(expected bool) bool { return s.ping(s.vm1, management["compute-1"], expected) })
	}},
	{id: "F1", action: "vm1 gets http://169.254.169.254/latest/meta-data/local-ipv4", run: (*scene).metadata},
}

// metadata asks a server on the gateway's management address that knows who asks by the
// address alone.
func (s *scene) metadata() outcome {
	s.t.Helper()
	g := s.gatewayNode()
	var l net.Listener
	if err := g.Do(func() (err error) {
		l, err = net.Listen("tcp4", g.metadata())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/latest/meta-data/local-ipv4", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, netip.MustParseAddrPort(r.RemoteAddr).Addr())
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // says that it was closed
	defer func() { _ = server.Close(); <-done }()

	dnat := g.ruleLike("nat FLAT-PREROUTING ", "-j DNAT --to-destination "+g.metadata())
	before := dnat.count()
	out, _, err := s.vm1.Run(s.within(), "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/latest/meta-data/local-ipv4")
	o := outcome{expected: "served as 10.0.0.2", observed: "served as " + out}
	if err != nil {
		o.observed = "not served"
		o.fault("%v", err)
	}
	o.decidedBy(dnat, before)
	return o
}

// metadata is where the node's metadata server listens.
func (n *node) metadata() string { return management[n.Name()].String() + ":8775" }

// toOutside: the gateway gives the packet its own address, and the answer belongs to what
// vm1 began.
func (s *scene) toOutside() outcome {
	s.t.Helper()
	g := s.gatewayNode()
	capture := s.watch(s.outside.At("eth1"))
	nat := g.ruleLike("nat FLAT-POSTROUTING ", "-j MASQUERADE")
	masqueraded, replied := nat.count(), s.vm1.established().count()
	words := [2]string{"answered, seen as " + g.Name(), "dropped"}
	o := outcome{expected: words[0], observed: word(s.ping(s.vm1, outsideAddr, true), words[0], words[1])}
	o.decidedBy(nat, masqueraded)
	o.decidedBy(s.vm1.established(), replied)
	want := "IP " + management[g.Name()].String() + " > " + outsideAddr.String() + ": ICMP echo request"
	seen := s.sightings(capture)
	if len(lab.Where(seen, described(want))) == 0 {
		o.fault("%q was not seen outside: %v", want, seen)
	}
	return o
}

// withoutForwarding: the request reaches the gateway and no further. E1 is the control.
func (s *scene) withoutForwarding() outcome {
	s.t.Helper()
	g := s.gatewayNode()
	defer g.paused()() // it would let the node route again
	g.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
	defer g.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	capture := s.watch(g.At("br100"), g.At("eth1"))
	o := outcome{expected: "dropped", observed: word(s.ping(s.vm1, outsideAddr, false), "answered", "dropped")}
	// What came after it was handled, so it was, too.
	if !s.ping(s.vm1, gateway, true) {
		o.fault("vm1 does not reach the gateway itself")
	}
	seen := s.sightings(capture)
	where := lab.Where(seen, func(f []byte) bool {
		return described("IP "+s.vm1.addr.String()+" > "+outsideAddr.String())(f) || described("IP "+management[g.Name()].String()+" > "+outsideAddr.String()+": ICMP")(f)
	})
	if len(where) != 1 || where[0] != g.Name()+" br100" {
		o.fault("the request was seen at %q, want the gateway's br100 alone", where)
	}
	o.decided = "the kernel of " + g.Name() + ": the request was seen at its br100, and not at its eth1 (control: E1)"
	return o
}

// fromOutside: the end of vm1's chain drops it, until an ingress rule allows the source.
func (s *scene) fromOutside() outcome {
	s.t.Helper()
	route := s.routeBack()
	defer route()
	before := s.vm1.fallback().count()
	o := outcome{expected: "dropped", observed: word(s.ping(s.outside, s.vm1.addr, false), "answered", "dropped")}
	o.decidedBy(s.vm1.fallback(), before)
	s.compute1.apply(icmpFromManagement)
	defer s.compute1.apply(noIngress)
	ingress := s.vm1.chainRule("-s 192.168.56.0/24 -p icmp -j ACCEPT")
	before = ingress.count()
	if !s.ping(s.outside, s.vm1.addr, true) {
		o.fault("the control: with an ingress rule it is not answered either")
	}
	o.decidedBy(ingress, before)
	return o
}
