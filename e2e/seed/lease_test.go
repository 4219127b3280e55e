package seed

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// leaseCases: a real DHCP client in vm1. Where vm1's host is its gateway, the daemon's
// replies come as a frame of the bridge's own: the guard decides, and no chain sees them.
var leaseCases = []testCase{
	{id: "A1", action: "vm1 boots", toggle: on, run: (*scene).lease},
	{id: "A2", action: "vm1 boots", toggle: off, run: (*scene).lease},
	{id: "A3", action: "A2 without rules 4 and 5, client without broadcast flag", toggle: off, run: (*scene).withoutDHCPRule},
	{id: "A4", action: "A3, client with broadcast flag", toggle: off, run: (*scene).broadcastFlag},
	{id: "A5", action: "vm1 renews by unicast", run: func(s *scene) outcome { return s.renewal(false) }},
	{id: "A6", action: "a client with a MAC that no row has", run: (*scene).stranger},
	{id: "H1", action: "vm1 renews after the daemon was restarted", run: func(s *scene) outcome { return s.renewal(true) }},
	{id: "H2", action: "a new VM gets the address of one that went without RELEASE", run: (*scene).successor},
}

// withoutDHCPRule is the control for rule 4: alone of 4 and 5 it lets a lease by, and
// without it none comes. (With the toggle on rule 6 would.)
func (s *scene) withoutDHCPRule() outcome {
	s.t.Helper()
	if s.shape.multi {
		return meaningless("the daemon is on vm1's host, and its replies meet no chain; A2 says what they meet")
	}
	s.vm1.gatewayRule().remove()
	before := s.vm1.dhcpRule().count()
	o := outcome{expected: "no lease"}
	if !s.vm1.booted("-t", "20") {
		o.fault("the control: with rule 4 there is no lease either")
	}
	o.decidedBy(s.vm1.dhcpRule(), before)
	s.vm1.dhcpRule().remove()
	dropped := s.vm1.fallback().count()
	o.observed = word(s.vm1.booted(), "lease", "no lease")
	o.decided = "with " + o.decided + ": lease; without"
	o.decidedBy(s.vm1.fallback(), dropped)
	s.vm1.fallback().restore()
	s.vm1.boot()
	return o
}

// broadcastFlag: a broadcast reply has no destination that leads to a chain. The guard lets
// it by to a closed port, because a gateway sends it.
func (s *scene) broadcastFlag() outcome {
	s.t.Helper()
	if s.shape.multi {
		return meaningless("as A3")
	}
	s.vm1.gatewayRule().remove()
	s.vm1.dhcpRule().remove()
	dropped := s.vm1.fallback().count()
	capture := s.watch(s.vm1.At("eth0"))
	o := outcome{expected: "lease", observed: word(s.vm1.booted("-B", "-t", "20"), "lease", "no lease")}
	if c := s.vm1.fallback().count(); c != dropped {
		o.fault("the chain has counted %d packets", c-dropped)
	}
	ack := "IP 10.0.0.1.67 > 255.255.255.255.68: DHCP ACK"
	if seen := s.sightings(capture); len(lab.Where(seen, described(ack))) == 0 {
		o.fault("no %q was seen: %v", ack, seen)
	}
	o.decided = "no chain: the reply's destination is 255.255.255.255 (control: A3)"
	s.vm1.fallback().restore()
	s.vm1.boot()
	return o
}

// lease is A1's: the address of the CNI result, and all else that a client is to have.
func (s *scene) lease() outcome {
	s.t.Helper()
	o := outcome{expected: "lease 10.0.0.2"}
	ruled := s.vm1.dhcpRule().count()
	lease := s.vm1.boot()
	o.observed = "lease " + lease.Addr.Addr().String()
	got := fmt.Sprintf("%s router %s DNS %v domain %s lease %s hostname %s", lease.Addr, lease.Router, lease.DNS, lease.Domain, lease.Time, lease.Hostname)
	if want := "10.0.0.2/24 router 10.0.0.1 DNS [10.0.0.1] domain novalocal lease 2m0s hostname host-10-0-0-2"; got != want {
		o.fault("got %s, want %s", got, want)
	}
	if !s.shape.multi {
		o.decidedBy(s.vm1.dhcpRule(), ruled)
		return o
	}
	// An accept has no counter in the guard; that the element is what it takes shows when it
	// is gone.
	element := s.vm1.port() + " . " + s.vm1.addr.String()
	r := s.compute1.guardCounter("out_address")
	before := r.count()
	s.compute1.run("nft", "delete", "element", "bridge", "flatdhcp", "addresses", "{ "+element+" }")
	if s.vm1.booted() {
		o.fault("a client gets a lease although the guard does not know the address")
	}
	o.decidedBy(r, before)
	o.decided = "compute-1, guard: vm1's port . 10.0.0.2 in set addresses; without it no lease, " + o.decided
	r.restore()
	s.vm1.boot()
	return o
}

// renewal: the client goes on running and is told to renew. With restart the daemon was
// started again meanwhile; a NAK would be a fault.
func (s *scene) renewal(restart bool) outcome {
	s.t.Helper()
	o := outcome{expected: "ACK"}
	client, err := s.vm1.Start("udhcpc", "-f", "-i", "eth0", "-s", "/run/lab/udhcpc.sh")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = client.Kill() }()
	if _, _, err := client.WaitLine(s.within(), 0, "event=bound ip="+s.vm1.addr.String()); err != nil {
		s.t.Fatal(err)
	}
	g := s.gatewayNode()
	if restart {
		if err := g.dhcpd.Stop(); err != nil {
			s.t.Fatal(err)
		}
		g.serve()
		g.serving()
	}
	capture := s.watch(s.compute1.At(s.vm1.port()))
	sent, acked, accepted := client.Mark(), g.dhcpd.Mark(), s.vm1.established().count()
	s.run(s.compute1.Host, "kill", "-USR1", strconv.Itoa(client.PID()))
	if _, _, err := client.WaitLine(s.within(), sent, "event=renew ip="+s.vm1.addr.String()); err != nil {
		s.t.Fatal(err)
	}
	o.observed = "ACK"
	line, _, err := g.dhcpd.WaitLine(s.within(), acked, "DHCPACK(br100) "+s.vm1.addr.String()+" "+s.vm1.mac.String())
	if err != nil {
		o.fault("the daemon logs no ACK: %v", err)
	}
	for _, line := range client.Lines() {
		if strings.HasPrefix(line, "nak:") {
			o.observed = "NAK"
		}
	}
	unicast := s.vm1.addr.String() + ".68 > " + gateway.String() + ".67: DHCP REQUEST"
	if seen := s.sightings(capture); len(lab.Where(seen, described("IP "+unicast))) == 0 {
		o.fault("no %q was seen: %v", unicast, seen)
	}
	o.decided = g.Name() + ", daemon: " + logged(line)
	if !s.shape.multi {
		o.decidedBy(s.vm1.established(), accepted)
	}
	return o
}

// logged is what a log line of the daemon says, without its time.
func logged(line string) string {
	_, message, _ := strings.Cut(line, "flat-dhcpd: ")
	return message
}

// stranger is vm1 with another MAC; the guard must let that by to be heard at all.
func (s *scene) stranger() outcome {
	s.t.Helper()
	s.compute1.apply(keys{"antiSpoofing": false})
	g := s.gatewayNode()
	mark := g.dhcpd.Mark()
	s.vm1.setMAC(foreignMAC.String())
	capture := s.watch(s.vm1.At("eth0"))
	o := outcome{expected: "no answer", observed: word(s.vm1.booted(), "lease", "no answer")}
	line, _, err := g.dhcpd.WaitLine(s.within(), mark, "DHCPDISCOVER(br100) "+foreignMAC.String()+" no address available")
	if err != nil {
		o.fault("the daemon does not say why: %v", err)
	}
	for _, kind := range []string{"OFFER", "ACK", "NAK"} {
		if at := lab.Where(s.sightings(capture), func(f []byte) bool { return strings.HasSuffix(lab.Describe(f), "DHCP "+kind) }); len(at) > 0 {
			o.observed = kind
		}
	}
	s.vm1.setMAC(s.vm1.mac.String())
	if !s.vm1.booted("-t", "20") {
		o.fault("the control: with its own MAC it gets no lease either")
	}
	o.decided = g.Name() + ", daemon: " + logged(line) + "; with its own MAC: lease"
	s.compute1.apply(keys{"antiSpoofing": nil})
	return o
}

// setMAC changes the workload's own MAC, and leaves it without an address.
func (w *workload) setMAC(mac string) {
	w.n.s.t.Helper()
	for _, argv := range [][]string{{"down"}, {"address", mac}, {"up"}} {
		if _, _, err := w.Run(w.n.s.within(), append([]string{"ip", "link", "set", "eth0"}, argv...)...); err != nil {
			w.n.s.t.Fatal(err)
		}
	}
}

// successor: the row owns the address, and no old lease keeps it from its next owner.
func (s *scene) successor() outcome {
	s.t.Helper()
	s.compute1.apply(keys{"ipam.reuseDelay": "0s", "ipam.retain": "0s"})
	defer s.compute1.apply(keys{"ipam.reuseDelay": nil, "ipam.retain": nil})
	old := s.compute1.attach("old", lab.CNIOptions{})
	old.boot()
	old.detach()
	next := s.compute1.attach("next", lab.CNIOptions{Args: "IP=" + old.addr.String() + ";MAC=02:00:00:00:00:42"})
	defer func() {
		next.detach()
		if !s.shape.multi {
			s.tell()
		}
	}()
	mark, told := s.gatewayNode().dhcpd.Mark(), ""
	if !s.shape.multi {
		// Its MAC does not name the address: the gateway must be told.
		if next.booted() {
			s.t.Error("the gateway knows a MAC that nobody told it")
		}
		s.tell()
		told = ", after flatctl export and import"
	}
	lease := next.boot()
	o := outcome{expected: "lease " + old.addr.String(), observed: "lease " + lease.Addr.Addr().String()}
	line, _, err := s.gatewayNode().dhcpd.WaitLine(s.within(), mark, "DHCPACK(br100) "+old.addr.String()+" 02:00:00:00:00:42")
	if err != nil {
		o.fault("the daemon logs no ACK: %v", err)
	}
	if next.addr != old.addr || next.mac.String() == old.mac.String() {
		o.fault("the new VM has %s %s, the old one had %s %s", next.addr, next.mac, old.addr, old.mac)
	}
	o.decided = s.gatewayNode().Name() + ", daemon: " + logged(line) + told
	return o
}

// tell carries to the controller what it cannot derive of compute-1's workloads.
func (s *scene) tell() {
	s.t.Helper()
	if err := s.controller.WriteFile(s.within(), "/run/rows", 0o600, s.compute1.run("flatctl", "export", network)); err != nil {
		s.t.Fatal(err)
	}
	s.controller.run("flatctl", "import", "/run/rows")
}
