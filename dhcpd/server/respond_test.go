package server

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	known    = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}
	stranger = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 99}
	gateway  = netip.MustParseAddr("10.0.0.1")
	second   = netip.MustParseAddr("10.0.0.254") // another address of ours on the bridge
	reserved = netip.MustParseAddr("10.0.0.2")
	taken    = netip.MustParseAddr("10.0.0.7") // not the client's
	foreign  = netip.MustParseAddr("192.168.7.7")
	other    = netip.MustParseAddr("10.0.0.200") // another server
)

func testNetwork() *ipam.Network {
	return &ipam.Network{
		Name: "flat",
		Pool: ipam.Pool{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: gateway, Domain: "novalocal"},
		Bridge: &ipam.Bridge{
			Name: "br100", IsGateway: true, LeaseTime: ipam.Duration(2 * time.Minute), MTU: 1450,
			DNS: ipam.DNS{
				Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("::ffff:9.9.9.9"), netip.MustParseAddr("2001:db8::1")},
				Search:      []string{"novalocal", "example.org."},
			},
		},
	}
}

func testScope(t testing.TB, change ...func(*ipam.Network)) *Scope {
	t.Helper()
	n := testNetwork()
	for _, f := range change {
		f(n)
	}
	s, err := NewScope(n, Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway, second}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testRow() *ipam.Reservation {
	return &ipam.Reservation{Addr: reserved, MAC: known, Hostname: "cirros"}
}

// client builds a client's message; a modifier of the dhcpv4 package changes it.
func client(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(known.HardwareAddr()),
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{0xde, 0xad, 0xbe, 0xef}),
		dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func query(t testing.TB, b []byte, to netip.Addr) *Query {
	t.Helper()
	q := &Query{To: to}
	if err := q.Parse(b); err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return q
}

func option4(code uint8, a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), a.AsSlice())
}

func raw(code uint8, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), value)
}

func ciaddr(a netip.Addr) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = a.AsSlice() }
}

func giaddr(a netip.Addr) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = a.AsSlice() }
}

func from(mac ipam.MAC) dhcpv4.Modifier {
	return dhcpv4.WithHwAddr(mac.HardwareAddr())
}

// decision is what the table of cases compares.
type decision struct {
	Verdict  Verdict
	Type     MessageType
	YI, CI   string
	Reason   string
	To, Also Delivery
	Lease    uint32
}

func decide(r Reply, v Verdict) decision {
	d := decision{Verdict: v, Type: r.Type, Reason: r.Reason, To: r.To, Also: r.Also, Lease: r.Lease}
	if r.YIAddr.IsValid() {
		d.YI, d.CI = r.YIAddr.String(), r.CIAddr.String()
	}
	return d
}

var addrEqual = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestRespond walks the table of message and client state against reply, for clients with
// a row here and for those of a peer. The numbers are that table's rows.
func TestRespond(t *testing.T) {
	unicast, toAll := Delivery{MAC: known, IP: reserved}, Delivery{MAC: broadcastMAC, IP: broadcastIP}
	offer := decision{Type: Offer, YI: "10.0.0.2", CI: "0.0.0.0", To: unicast, Lease: 120}
	ack := decision{Type: Ack, YI: "10.0.0.2", CI: "0.0.0.0", To: unicast, Lease: 120}
	renewed := decision{Type: Ack, YI: "10.0.0.2", CI: "10.0.0.2", To: unicast, Lease: 120}
	nak := func(reason string) decision {
		return decision{Type: Nak, YI: "0.0.0.0", CI: "0.0.0.0", Reason: reason, To: toAll}
	}
	broadcasted := func(d decision) decision { d.To = toAll; return d }
	also := func(d decision, to netip.Addr) decision { d.Also = Delivery{MAC: known, IP: to}; return d }
	silent := func(v Verdict) decision { return decision{Verdict: v} }
	type mods = []dhcpv4.Modifier
	const (
		discover = dhcpv4.MessageTypeDiscover
		request  = dhcpv4.MessageTypeRequest
	)
	bcast := dhcpv4.WithBroadcast(true)
	for _, tc := range []struct {
		name string
		kind dhcpv4.MessageType
		mods mods
		to   netip.Addr // zero = 255.255.255.255
		want decision
	}{
		{"1 discover of a stranger", discover, mods{from(stranger)}, broadcastIP, silent(Unknown)},
		{"1 discover of a stranger who asks for a reserved address", discover, mods{from(stranger), option4(50, reserved)}, broadcastIP, silent(Unknown)},
		{"2 discover", discover, nil, broadcastIP, offer},
		{"2 discover with broadcast flag", discover, mods{bcast}, broadcastIP, broadcasted(offer)},
		{"2 discover asking for another address", discover, mods{option4(50, taken)}, broadcastIP, offer},
		{"2 discover with ciaddr, which counts for nothing", discover, mods{ciaddr(reserved)}, broadcastIP, offer},
		{"2 discover sent to the server's address", discover, nil, gateway, offer},
		{"2 discover with a lease time of its own", discover, mods{raw(51, 0, 0, 0, 30)}, broadcastIP, offer},
		{"2 discover with another's client identifier", discover, mods{raw(61, 1, 0xfa, 0x16, 0x3e, 0, 0, 99)}, broadcastIP, offer},
		{"3 discover with rapid commit, not enabled", discover, mods{raw(80)}, broadcastIP, offer},
		{"4 selecting", request, mods{option4(54, gateway), option4(50, reserved)}, broadcastIP, ack},
		{"4 selecting with broadcast flag", request, mods{bcast, option4(54, gateway), option4(50, reserved)}, broadcastIP, broadcasted(ack)},
		{"4 selecting by another address of ours", request, mods{option4(54, second), option4(50, reserved)}, broadcastIP, ack},
		{"4 selecting with a server identifier of five bytes", request, mods{raw(54, 10, 0, 0, 1, 9), option4(50, reserved)}, broadcastIP, ack},
		{"5 selecting another's address", request, mods{option4(54, gateway), option4(50, taken)}, broadcastIP, nak("address not available")},
		{"5 selecting in another network", request, mods{option4(54, gateway), option4(50, foreign)}, broadcastIP, nak("wrong network")},
		{"6 selecting another server", request, mods{option4(54, other), option4(50, reserved)}, broadcastIP, silent(OtherServer)},
		{"6 selecting another server and its address", request, mods{option4(54, other), option4(50, taken)}, broadcastIP, silent(OtherServer)},
		{"6 renewing with another server's identifier", request, mods{option4(54, other), ciaddr(reserved)}, gateway, silent(OtherServer)},
		{"6 server identifier 0.0.0.0", request, mods{option4(54, zeroIP), option4(50, reserved)}, broadcastIP, silent(OtherServer)},
		{"7 a stranger selects us", request, mods{from(stranger), option4(54, gateway), option4(50, reserved)}, broadcastIP, silent(Unknown)},
		{"7 a stranger reboots", request, mods{from(stranger), option4(50, reserved)}, broadcastIP, silent(Unknown)},
		{"7 a stranger renews", request, mods{from(stranger), ciaddr(reserved)}, gateway, silent(Unknown)},
		{"7 a stranger rebinds", request, mods{from(stranger), ciaddr(foreign)}, broadcastIP, silent(Unknown)},
		{"8 init-reboot", request, mods{option4(50, reserved)}, broadcastIP, ack},
		{"8 init-reboot with broadcast flag", request, mods{bcast, option4(50, reserved)}, broadcastIP, broadcasted(ack)},
		{"8 init-reboot with a stray ciaddr", request, mods{option4(50, reserved), ciaddr(taken)}, broadcastIP, ack},
		{"9 init-reboot with another's address", request, mods{option4(50, taken)}, broadcastIP, nak("wrong address")},
		{"9 init-reboot in another network", request, mods{option4(50, foreign)}, broadcastIP, nak("wrong network")},
		{"10 renewing", request, mods{ciaddr(reserved)}, gateway, renewed},
		{"10 renewing with broadcast flag: ciaddr wins", request, mods{bcast, ciaddr(reserved)}, gateway, renewed},
		{"10 renewing with our identifier", request, mods{option4(54, gateway), ciaddr(reserved)}, gateway, renewed},
		{"10 rebinding", request, mods{ciaddr(reserved)}, broadcastIP, renewed},
		{"10 rebinding with a short option 50, which is none", request, mods{raw(50, 10, 0, 0), ciaddr(reserved)}, broadcastIP, renewed},
		{"11 renewing a wrong address: twice", request, mods{ciaddr(taken)}, gateway, also(nak("wrong address"), taken)},
		{"11 renewing a wrong address at our second address", request, mods{ciaddr(taken)}, second, also(nak("wrong address"), taken)},
		{"11 renewing in another network", request, mods{ciaddr(foreign)}, gateway, also(nak("wrong network"), foreign)},
		{"11 renewing the broadcast address: no copy to it", request, mods{ciaddr(broadcastIP)}, gateway, nak("wrong network")},
		{"11 renewing a multicast address: no copy to it", request, mods{ciaddr(netip.MustParseAddr("224.0.0.1"))}, gateway, nak("wrong network")},
		{"11 renewing a loopback address: no copy to it", request, mods{ciaddr(netip.MustParseAddr("127.0.0.1"))}, gateway, nak("wrong network")},
		{"11 renewing our own address: no copy to it", request, mods{ciaddr(gateway)}, gateway, nak("wrong address")},
		{"11 rebinding a wrong address: broadcast only", request, mods{ciaddr(taken)}, broadcastIP, nak("wrong address")},
		{"11 rebinding in another network", request, mods{ciaddr(foreign)}, broadcastIP, nak("wrong network")},
		{"12 request that names nothing", request, nil, broadcastIP, silent(Malformed)},
		{"12 request that names only us", request, mods{option4(54, gateway)}, broadcastIP, silent(Malformed)},
		{"13 decline", dhcpv4.MessageTypeDecline, mods{option4(54, gateway), option4(50, reserved)}, broadcastIP, silent(Declined)},
		{"13 decline to another server", dhcpv4.MessageTypeDecline, mods{option4(54, other), option4(50, reserved)}, broadcastIP, silent(OtherServer)},
		{"13 decline without server identifier", dhcpv4.MessageTypeDecline, mods{option4(50, reserved)}, broadcastIP, silent(OtherServer)},
		{"13 decline without address", dhcpv4.MessageTypeDecline, mods{option4(54, gateway)}, broadcastIP, silent(ForeignAddress)},
		{"13 decline of another's address", dhcpv4.MessageTypeDecline, mods{option4(54, gateway), option4(50, taken)}, broadcastIP, silent(ForeignAddress)},
		{"13 decline without our identifier", dhcpv4.MessageTypeDecline, mods{option4(50, reserved), option4(54, foreign)}, broadcastIP, silent(OtherServer)},
		{"14 release", dhcpv4.MessageTypeRelease, mods{option4(54, gateway), ciaddr(reserved)}, gateway, silent(Released)},
		{"15 inform", dhcpv4.MessageTypeInform, mods{ciaddr(reserved)}, broadcastIP,
			decision{Type: Ack, YI: "0.0.0.0", CI: "10.0.0.2", To: unicast}},
		{"15 inform of another address", dhcpv4.MessageTypeInform, mods{ciaddr(taken)}, broadcastIP, silent(ForeignAddress)},
		{"15 inform without address", dhcpv4.MessageTypeInform, nil, broadcastIP, silent(ForeignAddress)},
		{"15 inform of a stranger", dhcpv4.MessageTypeInform, mods{from(stranger), ciaddr(reserved)}, broadcastIP, silent(Unknown)},
		{"15 inform with broadcast flag: ciaddr wins", dhcpv4.MessageTypeInform, mods{bcast, ciaddr(reserved)}, gateway,
			decision{Type: Ack, YI: "0.0.0.0", CI: "10.0.0.2", To: unicast}},
		{"16 relayed", discover, mods{giaddr(taken)}, broadcastIP, silent(Relayed)},
		{"16 relayed by ourselves", discover, mods{giaddr(gateway)}, broadcastIP, silent(Relayed)},
		{"18 BOOTP", 0, nil, broadcastIP, silent(BOOTP)},
		{"19 offer as a request", dhcpv4.MessageTypeOffer, nil, broadcastIP, silent(OtherType)},
		{"19 force renew", 9, nil, broadcastIP, silent(OtherType)},
		{"19 lease query", 10, nil, broadcastIP, silent(OtherType)},
		{"19 a server's message", discover, mods{func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }}, broadcastIP, silent(NoRequest)},
		{"hardware: zero", discover, mods{from(ipam.MAC{})}, broadcastIP, silent(BadHardware)},
		{"hardware: multicast", discover, mods{from(ipam.MAC{1, 0, 0x5e, 0, 0, 1})}, broadcastIP, silent(BadHardware)},
		{"hardware: broadcast", discover, mods{from(broadcastMAC)}, broadcastIP, silent(BadHardware)},
		{"hardware: not Ethernet", discover, mods{func(m *dhcpv4.DHCPv4) { m.HWType = 6 }}, broadcastIP, silent(BadHardware)},
		{"hardware: five bytes", discover, mods{dhcpv4.WithHwAddr(net.HardwareAddr(known[:5]))}, broadcastIP, silent(BadHardware)},
		{"hardware: sixteen bytes", discover, mods{dhcpv4.WithHwAddr(make(net.HardwareAddr, 16))}, broadcastIP, silent(BadHardware)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := client(t, tc.kind, tc.mods...)
			if tc.kind == 0 {
				m.Options = dhcpv4.Options{}
			}
			q := query(t, m.ToBytes(), tc.to)
			row := testRow()
			if q.MAC() != known {
				row = nil
			}
			got := decide(Respond(q, testScope(t), row))
			if diff := cmp.Diff(tc.want, got, addrEqual); diff != "" {
				t.Errorf("Respond (-want +got):\n%s", diff)
			}
			var peers peerLeases
			ofPeer := copyOf(peered("compute-1", reserved, taken))
			got = decide(Respond(q, testScope(t), peers.of(ofPeer, q.MAC())))
			if diff := cmp.Diff(tc.want, got, addrEqual); diff != "" {
				t.Errorf("Respond to a peer's workload (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRespondWithMovedReservation: the row changed between two messages of a client.
func TestRespondWithMovedReservation(t *testing.T) {
	moved := testRow()
	moved.Addr = taken
	q := query(t, client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved)).ToBytes(), broadcastIP)
	if r, v := Respond(q, testScope(t), moved); v != Answer || r.Type != Nak {
		t.Errorf("REQUEST for the old address: %v %v, want a NAK", r.Type, v)
	}
	moved.Addr = foreign // a row that the subnet no longer holds
	if _, v := Respond(q, testScope(t), moved); v != Unknown {
		t.Errorf("row outside the subnet: verdict %v, want silence", v)
	}
}

func TestLeaseTimes(t *testing.T) {
	for _, tc := range []struct {
		lease, own   time.Duration // the network's, the reservation's
		want, t1, t2 uint32        // T1 and T2 are the greatest there may be; 0 = none
	}{
		{2 * time.Minute, 0, 120, 60, 105},
		{time.Hour, 0, 3600, 1800, 3150},
		{999 * 24 * time.Hour, 0, 86313600, 43156800, 75524400},
		{200 * 365 * 24 * time.Hour, 0, infinite, 0, 0},
		{0, 0, 3600, 1800, 3150}, // a record without it: the default
		{time.Hour, 12 * time.Hour, 43200, 21600, 37800},
		{10 * time.Second, 0, 10, 5, 8},
	} {
		t.Run(tc.lease.String()+" "+tc.own.String(), func(t *testing.T) {
			s := testScope(t, func(n *ipam.Network) { n.Bridge.LeaseTime = ipam.Duration(tc.lease) })
			row := testRow()
			row.LeaseTime = ipam.Duration(tc.own)
			r, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), s, row)
			if v != Answer || r.Lease != tc.want {
				t.Fatalf("lease %d, want %d", r.Lease, tc.want)
			}
			if r.T1 > tc.t1 || r.T1 < tc.t1-tc.t1/8 || r.T2 > tc.t2 || r.T2 < tc.t2-tc.t2/8 || tc.t1 > 0 && r.T1 >= r.T2 {
				t.Errorf("T1 %d and T2 %d, want at most %d and %d, and no more than an eighth less", r.T1, r.T2, tc.t1, tc.t2)
			}
			m := decode(t, new(Encoder).Append(nil, &r))
			if b := m.Options.Get(dhcpv4.OptionIPAddressLeaseTime); binary.BigEndian.Uint32(b) != tc.want {
				t.Errorf("option 51 is %x", b)
			}
			if has := tc.t1 > 0; m.Options.Has(dhcpv4.OptionRenewTimeValue) != has || m.Options.Has(dhcpv4.OptionRebindingTimeValue) != has {
				t.Errorf("options 58 and 59 are wrong: %v", m.Options)
			}
		})
	}
}

// Workloads that boot together, whose MACs come in a row, do not renew together: over
// the eighth that there is they spread evenly, each always at the same place.
func TestRenewalsAreSpread(t *testing.T) {
	const clients, places = 1000, 10
	s := testScope(t, func(n *ipam.Network) { n.Bridge.LeaseTime = ipam.Duration(time.Hour) })
	var t1, t2 [places]int
	for i := range clients {
		row := testRow()
		row.MAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, byte(i >> 8), byte(i)}
		q := query(t, client(t, dhcpv4.MessageTypeDiscover, from(row.MAC)).ToBytes(), broadcastIP)
		r, v := Respond(q, s, row)
		again, _ := Respond(q, s, row)
		if v != Answer || r.T1 != again.T1 || r.T2 != again.T2 {
			t.Fatalf("%v: T1 %d and %d, T2 %d and %d", v, r.T1, again.T1, r.T2, again.T2)
		}
		t1[(1800-r.T1)*places/226]++
		t2[(3150-r.T2)*places/394]++
	}
	for _, n := range append(t1[:], t2[:]...) {
		if n < clients/places/2 || n > clients/places*2 {
			t.Fatalf("%d clients renew, and rebind, by tenths of the time: %v, %v", clients, t1, t2)
		}
	}
}

func TestNewScopeRefusesWhatItCannotServe(t *testing.T) {
	for name, change := range map[string]func(*ipam.Network){
		"no bridge":  func(n *ipam.Network) { n.Bridge = nil },
		"no gateway": func(n *ipam.Network) { n.Bridge.IsGateway = false },
		"IPv6":       func(n *ipam.Network) { n.Pool.Subnet = netip.MustParsePrefix("2001:db8::/64") },
	} {
		t.Run(name, func(t *testing.T) {
			n := testNetwork()
			change(n)
			if _, err := NewScope(n, Binding{}); err == nil {
				t.Error("NewScope: no error")
			}
		})
	}
}
