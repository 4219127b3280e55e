package guard

import (
	"testing"

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
	}{
		{"by broadcast", steal(broadcast)},
		{"by unicast", steal(mac(98))},
		{"by BPDU", steal(bpduMAC)},
		// The bridge hands this one to the node without asking the prerouting hook.
		{"by EAPOL", steal(ipam.MAC{1, 0x80, 0xc2, 0, 0, 3})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, guarded := range []bool{false, true} {
				l := newLab(t, true)
				a, v, outside := l.plug(attacker, 2), l.plug(victim, 3), l.plug(lan, 98)
				if guarded {
					l.attach(Port{Name: attacker, MAC: a.mac, Addrs: addrs(a), CheckSource: true},
						Port{Name: victim, MAC: v.mac, Addrs: addrs(v), CheckSource: true})
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
