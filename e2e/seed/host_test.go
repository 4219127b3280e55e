package seed

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// hostCases: what a host itself sends to a workload from an address that is not of the
// flat network.
var hostCases = []testCase{
	{id: "C1", action: "compute-1 sends to its vm1 from eth1's address", run: (*scene).fromOwnHost},
	{id: "C2", action: "compute-2 sends to vm1, which is not its own", run: (*scene).fromOtherHost},
	{id: "C3", action: "the same as C1 with an ingress rule for the management network", run: (*scene).withIngress},
}

// send sends a datagram and returns what sendto(2) says.
func (n *node) send(from, to netip.Addr, payload string) (err error) {
	n.s.t.Helper()
	doErr := n.Do(func() error {
		fd, e := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if e != nil {
			return e
		}
		defer func() { _ = unix.Close(fd) }()
		if from.IsValid() {
			if e := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); e != nil {
				return e
			}
		}
		err = unix.Sendto(fd, []byte(payload), 0, &unix.SockaddrInet4{Port: 9, Addr: to.As4()})
		return nil
	})
	if doErr != nil {
		n.s.t.Fatal(doErr)
	}
	return err
}

// fromOwnHost: sendto is refused, and nothing is sent, neither to vm1 nor by the default
// route.
func (s *scene) fromOwnHost() outcome {
	s.t.Helper()
	from := management["compute-1"]
	capture := s.watch(s.compute1.At("eth1"), s.vm1.At("eth0"))
	datagram := described("IP " + from.String() + ".")
	o := drops([2]string{"sent", "EPERM"}, s.vm1.fallback(), func(expected bool) bool {
		err := s.compute1.send(from, s.vm1.addr, "from its host")
		if err != nil && !errors.Is(err, unix.EPERM) {
			s.t.Fatalf("sendto: %v, want %v", err, unix.EPERM)
		}
		if seen := s.sightings(capture); !expected && len(lab.Where(seen, datagram)) > 0 {
			s.t.Errorf("what sendto refused was sent: %v", seen)
		}
		return err == nil
	})
	if seen := s.sightings(capture); len(lab.Where(seen, datagram)) == 0 {
		o.fault("the control: what was sent is not seen")
	}
	return o
}

// fromOtherHost: a host without an address in the subnet sends by its default route, and
// nobody answers. One that is a gateway is a neighbour.
func (s *scene) fromOtherHost() outcome {
	s.t.Helper()
	if s.shape.multi {
		ping := func(expected bool) bool { return s.ping(s.compute2, s.vm1.addr, expected) }
		if s.open {
			return accepts(answered, s.vm1.subnetRule(), ping)
		}
		return drops(answered, s.vm1.fallback(), ping)
	}
	o := outcome{expected: "sent by eth1, no answer"}
	capture := s.watch(s.compute2.At("eth1"), s.compute2.At("eth2"), s.vm1.At("eth0"))
	if err := s.compute2.send(netip.Addr{}, s.vm1.addr, "from another host"); err != nil {
		o.fault("sendto: %v", err)
	}
	// A ping that is answered later says that the datagram would be there by now.
	if !s.ping(s.controller, s.vm1.addr, true) {
		o.fault("the control: the gateway does not reach vm1")
	}
	datagram := func(f []byte) bool { return strings.Contains(string(f), "from another host") }
	for _, seen := range s.sightings(capture) {
		if datagram(seen.Frame) {
			o.observed += word(o.observed == "", "", ", ") + word(seen.Point == "compute-2 eth1" && seen.Sent, "sent by eth1", seen.String())
		}
	}
	o.observed += ", no answer"
	o.decided = "no rule: compute-2 has no chain of vm1, and routes by its default route"
	return o
}

// withIngress: the chain lets the host by, but its packets take the default route all the
// same; outside, which the rule means as well, reaches vm1 by the gateway. A host that is
// the gateway reaches it.
func (s *scene) withIngress() outcome {
	s.t.Helper()
	s.compute1.apply(icmpFromManagement)
	defer s.compute1.apply(noIngress)
	ingress := s.vm1.chainRule("-s 192.168.56.0/24 -p icmp -j ACCEPT")
	route := s.routeBack()
	defer route()

	before := ingress.count()
	expected := s.shape.multi
	ping := []string{"ping", "-n", "-c", "1", "-W", word(expected, "20", "1"), "-I", management["compute-1"].String(), s.vm1.addr.String()}
	_, _, err := s.compute1.Run(s.within(), ping...)
	o := outcome{
		expected: word(expected, "accepted, answered", "accepted, not answered; outside answered"),
		observed: "accepted, " + word(err == nil, "answered", "not answered"),
	}
	o.decidedBy(ingress, before)
	if !expected {
		o.observed += "; outside " + word(s.ping(s.outside, s.vm1.addr, true), "answered", "not answered")
		o.decided += "; the answer is compute-1's route to 10.0.0.0/24: eth1"
	}
	return o
}

var (
	icmpFromManagement = keys{"ingress": []keys{{"protocol": "icmp", "from": []string{"192.168.56.0/24"}}}}
	noIngress          = keys{"ingress": nil}
)

// routeBack tells outside the way to the flat network; what it returns makes it forget.
func (s *scene) routeBack() func() {
	s.t.Helper()
	route := []string{"10.0.0.0/24", "via", management[s.gatewayNode().Name()].String()}
	s.run(s.outside, append([]string{"ip", "route", "add"}, route...)...)
	return func() { s.run(s.outside, append([]string{"ip", "route", "del"}, route...)...) }
}
