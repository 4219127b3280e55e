package server

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	relay    = netip.MustParseAddr("10.0.0.9")
	farRelay = netip.MustParseAddr("192.0.2.1") // on another link than its clients
)

// TestRespondToRelays has the rows 16 and 17 of the table, with two relays allowed.
func TestRespondToRelays(t *testing.T) {
	back := Delivery{IP: relay, Relay: true}
	offer := decision{Type: Offer, YI: "10.0.0.2", CI: "0.0.0.0", To: back, Lease: 120}
	ack := decision{Type: Ack, YI: "10.0.0.2", CI: "0.0.0.0", To: back, Lease: 120}
	nak := decision{Type: Nak, YI: "0.0.0.0", CI: "0.0.0.0", Reason: "wrong address", To: back}
	silent := func(v Verdict) decision { return decision{Verdict: v} }
	by := func(gi netip.Addr, mods ...dhcpv4.Modifier) []dhcpv4.Modifier { return append(mods, giaddr(gi)) }
	override := raw(82, 11, 4, 10, 0, 0, 9)
	link := func(a netip.Addr) dhcpv4.Modifier {
		return raw(82, append([]byte{1, 2, 'p', '1', 5, 4}, a.AsSlice()...)...)
	}
	request, inform := dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform
	for _, tc := range []struct {
		name     string
		kind     dhcpv4.MessageType
		mods     []dhcpv4.Modifier
		want     decision
		serverID netip.Addr // zero = the gateway
		flags    uint16
	}{
		{"discover", 1, by(relay), offer, netip.Addr{}, 0},
		{"discover with broadcast flag: the relay's business", 1, by(relay, dhcpv4.WithBroadcast(true)), offer, netip.Addr{}, flagBroadcast},
		{"selecting", request, by(relay, option4(54, gateway), option4(50, reserved)), ack, netip.Addr{}, 0},
		{"renewing by way of the relay", request, by(relay, ciaddr(reserved)),
			decision{Type: Ack, YI: "10.0.0.2", CI: "10.0.0.2", To: back, Lease: 120}, netip.Addr{}, 0},
		{"a wrong address: the relay is to broadcast the NAK", request, by(relay, option4(50, taken)), nak, netip.Addr{}, flagBroadcast},
		{"renewing a wrong address: no copy past the relay", request, by(relay, ciaddr(taken)), nak, netip.Addr{}, flagBroadcast},
		{"inform", inform, by(relay, ciaddr(reserved)), decision{Type: Ack, YI: "0.0.0.0", CI: "10.0.0.2", To: back}, netip.Addr{}, 0},
		{"a stranger", 1, by(relay, from(stranger)), silent(Unknown), netip.Addr{}, 0},
		{"a relay that is not allowed", 1, by(taken), silent(Relayed), netip.Addr{}, 0},
		{"our own address", 1, by(gateway), silent(Relayed), netip.Addr{}, 0},
		{"our second address, which somebody allowed", 1, by(second), silent(Relayed), netip.Addr{}, 0},
		{"loopback", 1, by(netip.MustParseAddr("127.0.0.1")), silent(Relayed), netip.Addr{}, 0},
		{"broadcast", 1, by(broadcastIP), silent(Relayed), netip.Addr{}, 0},
		{"RFC 5107: the relay is our identifier", 1, by(relay, override), offer, relay, 0},
		{"RFC 5107: and is so when chosen", request, by(relay, override, option4(54, relay), option4(50, reserved)), ack, relay, 0},
		{"RFC 5107: of a client without relay it is another server", request, []dhcpv4.Modifier{override, option4(54, relay), option4(50, reserved)},
			silent(OtherServer), netip.Addr{}, 0},
		{"RFC 5107: broadcast is no identifier", 1, by(relay, raw(82, 11, 4, 255, 255, 255, 255)), offer, netip.Addr{}, 0},
		{"RFC 3527: the client is on our link", 1, by(farRelay, link(taken)),
			decision{Type: Offer, YI: "10.0.0.2", CI: "0.0.0.0", To: Delivery{IP: farRelay, Relay: true}, Lease: 120}, netip.Addr{}, 0},
		{"RFC 3527: the client is elsewhere", 1, by(relay, link(foreign)), silent(OtherLink), netip.Addr{}, 0},
		{"a relay of another network", 1, by(farRelay), silent(OtherLink), netip.Addr{}, 0},
		{"an option 82 that is cut off", 1, by(relay, raw(82, 11, 9, 1)), offer, netip.Addr{}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testScope(t, func(n *ipam.Network) { n.Bridge.DHCP.Relays = []netip.Addr{relay, farRelay, second} })
			q := query(t, client(t, tc.kind, tc.mods...).ToBytes(), gateway)
			row := testRow()
			if q.MAC() != known {
				row = nil
			}
			r, v := Respond(q, s, row)
			if diff := cmp.Diff(tc.want, decide(r, v), addrEqual); diff != "" {
				t.Fatalf("Respond (-want +got):\n%s", diff)
			}
			if v != Answer {
				return
			}
			reply := new(Encoder).Append(nil, &r)
			m := decode(t, reply)
			id := tc.serverID
			if !id.IsValid() {
				id = gateway
			}
			if !m.ServerIdentifier().Equal(id.AsSlice()) || m.Flags != tc.flags || !m.GatewayIPAddr.Equal(q.GIAddr.AsSlice()) {
				t.Errorf("server identifier %v, flags %x, giaddr %v; want %v, %x, %v", m.ServerIdentifier(), m.Flags, m.GatewayIPAddr, id, tc.flags, q.GIAddr)
			}
			sent, _ := q.long(optRelayInfo)
			list := wireOptions(t, reply)
			if last := list[len(list)-1]; len(sent) > 0 && (last.code != optRelayInfo || !bytes.Equal(last.value, sent)) {
				t.Errorf("option 82 %x does not come back last and as it was: %v", sent, list)
			}
			frame := append(make([]byte, frameLen), reply...)
			putHeaders(frame, bridgeMAC, s.ServerID, r.To)
			checkFrame(t, frame)
			if port := int(frame[36])<<8 | int(frame[37]); port != serverPort {
				t.Errorf("the reply goes to port %d of the relay, want %d", port, serverPort)
			}
		})
	}
}

func TestRapidCommit(t *testing.T) {
	enabled := func(n *ipam.Network) { n.Bridge.DHCP.RapidCommit = true }
	ask := client(t, dhcpv4.MessageTypeDiscover, raw(80)).ToBytes()
	r, v := Respond(query(t, ask, broadcastIP), testScope(t, enabled), testRow())
	if v != Answer || r.Type != Ack || r.YIAddr != reserved || r.Lease != 120 {
		t.Fatalf("verdict %v, %v of %v for %d s; want an ACK", v, r.Type, r.YIAddr, r.Lease)
	}
	if m := decode(t, new(Encoder).Append(nil, &r)); !m.Options.Has(dhcpv4.OptionRapidCommit) {
		t.Error("the ACK has no option 80")
	}
	for name, tc := range map[string]struct {
		change func(*ipam.Network)
		b      []byte
	}{
		"not enabled":                    {func(*ipam.Network) {}, ask},
		"enabled, but not asked for":     {enabled, client(t, dhcpv4.MessageTypeDiscover).ToBytes()},
		"enabled, and listed in 55 only": {enabled, client(t, dhcpv4.MessageTypeDiscover, raw(55, 80)).ToBytes()},
	} {
		r, v := Respond(query(t, tc.b, broadcastIP), testScope(t, tc.change), testRow())
		if v != Answer || r.Type != Offer {
			t.Fatalf("%s: verdict %v, %v; want an OFFER", name, v, r.Type)
		}
		if decode(t, new(Encoder).Append(nil, &r)).Options.Has(dhcpv4.OptionRapidCommit) {
			t.Errorf("%s: the OFFER has option 80", name)
		}
	}
	if _, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover, raw(80), from(stranger)).ToBytes(), broadcastIP), testScope(t, enabled), nil); v != Unknown {
		t.Errorf("a stranger: %v, want silence and never a NAK", v)
	}
}

// TestHeldDown: what a client that declined its address gets meanwhile.
func TestHeldDown(t *testing.T) {
	for _, tc := range []struct {
		name string
		kind dhcpv4.MessageType
		mods []dhcpv4.Modifier
		want Verdict
		nak  bool
	}{
		{"discover", dhcpv4.MessageTypeDiscover, nil, HeldDown, false},
		{"selecting", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{option4(54, gateway), option4(50, reserved)}, HeldDown, false},
		{"init-reboot", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{option4(50, reserved)}, HeldDown, false},
		{"init-reboot with a wrong address", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{option4(50, taken)}, Answer, true},
		{"renewing: then it uses the address after all", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{ciaddr(reserved)}, Answer, false},
		{"inform", dhcpv4.MessageTypeInform, []dhcpv4.Modifier{ciaddr(reserved)}, Answer, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := query(t, client(t, tc.kind, tc.mods...).ToBytes(), gateway)
			q.Held = true
			if r, v := Respond(q, testScope(t), testRow()); v != tc.want || v == Answer && (r.Type == Nak) != tc.nak {
				t.Errorf("%v %v, want %v", v, r.Type, tc.want)
			}
		})
	}
}
