package guard

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestReplacementLeavesNoGap: while the base is replaced again and again, nothing
// forbidden slips through, and nothing allowed is lost.
func TestReplacementLeavesNoGap(t *testing.T) {
	const replacements = 100
	l := newLab(t, false)
	a, v := l.plug(attacker, 2), l.plug(victim, 3)
	ports := []Port{
		{Name: attacker, MAC: a.mac, Addrs: addrs(a), CheckSource: true},
		{Name: victim, MAC: v.mac, Addrs: addrs(v), CheckSource: true},
	}
	l.apply(ports...)

	var over atomic.Bool
	done := make(chan error, 1)
	go func() {
		defer over.Store(true)
		done <- inNetNS(l.ns, func() error {
			for range replacements {
				// A chain that does nothing is defect enough, and opens nothing.
				if err := addStrangeChain(t); err != nil {
					return err
				}
				if _, err := Apply(t.Context(), segments(), ports, nil); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	allowed := 0
	for !over.Load() {
		forbidden := l.tag()
		frame := ethernet(v.mac, a.mac, etherTypeIPv4, udpPacket(addr(4), v.addr, 5000, 9, forbidden))
		if at := l.arrivals(a, frame, forbidden); len(at) > 0 {
			t.Fatalf("a forbidden frame arrives at %v", at)
		}
		tag := l.tag()
		frame = ethernet(v.mac, a.mac, etherTypeIPv4, udpPacket(a.addr, v.addr, 5000, 9, tag))
		if at := l.arrivals(a, frame, tag); !at[victim] {
			t.Fatalf("an allowed frame is lost, counters: %v", l.counters())
		}
		allowed++
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if allowed < replacements/10 {
		t.Errorf("only %d frames were sent during %d replacements: the test shows little", allowed, replacements)
	}
	l.check(ports...)
}

// addStrangeChain changes the table in a way that the next Apply replaces it.
func addStrangeChain(t *testing.T) error {
	return retry(t.Context(), func(c *conn) error {
		return c.transact(func(b *batch) error {
			b.addChain(chain{name: "strange"})
			return nil
		})
	})
}

// TestWithoutPrivilege: the error says what is missing.
func TestWithoutPrivilege(t *testing.T) {
	l := newTable(t)
	want := "removing the guard: reading nf_tables (message 0x10): netlink receive: operation not permitted: " +
		"CAP_NET_ADMIN over this network namespace is needed"
	err := inNetNS(l.ns, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := Remove(t.Context()); err == nil || err.Error() != want || !errors.Is(err, unix.EPERM) {
			t.Errorf("Remove: %v, wanted %s", err, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestManyPorts: one transaction holds them all.
func TestManyPorts(t *testing.T) {
	l := newTable(t)
	ports := manyPorts(4000)
	if changed := l.apply(ports...); len(changed) < 4*len(ports) {
		t.Errorf("only %d changes for %d ports", len(changed), len(ports))
	}
	if diff := cmp.Diff(planned(t, ports...), l.listing()); diff != "" {
		t.Errorf("the kernel's table differs (-planned +nft):\n%s", diff)
	}
	if changed := l.apply(ports...); len(changed) > 0 {
		t.Errorf("Apply finds %d changes", len(changed))
	}
	if changed := l.apply(); len(changed) < 4*len(ports) {
		t.Errorf("only %d changes when %d ports leave", len(changed), len(ports))
	}
	l.check()
}
