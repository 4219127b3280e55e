package guard

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// What the allowed ports of the lab may use besides their own: an address, another with
// its virtual MAC, and the MAC of something they bridge.
var (
	sharedAddr  = addr(200)
	routerAddr  = addr(201)
	routerMAC   = ipam.MAC{0, 0, 0x5e, 0, 1, 7}
	bridgedMAC  = ipam.MAC{0x52, 0x54, 0, 0, 0, 1}
	someAllowed = []ipam.AllowedAddress{{Addr: sharedAddr}, {Addr: routerAddr, MAC: routerMAC}, {MAC: bridgedMAC}}
)

// TestAllowedAddresses: what is allowed passes from and to the ports that it is allowed
// to, of which there may be several, in just these combinations, and no other port.
func TestAllowedAddresses(t *testing.T) {
	const router, backup = "fdprouter", "fdpbackup"
	l := newLab(t, false)
	for i, name := range []string{router, backup, attacker, macOnly} {
		l.plug(name, byte(2+i))
	}
	l.plug(lan, 98)
	port := func(name string, allowed []ipam.AllowedAddress) Port {
		s := l.stations[name]
		return Port{Name: name, MAC: s.mac, Addrs: addrs(s), CheckSource: name != macOnly, CheckMAC: name == macOnly, Allowed: allowed}
	}
	data := func(dst, src ipam.MAC, from, to netip.Addr) func(parts) []byte {
		return func(p parts) []byte {
			if src.IsZero() {
				src = p.from.mac
			}
			return ethernet(dst, src, etherTypeIPv4, p.data(from, to))
		}
	}
	announce := func(frame, sender ipam.MAC, of netip.Addr) func(parts) []byte {
		return func(p parts) []byte {
			f, s := frame, sender
			if f.IsZero() {
				f = p.from.mac
			}
			if s.IsZero() {
				s = p.from.mac
			}
			return ethernet(broadcast, f, etherTypeARP, p.arp(func(a *arpPacket) { a.senderMAC, a.sender, a.target = s, of, of }))
		}
	}
	own, outside := ipam.MAC{}, mac(98)
	cases := []attack{
		{"the address", router, lan, data(outside, own, sharedAddr, addr(98)), ""},
		{"the address of the other who may", backup, lan, data(outside, own, sharedAddr, addr(98)), ""},
		{"the address of who may not", attacker, lan, data(outside, own, sharedAddr, addr(98)), inIPv4},
		{"announcing the address", router, lan, announce(own, own, sharedAddr), ""},
		{"announcing the address of who may not", attacker, lan, announce(own, own, sharedAddr), inARP},
		{"the address with its MAC", router, lan, data(outside, routerMAC, routerAddr, addr(98)), ""},
		{"announcing the address with its MAC", router, lan, announce(routerMAC, routerMAC, routerAddr), ""},
		{"the address without its MAC", router, lan, data(outside, own, routerAddr, addr(98)), inIPv4},
		{"the MAC with another address", router, lan, data(outside, routerMAC, sharedAddr, addr(98)), inIPv4},
		{"the MAC with the own address", router, lan, data(outside, routerMAC, addr(2), addr(98)), inIPv4},
		{"the MAC of who may not", attacker, lan, data(outside, routerMAC, routerAddr, addr(98)), inMAC},
		{"a bridged MAC with the own address", router, lan, data(outside, bridgedMAC, addr(2), addr(98)), ""},
		{"a bridged MAC with another address", router, lan, data(outside, bridgedMAC, sharedAddr, addr(98)), inIPv4},
		{"a MAC that nobody is allowed", router, lan, data(outside, unknownMAC, sharedAddr, addr(98)), inMAC},
		{"the gateway's address all the same", router, lan, data(outside, own, netip.MustParseAddr(gateway), addr(98)), inIPv4},
		{"another workload's address all the same", router, lan, data(outside, own, addr(4), addr(98)), inIPv4},
		{"a bridged MAC with a MAC check alone", macOnly, lan, data(outside, bridgedMAC, addr(77), addr(98)), ""},
		{"a MAC that nobody is allowed with a MAC check alone", macOnly, lan, data(outside, unknownMAC, addr(5), addr(98)), inMAC},

		{"to the address", lan, router, data(mac(2), own, addr(98), sharedAddr), ""},
		{"to the address by its MAC", lan, router, data(routerMAC, own, addr(98), routerAddr), ""},
		{"to the address by its MAC, at the other who may", lan, backup, data(routerMAC, own, addr(98), routerAddr), ""},
		{"to the address, at who may not", lan, attacker, data(mac(4), own, addr(98), sharedAddr), outAddress},
		{"to an address that nobody is allowed", lan, router, data(mac(2), own, addr(98), addr(202)), outAddress},
	}
	l.checkUnguarded(t, cases)
	l.apply(port(router, someAllowed), port(backup, someAllowed), port(attacker, nil), port(macOnly, someAllowed))
	l.checkGuarded(t, cases)
}

// TestAllowedAddressesAreTheNetworksToGive: on request or not, and not to one that its own
// toggle closes on an open network.
func TestAllowedAddressesAreTheNetworksToGive(t *testing.T) {
	all, asked := ipam.AllowedAddress{Addr: sharedAddr}, ipam.AllowedAddress{Addr: routerAddr, MAC: routerMAC}
	listed := []ipam.AllowedAddress{all, {Addr: routerAddr, MAC: routerMAC, OnRequest: true}}
	on, off := true, false
	for _, tc := range []struct {
		name   string
		open   bool
		own    *bool
		asks   []ipam.AllowedAddress
		listed []ipam.AllowedAddress
		want   string
	}{
		{"nothing asked for", true, nil, nil, listed, "10.0.0.200"},
		{"asked for", true, nil, []ipam.AllowedAddress{asked}, listed, "10.0.0.200 10.0.0.201/00:00:5e:00:01:07"},
		{"asked for without its MAC", true, nil, []ipam.AllowedAddress{{Addr: routerAddr}}, listed, "10.0.0.200"},
		{"asked for before it was taken off the list", true, nil, []ipam.AllowedAddress{asked}, listed[:1], "10.0.0.200"},
		{"closed network", false, nil, nil, listed, "10.0.0.200"},
		{"open on its own", false, &on, nil, listed, "10.0.0.200"},
		{"closed on its own", true, &off, []ipam.AllowedAddress{asked}, listed, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := ipam.Network{Bridge: &ipam.Bridge{AllowSameNetTraffic: tc.open, AllowedAddresses: tc.listed}}
			got := ""
			for _, a := range PortFor(n, ipam.Reservation{Addr: addr(2), MAC: mac(2), AllowSameNetTraffic: tc.own, AllowedAddresses: tc.asks}, "fdp0").Allowed {
				if got != "" {
					got += " "
				}
				got += a.String()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("allowed:\n%s", diff)
			}
		})
	}
}
