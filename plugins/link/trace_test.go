package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// hostState is everything that a port could leave a trace in, as text. States of
// neighbour entries age by themselves and are left out.
func hostState(t testing.TB) []string {
	t.Helper()
	ctx := context.Background()
	var state []string
	add := func(format string, args ...any) { state = append(state, fmt.Sprintf(format, args...)) }
	links, err := dump(ctx, "links", netlink.LinkList)
	ok(t, err)
	for _, l := range links {
		a := l.Attrs()
		add("link %d %s %s %s mtu %d %s master %d peer %d alias %q", a.Index, a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Flags&^net.FlagRunning, a.MasterIndex, a.ParentIndex, a.Alias)
	}
	addrs, err := dump(ctx, "addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	ok(t, err)
	for _, a := range addrs {
		add("address %d %s flags %#x", a.LinkIndex, a.IPNet, a.Flags)
	}
	routes, err := dump(ctx, "routes", func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	ok(t, err)
	for _, r := range routes {
		add("route %s", r)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
		entries, err := dump(ctx, "neighbours", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
		ok(t, err)
		for _, n := range entries {
			if n.IP.IsMulticast() {
				continue // the host's own IGMP
			}
			add("neighbour family %d dev %d %s %s flags %#x", family, n.LinkIndex, n.IP, n.HardwareAddr, n.Flags)
		}
	}
	for _, f := range flows(t) {
		add("flow %s", f)
	}
	slices.Sort(state)
	return state
}

func TestDeletedPortLeavesNothing(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	trackConnections(t)
	neighbours := []*workload{newWorkload(t, 10).attach(ctx, t), newWorkload(t, 11).attach(ctx, t), newWorkload(t, 12).attach(ctx, t)}
	for _, n := range neighbours {
		exchange(t, nil, n) // so that the host remembers them
	}
	before := hostState(t)

	w := newWorkload(t, 2).attach(ctx, t)
	ok(t, Announce(ctx, w.netns, "eth0", w.spec.MAC, w.addr.Addr(), 1))
	exchange(t, nil, w)
	exchange(t, neighbours[0], w)
	during := hostState(t)
	// Control: the state does show a port, its entries and flows.
	if len(during) < len(before)+6 {
		t.Fatalf("control: a port adds only %s", cmp.Diff(before, during))
	}

	ok(t, PortDown(ctx, w.spec.Name))
	ok(t, DeletePort(ctx, w.spec.Name))
	ok(t, FlushConntrack(ctx, w.addr.Addr()))
	ok(t, FlushNeighbour(ctx, "br100", w.addr.Addr()))
	if d := cmp.Diff(before, hostState(t)); d != "" {
		t.Errorf("the host after (-before +after):\n%s", d)
	}
}

func TestFailedCreatePortLeavesNothing(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	newWorkload(t, 10).attach(ctx, t)
	before := hostState(t)
	w := newWorkload(t, 2)
	w.spec.MAC = testBridge().MAC // the last step fails
	_, err := CreatePort(ctx, w.spec)
	wantError(t, err, "pinning MAC fa:16:3e:00:00:01 to port "+w.spec.Name+": MAC is the bridge's own or one of its ports'")
	if !errors.Is(err, ErrMACLocal) {
		t.Errorf("error %v, want ErrMACLocal", err)
	}
	if d := cmp.Diff(before, hostState(t)); d != "" {
		t.Errorf("the host after (-before +after):\n%s", d)
	}
}

// 200 attachments at once, and gone at once: dumps are interrupted all the time.
func TestManyPortsInParallel(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	before := hostState(t)
	const n = 200
	all := make([]*workload, n)
	for i := range all {
		all[i] = newWorkload(t, byte(i+2))
	}
	each := func(f func(w *workload) error) {
		t.Helper()
		errs := make([]error, n)
		var running sync.WaitGroup
		for i, w := range all {
			running.Go(func() { errs[i] = f(w) })
		}
		running.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("workload %d: %v", i, err)
			}
		}
	}
	each(func(w *workload) error {
		inside := ContainerSpec{NetNS: w.netns, IfName: "eth0", Addr: w.addr, Gateway: gateway.Addr()}
		if _, _, err := EnsureBridge(ctx, testBridge()); err != nil {
			return err
		}
		if _, err := CreatePort(ctx, w.spec); err != nil {
			return err
		}
		if err := PortUp(ctx, w.spec.Name); err != nil {
			return err
		}
		_, err := ConfigureContainer(ctx, inside)
		return err
	})
	ports, err := Ports(ctx)
	ok(t, err)
	if len(ports) != n {
		t.Errorf("%d ports, want %d", len(ports), n)
	}
	each(func(w *workload) error {
		if _, err := Ports(ctx); err != nil {
			return err
		}
		return DeletePort(ctx, w.spec.Name)
	})
	if d := cmp.Diff(before, hostState(t)); d != "" {
		t.Errorf("the host after (-before +after):\n%s", d)
	}
}

// BenchmarkPort is what ADD and DEL pay for this package, veth creation included.
func BenchmarkPort(b *testing.B) {
	ctx := inLab(b)
	ensureBridge(ctx, b, testBridge())
	w := newWorkload(b, 2)
	for b.Loop() {
		_, _, err := EnsureBridge(ctx, testBridge())
		ok(b, err)
		_, err = CreatePort(ctx, w.spec)
		ok(b, err)
		ok(b, PortUp(ctx, w.spec.Name))
		_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: "eth0", Addr: w.addr, Gateway: gateway.Addr()})
		ok(b, err)
		ok(b, Announce(ctx, w.netns, "eth0", w.spec.MAC, w.addr.Addr(), 1))
		ok(b, PortDown(ctx, w.spec.Name))
		ok(b, DeletePort(ctx, w.spec.Name))
	}
}

// BenchmarkQuestions is what is asked for often, with many ports around.
func BenchmarkQuestions(b *testing.B) {
	ctx := inLab(b)
	ensureBridge(ctx, b, testBridge())
	br := linkNamed(b, "br100").Attrs().Index
	for i := range 300 {
		name := PortName(fmt.Sprint(i), "eth0")
		deleteLinkAtEnd(b, name)
		ok(b, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: br, HardwareAddr: ipam.MAC{0xfe, 0, 0, 0, byte(i >> 8), byte(i)}.HardwareAddr()}, PeerName: "p" + name[3:]}))
	}
	b.Run("EnsureBridge", func(b *testing.B) {
		for b.Loop() {
			_, _, err := EnsureBridge(ctx, testBridge())
			ok(b, err)
		}
	})
	b.Run("PortByName", func(b *testing.B) {
		for b.Loop() {
			_, _, err := PortByName(ctx, PortName("7", "eth0"))
			ok(b, err)
		}
	})
	b.Run("Ports", func(b *testing.B) {
		for b.Loop() {
			_, err := Ports(ctx)
			ok(b, err)
		}
	})
}
