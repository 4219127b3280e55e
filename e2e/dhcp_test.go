package e2e

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// leaseKeys are those of the cases below: VMs, and the lease time that nova had.
var leaseKeys = keys{"addressing": "dhcp", "leaseTime": "120s"}

// daemon starts flat-dhcpd, and ends it with the test.
func (n *node) daemon(args ...string) *lab.Process {
	n.t.Helper()
	p, err := n.StartDaemon(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Logf("flat-dhcpd:\n%s", strings.Join(p.Lines(), "\n"))
		}
		if p.Running() {
			if err := p.Stop(); err != nil {
				n.t.Errorf("stopping flat-dhcpd: %v", err)
			}
		}
	})
	return p
}

// serving waits until the daemon serves the network's bridge.
func (n *node) serving(p *lab.Process) {
	n.t.Helper()
	if _, _, err := p.WaitLine(n.within(), 0, "DHCP, static leases only on 10.0.0.2"); err != nil {
		n.t.Fatal(err)
	}
}

// vm attaches a VM: a port whose address is left to a real client.
func (n *node) vm(name string, o lab.CNIOptions) (*workload, *lab.VM) {
	n.t.Helper()
	vm, err := n.VM(n.within(), name)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.attachTo(vm.Container, o), vm
}

// boot runs udhcpc in the VM until it has a lease.
func (w *workload) boot(vm *lab.VM) lab.Lease {
	w.n.t.Helper()
	lease, console, err := vm.Boot(w.n.within(), w.ifName, "-t", "20")
	if err != nil {
		w.n.t.Fatalf("%v\n%s", err, console)
	}
	return lease
}

// unserved fails the test unless udhcpc gives up: after three tries, a second each.
func (w *workload) unserved(vm *lab.VM, what string) {
	w.n.t.Helper()
	lease, console, err := vm.Boot(w.n.within(), w.ifName)
	if err == nil {
		w.n.t.Errorf("%s: got %+v", what, lease)
	} else if !errors.Is(err, lab.ErrNoLease) {
		w.n.t.Fatalf("%v\n%s", err, console)
	}
}

// wantLease checks case A1's lease against the CNI result: router and DNS are the gateway.
func wantLease(t *testing.T, w *workload, got lab.Lease) {
	t.Helper()
	want := lab.Lease{
		Addr:     netip.PrefixFrom(w.addr, 24),
		Router:   gateway,
		Server:   gateway,
		Domain:   "novalocal",
		Hostname: "host-" + strings.ReplaceAll(w.addr.String(), ".", "-"),
		Time:     120 * time.Second,
	}
	if got.Addr != want.Addr || got.Router != want.Router || got.Server != want.Server || !slices.Equal(got.DNS, []netip.Addr{gateway}) ||
		got.Domain != want.Domain || got.Hostname != want.Hostname || got.Time != want.Time {
		t.Errorf("lease %+v, want %+v", got, want)
	}
}

// A1 and A2: a client receives the very address that the CNI result named, toggle on or
// off. The daemon's frames meet the guard: without the port's elements no lease comes.
func TestClientGetsTheAddressOfTheResult(t *testing.T) {
	combinations(t, leaseKeys, func(t *testing.T, n *node, _ bool) {
		w, vm := n.vm("vm1", lab.CNIOptions{})
		n.serving(n.daemon())
		// Positive control first, so that silence below is not a daemon still starting.
		wantLease(t, w, w.boot(vm))
		n.run("nft", "delete", "element", "bridge", "flatdhcp", "addresses", "{", w.port(), ".", w.addr.String(), "}")
		before := n.guardCount("out_address")
		w.unserved(vm, "behind a guard that does not know the address")
		if n.guardCount("out_address") == before {
			t.Error("guard counter out_address did not count the daemon's frames")
		}
		// The control: the very rule away, and what drops all that it lets by.
		for _, reason := range []string{"out_address", "out_ethertype"} {
			n.guardRule("to_port", reason, `counter name "`+reason+`" drop`).remove()
		}
		wantLease(t, w, w.boot(vm))
		n.run("flatctl", "apply", lab.ConflistPath(network))
		wantLease(t, w, w.boot(vm))
		if !answered(n, w.exec, gateway) {
			t.Error("the VM does not reach the gateway with its lease")
		}
	})
}

// The same by ISC's client, which checks checksums and starts a second time with
// INIT-REBOOT.
func TestDhclientGetsTheAddressOfTheResult(t *testing.T) {
	n := newNode(t, leaseKeys)
	d := n.daemon()
	w, _ := n.vm("vm1", lab.CNIOptions{})
	n.serving(d)
	if err := n.WriteFile(n.within(), "/run/dhclient.conf", 0o644, "timeout 25;\nretry 2;\n"); err != nil {
		t.Fatal(err)
	}
	if err := n.WriteFile(n.within(), "/run/dhclient-script", 0o755,
		"#!/bin/sh\necho \"$reason $new_ip_address $new_routers\" >>/run/dhclient.log\n"); err != nil {
		t.Fatal(err)
	}
	client := []string{"dhclient", "-4", "-1", "-v", "-pf", "/run/dhclient.pid", "-lf", "/run/dhclient.leases",
		"-cf", "/run/dhclient.conf", "-sf", "/run/dhclient-script", "eth0"}
	for _, reason := range []string{"BOUND", "REBOOT"} {
		if _, stderr, err := w.Run(w.n.within(), client...); err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		got, err := n.ReadFile(n.within(), "/run/dhclient.log")
		if err != nil {
			t.Fatal(err)
		}
		if want := reason + " " + w.addr.String() + " " + gateway.String(); !strings.Contains(got, want) {
			t.Errorf("dhclient did not report %q:\n%s", want, got)
		}
		n.run("sh", "-c", "kill $(cat /run/dhclient.pid); while kill -0 $(cat /run/dhclient.pid) 2>/dev/null; do :; done")
	}
}

// A DISCOVER that is sent after ADD has returned is always answered: by then the bridge
// forwards it, the daemon knows the row, and the answer leaves a bridge whose first port
// this is.
func TestDISCOVERAfterADDIsAnswered(t *testing.T) {
	n := newNode(t, leaseKeys)
	d := n.daemon()
	first, _ := n.vm("first", lab.CNIOptions{}) // makes the bridge
	n.serving(d)
	first.detach()
	c := n.container("vm1")
	// Not by cnitool, whose own end would give the kernel time.
	call := lab.PluginCall{Plugin: "flat-bridge", ContainerID: c.ID(), NetNS: c.Path(), Stdin: n.plain("1.1.0")}
	for i := range 100 {
		call.Command = "ADD"
		if _, err := n.Plugin(n.within(), call); err != nil {
			t.Fatal(err)
		}
		tap, err := c.Tap("eth0")
		if err != nil {
			t.Fatal(err)
		}
		discover, err := dhcpv4.NewDiscovery(tap.MAC())
		if err != nil {
			t.Fatal(err)
		}
		if err := tap.Send(lab.Ethernet(lab.Broadcast, tap.MAC(), 0x0800, lab.UDP(netip.MustParseAddrPort("0.0.0.0:68"),
			netip.MustParseAddrPort("255.255.255.255:67"), discover.ToBytes()))); err != nil {
			t.Fatal(err)
		}
		if _, err := tap.Until(n.within(), containing(string(discover.TransactionID[:]))); err != nil {
			t.Fatalf("run %d: no answer: %v", i+1, err)
		}
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
		call.Command = "DEL"
		if _, err := n.Plugin(n.within(), call); err != nil {
			t.Fatal(err)
		}
	}
}

// A5: a renewal goes to the server by unicast, and is acknowledged. H1: so it is by a
// daemon that was restarted meanwhile, without a NAK.
func TestRenewalSurvivesARestartOfTheDaemon(t *testing.T) {
	combinations(t, leaseKeys, func(t *testing.T, n *node, _ bool) {
		d := n.daemon()
		w, vm := n.vm("vm1", lab.CNIOptions{})
		n.serving(d)
		client, err := vm.Start("udhcpc", "-f", "-i", "eth0", "-s", "/run/lab/udhcpc.sh")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Kill() }()
		if _, _, err := client.WaitLine(n.within(), 0, "event=bound ip="+w.addr.String()); err != nil {
			t.Fatal(err)
		}
		port, err := n.Tap(w.port())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = port.Close() }()
		renew := func(d *lab.Process) {
			t.Helper()
			sent, acked := client.Mark(), d.Mark()
			n.run("kill", "-USR1", strconv.Itoa(client.PID()))
			if _, _, err := client.WaitLine(n.within(), sent, "event=renew ip="+w.addr.String()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.WaitLine(n.within(), acked, "DHCPACK(br100) "+w.addr.String()+" "+w.mac.String()); err != nil {
				t.Error(err)
			}
			if err := unicastRequest(n.within(), port); err != nil {
				t.Errorf("no DHCPREQUEST by unicast left the VM: %v", err)
			}
		}
		renew(d)
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		d = n.daemon()
		n.serving(d)
		renew(d)
		for _, line := range client.Lines() {
			if strings.HasPrefix(line, "nak:") {
				t.Errorf("the client heard %q", line)
			}
		}
	})
}

// unicastRequest waits for a datagram to the gateway's port 67.
func unicastRequest(ctx context.Context, port *lab.Tap) error {
	_, err := port.Until(ctx, func(f []byte) bool {
		return len(f) > 38 && f[12] == 8 && f[13] == 0 && f[23] == 17 &&
			[4]byte(f[30:34]) == gateway.As4() && f[36] == 0 && f[37] == 67
	})
	return err
}

// A6: an unknown MAC hears nothing, no NAK either; the same VM with its own MAC gets its
// lease.
func TestUnknownMACHearsNothing(t *testing.T) {
	extra := keys{"antiSpoofing": false} // the guard would stop a foreign MAC first
	for k, v := range leaseKeys {
		extra[k] = v
	}
	combinations(t, extra, func(t *testing.T, n *node, _ bool) {
		d := n.daemon()
		w, vm := n.vm("vm1", lab.CNIOptions{})
		n.serving(d)
		const stranger = "02:00:00:00:00:66"
		setMAC := func(mac string) {
			for _, argv := range [][]string{{"down"}, {"address", mac}, {"up"}} {
				if err := w.exec(append([]string{"ip", "link", "set", "eth0"}, argv...)...); err != nil {
					t.Fatal(err)
				}
			}
		}
		setMAC(stranger)
		inside := w.tap()
		w.unserved(vm, "a stranger")
		if _, _, err := d.WaitLine(n.within(), 0, "DHCPDISCOVER(br100) "+stranger+" no address available"); err != nil {
			t.Error(err)
		}
		if heard := n.answers(inside); heard != 0 {
			t.Errorf("%d frames from port 67 reach the stranger", heard)
		}
		setMAC(w.mac.String())
		inside = w.tap() // the old one ended with the interface's going down
		wantLease(t, w, w.boot(vm))
		if heard := n.answers(inside); heard == 0 {
			t.Error("the control: no frame from port 67 is seen to reach the VM")
		}
		for _, line := range d.Lines() {
			if strings.Contains(line, stranger) && !strings.Contains(line, "no address available") {
				t.Errorf("the daemon answered a stranger: %s", line)
			}
		}
	})
}

// answers counts the frames of a DHCP server that have arrived at a VM's tap by now.
func (n *node) answers(inside *lab.Tap) int {
	n.t.Helper()
	bridge, err := n.Tap("br100")
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = bridge.Close() }()
	marker, is := lab.Marker(lab.Endpoint{MAC: bridge.MAC(), Addr: gateway}, lab.Endpoint{MAC: lab.Broadcast, Addr: gateway})
	if err := bridge.Send(marker); err != nil {
		n.t.Fatal(err)
	}
	frames, err := inside.Until(n.within(), is)
	if err != nil {
		n.t.Fatal(err)
	}
	heard := 0
	for _, f := range frames {
		if len(f) > 35 && f[12] == 8 && f[13] == 0 && f[23] == 17 && f[34] == 0 && f[35] == 67 {
			heard++
		}
	}
	return heard
}

// H2: a VM that is deleted without a RELEASE leaves nothing that keeps its address from
// a new VM with another MAC.
func TestAddressGoesToANewVMAtOnce(t *testing.T) {
	extra := keys{"ipam.reuseDelay": "0s", "ipam.retain": "0s"}
	for k, v := range leaseKeys {
		extra[k] = v
	}
	combinations(t, extra, func(t *testing.T, n *node, _ bool) {
		d := n.daemon()
		old, vm := n.vm("vm1", lab.CNIOptions{})
		n.serving(d)
		wantLease(t, old, old.boot(vm))
		old.detach()
		w, vm := n.vm("vm2", lab.CNIOptions{Args: "IP=" + old.addr.String() + ";MAC=02:00:00:00:00:42"})
		wantLease(t, w, w.boot(vm))
		if w.addr != old.addr || w.mac.String() == old.mac.String() {
			t.Errorf("the new VM has %s %s, the old one had %s %s", w.addr, w.mac, old.addr, old.mac)
		}
		if !answered(n, n.exec, w.addr) {
			t.Error("the gateway does not reach the new VM")
		}
	})
}
