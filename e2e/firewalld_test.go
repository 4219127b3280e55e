package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
	"github.com/flatdhcp/flatdhcp/plugins/firewalld"
)

// busSocket is the system bus of a host as the machine sees it.
func (n *node) busSocket() string {
	return strings.TrimSuffix(n.NetNS(), "/ns/net") + "/root" + firewalld.SystemBus
}

// busConfig is that of a bus on which everybody may do everything: the hosts' own.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=` + firewalld.SystemBus + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
`

// firewalld starts the real one, with files of its own and on a bus of its own; change
// edits its configuration before.
func (n *node) firewalld(change ...string) *lab.Process {
	n.t.Helper()
	n.run("sh", "-c", "rm /etc/firewalld && cp -a /run/lab/etc/firewalld /etc/firewalld && mkdir -p /run/dbus")
	for _, script := range change {
		n.run("sh", "-c", "cd /etc/firewalld && "+script)
	}
	if err := n.WriteFile(n.within(), "/run/dbus/bus.conf", 0o644, busConfig); err != nil {
		n.t.Fatal(err)
	}
	start := func(argv ...string) *lab.Process {
		n.t.Helper()
		p, err := n.Start(argv...)
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() {
			if n.t.Failed() {
				n.t.Logf("%s:\n%s", argv[0], strings.Join(p.Lines(), "\n"))
			}
		})
		return p
	}
	start("dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile")
	n.eventually("the bus", func() bool { return n.exec("test", "-S", firewalld.SystemBus) == nil })
	p := start("firewalld", "--nofork", "--nopid", "--log-target", "console")
	n.eventually("firewalld", func() bool { return n.exec("firewall-cmd", "--state") == nil })
	return p
}

// zoneOf is the zone of an interface, "" for none: now, or for good.
func (n *node) zoneOf(ifName string, permanent ...string) string {
	n.t.Helper()
	out, _, err := n.Run(n.within(), append([]string{"firewall-cmd", "--get-zone-of-interface=" + ifName}, permanent...)...)
	if err != nil && strings.Contains(err.Error(), "no zone") {
		return ""
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// connects reports whether somebody listens there, who may say nothing.
func connects(n *node, from labtest.Place, to netip.AddrPort) bool {
	return from.Do(func() error {
		c, err := (&net.Dialer{}).DialContext(n.within(), "tcp4", to.String())
		if err == nil {
			err = c.Close()
		}
		return err
	}) == nil
}

// lost fails the test if somebody is reached: firewalld rejects, so that it shows at once.
func (n *node) lost(what string, from labtest.Place, to netip.AddrPort) {
	n.t.Helper()
	if source, err := ask(n.within(), from, to); err == nil {
		n.t.Errorf("%s is connected, as %s", what, source)
	}
}

// Real firewalld, with each of its back ends: the first ADD puts the bridge into a zone in
// which workloads have all that they have without firewalld, and the node keeps
// what firewalld keeps closed; a reload changes nothing.
func TestFirewalldZone(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n, outside := newNodeWithOutside(t, keys{"metadata": "127.0.0.1:8775"})
			n.firewalld("sed -i s/^FirewallBackend=.*/FirewallBackend=" + backend + "/ firewalld.conf")
			n.run("firewall-cmd", "--permanent", "--zone=work", "--add-interface=out0")
			n.run("firewall-cmd", "--reload")
			w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
			n.daemon()
			n.serve(outside, 80)
			n.serve(peer, 80)
			n.serve(n, 22)
			serveMetadata(t, n, "0.0.0.0:8775", map[netip.Addr]string{w.addr: "i-00000009"})
			if now, forGood := n.zoneOf("br100"), n.zoneOf("br100", "--permanent"); now != firewalld.Zone || forGood != firewalld.Zone {
				t.Errorf("the bridge is in zone %q, and for good in %q", now, forGood)
			}
			works := func(when string) {
				t.Helper()
				n.seenFrom(when+" a workload, outside,", w, at(outsideAddr, 80), nodeOutside)
				n.seenFrom(when+" a workload, at its neighbour,", w, at(peer.addr, 80), w.addr)
				n.eventually(when+" DNS", func() bool { return connects(n, w, at(gateway, 53)) })
				w.bootsFromMetadata("i-00000009")
				if err := w.exec("ping", "-c", "1", "-W", "10", gateway.String()); err != nil {
					t.Errorf("%s: ping of the gateway: %v", when, err)
				}
				w.checked()
			}
			works("in the zone")
			n.lost("a workload at a port of the node's that the zone does not open", w, at(gateway, 22))
			before := n.run("firewall-cmd", "--list-all-zones")
			n.attach("third", lab.CNIOptions{})
			if diff := cmp.Diff(before, n.run("firewall-cmd", "--list-all-zones")); diff != "" {
				t.Errorf("a further ADD changed zones:\n%s", diff)
			}

			n.run("firewall-cmd", "--zone="+firewalld.Zone, "--remove-interface=br100")
			if backend == "nftables" { // with the other our chains, which come first, can accept for it
				n.lost("the control: out of the zone a workload, outside,", w, at(outsideAddr, 80))
				if connects(n, w, at(gateway, 53)) {
					t.Error("the control: out of the zone DNS answers")
				}
			}
			n.apply(nil)
			works("after flatctl apply")

			// Forgotten for good as well, the bridge is put back by the daemon, which hears of
			// the reload; and so are rules that the reload may have taken away.
			n.run("firewall-cmd", "--permanent", "--zone="+firewalld.Zone, "--remove-interface=br100")
			n.run("firewall-cmd", "--reload")
			n.eventually("the daemon to put the bridge back", func() bool { return n.zoneOf("br100") == firewalld.Zone })
			n.eventually("rules to be complete", func() bool {
				_, err := n.CNI(n.within(), "check", n.network, w.Container, w.o)
				return err == nil
			})
			works("after a reload")
		})
	}
}

// Zone and bridge go as they came: with the network, and where an ADD undoes itself.
func TestFirewalldIsLeft(t *testing.T) {
	t.Parallel()
	n, _ := newNodeWithOutside(t, keys{"metadata": "192.0.2.2:8775"}) // that does not answer
	n.firewalld()
	if _, err := n.tryAttach(n.container("refused"), lab.CNIOptions{}); err == nil {
		t.Fatal("the ADD that is to undo itself succeeded")
	}
	if now, forGood := n.zoneOf("br100"), n.zoneOf("br100", "--permanent"); now != "" || forGood != "" {
		t.Errorf("an ADD that undid itself left the bridge in zone %q, and for good in %q", now, forGood)
	}
	n.configure(keys{"metadata": nil})
	w := n.attach("w", lab.CNIOptions{})
	if now := n.zoneOf("br100"); now != firewalld.Zone {
		t.Errorf("the control: the bridge is in zone %q", now)
	}
	w.detach()
	n.run("flatctl", "network", "rm", n.network)
	if now, forGood := n.zoneOf("br100"), n.zoneOf("br100", "--permanent"); now != "" || forGood != "" {
		t.Errorf("the network that was removed left the bridge in zone %q, and for good in %q", now, forGood)
	}
}

// unlocked is the lock of who is alone.
func unlocked(context.Context) (func() error, error) { return func() error { return nil }, nil }

// Of many ADDs at once on a node without the zone one makes it, and has firewalld reloaded.
func TestFirewalldZoneIsMadeOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.firewalld()
	const count = 8
	logged, errs := make([]string, count), make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		c := n.container(fmt.Sprintf("w%d", i))
		all.Go(func() { _, errs[i] = n.tryAttach(c, lab.CNIOptions{Log: &logged[i]}) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if made := strings.Count(strings.Join(logged, ""), "was reloaded for that"); made != 1 {
		t.Errorf("%d ADDs made the zone:\n%s", made, strings.Join(logged, ""))
	}
	if now := n.zoneOf("br100"); now != firewalld.Zone {
		t.Errorf("the bridge is in zone %q", now)
	}
}

// A bridge with an uplink goes where that was; what an administrator has said stays.
func TestFirewalldZoneOfTheUplink(t *testing.T) {
	t.Parallel()
	n, _ := newNodeWithOutside(t, nil)
	n.firewalld("sed -i s/^DefaultZone=.*/DefaultZone=drop/ firewalld.conf", "sed /forward/d /usr/lib/firewalld/zones/drop.xml >zones/drop.xml")
	n.run("firewall-cmd", "--zone=internal", "--add-interface=nic1")
	n.run("firewall-cmd", "--zone=trusted", "--add-interface=br104")
	var socket string
	join := func(m firewalld.Member) (change firewalld.Change) {
		t.Helper()
		socket = n.busSocket()
		err := n.Do(func() (err error) {
			change, err = firewalld.Join(n.within(), socket, m, unlocked)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return change
	}
	for _, c := range []struct {
		name    string
		member  firewalld.Member
		zone    string
		did     int
		notices []string // words of theirs
	}{
		{"no uplink", firewalld.Member{Bridge: "br101", DNS: true}, firewalld.Zone, 1, nil},
		{"again", firewalld.Member{Bridge: "br101", DNS: true}, firewalld.Zone, 0, nil},
		{"another bridge", firewalld.Member{Bridge: "br102", Ports: []uint16{8775}}, firewalld.Zone, 1, nil},
		{"an uplink in a zone", firewalld.Member{Bridge: "br103", Uplink: "nic1", DNS: true}, "internal", 1, nil},
		{"the same again", firewalld.Member{Bridge: "br103", Uplink: "nic1", DNS: true}, "internal", 0, []string{"refuses workloads' DNS"}},
		{"an uplink that came later", firewalld.Member{Bridge: "br101", Uplink: "nic1"}, "internal", 1, nil},
		{"an uplink in no zone", firewalld.Member{Bridge: "br105", Uplink: "nic2", DNS: true}, "", 0, []string{"drop, in which bridge br105 is, does not forward", "refuses workloads' DNS"}},
		{"one that came later in no zone", firewalld.Member{Bridge: "br102", Uplink: "nic2"}, "", 1, nil},
		{"an administrator's zone", firewalld.Member{Bridge: "br104", Uplink: "nic1", DNS: true}, "trusted", 0, nil},
		{"an administrator's zone, without uplink", firewalld.Member{Bridge: "br104", DNS: true}, "trusted", 0, nil},
	} {
		change := join(c.member)
		if got := n.zoneOf(c.member.Bridge); got != c.zone || len(change.Did) != c.did {
			t.Errorf("%s: the bridge is in zone %q, want %q; done: %q", c.name, got, c.zone, change.Did)
		}
		if c.zone != "trusted" {
			if got := n.zoneOf(c.member.Bridge, "--permanent"); got != c.zone {
				t.Errorf("%s: for good the bridge is in zone %q, want %q", c.name, got, c.zone)
			}
		}
		said := strings.Join(change.Notices, "\n")
		if len(change.Notices) != len(c.notices) || slices.ContainsFunc(c.notices, func(words string) bool { return !strings.Contains(said, words) }) {
			t.Errorf("%s: notices %q, want %q", c.name, change.Notices, c.notices)
		}
	}
	if ports := n.run("firewall-cmd", "--zone="+firewalld.Zone, "--list-ports"); ports != "8775/tcp\n" {
		t.Errorf("ports of the zone: %s", ports)
	}
	// From another network namespace it is not this node's firewalld.
	stranger := n.container("stranger")
	if err := stranger.Do(func() error {
		_, err := firewalld.Join(n.within(), socket, firewalld.Member{Bridge: "br109"}, unlocked)
		return err
	}); err != nil || n.zoneOf("br109") != "" {
		t.Errorf("from another namespace: %v, zone %q", err, n.zoneOf("br109"))
	}
}

// Whatever hangs, an ADD comes to its end: it says what it could not find out.
func TestFirewalldThatHangs(t *testing.T) {
	t.Parallel()
	const says = "firewalld, or the D-Bus by which it is reached, does not answer"
	adds := func(t *testing.T, n *node, name string) {
		t.Helper()
		var logged string
		n.attach(name, lab.CNIOptions{Log: &logged})
		if !strings.Contains(logged, says) {
			t.Errorf("the ADD does not say that nobody answered: %s", logged)
		}
	}
	t.Run("the bus", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, nil)
		n.run("mkdir", "-p", "/run/dbus")
		l, err := net.Listen("unix", n.busSocket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		adds(t, n, "w") // connected by the kernel, accepted by nobody
	})
	t.Run("firewalld", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, nil)
		p := n.firewalld()
		n.attach("before", lab.CNIOptions{})
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		adds(t, n, "w")
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		var logged string
		n.attach("after", lab.CNIOptions{Log: &logged})
		if strings.Contains(logged, says) {
			t.Errorf("the control: firewalld that answers again is said not to: %s", logged)
		}
	})
}

// What firewalld refuses is an error: the workload would have no network.
func TestFirewalldThatRefuses(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.firewalld("sed -i s/^Lockdown=.*/Lockdown=yes/ firewalld.conf", "sed -i /user/d lockdown-whitelist.xml")
	_, err := n.tryAttach(n.container("w"), lab.CNIOptions{})
	if err == nil || !strings.Contains(err.Error(), "putting bridge br100 into firewalld's zone flatdhcp: firewalld refuses it, and drops what the bridge carries") ||
		!strings.Contains(err.Error(), "ACCESS_DENIED") {
		t.Errorf("ADD: %v", err)
	}
	if links := n.run("ip", "-o", "link"); strings.Contains(links, "br100") {
		t.Errorf("the ADD that was refused left the bridge:\n%s", links)
	}
}

// A NIC that becomes the bridge's port takes its zone along: what came in by it goes on to
// come in, in every moment.
func TestFirewalldWhenTheUplinkMoves(t *testing.T) {
	t.Parallel()
	n, lan := newNodeWithOutside(t, keys{"flatInterface": "out0"})
	n.firewalld("sed -i s/^DefaultZone=.*/DefaultZone=drop/ firewalld.conf")
	n.run("firewall-cmd", "--permanent", "--zone=internal", "--add-interface=out0")
	n.run("firewall-cmd", "--permanent", "--zone=internal", "--add-service=dns")
	n.run("firewall-cmd", "--reload")
	n.echoes(22)
	n.serve(n, 80)
	ssh := n.session(lan, at(nodeOutside, 22))
	ssh.goesOn(t, "the control: a session from the LAN")
	n.lost("a LAN host at a port that the zone does not open", lan, at(nodeOutside, 80))
	var logged string
	w := n.attach("w", lab.CNIOptions{Log: &logged})
	ssh.goesOn(t, "with the NIC a port of the bridge a session from the LAN")
	n.session(lan, at(nodeOutside, 22)).goesOn(t, "with the NIC a port of the bridge a new session from the LAN")
	n.lost("with the NIC a port of the bridge a LAN host at a port that the zone does not open", lan, at(nodeOutside, 80))
	if now, forGood := n.zoneOf("br100"), n.zoneOf("br100", "--permanent"); now != "internal" || forGood != "internal" {
		t.Errorf("the bridge is in zone %q, and for good in %q", now, forGood)
	}
	if out := n.link("out0"); !strings.Contains(out, "master br100") {
		t.Errorf("the control: the NIC is no port of the bridge: %s", out)
	}
	w.checked()
}
