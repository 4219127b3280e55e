package link

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestCreatePort(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	spec.MTU = 1400
	bridge := ensureBridge(ctx, t, spec)
	w := newWorkload(t, 2)
	w.spec.MTU, w.spec.Hairpin, w.spec.Learning = 1400, true, false

	// Every IPv6 address that the host side ever has, however shortly, is seen here.
	updates, done := make(chan netlink.AddrUpdate, 100), make(chan struct{})
	ok(t, netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{}))

	info, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	want := PortInfo{
		Name: w.spec.Name, Index: info.Index, Alias: "flatdhcp flat container-2 eth0", Bridge: "br100", BridgeIndex: bridge.Index,
		MAC: w.spec.MAC.HostSide(), MTU: 1400, Hairpin: true, Peer: info.Peer,
	}
	if d := cmp.Diff(want, info); d != "" || info.Index == 0 || info.Peer == 0 {
		t.Errorf("CreatePort (-want +got):\n%s", d)
	}
	found, there, err := PortByName(ctx, w.spec.Name)
	if d := cmp.Diff(want, found); d != "" || !there || err != nil {
		t.Errorf("PortByName = %v, %v (-want +got):\n%s", there, err, d)
	}
	for attr, want := range map[string]string{
		"address": "fe:16:3e:00:00:02", "addr_assign_type": "3", "mtu": "1400", "brport/hairpin_mode": "1", "brport/learning": "0", "brport/state": "0",
	} {
		if got := sysfs(t, w.spec.Name, attr); got != want {
			t.Errorf("host side: %s = %s, want %s", attr, got, want)
		}
	}
	inNetNS(t, w.netns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a := l.Attrs()
		if a.HardwareAddr.String() != "fa:16:3e:00:00:02" || a.MTU != 1400 || a.Flags&net.FlagUp != 0 {
			t.Errorf("container side: %s, MTU %d, %s", a.HardwareAddr, a.MTU, a.Flags)
		}
		return nil
	})
	if got := assignType(t, w.netns, "eth0"); got != "3" {
		t.Errorf("container side: addr_assign_type %s, want 3", got)
	}
	if got := fdb(t, w.spec.MAC); len(got) != 1 || got[0] != w.spec.Name+" flags=0x40 state=0x40" { // sticky, static
		t.Errorf("entries for the container's MAC: %q", got)
	}

	ok(t, PortUp(ctx, w.spec.Name))
	_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: "eth0", Addr: w.addr, Gateway: gateway.Addr()})
	ok(t, err)
	if forwards, err := WaitForwarding(ctx, w.spec.Name, time.Second); err != nil || !forwards {
		t.Errorf("WaitForwarding = %v, %v", forwards, err)
	}
	// Control, and the mark up to which to read: a plain pair gets its address.
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "plain"}, PeerName: "peer"}))
	deleteLinkAtEnd(t, "plain")
	plain := linkNamed(t, "plain")
	ok(t, netlink.LinkSetUp(plain))
	ok(t, netlink.LinkSetUp(linkNamed(t, "peer")))
	for got := false; !got; {
		select {
		case u := <-updates:
			if u.LinkIndex == info.Index {
				t.Errorf("the host side of the port has had address %s", u.LinkAddress.String())
			}
			got = u.LinkIndex == plain.Attrs().Index
		case <-time.After(10 * time.Second):
			t.Fatal("control: a plain pair got no IPv6 address")
		}
	}
	close(done)
}

// assignType reads addr_assign_type inside a namespace, which takes a sysfs of it.
func assignType(t *testing.T, netns, name string) string {
	t.Helper()
	at := t.TempDir()
	inNetNS(t, netns, func() error { return unix.Mount("sysfs", at, "sysfs", 0, "") })
	defer func() { ok(t, unix.Unmount(at, 0)) }()
	return readFile(t, at+"/class/net/"+name+"/addr_assign_type")
}

func TestCreatePortRefusesATakenInterfaceName(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())

	t.Run("foreign interface", func(t *testing.T) {
		inLabPlus(t, "br100")
		w := newWorkload(t, 2)
		inNetNS(t, w.netns, func() error {
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"})
		})
		_, err := CreatePort(ctx, w.spec)
		if !errors.Is(err, ErrIfNameTaken) {
			t.Errorf("error %v, want ErrIfNameTaken", err)
		}
		if _, there, err := PortByName(ctx, w.spec.Name); there || err != nil {
			t.Errorf("PortByName = %v, %v after a refusal", there, err)
		}
	})
	t.Run("living port of the same attachment", func(t *testing.T) {
		inLabPlus(t, "br100")
		w := newWorkload(t, 2).attach(ctx, t)
		_, err := CreatePort(ctx, w.spec)
		wantError(t, err, "creating eth0 in namespace "+w.netns, "interface name is taken in the container")
		if !errors.Is(err, ErrIfNameTaken) {
			t.Errorf("error %v, want ErrIfNameTaken", err)
		}
		if info, there, err := PortByName(ctx, w.spec.Name); !there || err != nil || info.Index != w.info.Index {
			t.Errorf("the living port is %+v, %v, %v", info, there, err)
		}
	})
}

func TestCreatePortReplacesAStalePort(t *testing.T) {
	tests := []struct {
		name string
		prep func(ctx context.Context, t *testing.T, w *workload)
	}{
		{"half made: still down", func(ctx context.Context, t *testing.T, w *workload) {
			_, err := CreatePort(ctx, w.spec)
			ok(t, err)
		}},
		{"half made: no alias yet", func(ctx context.Context, t *testing.T, w *workload) {
			ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: w.spec.Name}, PeerName: "peer"}))
		}},
		{"up, of a namespace that is another one now", func(ctx context.Context, t *testing.T, w *workload) {
			w.attach(ctx, t)
			w.netns = newNetNS(t)
			w.spec.ContainerNetNS = w.netns
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := inLab(t)
			ensureBridge(ctx, t, testBridge())
			w := newWorkload(t, 2)
			deleteLinkAtEnd(t, w.spec.Name)
			tt.prep(ctx, t, w)
			before := linkNamed(t, w.spec.Name).Attrs().Index
			w.attach(ctx, t)
			if w.info.Index == before {
				t.Error("the stale port is still there")
			}
		})
	}
}

func TestCreatePortNamesTheOwnerOfAnotherPort(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: w.spec.Name}, PeerName: "peer"}))
	deleteLinkAtEnd(t, w.spec.Name)
	ok(t, netlink.LinkSetAlias(linkNamed(t, w.spec.Name), "flatdhcp other cid eth0"))
	_, err := CreatePort(ctx, w.spec)
	wantError(t, err, "port name "+w.spec.Name+" is taken by a veth device", `alias "flatdhcp other cid eth0"`, "remove it with `ip link del "+w.spec.Name+"`")
	linkNamed(t, w.spec.Name)
}

func TestCreatePortRefuses(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	tests := []struct {
		name string
		edit func(*PortSpec)
		want string
	}{
		{"foreign prefix", func(s *PortSpec) { s.Name = "veth0" }, `"veth0" is no port of ours`},
		{"long interface name", func(s *PortSpec) { s.ContainerIfName = "sixteen-bytes-xx" }, "16 bytes long"},
		{"no MAC", func(s *PortSpec) { s.MAC = ipam.MAC{} }, "is no MAC for the container side"},
		{"host side's MAC", func(s *PortSpec) { s.MAC = s.MAC.HostSide() }, "must be unicast and not start with fe"},
		{"long alias", func(s *PortSpec) { s.Alias = strings.Repeat("a", 256) }, "alias of port"},
		{"no bridge", func(s *PortSpec) { s.Bridge = "br101" }, "looking up bridge br101"},
		{"no namespace", func(s *PortSpec) { s.ContainerNetNS = "/nonexistent" }, "opening network namespace /nonexistent"},
		{"no namespace at the path", func(s *PortSpec) { s.ContainerNetNS = t.TempDir() }, "opening network namespace"},
		{"impossible MTU", func(s *PortSpec) { s.MTU = 70000 }, "creating port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inLabPlus(t, "br100")
			w := newWorkload(t, 2)
			tt.edit(&w.spec)
			_, err := CreatePort(ctx, w.spec)
			wantError(t, err, tt.want)
		})
	}
}

func TestStolenMACDoesNotMoveThePinnedEntry(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	victim, other, thief := newWorkload(t, 2).attach(ctx, t), newWorkload(t, 3).attach(ctx, t), newWorkload(t, 4).attach(ctx, t)
	loose := ipam.MAC{2, 0, 0, 0, 0, 0x77} // control: a MAC that nobody pinned
	sendFrame(t, other, broadcastFrom(loose))
	eventually(t, "the bridge learns a MAC at its port", func() bool { return strings.HasPrefix(first(fdb(t, loose)), other.spec.Name+" ") })

	sendFrame(t, thief, broadcastFrom(victim.spec.MAC), broadcastFrom(loose))
	eventually(t, "control: the loose MAC moves to the thief's port", func() bool { return strings.HasPrefix(first(fdb(t, loose)), thief.spec.Name+" ") })
	// The bridge saw the stolen MAC before the loose one.
	if got := fdb(t, victim.spec.MAC); len(got) != 1 || !strings.HasPrefix(got[0], victim.spec.Name+" ") {
		t.Errorf("the victim's entry is %q now", got)
	}
	// And frames to the victim reach the victim.
	there := capture(t, victim)
	frame := slices.Concat(victim.spec.MAC[:], other.spec.MAC[:], []byte{0x88, 0xb5, 'h', 'i'})
	sendFrame(t, other, frame)
	there.await(t, "a frame to the victim", func(f []byte) bool { return len(f) > 15 && string(f[14:16]) == "hi" })
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func TestPinTakesOverWhatTheBridgeLearnedElsewhere(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w, squatter := newWorkload(t, 2), newWorkload(t, 3).attach(ctx, t)
	sendFrame(t, squatter, broadcastFrom(w.spec.MAC))
	eventually(t, "the bridge learns the MAC at the squatter's port", func() bool { return len(fdb(t, w.spec.MAC)) == 1 })
	w.attach(ctx, t)
	if got := fdb(t, w.spec.MAC); len(got) != 1 || got[0] != w.spec.Name+" flags=0x40 state=0x40" {
		t.Errorf("entries for the workload's MAC: %q", got)
	}
}

func TestSetPort(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	_, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	for _, want := range []string{"11", "00", "10", "01"} {
		hairpin, learning := want[0] == '1', want[1] == '1'
		ok(t, SetPort(ctx, w.spec.Name, hairpin, learning))
		if got := sysfs(t, w.spec.Name, "brport/hairpin_mode") + sysfs(t, w.spec.Name, "brport/learning"); got != want {
			t.Errorf("hairpin mode and learning are %s, want %s", got, want)
		}
		if info, _, err := PortByName(ctx, w.spec.Name); err != nil || info.Hairpin != hairpin || info.Learning != learning {
			t.Errorf("PortByName = %+v, %v; want %s", info, err, want)
		}
	}
	ok(t, SetPort(ctx, PortPrefix+"gone", true, true)) // its DEL was faster
}

func TestPortDownAndUpKeepThePinnedEntry(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2).attach(ctx, t)
	ok(t, PortDown(ctx, w.spec.Name))
	if info, _, err := PortByName(ctx, w.spec.Name); err != nil || info.Up {
		t.Errorf("after PortDown: %+v, %v", info, err)
	}
	ok(t, PortUp(ctx, w.spec.Name))
	if got := fdb(t, w.spec.MAC); len(got) != 1 || !strings.Contains(got[0], "flags=0x40") {
		t.Errorf("entries for the container's MAC: %q", got)
	}
}

func TestMissingPorts(t *testing.T) {
	ctx := inLab(t)
	name := PortName("gone", "eth0")
	ok(t, PortDown(ctx, name))
	ok(t, DeletePort(ctx, name))
	if _, there, err := PortByName(ctx, name); there || err != nil {
		t.Errorf("PortByName = %v, %v", there, err)
	}
	if err := PortUp(ctx, name); !errors.Is(err, unix.ENODEV) {
		t.Errorf("PortUp: %v", err)
	}
	if _, err := WaitForwarding(ctx, name, time.Second); !errors.Is(err, unix.ENODEV) {
		t.Errorf("WaitForwarding: %v", err)
	}
}

func TestPortFunctionsRefuseForeignDevices(t *testing.T) {
	ctx := inLab(t)
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "fdp0"}}))
	deleteLinkAtEnd(t, "fdp0")
	wantError(t, DeletePort(ctx, "fdp0"), "looking up port fdp0: it is a bridge device, no port of ours")
	_, _, err := PortByName(ctx, "fdp0")
	wantError(t, err, "it is a bridge device, no port of ours")
	for name, f := range map[string]func(context.Context, string) error{"PortUp": PortUp, "PortDown": PortDown, "DeletePort": DeletePort} {
		if err := f(ctx, "lo"); err == nil {
			t.Errorf("%s works on lo", name)
		}
	}
	linkNamed(t, "fdp0")
	if ports, err := Ports(ctx); err != nil || len(ports) != 0 {
		t.Errorf("Ports = %v, %v", ports, err)
	}
}

func TestPortsListsOurs(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "peer0"}))
	deleteLinkAtEnd(t, "veth0")
	want := map[string]PortInfo{}
	for n := byte(2); n < 5; n++ {
		w := newWorkload(t, n).attach(ctx, t)
		w.info.Up = true
		want[w.spec.Name] = w.info
	}
	got, err := Ports(ctx)
	ok(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Ports (-want +got):\n%s", d)
	}
}

func TestDeletePortTakesTheContainersEndAlong(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2).attach(ctx, t)
	for range 2 {
		ok(t, DeletePort(ctx, w.spec.Name))
	}
	if _, there, err := Inside(ctx, w.netns, "eth0"); there || err != nil {
		t.Errorf("the container still has it: %v, %v", there, err)
	}
	if got := fdb(t, w.spec.MAC); len(got) != 0 {
		t.Errorf("the bridge still has %q", got)
	}
	w.attach(ctx, t) // the same attachment can come back
}

func TestAPortDiesWithItsNamespace(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2).attach(ctx, t)
	dropNetNS(t, w.netns)
	eventually(t, "the port goes with the namespace", func() bool {
		ok(t, PortDown(ctx, w.spec.Name))
		_, there, err := PortByName(ctx, w.spec.Name)
		ok(t, err)
		return !there
	})
	ok(t, DeletePort(ctx, w.spec.Name))
}

func TestWaitForwardingDoesNotWaitForSpanningTree(t *testing.T) {
	ctx := inLab(t)
	spec := testBridge()
	ensureBridge(ctx, t, spec)
	writeFile(t, "/sys/class/net/br100/bridge/forward_delay", "1500")
	writeFile(t, "/sys/class/net/br100/bridge/stp_state", "1")
	w := newWorkload(t, 2)
	_, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	ok(t, PortUp(ctx, w.spec.Name))
	_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: "eth0"})
	ok(t, err)
	eventually(t, "the port listens", func() bool { return sysfs(t, w.spec.Name, "brport/state") != "0" })
	start := time.Now()
	if forwards, err := WaitForwarding(ctx, w.spec.Name, time.Minute); forwards || err != nil {
		t.Errorf("WaitForwarding = %v, %v", forwards, err)
	}
	if d := time.Since(start); d > maxForwardingWait {
		t.Errorf("it waited %s", d)
	}
}

func TestWaitForwardingGivesUp(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w := newWorkload(t, 2)
	_, err := CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	ok(t, PortUp(ctx, w.spec.Name)) // but the container's end stays down
	if forwards, err := WaitForwarding(ctx, w.spec.Name, 20*time.Millisecond); forwards || err != nil {
		t.Errorf("WaitForwarding = %v, %v", forwards, err)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := WaitForwarding(short, w.spec.Name, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitForwarding beyond the context's deadline: %v", err)
	}
}

// Pinned tells the entry that CreatePort made from none, a learned and another port's.
func TestPinned(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	w, other := newWorkload(t, 2).attach(ctx, t), newWorkload(t, 3).attach(ctx, t)
	want := func(what string, port string, want bool) {
		t.Helper()
		if got, err := Pinned(ctx, port, w.spec.MAC); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
		}
	}
	want("its own", w.spec.Name, true)
	want("another's", other.spec.Name, false)
	entry := &netlink.Neigh{LinkIndex: w.info.Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
		Flags: netlink.NTF_MASTER, HardwareAddr: w.spec.MAC.HardwareAddr()}
	ok(t, netlink.NeighDel(entry))
	want("gone", w.spec.Name, false)
	ok(t, netlink.NeighAdd(entry))
	want("static, but not sticky", w.spec.Name, false)
	ok(t, netlink.LinkSetNoMaster(linkNamed(t, w.spec.Name)))
	want("on no bridge", w.spec.Name, false)
}
