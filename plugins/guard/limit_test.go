package guard

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// TestLimits: of a burst of each kind about a second's worth passes and the rest is
// counted; neither another kind nor another port pays for it. Without a limit all pass.
func TestLimits(t *testing.T) {
	const burst = 200
	toAll := func(typ uint16, packet func(p parts) []byte) func(parts) []byte {
		return func(p parts) []byte { return ethernet(broadcast, p.from.mac, typ, packet(p)) }
	}
	arp := toAll(etherTypeARP, func(p parts) []byte { return p.arp(nil) })
	multicast := func(p parts) []byte {
		return ethernet(someGroupMAC, p.from.mac, etherTypeIPv4, p.data(p.from.addr, someGroup))
	}
	discover := toAll(etherTypeIPv4, func(p parts) []byte {
		return udpPacket(unspecified, all, 68, 67, dhcpMessage(p.from.mac, p.tag))
	})
	query := func(p parts) []byte { return p.ip(udpPacket(p.from.addr, p.to.addr, 5000, 53, p.tag)) }
	ordinary := func(p parts) []byte { return p.ip(p.data(p.from.addr, p.to.addr)) }
	for _, tc := range []struct {
		name    string
		limits  ipam.Limits
		frame   func(parts) []byte
		other   func(parts) []byte // of another kind
		counter string
	}{
		{"ARP", ipam.Limits{ARP: 1}, arp, multicast, inARPRate},
		{"broadcast", ipam.Limits{Broadcast: 1}, toAll(etherTypeIPv4, func(p parts) []byte { return p.data(p.from.addr, all) }), arp, inBroadcastRate},
		{"multicast", ipam.Limits{Broadcast: 1}, multicast, discover, inBroadcastRate},
		{"DHCP", ipam.Limits{DHCP: 1}, discover, query, inDHCPRate},
		{"DNS", ipam.Limits{DNS: 1}, query, ordinary, inDNSRate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, false)
			l.plug(attacker, 2)
			l.plug(victim, 3)
			l.plug(lan, 98)
			port := func(name string, limits ipam.Limits) Port {
				s := l.stations[name]
				return Port{Name: name, MAC: s.mac, Addrs: addrs(s), CheckSource: true, Limits: limits}
			}
			send := func(from string, frame func(parts) []byte, n int) (arrived int) {
				for range n {
					p := l.parts(attack{name: tc.name, from: from, to: lan})
					if l.arrivals(p.from, frame(p), p.tag)[lan] {
						arrived++
					}
				}
				return arrived
			}
			l.apply(port(attacker, ipam.Limits{}), port(victim, tc.limits))
			if got := send(attacker, tc.frame, burst); got != burst {
				t.Errorf("without a limit %d of %d arrive", got, burst)
			}
			if got := dropped(l); len(got) > 0 {
				t.Errorf("without a limit something is dropped: %v", got)
			}
			// A changed limit counts at once.
			l.apply(port(attacker, tc.limits), port(victim, tc.limits))
			got := send(attacker, tc.frame, burst)
			want := map[string]uint64{tc.counter: uint64(burst - got)}
			if got == 0 || got == burst {
				t.Errorf("with a limit %d of %d arrive", got, burst)
			}
			if diff := cmp.Diff(want, dropped(l)); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if send(attacker, tc.other, 1) != 1 {
				t.Errorf("another kind of frame is lost: %v", l.counters())
			}
			if send(victim, tc.frame, 1) != 1 {
				t.Errorf("another port's frame is lost: %v", l.counters())
			}
		})
	}
}

// dropped is what was dropped on its way in: a bridge that learns nothing floods, and
// what is not for the other workload is dropped on its way out.
func dropped(l *lab) map[string]uint64 {
	l.t.Helper()
	counters := l.counters()
	delete(counters, outAddress)
	return counters
}

// TestForeignLimitIsReplaced: a limit changed by hand is a defect, and Apply mends it.
func TestForeignLimitIsReplaced(t *testing.T) {
	for _, limit := range []string{"limit rate over 5/second", "limit rate over 7/minute burst 7 packets", "limit rate 7/second burst 7 packets", ""} {
		t.Run(limit, func(t *testing.T) {
			l := newTable(t)
			p := Port{Name: "fdp0", MAC: mac(2), Addrs: []netip.Addr{addr(2)}, Limits: ipam.Limits{ARP: 7}}
			l.attach(p)
			l.load(`delete element bridge flatdhcp limit_arp { "fdp0" }
				add element bridge flatdhcp limit_arp { "fdp0" ` + limit + ` }`)
			var defects []string
			l.mustDo("checking", func() (err error) {
				defects, err = Check(t.Context(), segment(), p)
				return err
			})
			if len(defects) != 2 || defects[0] != `the guard lacks element of set limit_arp: "fdp0" limit rate over 7/second burst 7 packets` {
				t.Errorf("defects are %q", defects)
			}
			if changed := l.apply(p); len(changed) != 2 {
				t.Errorf("Apply changes %q", changed)
			}
			l.check(p)
		})
	}
}
