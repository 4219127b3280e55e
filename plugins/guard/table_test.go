package guard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// someUplinks are a gateway node's two networks, the second with a shared gateway.
func someUplinks() []Segment {
	first := segment()
	first.Uplink = Uplink{Name: "eth1", MACs: []ipam.MAC{mac(1)}, Addrs: first.Gateways, BlockDHCP: true, Relays: []netip.Addr{addr(200)}}
	gateway := netip.MustParseAddr("10.9.0.1")
	second := Segment{Gateways: []netip.Addr{gateway}, Uplink: Uplink{Name: "eth2", MACs: []ipam.MAC{mac(0x91)},
		Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.251")}, Shared: []netip.Addr{gateway}, SharedMACs: []ipam.MAC{mac(0x90)}}}
	return []Segment{first, second}
}

func uplinkPorts() []Port {
	return []Port{
		{Name: "fdpone", MAC: mac(12), Addrs: []netip.Addr{addr(12)}, CheckSource: true, Uplink: "eth1"},
		{Name: "fdptwo", MAC: mac(13), Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.13")}, Closed: true, Uplink: "eth2", Gateway: mac(0x90)},
	}
}

func addrs(s *station) []netip.Addr { return []netip.Addr{s.addr} }

// segment is the lab's network.
func segment() Segment { return Segment{Gateways: []netip.Addr{netip.MustParseAddr(gateway)}} }

func segments() []Segment { return []Segment{segment()} }

// newTable is a lab without ports, for the guard alone.
func newTable(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t}
	l.do, l.ns = inNewNetNS(t)
	return l
}

func (l *lab) attach(ports ...Port) {
	l.t.Helper()
	for _, p := range ports {
		l.mustDo("attaching "+p.Name, func() error { return Attach(l.t.Context(), segment(), p) })
	}
}

func (l *lab) detach(name string) {
	l.t.Helper()
	l.mustDo("detaching "+name, func() error { return Detach(l.t.Context(), name) })
}

func (l *lab) apply(ports ...Port) []string {
	l.t.Helper()
	var changed []string
	l.mustDo("applying", func() (err error) {
		changed, err = Apply(l.t.Context(), segments(), ports, nil)
		return err
	})
	return changed
}

func planned(t *testing.T, ports ...Port) string {
	t.Helper()
	plan, err := NewPlan(segments(), ports)
	if err != nil {
		t.Fatal(err)
	}
	return canonical(plan.String())
}

// check compares the kernel's table, as nft reads it, with the planner's text.
func (l *lab) check(ports ...Port) {
	l.t.Helper()
	if diff := cmp.Diff(planned(l.t, ports...), l.listing()); diff != "" {
		l.t.Errorf("the kernel's table differs (-planned +nft):\n%s", diff)
	}
	if changed := l.apply(ports...); len(changed) > 0 {
		l.t.Errorf("Apply finds something to change: %q", changed)
	}
}

// TestApplyLeavesOthersPorts: those of another data directory stay, their gateway too,
// also where the base is made anew; what is neither planned nor theirs goes.
func TestApplyLeavesOthersPorts(t *testing.T) {
	foreign := Port{Name: "fdpother", MAC: mac(9), Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.9")}, Closed: true, CheckSource: true}
	foreignSegment := Segment{Gateways: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}
	for name, damage := range map[string]func(*testing.T) error{"base in place": nil, "base damaged": addStrangeChain} {
		t.Run(name, func(t *testing.T) {
			l := newTable(t)
			l.mustDo("attaching", func() error { return Attach(t.Context(), foreignSegment, foreign) })
			ours := somePorts()
			l.attach(ours...)
			if damage != nil {
				l.mustDo("damaging", func() error { return damage(t) })
			}
			apply := func(others ...string) {
				t.Helper()
				l.mustDo("applying", func() error {
					_, err := Apply(t.Context(), segments(), ours[1:], others)
					return err
				})
			}
			apply(foreign.Name)
			want, err := NewPlan(append(segments(), foreignSegment), append([]Port{foreign}, ours[1:]...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(canonical(want.String()), l.listing()); diff != "" {
				t.Errorf("the kernel's table differs (-wanted +nft):\n%s", diff)
			}
			apply() // the control: nobody else's
			l.check(ours[1:]...)
		})
	}
}

func TestKernelHasWhatIsPlanned(t *testing.T) {
	l := newTable(t)
	l.attach(somePorts()...)
	l.check(somePorts()...)
}

func TestApplyFromNothing(t *testing.T) {
	l := newTable(t)
	changed := l.apply(somePorts()...)
	want := []string{
		"base rules installed: the table was missing",
		`add element bridge flatdhcp ports { "fdp00000000000a" comment "fa:16:3e:00:00:02 10.0.0.2" }`,
	}
	if len(changed) < 2 || !slices.Equal(changed[:2], want) {
		t.Errorf("changes begin with %q, wanted %q", changed, want)
	}
	l.check(somePorts()...)
}

func TestAttachReplacesOlderElements(t *testing.T) {
	l := newTable(t)
	old := somePorts()
	l.attach(old...)
	p := Port{Name: old[1].Name, MAC: mac(44), Addrs: []netip.Addr{addr(44), addr(33)}}
	l.attach(p)
	l.check(old[0], p, old[2], old[3], old[4])
	l.attach(p)
	l.check(old[0], p, old[2], old[3], old[4])
}

func TestDetachTakesOnePortAway(t *testing.T) {
	l := newTable(t)
	l.detach("fdp00000000000a") // without a table
	ports := somePorts()
	l.attach(ports...)
	for i, p := range ports {
		l.detach(p.Name)
		l.check(ports[i+1:]...)
		l.detach(p.Name)
		l.check(ports[i+1:]...)
	}
}

// TestDetachOfWhatIsNotRecorded: elements go even if the record does not name them.
func TestDetachOfWhatIsNotRecorded(t *testing.T) {
	for _, tc := range []struct {
		name string
		nft  string
	}{
		{"no record", `flush set bridge flatdhcp ports`},
		{"record without an element", `flush set bridge flatdhcp sources`},
		{"record of another kind", `delete element bridge flatdhcp ports { "fdp0" }
			add element bridge flatdhcp ports { "fdp0" comment "mine" }`},
		{"record cut off", `delete element bridge flatdhcp ports { "fdp0" }
			add element bridge flatdhcp ports { "fdp0" }`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newTable(t)
			p := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2), addr(3)}, CheckSource: true}
			l.attach(p)
			l.load(tc.nft)
			l.detach(p.Name)
			l.check()
			// And attaching mends it.
			l.attach(p)
			l.load(tc.nft)
			l.attach(p)
			l.check(p)
		})
	}
}

func TestPortOfManyAddresses(t *testing.T) {
	l := newTable(t)
	p := Port{Name: "fdp0", MAC: mac(2), CheckSource: true, Closed: true}
	for i := range 100 {
		p.Addrs = append(p.Addrs, addr(byte(100+i)))
	}
	other := somePorts()[0]
	l.attach(other, p)
	l.check(other, p)
	p.Addrs = p.Addrs[50:]
	l.attach(p)
	l.check(other, p)
	l.detach(p.Name)
	l.check(other)
}

// A set that has just been filled is listed whole, while the kernel rearranges it.
func TestListingOfAGrowingSet(t *testing.T) {
	p := Port{Name: "fdp0", MAC: mac(2), CheckSource: true}
	for i := range 250 {
		p.Addrs = append(p.Addrs, netip.AddrFrom4([4]byte{10, 1, 0, byte(1 + i)}))
	}
	want := p.elements()
	slices.SortFunc(want, compareElements)
	for range 40 {
		l := newTable(t)
		l.attach(p)
		for range 5 {
			var got []element
			l.mustDo("listing", func() error {
				return retry(t.Context(), func(c *conn) (err error) {
					got, err = c.scan(p.Name)
					return err
				})
			})
			slices.SortFunc(got, compareElements)
			if !slices.Equal(got, want) {
				t.Fatalf("%d elements are listed, %d are there", len(slices.Compact(got)), len(want))
			}
		}
	}
}

// load lets nft change the table.
func (l *lab) load(script string) {
	l.t.Helper()
	l.pipe(script, "nft", "-f", "-")
}

// TestDamageIsMended: whatever is not this version's base is replaced by it in one
// transaction, and the ports' elements stay.
func TestDamageIsMended(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage string
		want   string
	}{
		{"rules flushed", `flush table bridge flatdhcp`, "its rules were not this version's"},
		{"one rule gone", `flush chain bridge flatdhcp to_closed`, "its rules were not this version's"},
		{"a rule in front", `insert rule bridge flatdhcp from_port accept`, "its rules were not this version's"},
		{"a rule behind", `add rule bridge flatdhcp prerouting accept`, "its rules were not this version's"},
		{"a strange chain", `add chain bridge flatdhcp strange`, "its chains were not this version's"},
		{"another policy", `add chain bridge flatdhcp forward { policy drop; }`, "its chains were not this version's"},
		{"a chain gone", `flush chain bridge flatdhcp forward; delete chain bridge flatdhcp forward`, "its chains were not this version's"},
		{"asleep", `add table bridge flatdhcp { flags dormant; }`, "the table was dormant"},
		{"an older base", `flush table bridge flatdhcp
			delete chain bridge flatdhcp to_closed
			delete counter bridge flatdhcp in_mac
			delete set bridge flatdhcp macs
			add counter bridge flatdhcp old
			add set bridge flatdhcp old { type ifname; }
			add chain bridge flatdhcp old
			add rule bridge flatdhcp old iifname @old counter name old drop`, "its chains were not this version's"},
		{"a set of another type", `flush table bridge flatdhcp
			delete set bridge flatdhcp macs
			add set bridge flatdhcp macs { type ether_addr; }
			add element bridge flatdhcp macs { fa:16:3e:00:00:02 }`, "its rules were not this version's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newTable(t)
			ports := somePorts()
			l.attach(ports...)
			l.load(tc.damage)
			changed := l.apply(ports...)
			if len(changed) == 0 || changed[0] != "base rules installed: "+tc.want {
				t.Errorf("Apply changes %q, wanted first the base because %q", changed, tc.want)
			}
			l.check(ports...)

			l.load(tc.damage)
			l.attach(ports[0])
			l.check(ports...)

			l.load(tc.damage)
			l.detach(ports[0].Name)
			l.attach(ports[1])
			l.check(ports[1:]...)
		})
	}
}

func TestApplyReportsTheDifference(t *testing.T) {
	l := newTable(t)
	p := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, CheckSource: true}
	l.apply(p)
	p.Closed = true
	want := []string{
		`delete element bridge flatdhcp ports { "fdp0" comment "fa:16:3e:00:00:02 10.0.0.2" }`,
		`add element bridge flatdhcp ports { "fdp0" comment "fa:16:3e:00:00:02 10.0.0.2 closed" }`,
		`add element bridge flatdhcp closed { "fdp0" }`,
	}
	if diff := cmp.Diff(want, l.apply(p)); diff != "" {
		t.Errorf("closing a port changes otherwise:\n%s", diff)
	}
	l.check(p)
}

// TestCountersOutliveTheBase: replacing the rules does not set the counters back.
func TestCountersOutliveTheBase(t *testing.T) {
	l := newLab(t, false)
	from, to := l.plug(attacker, 2), l.plug(lan, 98)
	l.apply()
	tag := l.tag()
	l.arrivals(from, ethernet(to.mac, from.mac, etherTypeIPv4, udpPacket(from.addr, to.addr, 1, 9, tag)), tag)
	want := map[string]uint64{inNoPort: 1}
	if diff := cmp.Diff(want, l.counters()); diff != "" {
		t.Fatalf("counters differ:\n%s", diff)
	}
	l.load("flush table bridge flatdhcp")
	l.apply()
	if diff := cmp.Diff(want, l.counters()); diff != "" {
		t.Errorf("counters differ after the base was replaced:\n%s", diff)
	}
}

func TestRemove(t *testing.T) {
	l := newTable(t)
	neighbour := "table bridge neighbour {\n\tchain c {\n\t\taccept\n\t}\n}\n"
	l.load(neighbour)
	before := l.run("nft", "list", "ruleset")
	for range 2 {
		l.mustDo("removing", func() error { return Remove(t.Context()) })
		if diff := cmp.Diff(before, l.run("nft", "list", "ruleset")); diff != "" {
			t.Errorf("Remove leaves or takes something:\n%s", diff)
		}
		l.attach(somePorts()...)
	}
	l.mustDo("counting", func() error {
		cs, err := Counters(t.Context())
		if len(cs) != len(counters()) || !slices.IsSortedFunc(cs, func(a, b Counter) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("counters are %v", cs)
		}
		return errors.Join(err, Remove(t.Context()))
	})
	l.mustDo("counting without a table", func() error {
		cs, err := Counters(t.Context())
		if len(cs) > 0 {
			t.Errorf("counters without a table: %v", cs)
		}
		return err
	})
}

// TestParallelAttachAndDetach: any number at once, the first ones racing for the
// base, others' rules changing all the while; what remains is what was planned.
func TestParallelAttachAndDetach(t *testing.T) {
	const n = 200
	l := newTable(t)
	port := func(i int) Port {
		return Port{Name: fmt.Sprintf("fdp%012x", i), MAC: mac(byte(i)), CheckSource: i%2 == 0, Closed: i%3 == 0,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inParallel := func(f func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { errs[i] = inNetNS(l.ns, func() error { return f(i) }) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	var all, odd []Port
	for i := range n {
		all = append(all, port(i))
		if i%2 == 1 {
			odd = append(odd, port(i))
		}
	}
	inParallel(func(i int) error { return Attach(ctx, segment(), port(i)) })
	l.check(all...)
	// Half of them leave while the other half come again, and the base is lost.
	l.load("flush table bridge flatdhcp")
	inParallel(func(i int) error {
		if i%2 == 0 {
			return Detach(ctx, port(i).Name)
		}
		return Attach(ctx, segment(), port(i))
	})
	l.check(odd...)
	inParallel(func(i int) error { return Detach(ctx, port(i).Name) })
	l.check()
}

// inNetNS runs f on a thread of its own in the namespace.
func inNetNS(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func TestContextEndsTheCall(t *testing.T) {
	l := newTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	past, cancelPast := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelPast()
	for _, tc := range []struct {
		ctx  context.Context
		want error
	}{{ctx, context.Canceled}, {past, context.DeadlineExceeded}} {
		l.do(func() {
			if err := Attach(tc.ctx, Segment{}, somePorts()[0]); !errors.Is(err, tc.want) {
				t.Errorf("Attach: %v, wanted %v", err, tc.want)
			}
			if err := Detach(tc.ctx, "fdp0"); !errors.Is(err, tc.want) {
				t.Errorf("Detach: %v, wanted %v", err, tc.want)
			}
		})
	}
	if got := l.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("a call that was over before it began has left:\n%s", got)
	}
}
