package server

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func decode(t testing.TB, b []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatalf("another implementation cannot read our reply: %v\n%x", err, b)
	}
	return m
}

// wireOptions lists the options of a reply in the order in which they stand.
func wireOptions(t testing.TB, b []byte) []option {
	t.Helper()
	var list []option
	for i := optionsOffset; i < len(b); {
		code := b[i]
		if code == optPad {
			i++
			continue
		}
		if code == optEnd {
			for _, c := range b[i+1:] {
				if c != 0 {
					t.Fatalf("something follows END: %x", b[i+1:])
				}
			}
			return list
		}
		if i+2+int(b[i+1]) > len(b) {
			t.Fatalf("option %d runs past the message", code)
		}
		list = append(list, option{code, b[i+2 : i+2+int(b[i+1])]})
		i += 2 + int(b[i+1])
	}
	t.Fatal("no END")
	return nil
}

// golden renders a reply as text: every field, every option in its order.
func golden(t testing.TB, b []byte) string {
	var s strings.Builder
	fmt.Fprintf(&s, "size   %d\nop     %d htype %d hlen %d hops %d\nxid    %x secs %x flags %x\n", len(b), b[0], b[1], b[2], b[3], b[4:8], b[8:10], b[10:12])
	for i, name := range []string{"ciaddr", "yiaddr", "siaddr", "giaddr"} {
		a := b[12+4*i:]
		fmt.Fprintf(&s, "%s %d.%d.%d.%d\n", name, a[0], a[1], a[2], a[3])
	}
	fmt.Fprintf(&s, "chaddr %x\nsname  %x\nfile   %x\n", b[28:44], bytes.TrimRight(b[44:108], "\x00"), bytes.TrimRight(b[108:236], "\x00"))
	for _, o := range wireOptions(t, b) {
		fmt.Fprintf(&s, "%3d    %x\n", o.code, o.value)
	}
	return s.String()
}

func TestReplyOnTheWire(t *testing.T) {
	prl := func(codes ...byte) dhcpv4.Modifier { return raw(55, codes...) }
	for _, tc := range []struct {
		name string
		m    *dhcpv4.DHCPv4
	}{
		{"offer", client(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true), raw(61, 1, 0xfa, 0x16, 0x3e, 0, 0, 2))},
		{"offer-in-the-clients-order", client(t, dhcpv4.MessageTypeDiscover, prl(119, 26, 12, 15, 3, 1, 28, 6, 42, 3))},
		{"ack-asked-for-little", client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved), prl(3))},
		{"ack-renewing", client(t, dhcpv4.MessageTypeRequest, ciaddr(reserved), prl(1, 3, 6), raw(82, 1, 2, 'p', '1'))},
		{"ack-inform", client(t, dhcpv4.MessageTypeInform, ciaddr(reserved), prl(6, 15))},
		{"nak", client(t, dhcpv4.MessageTypeRequest, option4(50, taken), raw(61, 0xff, 1, 2, 3), raw(82, 1, 2, 'p', '1'), prl(1, 3, 6))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// Fields that a reply must not copy, and those that it must.
			tc.m.HopCount, tc.m.NumSeconds = 3, 77
			tc.m.Flags |= 0x0055
			b := tc.m.ToBytes()
			copy(b[34:44], "0123456789") // padding of chaddr: goes back as it came
			copy(b[20:24], "sisi")
			r, v := Respond(query(t, b, gateway), testScope(t), testRow())
			if v != Answer {
				t.Fatalf("verdict %v", v)
			}
			reply := new(Encoder).Append(nil, &r)
			if decode(t, reply).OpCode != dhcpv4.OpcodeBootReply {
				t.Error("not a reply")
			}
			got, path := golden(t, reply), filepath.Join("testdata", tc.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOptionsOfTheNetwork(t *testing.T) {
	codes := func(t *testing.T, s *Scope) map[byte]string {
		r, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), s, testRow())
		if v != Answer {
			t.Fatal(v)
		}
		got := map[byte]string{}
		for _, o := range wireOptions(t, new(Encoder).Append(nil, &r)) {
			got[o.code] = fmt.Sprintf("%x", o.value)
		}
		return got
	}
	no, yes := false, true
	t.Run("the router is withheld if isDefaultGateway is false", func(t *testing.T) {
		s := testScope(t, func(n *ipam.Network) { n.Bridge.IsDefaultGateway = &no })
		if v, ok := codes(t, s)[optRouter]; ok {
			t.Errorf("option 3 is sent: %s", v)
		}
	})
	t.Run("the router is sent if isDefaultGateway is true or not given", func(t *testing.T) {
		for _, def := range []*bool{&yes, nil} {
			s := testScope(t, func(n *ipam.Network) { n.Bridge.IsDefaultGateway = def })
			if v := codes(t, s)[optRouter]; v != "0a000001" {
				t.Errorf("option 3 is %q", v)
			}
		}
	})
	t.Run("no nameserver of our own making", func(t *testing.T) {
		s := testScope(t, func(n *ipam.Network) { n.Bridge.DNS = ipam.DNS{} })
		got := codes(t, s)
		if v, ok := got[optDNS]; ok {
			t.Errorf("option 6 is sent: %s", v)
		}
		if got[optDomain] != fmt.Sprintf("%x", "novalocal") {
			t.Errorf("option 15 is %q, want the pool's domain", got[optDomain])
		}
	})
	t.Run("nameservers are four bytes each, IPv6 ones are left out", func(t *testing.T) {
		if v := codes(t, testScope(t))[optDNS]; v != "0a000035"+"09090909" {
			t.Errorf("option 6 is %s", v)
		}
	})
	t.Run("dns.domain goes before the pool's", func(t *testing.T) {
		s := testScope(t, func(n *ipam.Network) { n.Bridge.DNS.Domain = "example.net" })
		if v := codes(t, s)[optDomain]; v != fmt.Sprintf("%x", "example.net") {
			t.Errorf("option 15 is %s", v)
		}
	})
	t.Run("an MTU that is not given is 1500", func(t *testing.T) {
		s := testScope(t, func(n *ipam.Network) { n.Bridge.MTU = 0 })
		if v := codes(t, s)[optMTU]; v != "05dc" {
			t.Errorf("option 26 is %s", v)
		}
	})
	t.Run("a search list that another implementation reads", func(t *testing.T) {
		r, _ := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), testScope(t), testRow())
		got := decode(t, new(Encoder).Append(nil, &r)).DomainSearch()
		if got == nil || cmp.Diff([]string{"novalocal", "example.org"}, got.Labels) != "" {
			t.Errorf("domain search is %v", got)
		}
	})
	t.Run("masks and broadcast addresses", func(t *testing.T) {
		for prefix, want := range map[string][2]string{
			"10.0.0.0/8":      {"ff000000", "0affffff"},
			"10.0.0.0/24":     {"ffffff00", "0a0000ff"},
			"10.0.0.0/30":     {"fffffffc", "0a000003"},
			"10.128.0.0/9":    {"ff800000", "0affffff"},
			"172.16.128.0/17": {"ffff8000", "ac10ffff"},
		} {
			s := testScope(t, func(n *ipam.Network) { _ = n.Pool.Subnet.UnmarshalText([]byte(prefix)) })
			row := testRow()
			row.Addr = s.Subnet.Addr().Next().Next()
			r, v := Respond(query(t, client(t, dhcpv4.MessageTypeDiscover).ToBytes(), broadcastIP), s, row)
			if v != Answer {
				t.Fatal(v)
			}
			m := decode(t, new(Encoder).Append(nil, &r))
			got := [2]string{fmt.Sprintf("%x", m.Options.Get(dhcpv4.OptionSubnetMask)), fmt.Sprintf("%x", m.Options.Get(dhcpv4.OptionBroadcastAddress))}
			if got != want {
				t.Errorf("%s: %v, want %v", prefix, got, want)
			}
		}
	})
}

func TestHostname(t *testing.T) {
	for in, want := range map[string]string{
		"cirros":                        "cirros",
		"cirros.novalocal":              "cirros",
		"":                              "host-10-0-0-2",
		strings.Repeat("a", 80):         strings.Repeat("a", 63),
		strings.Repeat("a", 80) + ".co": strings.Repeat("a", 63),
	} {
		if got := hostname(&ipam.Reservation{Addr: reserved, Hostname: in}); got != want {
			t.Errorf("hostname(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestSize: replies are at least 300 bytes, at most what the client takes, and what
// does not fit goes into file and sname, or is left out whole, but never the lease.
func TestSize(t *testing.T) {
	long := func(n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("a-rather-long-label-to-fill-options-%02d.example.org", i))
		}
		return list
	}
	id := make([]byte, 255)
	for i := range id {
		id[i] = byte(i)
	}
	max57 := func(v uint16) dhcpv4.Modifier { return raw(57, byte(v>>8), byte(v)) }
	for _, tc := range []struct {
		name     string
		search   []string
		mtu      int
		mods     []dhcpv4.Modifier
		atMost   int
		overload bool
		dropped  []byte
		wantLong bool // the search list arrives
	}{
		{"plain", nil, 1500, nil, 330, false, nil, false},
		{"longer than 300", long(2), 1500, nil, 548, false, nil, true},
		{"a list too long for any place", long(8), 1500, nil, 548, false, []byte{optDomainSearch}, false},
		{"the same with option 57", long(8), 1500, []dhcpv4.Modifier{max57(1500)}, 1472, false, nil, true},
		{"option 57 beyond the MTU", long(60), 1500, []dhcpv4.Modifier{max57(65535)}, 1472, false, []byte{optDomainSearch}, false},
		{"option 57 below the legal minimum", long(2), 1500, []dhcpv4.Modifier{max57(300)}, 548, false, nil, true},
		{"option 57 of zero", long(2), 1500, []dhcpv4.Modifier{max57(0)}, 548, false, nil, true},
		{"a small MTU", long(2), 400, []dhcpv4.Modifier{max57(1500)}, 372, true, nil, true},
		{"a client identifier of 255 bytes", nil, 1500, []dhcpv4.Modifier{raw(61, id...)}, 548, true, nil, false},
		{"and a search list: into file", long(1), 1500, []dhcpv4.Modifier{raw(61, id...)}, 548, true, nil, true},
		{"and an option 82 of 255 bytes", nil, 1500, []dhcpv4.Modifier{raw(61, id...), raw(82, id...)}, 548, true, []byte{optRelayInfo}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testScope(t, func(n *ipam.Network) { n.Bridge.DNS.Search, n.Bridge.MTU = tc.search, tc.mtu })
			q := query(t, client(t, dhcpv4.MessageTypeDiscover, tc.mods...).ToBytes(), broadcastIP)
			r, v := Respond(q, s, testRow())
			if v != Answer {
				t.Fatal(v)
			}
			e := new(Encoder)
			b := e.Append(nil, &r)
			if len(b) < minReply || len(b) > tc.atMost {
				t.Errorf("%d bytes, want %d to %d", len(b), minReply, tc.atMost)
			}
			var again Message // our own parser knows overload, the other one does not
			if err := again.Parse(b); err != nil {
				t.Fatal(err)
			}
			for _, code := range []byte{optMessageType, optServerID, optLeaseTime, optRenewalTime, optRebindTime, optSubnetMask} {
				if _, ok := again.option(code, 1); !ok {
					t.Errorf("option %d is missing", code)
				}
			}
			if _, ok := again.option(optOverload, 1); ok != tc.overload {
				t.Errorf("overload: %v, want %v", ok, tc.overload)
			}
			if got, ok := again.long(optDomainSearch); ok != tc.wantLong || tc.wantLong && !bytes.Equal(got, searchList(tc.search)) {
				t.Errorf("search list: %v %x", ok, got)
			}
			if !bytes.Equal(e.Dropped(), tc.dropped) {
				t.Errorf("dropped %v, want %v", e.Dropped(), tc.dropped)
			}
		})
	}
}

func TestLongEchoesAreSplitAndJoined(t *testing.T) {
	// RFC 3396: 300 bytes of client identifier in two instances, back the same way.
	id := bytes.Repeat([]byte("0123456789"), 30)
	b := client(t, dhcpv4.MessageTypeDiscover, raw(57, 1500>>8, 1500&0xff)).ToBytes()
	b = b[:bytes.LastIndexByte(b, optEnd)]
	b = append(append(b, 61, 200), id[:200]...)
	b = append(append(b, 61, 100), id[200:]...)
	b = append(b, optEnd)
	r, v := Respond(query(t, b, broadcastIP), testScope(t), testRow())
	if v != Answer {
		t.Fatal(v)
	}
	reply := new(Encoder).Append(nil, &r)
	if got := decode(t, reply).Options.Get(dhcpv4.OptionClientIdentifier); !bytes.Equal(got, id) {
		t.Errorf("client identifier came back as %d bytes %q", len(got), got)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	s, row := testScope(t), testRow()
	b := client(t, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved), raw(55, 1, 3, 6, 12, 15, 26, 28, 42, 119), raw(61, 1, 2, 3)).ToBytes()
	q, e, frame := &Query{To: broadcastIP}, new(Encoder), make([]byte, 0, frameLen+maxReply)
	if n := testing.AllocsPerRun(100, func() {
		if q.Parse(b) != nil {
			t.Fatal("parse")
		}
		r, v := Respond(q, s, row)
		if v != Answer {
			t.Fatal(v)
		}
		putHeaders(e.Append(frame[:frameLen], &r), known, s.ServerID, r.To)
	}); n != 0 {
		t.Errorf("%v allocations an exchange, want none", n)
	}
}

func BenchmarkParseRespondEncode(b *testing.B) {
	s, row := testScope(b), testRow()
	m := client(b, dhcpv4.MessageTypeRequest, option4(54, gateway), option4(50, reserved), raw(55, 1, 3, 6, 12, 15, 26, 28, 42, 119)).ToBytes()
	q, e, frame := &Query{To: broadcastIP}, new(Encoder), make([]byte, 0, frameLen+maxReply)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Parse(m); err != nil {
			b.Fatal(err)
		}
		r, _ := Respond(q, s, row)
		putHeaders(e.Append(frame[:frameLen], &r), known, s.ServerID, r.To)
	}
}
