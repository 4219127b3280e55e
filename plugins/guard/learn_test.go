package guard

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// TestNoMACIsStolen: a frame from the victim's MAC must not make the bridge send
// the victim's frames to the attacker. The source is checked before it is learned.
func TestNoMACIsStolen(t *testing.T) {
	steal := func(dst ipam.MAC) func(l *lab, from, victim *station) {
		return func(l *lab, from, victim *station) {
			tag := l.tag()
			l.arrivals(from, ethernet(dst, victim.mac, etherTypeIPv4, udpPacket(victim.addr, addr(98), 5000, 9, tag)), tag)
		}
	}
	for _, tc := range []struct {
		name  string
		steal func(l *lab, from, victim *station)
		// unseen: the bridge learns from the frame without asking any hook, so that
		// the port must not learn at all, which is up to who makes it.
		unseen bool
	}{
		{"by broadcast", steal(broadcast), false},
		{"by unicast", steal(mac(98)), false},
		{"by BPDU", steal(bpduMAC), false},
		{"by EAPOL", steal(ipam.MAC{1, 0x80, 0xc2, 0, 0, 3}), false}, // meets only the input hook
		{"by LLDP", steal(ipam.MAC{1, 0x80, 0xc2, 0, 0, 0xe}), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, guarded := range []bool{false, true} {
				l := newLab(t, true)
				a, v, outside := l.plug(attacker, 2), l.plug(victim, 3), l.plug(lan, 98)
				if guarded {
					l.attach(Port{Name: attacker, MAC: a.mac, Addrs: addrs(a), CheckSource: true},
						Port{Name: victim, MAC: v.mac, Addrs: addrs(v), CheckSource: true})
				}
				if guarded && tc.unseen {
					l.mustDo("making the port not learn", func() error {
						link, err := netlink.LinkByName(attacker)
						if err == nil {
							err = netlink.LinkSetLearning(link, false)
						}
						return err
					})
				}
				// The bridge knows where the victim is.
				tag := l.tag()
				l.arrivals(v, ethernet(outside.mac, v.mac, etherTypeIPv4, udpPacket(v.addr, outside.addr, 1, 9, tag)), tag)
				tc.steal(l, a, v)
				tag = l.tag()
				at := l.arrivals(outside, ethernet(v.mac, outside.mac, etherTypeIPv4, udpPacket(outside.addr, v.addr, 1, 9, tag)), tag)
				if at[victim] != guarded {
					t.Errorf("guarded: %t, but the victim still gets its frames: %t (%v)", guarded, at[victim], at)
				}
			}
		})
	}
}
