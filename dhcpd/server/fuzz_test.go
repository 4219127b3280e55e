package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// hostile is one malformed or unusual message and what is to come of it.
type hostile struct {
	name string
	b    []byte
	err  error // of Parse
	want Verdict
	kind MessageType // of the answer
}

// corpus is the list of hostile input; the fuzz targets start from it.
func corpus(t testing.TB) []hostile {
	discover := client(t, dhcpv4.MessageTypeDiscover).ToBytes()
	header := discover[:optionsOffset]
	// with returns the header and the given bytes as the options field.
	with := func(options ...byte) []byte { return append(bytes.Clone(header), options...) }
	patched := func(at int, v ...byte) []byte {
		b := bytes.Clone(discover)
		copy(b[at:], v)
		return b
	}
	type53 := []byte{53, 1, 1}
	fill := func(code byte, n int) []byte { return append([]byte{code, byte(n)}, bytes.Repeat([]byte{0xa5}, n)...) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	inField := func(overload byte, field int, options ...byte) []byte {
		b := with(52, 1, overload, 255)
		copy(b[field:], options)
		return b
	}
	many := func(n int, part ...byte) []byte { return bytes.Repeat(part, n) }
	return []hostile{
		{"empty", nil, ErrShort, 0, 0},
		{"one byte", []byte{1}, ErrShort, 0, 0},
		{"235 bytes", discover[:235], ErrShort, 0, 0},
		{"236 bytes: no cookie", discover[:236], ErrCookie, 0, 0},
		{"239 bytes: part of a cookie", discover[:239], ErrCookie, 0, 0},
		{"another cookie", patched(236, 99, 130, 83, 98), ErrCookie, 0, 0},
		{"no options at all", header, nil, BOOTP, 0},
		{"op 2", patched(0, 2), nil, NoRequest, 0},
		{"op 0", patched(0, 0), nil, NoRequest, 0},
		{"htype 0", patched(1, 0), nil, BadHardware, 0},
		{"htype 6", patched(1, 6), nil, BadHardware, 0},
		{"hlen 0", patched(2, 0), nil, BadHardware, 0},
		{"hlen 5", patched(2, 5), nil, BadHardware, 0},
		{"hlen 7", patched(2, 7), nil, BadHardware, 0},
		{"hlen 16", patched(2, 16), nil, BadHardware, 0},
		{"hlen 255", patched(2, 255), nil, BadHardware, 0},
		{"chaddr zero", patched(28, 0, 0, 0, 0, 0, 0), nil, BadHardware, 0},
		{"chaddr broadcast", patched(28, 255, 255, 255, 255, 255, 255), nil, BadHardware, 0},
		{"hops, secs and flags at their greatest", patched(3, 255, 1, 2, 3, 4, 255, 255, 0x7f, 255), nil, Answer, Offer},
		{"xid 0", patched(4, 0, 0, 0, 0), nil, Answer, Offer},
		{"yiaddr and siaddr filled in", patched(16, 1, 2, 3, 4, 5, 6, 7, 8), nil, Answer, Offer},
		{"giaddr broadcast", patched(24, 255, 255, 255, 255), nil, Relayed, 0},
		{"giaddr loopback", patched(24, 127, 0, 0, 1), nil, Relayed, 0},
		{"53 of length 0", with(53, 0, 255), nil, BOOTP, 0},
		{"53 of length 2", with(53, 2, 1, 3, 255), nil, Answer, Offer},
		{"53 = 0", with(53, 1, 0, 255), nil, BOOTP, 0},
		{"53 = 9", with(53, 1, 9, 255), nil, OtherType, 0},
		{"53 = 99", with(53, 1, 99, 255), nil, OtherType, 0},
		{"53 = 255", with(53, 1, 255, 255), nil, OtherType, 0},
		{"53 twice: the first counts", with(53, 1, 1, 53, 1, 3, 255), nil, Answer, Offer},
		{"END missing", with(53, 1, 1), nil, Answer, Offer},
		{"an option runs past the end", with(53, 1, 1, 12, 200, 'a'), nil, Answer, Offer},
		{"a length and nothing behind it", with(53, 1, 1, 12, 1), nil, Answer, Offer},
		{"a lone code at the end", with(53, 1, 1, 12), nil, Answer, Offer},
		{"garbage behind END", with(53, 1, 1, 255, 53, 1, 3, 7, 7, 7), nil, Answer, Offer},
		{"END first", with(255, 53, 1, 1), nil, BOOTP, 0},
		{"padding of 0xff", join(with(53, 1, 1), many(60, 255)), nil, Answer, Offer},
		{"padding before options", join(header, many(60, 0), type53), nil, Answer, Offer},
		{"50 of length 0", with(53, 1, 3, 50, 0, 255), nil, Malformed, 0},
		{"50 of length 3", with(53, 1, 3, 50, 3, 10, 0, 0, 255), nil, Malformed, 0},
		{"50 of length 5", with(53, 1, 3, 50, 5, 10, 0, 0, 2, 9, 255), nil, Answer, Ack},
		{"50 of length 8", with(53, 1, 3, 50, 8, 10, 0, 0, 7, 10, 0, 0, 2, 255), nil, Answer, Nak},
		{"54 of length 3", with(53, 1, 3, 54, 3, 10, 0, 0, 50, 4, 10, 0, 0, 2, 255), nil, Answer, Ack},
		{"54 = 255.255.255.255", with(53, 1, 3, 54, 4, 255, 255, 255, 255, 50, 4, 10, 0, 0, 2, 255), nil, OtherServer, 0},
		{"55 of length 0", with(53, 1, 1, 55, 0, 255), nil, Answer, Offer},
		{"55 of 255 times the same", join(header, type53, []byte{55, 255}, many(255, 3), []byte{255}), nil, Answer, Offer},
		{"55 asks for 0, 255, 50 to 57", with(53, 1, 1, 55, 10, 0, 255, 50, 51, 52, 53, 54, 55, 56, 57, 255), nil, Answer, Offer},
		{"57 of length 1", with(53, 1, 1, 57, 1, 2, 255), nil, Answer, Offer},
		{"57 = 65535", with(53, 1, 1, 57, 2, 255, 255, 255), nil, Answer, Offer},
		{"61 of length 0", with(53, 1, 1, 61, 0, 255), nil, Answer, Offer},
		{"61 of length 1", with(53, 1, 1, 61, 1, 9, 255), nil, Answer, Offer},
		{"61 of length 255", join(header, type53, fill(61, 255), []byte{255}), nil, Answer, Offer},
		{"82 of length 0", with(53, 1, 1, 82, 0, 255), nil, Answer, Offer},
		{"82 with an overrunning sub-option", with(53, 1, 1, 82, 3, 1, 200, 0, 255), nil, Answer, Offer},
		{"82 of length 255", join(header, type53, fill(82, 255), []byte{255}), nil, Answer, Offer},
		{"55, 61 and 82 in pieces", join(header, type53, fill(61, 100), fill(82, 100), []byte{55, 1, 3}, fill(61, 100), fill(82, 100), []byte{55, 1, 6, 255}), nil, Answer, Offer},
		{"a thousand pieces", join(header, type53, many(1000, 61, 1, 7), []byte{255}), nil, Answer, Offer},
		{"overload 0", with(53, 1, 1, 52, 1, 0, 255), nil, Answer, Offer},
		{"overload 1, 53 in file", inField(1, fileOffset, 53, 1, 1, 255), nil, Answer, Offer},
		{"overload 2, 53 in sname", inField(2, snameOffset, 53, 1, 1, 255), nil, Answer, Offer},
		{"overload 3, 53 in sname", inField(3, snameOffset, 53, 1, 1, 255), nil, Answer, Offer},
		{"overload 1, 53 in sname: not looked at", inField(1, snameOffset, 53, 1, 1, 255), nil, BOOTP, 0},
		{"overload 7", inField(7, fileOffset, 53, 1, 1), nil, Answer, Offer},
		{"overload 3, file without END", inField(3, fileOffset, append([]byte{53, 1, 1}, fill(12, 120)...)...), nil, Answer, Offer},
		{"overload inside overload", inField(1, fileOffset, 52, 1, 3, 255), nil, BOOTP, 0},
		{"51 = 0", with(53, 1, 1, 51, 4, 0, 0, 0, 0, 255), nil, Answer, Offer},
		{"51 without end", with(53, 1, 1, 51, 4, 255, 255, 255, 255, 255), nil, Answer, Offer},
		{"a hostname of terminal codes", join(header, type53, []byte("\x0c\x08a\x00\n\x1b[2Jb"), []byte{255}), nil, Answer, Offer},
		{"a name that points to itself", with(53, 1, 1, 81, 5, 4, 0, 0, 0xc0, 0, 119, 2, 0xc0, 0, 255), nil, Answer, Offer},
		{"1,400 bytes of options", join(header, type53, fill(43, 255), fill(43, 255), fill(60, 255), fill(77, 255), fill(125, 255), []byte{255}), nil, Answer, Offer},
		{"65,507 bytes", join(header, type53, make([]byte, 65507-len(header)-3)), nil, Answer, Offer},
	}
}

func TestHostileInput(t *testing.T) {
	for _, tc := range corpus(t) {
		t.Run(tc.name, func(t *testing.T) {
			q := &Query{To: broadcastIP}
			if err := q.Parse(tc.b); !errors.Is(err, tc.err) {
				t.Fatalf("Parse: %v, want %v", err, tc.err)
			}
			if tc.err != nil {
				return
			}
			r, v := Respond(q, testScope(t), testRow())
			if v != tc.want || r.Type != tc.kind {
				t.Errorf("%v %v, want %v %v", v, r.Type, tc.want, tc.kind)
			}
			checkReply(t, q, testScope(t), &r, v)
		})
	}
}

// checkReply holds what is true of every answer, whatever was asked.
func checkReply(t testing.TB, q *Query, s *Scope, r *Reply, v Verdict) {
	if v != Answer {
		if r.Type != 0 {
			t.Errorf("silence (%v) with a reply of type %v", v, r.Type)
		}
		return
	}
	if q.Op != opRequest || q.MAC() != known || q.GIAddr != zeroIP {
		t.Errorf("answered op %d, chaddr %v, giaddr %v", q.Op, q.MAC(), q.GIAddr)
	}
	e := new(Encoder)
	frame := e.Append(make([]byte, frameLen), r)
	b := frame[frameLen:]
	if len(b) < minReply || len(b) > r.Limit || len(b) > maxReply {
		t.Errorf("reply of %d bytes, limit %d", len(b), r.Limit)
	}
	if b[0] != opReply || binary.BigEndian.Uint32(b[4:]) != q.XID || !bytes.Equal(b[28:44], q.CHAddr[:]) || binary.BigEndian.Uint16(b[10:]) != q.Flags {
		t.Errorf("header does not fit the request: %x", b[:44])
	}
	list := wireOptions(t, b)
	if list[0].code != optMessageType || list[1].code != optServerID || MessageType(list[0].value[0]) != r.Type {
		t.Errorf("options begin with %v", list[:2])
	}
	seen := codeSet{}
	for i, o := range list {
		repeats := i > 0 && list[i-1].code == o.code && len(list[i-1].value) == 255 // RFC 3396
		if seen.has(o.code) && !repeats {
			t.Errorf("option %d twice", o.code)
		}
		seen.add(o.code)
		if o.code == optRelayInfo && i != len(list)-1 && list[i+1].code != optRelayInfo {
			t.Errorf("option 82 is not the last")
		}
		switch o.code {
		case optRequestedIP, optRequestList, optMaxSize, optPad, optEnd:
			t.Errorf("option %d has no place in a reply", o.code)
		}
	}
	leased := seen.has(optLeaseTime)
	switch r.Type {
	case Nak:
		if leased || r.YIAddr != zeroIP || r.CIAddr != zeroIP || r.To != (Delivery{MAC: broadcastMAC, IP: broadcastIP}) {
			t.Errorf("bad NAK: %+v", decide(*r, v))
		}
	case Offer, Ack:
		if r.YIAddr != reserved && (q.Type() != Inform || r.YIAddr != zeroIP) || leased != (q.Type() != Inform) {
			t.Errorf("bad %v: %+v", r.Type, decide(*r, v))
		}
		if r.To.IP != reserved && r.To.IP != broadcastIP || r.Also != (Delivery{}) {
			t.Errorf("%v goes to %v, %v", r.Type, r.To, r.Also)
		}
	default:
		t.Errorf("reply of type %v", r.Type)
	}
	for _, to := range []Delivery{r.To, r.Also} {
		if to.MAC != known && to.MAC != broadcastMAC && to != (Delivery{}) {
			t.Errorf("reply goes to %v", to.MAC)
		}
		if to != (Delivery{}) {
			putHeaders(frame, known, s.ServerID, to)
			checkFrame(t, frame)
		}
	}
	var again Message
	if err := again.Parse(b); err != nil {
		t.Errorf("our own reply: %v", err)
	}
	if id, ok := q.long(optClientID); ok && !bytes.Contains(e.Dropped(), []byte{optClientID}) {
		if back, _ := again.long(optClientID); !bytes.Equal(id, back) {
			t.Errorf("client identifier %x came back as %x", id, back)
		}
	}
}

// checkFrame verifies lengths and both checksums, by adding everything up (RFC 1071).
func checkFrame(t testing.TB, frame []byte) {
	t.Helper()
	ip := frame[ethernetLen:]
	if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || int(binary.BigEndian.Uint16(ip[24:])) != len(ip)-ipv4Len {
		t.Errorf("lengths in the headers do not fit %d bytes", len(ip))
	}
	ones := func(b []byte) (n uint32) {
		for i, c := range b {
			n += uint32(c) << (8 * (1 - i%2))
		}
		return n
	}
	folded := func(n uint32) uint32 {
		for n > 0xffff {
			n = n>>16 + n&0xffff
		}
		return n
	}
	if folded(ones(ip[:ipv4Len])) != 0xffff {
		t.Error("IP checksum is wrong")
	}
	udp := ip[ipv4Len:]
	if binary.BigEndian.Uint16(udp[6:]) == 0 {
		t.Error("UDP checksum is missing")
	}
	if folded(ones(ip[12:20])+protocolUDP+uint32(len(udp))+ones(udp)) != 0xffff {
		t.Error("UDP checksum is wrong")
	}
}

// framed returns payload in the frame of a broadcasting client.
func framed(payload []byte) []byte {
	f := append(make([]byte, frameLen), payload...)
	putHeaders(f, known, zeroIP, Delivery{MAC: broadcastMAC, IP: broadcastIP, Relay: true}) // to port 67
	return f
}

// TestUnwrap: what the kernel would do for a UDP socket.
func TestUnwrap(t *testing.T) {
	m := client(t, dhcpv4.MessageTypeDiscover).ToBytes()
	good := framed(m)
	changed := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	// fixed has the header's checksum made right again.
	fixed := func(b []byte) []byte {
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], fold(sum(0, b[14:14+int(b[14]&15)*4])))
		return b
	}
	options := func(n int) []byte { // IPv4 options
		b := append(append(bytes.Clone(good[:34]), make([]byte, n)...), good[34:]...)
		b[14] = 4<<4 | byte(5+n/4)
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return fixed(b)
	}
	for _, tc := range []struct {
		name    string
		frame   []byte
		checked bool
		ok      bool
	}{
		{"as it should be", good, false, true},
		{"with padding behind it", append(bytes.Clone(good), make([]byte, 30)...), false, true},
		{"with IPv4 options", options(8), false, true},
		{"TTL 1", fixed(changed(22, 1)), false, true},
		{"from an odd port", changed(34, 0x04, 0x2c), true, true},
		{"without UDP checksum", changed(40, 0, 0), false, true},
		{"a wrong UDP checksum", changed(40, 1, 2), false, false},
		{"a UDP checksum that the kernel has not filled in", changed(40, 1, 2), true, true},
		{"a flipped bit in the message", changed(100, good[100]^1), false, false},
		{"a wrong header checksum", changed(24, 1, 2), true, false},
		{"another ethertype", changed(12, 0x86, 0xdd), true, false},
		{"IP version 6", fixed(changed(14, 0x65)), true, false},
		{"a header of 16 bytes", fixed(changed(14, 0x44)), true, false},
		{"a header beyond the packet", changed(14, 0x4f), true, false},
		{"TCP", fixed(changed(23, 6)), true, false},
		{"a fragment", fixed(changed(20, 0x20, 0)), true, false},
		{"a later fragment", fixed(changed(20, 0, 8)), true, false},
		{"longer than the frame", fixed(changed(16, 0x7f, 0xff)), true, false},
		{"shorter than its headers", fixed(changed(16, 0, 24)), true, false},
		{"to another port", changed(36, 0, 68), true, false},
		{"a UDP length beyond the packet", changed(38, 0x7f, 0xff), true, false},
		{"a UDP length of 7", changed(38, 0, 7), true, false},
		{"cut off", good[:41], true, false},
		{"nothing", nil, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, ok := unwrap(tc.frame, tc.checked)
			if ok != tc.ok {
				t.Fatalf("unwrap: %v, want %v", ok, tc.ok)
			}
			if ok && (!bytes.Equal(d.message(tc.frame), m) || d.To != broadcastIP || d.From != known) {
				t.Errorf("%+v", d)
			}
		})
	}
}

// FuzzReceive feeds frames to the whole path, as the socket does: whatever comes, every
// answer goes to the one known client or to a peer's, is well formed, and the next good
// message is answered.
func FuzzReceive(f *testing.F) {
	for _, c := range corpus(f) {
		f.Add(framed(c.b), true, false)
	}
	f.Add([]byte{}, false, false)
	f.Add(make([]byte, 100), true, true)
	relayed := client(f, dhcpv4.MessageTypeDiscover, giaddr(relay), raw(82, 5, 4, 10, 0, 0, 9, 11, 4, 10, 0, 0, 9)).ToBytes()
	f.Add(framed(relayed), true, false)
	f.Add(framed(client(f, dhcpv4.MessageTypeDecline, option4(54, gateway), option4(50, reserved)).ToBytes()), true, false)
	f.Add(framed(client(f, dhcpv4.MessageTypeRequest, from(theirs), option4(54, gateway), option4(50, theirsIP)).ToBytes()), true, true)
	f.Add(framed(client(f, dhcpv4.MessageTypeDecline, from(theirs), option4(54, gateway), option4(50, theirsIP)).ToBytes()), true, false)
	n := onCompute1()
	n.Bridge.DHCP = ipam.DHCP{Relays: []netip.Addr{relay}, RapidCommit: true}
	n.Bridge.DHCPOptions = set(f, "42=10.0.0.9", "67=pxelinux.0", "121=10.9.0.0/16 via 10.0.0.9")
	row := testRow()
	row.Options = set(f, "224=hex:0a0b", "3=10.0.0.9")
	c := copyOf(n, *row)
	good := client(f, dhcpv4.MessageTypeRequest, ciaddr(reserved)).ToBytes()
	w := newWire() // one for all: its queues are large
	s := New(&rows{current: c}, w, Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}}, slog.New(slog.DiscardHandler))
	s.Hook = &listener{}
	f.Fuzz(func(t *testing.T, frame []byte, checked, late bool) {
		if len(frame) > maxDatagram {
			return
		}
		s.holds = newHolds()
		for len(s.events) > 0 {
			<-s.events
		}
		p := s.newPath()
		how := quick
		if late {
			how = current
		}
		d, ok := unwrap(frame, checked)
		d.Damaged = !ok
		p.handle(frame, d, c, how)
		for len(w.out) > 0 {
			out := <-w.out
			checkFrame(t, out)
			reply := decode(t, out[frameLen:])
			mac, own := ipam.MAC(reply.ClientHWAddr[:6]), reserved
			if a, _, ok := n.Pool.PeerOfMAC(mac); ok {
				own = a
			} else if mac != known {
				t.Errorf("answer to %v", mac)
			}
			if reply.OpCode != dhcpv4.OpcodeBootReply {
				t.Errorf("answer to %v is %v", mac, reply.OpCode)
			}
			to := netip.AddrFrom4([4]byte(out[30:34]))
			if to != own && to != broadcastIP && to != relay && reply.MessageType() != dhcpv4.MessageTypeNak {
				t.Errorf("a %v goes to %v", reply.MessageType(), to)
			}
		}
		if got := p.handle(good, Datagram{Len: len(good), To: gateway}, c, quick); got != handled || len(w.out) != 1 {
			t.Errorf("afterwards a good message is %v, with %d answers", got, len(w.out))
		}
		for len(w.out) > 0 {
			<-w.out
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, c := range corpus(f) {
		f.Add(c.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 65535 {
			b = b[:65535]
		}
		before := bytes.Clone(b)
		var m, fresh Message
		err := m.Parse(b)
		if err != nil {
			return
		}
		// What was parsed before must not show through.
		if err := m.Parse(client(t, dhcpv4.MessageTypeInform, raw(61, 1, 2), raw(61, 3)).ToBytes()); err != nil {
			t.Fatal(err)
		}
		if m.Parse(b) != nil || fresh.Parse(b) != nil {
			t.Fatal("Parse is not repeatable")
		}
		for code := range 256 {
			x, okX := m.long(byte(code))
			y, okY := fresh.long(byte(code))
			if okX != okY || !bytes.Equal(x, y) {
				t.Fatalf("option %d differs in a used Message: %x %x", code, x, y)
			}
			if first, ok := m.option(byte(code), 0); ok && !bytes.HasPrefix(x, first) {
				t.Fatalf("option %d: first instance %x does not begin %x", code, first, x)
			}
		}
		if !bytes.Equal(before, b) {
			t.Fatal("Parse changed its input")
		}
	})
}

func FuzzRespond(f *testing.F) {
	for _, c := range corpus(f) {
		f.Add(c.b, uint32(0xffffffff), uint16(1500))
		f.Add(c.b, uint32(0x0a000001), uint16(576))
	}
	f.Fuzz(func(t *testing.T, b []byte, to uint32, mtu uint16) {
		if len(b) > 65535 {
			b = b[:65535]
		}
		q := &Query{To: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, to)))}
		if q.Parse(b) != nil {
			return
		}
		s := testScope(t, func(n *ipam.Network) { n.Bridge.MTU = int(mtu) })
		if _, v := Respond(q, s, nil); v == Answer {
			t.Fatal("answered a client that has no reservation")
		}
		row := testRow()
		if q.MAC() != known {
			row = nil
		}
		r, v := Respond(q, s, row)
		checkReply(t, q, s, &r, v)
		again, v2 := Respond(q, s, row)
		if v != v2 || cmp.Diff(decide(r, v), decide(again, v2), addrEqual) != "" {
			t.Fatal("the same query got another answer")
		}
		if v == Answer && !bytes.Equal(new(Encoder).Append(nil, &r), new(Encoder).Append(nil, &again)) {
			t.Fatal("the same reply has other bytes")
		}
	})
}
