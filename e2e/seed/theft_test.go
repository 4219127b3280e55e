package seed

import (
	"net"
	"net/netip"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// TestNoMACIsStolenAcrossTheUplink: whoever sends in a workload's name beyond the uplink
// gets none of its frames. Two protections stand behind each other: the guard, which drops
// the frame before the bridge learns from it, and the static sticky entry of the port's
// MAC, which also holds against what no hook sees (LLDP). Each is shown to do alone.
func TestNoMACIsStolenAcrossTheUplink(t *testing.T) {
	labtest.RequireRoot(t)
	s := newScene(t, ownGateways, true)
	s.stopDaemons()
	// The thief is the switch itself, at the other end of compute-1's cable: a switch of
	// bridges would keep LLDP to one link.
	cable := s.tap(s.lab.Host("flat"), "compute-1-eth2")
	vm1, vm2 := s.tap(s.vm1, "eth0"), s.tap(s.vm2, "eth0")
	thief := lab.Endpoint{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x66}, Addr: netip.MustParseAddr("10.0.0.240")}
	deliver := func(from, to *lab.Tap, frame []byte, src, dst lab.Endpoint) bool {
		t.Helper()
		marker, _ := lab.Marker(src, dst)
		arrived, err := lab.Delivered(s.within(), from, to, frame, marker)
		if err != nil {
			t.Fatal(err)
		}
		return arrived
	}
	// stolen reports whether what vm2 sends vm1 does not come to vm1, once the thief has sent
	// frame. The marker is to all: one to vm1 would be stolen as well.
	stolen := func(frame []byte) bool {
		t.Helper()
		deliver(cable, vm2, frame, thief, s.vm2.endpoint()) // he has; whether it arrives somewhere is not asked
		return !deliver(vm2, vm1, s.echo(s.vm2.endpoint(), s.vm1.endpoint()), s.vm2.endpoint(), lab.Endpoint{MAC: lab.Broadcast, Addr: s.vm1.addr})
	}
	broadcast := func() []byte {
		f := s.echo(lab.Endpoint{MAC: s.vm1.mac, Addr: thief.Addr}, s.vm2.endpoint())
		copy(f, lab.Broadcast)
		return f
	}
	lldp := func() []byte {
		return lab.Ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}, s.vm1.mac, 0x88cc, make([]byte, 46))
	}
	entry := func(command string) { // of vm1's MAC
		s.compute1.run("bridge", "fdb", command, s.vm1.mac.String(), "dev", s.vm1.port(), "master", "static", "sticky")
	}
	guard := s.compute1.guardCounter("uplink_in_mac")

	for name, frame := range map[string]func() []byte{"broadcast": broadcast, "LLDP": lldp} {
		if stolen(frame()) {
			t.Errorf("by %s, with both protections: stolen", name)
		}
	}
	guard.remove()
	for name, frame := range map[string]func() []byte{"broadcast": broadcast, "LLDP": lldp} {
		if stolen(frame()) {
			t.Errorf("by %s, with the port's entry alone: stolen", name)
		}
	}
	guard.restore()
	entry("del")
	before := guard.count()
	if stolen(broadcast()) {
		t.Error("by broadcast, with the guard alone: stolen")
	}
	if guard.count() == before {
		t.Error("the guard has counted nothing under uplink_in_mac")
	}
	if !stolen(lldp()) {
		t.Error("the control: by LLDP, with the guard alone: not stolen, so that the entry shows nothing")
	}
	// What he has taken goes back to its owner with the owner's next entry.
	s.compute1.run("bridge", "fdb", "replace", s.vm1.mac.String(), "dev", s.vm1.port(), "master", "static", "sticky")
	entry("del")
	guard.remove()
	if !stolen(broadcast()) {
		t.Error("the control: by broadcast, without either: not stolen")
	}
}
