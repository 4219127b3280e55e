package seed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// TestComputeHostIsASwitch: a daemon that follows a compute host's conflist makes nothing of
// it; the first ADD makes a bridge without address, and with it a VM has its address and its
// name by the controller's daemon, which has no workload of its own and never had one. Who is
// no peer's workload hears nothing; one with a MAC of its own is served once its reservation
// was carried over.
func TestComputeHostIsASwitch(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	s := &scene{t: t, whole: t, shape: shapes[0], open: true, lab: labtest.New(t, labtest.Options(t))}
	if err := s.lab.Build(s.within(), lab.Seed(2)); err != nil {
		t.Fatal(err)
	}
	s.controller, s.compute1 = s.node("controller"), s.node("compute-1")
	if out := s.controller.run("ip", "-br", "address", "show", "dev", "br100"); !strings.Contains(out, "10.0.0.1/24") {
		t.Errorf("the controller's bridge, without any workload: %s", out)
	}

	nic := s.compute1.run("ip", "-d", "link", "show", "eth2")
	s.compute1.follow()
	if out := s.compute1.run("ip", "link"); strings.Contains(out, "br100") {
		t.Errorf("before the first ADD the compute host has a bridge:\n%s", out)
	}
	if got := s.compute1.run("ip", "-d", "link", "show", "eth2"); got != nic {
		t.Errorf("before the first ADD its NIC was touched:\n%s\nit was\n%s", got, nic)
	}

	vm := s.compute1.attach("vm1", lab.CNIOptions{})
	lease := vm.boot()
	if lease.Addr.Addr() != vm.addr || lease.Hostname != "host-10-0-0-2" || lease.Server != gateway || lease.Router != gateway {
		t.Errorf("lease %+v, want %s of the controller", lease, vm.addr)
	}
	for _, dev := range []string{"br100", "eth2"} {
		if out := s.compute1.run("ip", "-4", "address", "show", "dev", dev); out != "" {
			t.Errorf("%s of the compute host has an address:\n%s", dev, out)
		}
	}
	if mac := s.compute1.run("cat", "/sys/class/net/br100/address"); mac == s.controller.run("cat", "/sys/class/net/br100/address") {
		t.Errorf("both bridges have MAC %s", mac)
	}
	if out := s.compute1.run("ss", "-Hlunt"); strings.Contains(out, ":67 ") || strings.Contains(out, ":53 ") {
		t.Errorf("the compute host serves DHCP or DNS:\n%s", out)
	}
	// The control of the same question.
	if out := s.controller.run("ss", "-Hlunt"); !strings.Contains(out, ":67 ") || !strings.Contains(out, ":53 ") {
		t.Errorf("the controller serves no DHCP or DNS:\n%s", out)
	}
	for question, want := range map[string]string{
		"host-10-0-0-2.novalocal": "Address: 10.0.0.2", "10.0.0.2": "name = host-10-0-0-2.novalocal",
		"host-10-0-0-66.novalocal": "Address: 10.0.0.66", "host-10-0-0-200.novalocal": "NXDOMAIN",
	} {
		if got := vm.lookUp(question); !strings.Contains(got, want) {
			t.Errorf("asked for %s: no %q in\n%s", question, want, got)
		}
	}
	if got := s.leaseNode(vm); got != "compute-1" {
		t.Errorf("flatctl leases on the controller names node %q", got)
	}
	s.carryOver()
	s.lostBridge(vm)
	s.static()
}

// follow starts a daemon that follows the host's conflist, and waits until it has read it.
func (n *node) follow() {
	n.s.t.Helper()
	p, err := n.StartDaemon("--conf-dir", "/etc/cni/net.d")
	if err != nil {
		n.s.t.Fatal(err)
	}
	n.dhcpd = p
	n.s.whole.Cleanup(func() {
		if n.s.whole.Failed() {
			n.s.whole.Logf("flat-dhcpd on %s:\n%s", n.Name(), strings.Join(p.Lines(), "\n"))
		}
		if err := p.Stop(); err != nil {
			n.s.whole.Errorf("stopping flat-dhcpd on %s: %v", n.Name(), err)
		}
	})
	if _, _, err := p.WaitLine(n.s.within(), 0, "network flat is configured"); err != nil {
		n.s.t.Fatal(err)
	}
}

// lookUp asks the gateway, as the lease says.
func (w *workload) lookUp(name string) string {
	w.n.s.t.Helper()
	out, _, err := w.Run(w.n.s.within(), "busybox", "nslookup", name, gateway.String())
	if err != nil && !strings.Contains(out, "NXDOMAIN") {
		return err.Error() + "\n" + out
	}
	return out
}

// lease returns the node that the controller's lease state has for a workload.
func (s *scene) leaseNode(w *workload) string {
	s.t.Helper()
	var leases []struct {
		IP          netip.Addr
		State, Node string
	}
	out := s.controller.run("flatctl", "leases", "flat", "-o", "json")
	if err := json.Unmarshal([]byte(out), &leases); err != nil {
		s.t.Fatalf("decoding %s: %v", out, err)
	}
	for _, l := range leases {
		if l.IP == w.addr && l.State == "bound" {
			return l.Node
		}
	}
	return fmt.Sprintf("(no lease of %s in %s)", w.addr, out)
}

// carryOver: a VM that asked for a MAC and a name of its own is unknown to the controller
// until it has its reservation; then it is served by both, and gone when that is.
func (s *scene) carryOver() {
	s.t.Helper()
	own := s.compute1.attach("vm2", lab.CNIOptions{Args: "MAC=52:54:00:00:00:22;HOSTNAME=own"})
	if own.booted() {
		s.t.Error("a VM with a MAC of its own got a lease before the import")
	}
	if _, _, err := s.controller.dhcpd.WaitLine(s.within(), 0, "DHCPDISCOVER(br100) 52:54:00:00:00:22 no address available"); err != nil {
		s.t.Error(err)
	}
	carry := func() string {
		s.t.Helper()
		file := s.compute1.run("flatctl", "export", "flat")
		if err := s.controller.WriteFile(s.within(), "/root/compute-1.json", 0o600, file); err != nil {
			s.t.Fatal(err)
		}
		return s.controller.run("flatctl", "import", "/root/compute-1.json")
	}
	if got := carry(); !strings.Contains(got, "1 reservation imported, 0 released") {
		s.t.Error(got)
	}
	if got := carry(); !strings.Contains(got, "0 reservations imported, 0 released, 1 as they were") {
		s.t.Error("again: " + got)
	}
	lease := own.boot()
	if lease.Addr.Addr() != own.addr || lease.Hostname != "own" {
		s.t.Errorf("after the import: %+v, want %s", lease, own.addr)
	}
	if got := own.lookUp("own.novalocal"); !strings.Contains(got, "Address: "+own.addr.String()) {
		s.t.Error(got)
	}
	if got := s.leaseNode(own); got != "compute-1" {
		s.t.Errorf("flatctl leases names node %q", got)
	}
	own.detach()
	if got := carry(); !strings.Contains(got, "0 reservations imported, 1 released") {
		s.t.Error(got)
	}
	s.controller.run("flatctl", "check")
}

// lostBridge: the controller's bridge is deleted while its daemon runs.
func (s *scene) lostBridge(w *workload) {
	s.t.Helper()
	from := s.controller.dhcpd.Mark()
	s.controller.run("ip", "link", "del", "br100")
	if _, _, err := s.controller.dhcpd.WaitLine(s.within(), from, "DHCP, static leases only on "); err != nil {
		s.t.Fatal(err)
	}
	if lease := w.boot(); lease.Addr.Addr() != w.addr {
		s.t.Errorf("after the bridge was made again: %+v", lease)
	}
	if !s.ping(w, gateway, true) || !s.ping(w, outsideAddr, true) {
		s.t.Error("the VM does not reach the gateway, or outside by it")
	}
}

// static: a container on the compute host that is given its address there has a chain of its
// own, and goes out by the controller.
func (s *scene) static() {
	s.t.Helper()
	s.compute1.apply(keys{"addressing": "static"})
	w := s.compute1.attach("static", lab.CNIOptions{})
	if out, _, err := w.Run(s.within(), "ip", "route"); err != nil || !strings.Contains(out, "default via 10.0.0.1 dev eth0") {
		s.t.Errorf("its routes: %s, %v", out, err)
	}
	if !s.ping(w, gateway, true) || !s.ping(w, outsideAddr, true) {
		s.t.Error("it does not reach the gateway, or outside by it")
	}
	if out := s.compute1.run("iptables", "-S", w.chain()); !strings.Contains(out, "-j FLAT-DROP") {
		s.t.Errorf("its chain: %s", out)
	}
	if !strings.Contains(w.lookUp("host-10-0-0-2.novalocal"), "Address: 10.0.0.2") {
		s.t.Error("the controller's DNS does not answer it")
	}
	if _, err := s.compute1.CNI(s.within(), "check", network, w.Container, w.o); err != nil {
		s.t.Error(err)
	}
}
