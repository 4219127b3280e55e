package server

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/dhcpoption"
)

// set reads options as a person writes them.
func set(t testing.TB, list ...string) (s dhcpoption.Set) {
	t.Helper()
	for _, text := range list {
		o, err := dhcpoption.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		s = s.With(o)
	}
	return s
}

// TestOptionsChosen shows which options a client gets, in which order, by what it asks
// for in option 55 and by what is configured for the network and for itself. Option 53,
// 54, 51, 58, 59 and 1 are always there and in front; the table has what follows.
func TestOptionsChosen(t *testing.T) {
	const front = "53 54 51 58 59 1"
	withheld, given := false, true
	routes := func(n *ipam.Network) {
		n.Pool.Routes = []ipam.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0")},
			{Dst: netip.MustParsePrefix("10.8.0.0/16"), GW: netip.MustParseAddr("10.0.0.9")},
		}
	}
	for _, tc := range []struct {
		name    string
		network []string // dhcpOptions
		change  func(*ipam.Network)
		row     []string // the reservation's
		second  bool     // the container had a default route before
		binding Binding
		ask     []byte // option 55; nil = none
		want    string // codes
		values  map[byte]string
	}{
		{name: "a client that asks for nothing in particular gets all", want: "28 3 6 15 12 26 119"},
		{name: "in the client's order", ask: []byte{119, 26, 12, 15, 3, 1, 28, 6, 42}, want: "119 26 12 15 3 28 6"},
		{name: "what it does not ask for it does not get", ask: []byte{1, 3}, want: "3"},
		{name: "asking twice gives once", ask: []byte{3, 6, 3, 6, 3}, want: "3 6"},
		{name: "what is not the network's to give", ask: []byte{50, 52, 55, 57, 61, 82, 0, 255, 3}, want: "3"},
		{name: "an option by number", network: []string{"42=10.0.0.9", "224=hex:0a0b"}, ask: []byte{224, 3, 42}, want: "224 3 42",
			values: map[byte]string{224: "0a0b", 42: "0a000009"}},
		{name: "one option never drops another", network: []string{"42=10.0.0.9"}, want: "28 3 6 15 12 26 119 42"},
		{name: "one in the place of a default", network: []string{"6=9.9.9.9", "26=1400", "15=x.org", "28=10.0.0.254"}, want: "28 3 6 15 12 26 119",
			values: map[byte]string{6: "09090909", 26: "0578", 15: "782e6f7267", 28: "0a0000fe"}},
		{name: "none in the place of a default", network: []string{"3=", "119="}, want: "28 6 15 12 26"},
		{name: "none in the place of none", network: []string{"42="}, ask: []byte{42, 3}, want: "3"},
		{name: "the client's own goes before the network's", network: []string{"42=10.0.0.9"}, row: []string{"42=10.0.0.10"}, ask: []byte{42}, want: "42",
			values: map[byte]string{42: "0a00000a"}},
		{name: "the client's own is sent unasked", row: []string{"224=hex:01"}, ask: []byte{3}, want: "3 224"},
		{name: "the client's own in its place of the order", row: []string{"6=9.9.9.9"}, ask: []byte{6, 3}, want: "6 3", values: map[byte]string{6: "09090909"}},
		{name: "no router for this client", row: []string{"3="}, ask: []byte{3, 6}, want: "6"},
		{name: "another router for this client", row: []string{"3=10.0.0.9"}, ask: []byte{3}, want: "3", values: map[byte]string{3: "0a000009"}},

		{name: "121 only where there is more than the default route", ask: []byte{121, 3}, want: "3"},
		{name: "121 has the network's routes and the default route", change: routes, ask: []byte{121, 3}, want: "121 3",
			values: map[byte]string{121: "100a080a000009" + "000a000001"}},
		{name: "249 is its twin, for who asks", change: routes, ask: []byte{249, 121}, want: "249 121",
			values: map[byte]string{249: "100a080a000009" + "000a000001", 121: "100a080a000009" + "000a000001"}},
		{name: "249 is for nobody else", change: routes, want: "28 3 6 15 12 26 119 121"},
		{name: "121 has the metadata route", binding: Binding{Metadata: true}, ask: []byte{121}, want: "121",
			values: map[byte]string{121: "20a9fea9fe0a000001" + "000a000001"}},
		{name: "121 by hand: the default route is added", network: []string{"121=10.9.0.0/16 via 10.0.0.9"}, ask: []byte{121}, want: "121",
			values: map[byte]string{121: "100a090a000009" + "000a000001"}},
		{name: "121 by hand with a default route", network: []string{"121=0.0.0.0/0 via 10.0.0.9"}, ask: []byte{121}, want: "121",
			values: map[byte]string{121: "000a000009"}},
		{name: "121 where the router is withheld", change: func(n *ipam.Network) { n.Bridge.IsDefaultGateway = &withheld }, network: []string{"121=10.9.0.0/16 via 10.0.0.9"},
			ask: []byte{121, 3}, want: "121", values: map[byte]string{121: "100a090a000009"}},
		{name: "121 follows the client's own router", change: routes, row: []string{"3=10.0.0.9"}, ask: []byte{121}, want: "121 3",
			values: map[byte]string{121: "100a080a000009" + "000a000009"}},
		{name: "121 of a client without router", change: routes, row: []string{"3="}, ask: []byte{121}, want: "121",
			values: map[byte]string{121: "100a080a000009"}},
		{name: "the default route among the routes stands in for isDefaultGateway",
			change: func(n *ipam.Network) {
				n.Bridge.IsDefaultGateway = &withheld
				n.Pool.Routes = []ipam.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), GW: netip.MustParseAddr("10.0.0.9")}}
			}, ask: []byte{3, 121}, want: "3", values: map[byte]string{3: "0a000009"}},

		{name: "no router beside another's", second: true, want: "28 6 15 12 26 119"},
		{name: "121 beside another's router", second: true, network: []string{"121=10.9.0.0/16 via 10.0.0.9"}, ask: []byte{121, 3}, want: "121",
			values: map[byte]string{121: "100a090a000009"}},
		{name: "isDefaultGateway true, whatever the container has", second: true, change: func(n *ipam.Network) { n.Bridge.IsDefaultGateway = &given }, ask: []byte{3}, want: "3"},
		{name: "isDefaultGateway false, whatever the container has", second: true, change: func(n *ipam.Network) { n.Bridge.IsDefaultGateway = &withheld }, ask: []byte{3, 6}, want: "6"},
		{name: "the network's default route, whatever the container has", second: true, change: routes, ask: []byte{3}, want: "3", values: map[byte]string{3: "0a000001"}},
		{name: "the network's option 3, whatever the container has", second: true, network: []string{"3=10.0.0.9"}, ask: []byte{3}, want: "3", values: map[byte]string{3: "0a000009"}},
		{name: "the network has no option 3", second: true, network: []string{"3="}, ask: []byte{3, 6}, want: "6"},
		{name: "the client's own router, whatever the container has", second: true, row: []string{"3=10.0.0.9"}, ask: []byte{3}, want: "3", values: map[byte]string{3: "0a000009"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork()
			if tc.change != nil {
				tc.change(n)
			}
			n.Bridge.DHCPOptions = set(t, tc.network...)
			tc.binding.Bridge, tc.binding.Addrs = "br100", []netip.Addr{gateway}
			s, err := NewScope(n, tc.binding)
			if err != nil {
				t.Fatal(err)
			}
			row := testRow()
			row.Options = set(t, tc.row...)
			row.Holder = &ipam.Holder{OtherDefaultRoute: tc.second}
			var mods []dhcpv4.Modifier
			if tc.ask != nil {
				mods = append(mods, raw(55, tc.ask...))
			}
			var replies []string
			for _, m := range []*dhcpv4.DHCPv4{
				client(t, dhcpv4.MessageTypeDiscover, mods...),
				client(t, dhcpv4.MessageTypeRequest, append(mods, option4(50, reserved))...),
			} {
				r, v := Respond(query(t, m.ToBytes(), broadcastIP), s, row)
				if v != Answer {
					t.Fatal(v)
				}
				var codes []string
				list := wireOptions(t, new(Encoder).Append(nil, &r))
				for _, o := range list {
					codes = append(codes, fmt.Sprint(o.code))
					if want, ok := tc.values[o.code]; ok && fmt.Sprintf("%x", o.value) != want {
						t.Errorf("option %d is %x, want %s", o.code, o.value, want)
					}
				}
				replies = append(replies, strings.Join(codes, " "))
			}
			// RFC 2131 section 4.3.2: the ACK has what the OFFER had.
			want := strings.TrimSpace(front + " " + tc.want)
			if diff := cmp.Diff([]string{want, want}, replies); diff != "" {
				t.Errorf("options of OFFER and ACK (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNetworkBoot: siaddr and file are set beside the options, and file is left alone
// where it is needed for the boot file although options do not fit.
func TestNetworkBoot(t *testing.T) {
	for _, tc := range []struct {
		name    string
		network []string
		row     []string
		siaddr  string
		file    string
	}{
		{"nothing configured", nil, nil, "0.0.0.0", ""},
		{"a server and a file", []string{"66=10.0.0.9", "67=pxelinux.0"}, nil, "10.0.0.9", "pxelinux.0"},
		{"a server by name has no place in the header", []string{"66=boot.example.org", "67=pxelinux.0"}, nil, "0.0.0.0", "pxelinux.0"},
		{"for one client alone", []string{"66=10.0.0.9", "67=pxelinux.0"}, []string{"67=ipxe.efi"}, "10.0.0.9", "ipxe.efi"},
		{"not for this client", []string{"66=10.0.0.9", "67=pxelinux.0"}, []string{"66=", "67="}, "0.0.0.0", ""},
		{"a file too long for the header", []string{"67=" + strings.Repeat("x", 128)}, nil, "0.0.0.0", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testScope(t, func(n *ipam.Network) { n.Bridge.DHCPOptions = set(t, tc.network...) })
			row := testRow()
			row.Options = set(t, tc.row...)
			for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
				r, v := Respond(query(t, client(t, kind, option4(50, reserved), raw(55, 66, 67)).ToBytes(), broadcastIP), s, row)
				if v != Answer {
					t.Fatal(v)
				}
				m := decode(t, new(Encoder).Append(nil, &r))
				if m.ServerIPAddr.String() != tc.siaddr || m.BootFileName != tc.file {
					t.Errorf("siaddr %v and file %q, want %s and %q", m.ServerIPAddr, m.BootFileName, tc.siaddr, tc.file)
				}
			}
			r, _ := Respond(query(t, client(t, dhcpv4.MessageTypeRequest, option4(50, taken)).ToBytes(), broadcastIP), s, row)
			if m := decode(t, new(Encoder).Append(nil, &r)); r.Type != Nak || !m.ServerIPAddr.IsUnspecified() || m.BootFileName != "" {
				t.Errorf("a %v has siaddr %v and file %q", r.Type, m.ServerIPAddr, m.BootFileName)
			}
		})
	}
	t.Run("options do not overwrite the file", func(t *testing.T) {
		long := func(n byte) string { return fmt.Sprintf("%d=hex:%s", n, strings.Repeat("ab", 100)) }
		s := testScope(t, func(n *ipam.Network) { n.Bridge.DHCPOptions = set(t, "67=pxelinux.0", long(224), long(225), long(226)) })
		r, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), s, testRow())
		if v != Answer {
			t.Fatal(v)
		}
		e := new(Encoder)
		b := e.Append(nil, &r)
		var m Message
		if err := m.Parse(b); err != nil {
			t.Fatal(err)
		}
		if file := string(b[fileOffset : fileOffset+11]); file != "pxelinux.0\x00" || len(e.Dropped()) == 0 {
			t.Errorf("file is %q, %v dropped", file, e.Dropped())
		}
		if v, ok := m.option(optOverload, 1); ok && v[0]&1 != 0 {
			t.Errorf("option 52 is %d: it claims file for options", v[0])
		}
	})
}

func TestParse4(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.9": "10.0.0.9", "255.255.255.255": "255.255.255.255", "256.0.0.1": "", "1.2.3": "", "1.2.3.4.5": "", "": "", "1..2.3": "",
		"1.2.3.": "", "boot.example.org": "", "0001.2.3.4": "", " 1.2.3.4": "", "1.2.3.4 ": "",
	} {
		a, ok := parse4([]byte(in))
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("parse4(%q) = %v, %v, want %q", in, a, ok, want)
		}
	}
}
