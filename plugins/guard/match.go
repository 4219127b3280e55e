package guard

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// A match is one word of a rule, a condition or an action: what nft prints of it
// and the expressions the kernel runs, said in one place so that the plan's text
// cannot differ from what is applied.
type match struct {
	text  string
	needs layer // whose header the expressions read
	exprs []expr.Any
}

// A layer is a header that must be known to be there before it is read. nft leaves
// the checks out of its listings, so they have no text.
type layer int

const (
	link layer = iota // always there
	ip
	arp
	udp
	taggedIP  // IPv4, in a VLAN tag or not
	taggedARP // ARP, the same
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeVLAN = 0x8100 // 802.1Q
	etherTypeQinQ = 0x88a8 // 802.1ad

	offsetEtherDst  = 0
	offsetEtherSrc  = 6
	offsetEtherType = 12
	offsetVLANTag   = 14
)

// A rule is a sequence of matches, the last an action.
type rule []match

// String is the rule as nft prints it.
func (r rule) String() string {
	words := make([]string, len(r))
	for i, m := range r {
		words[i] = m.text
	}
	return strings.Join(words, " ")
}

// exprs are the rule's expressions, each header checked once before its first use.
func (r rule) exprs() []expr.Any {
	var es []expr.Any
	checked := map[layer]bool{link: true}
	for _, m := range r {
		if !checked[m.needs] {
			checked[m.needs] = true
			es = append(es, m.needs.check()...)
		}
		es = append(es, m.exprs...)
	}
	return es
}

func (l layer) check() []expr.Any {
	switch l {
	case ip:
		return etherType(etherTypeIPv4).exprs
	case arp:
		return etherType(etherTypeARP).exprs
	case udp:
		return l4protoUDP(expr.CmpOpEq).exprs
	case taggedIP:
		return protocol(etherTypeIPv4).exprs
	case taggedARP:
		return protocol(etherTypeARP).exprs
	}
	return nil
}

// Registers: the 16-byte register 1 also starts every concatenated key. Its second
// field, 16 bytes on, is register 2; a third, after a padded MAC, the 4-byte 14.
const (
	reg1     = unix.NFT_REG_1
	regSnd   = unix.NFT_REG_2
	regThird = unix.NFT_REG32_00 + 6
)

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func payload(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}
}

func compare(op expr.CmpOp, data ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// iifPrefix and oifPrefix match every workload port by its name.
func iifPrefix() match {
	return match{`iifname "` + PortPrefix + `*"`, link,
		[]expr.Any{meta(expr.MetaKeyIIFNAME, reg1), compare(expr.CmpOpEq, []byte(PortPrefix)...)}}
}

func oifPrefix() match {
	return match{`oifname "` + PortPrefix + `*"`, link,
		[]expr.Any{meta(expr.MetaKeyOIFNAME, reg1), compare(expr.CmpOpEq, []byte(PortPrefix)...)}}
}

// toLeg matches the ports of shared gateways by their name.
func toLeg() match {
	return match{`oifname "` + LegPrefix + `*"`, link,
		[]expr.Any{meta(expr.MetaKeyOIFNAME, reg1), compare(expr.CmpOpEq, []byte(LegPrefix)...)}}
}

// toHost says that the frame is for this machine, which the bridge has found out, by the
// destination, before any hook.
func toHost() match {
	return match{"meta pkttype set host", link, []expr.Any{
		&expr.Immediate{Register: reg1, Data: []byte{unix.PACKET_HOST}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: reg1, SourceRegister: true}}}
}

// hostSide turns the destination into what ipam.MAC.HostSide makes of it.
func hostSide() match {
	first := ipam.MAC{}.HostSide()[0]
	return match{fmt.Sprintf("@ll,0,8 set 0x%x", first), link, []expr.Any{
		&expr.Immediate{Register: reg1, Data: []byte{first}},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseLLHeader, Offset: offsetEtherDst, Len: 1}}}
}

// typeText is nft's name of an ethertype.
func typeText(t uint16) string {
	switch t {
	case etherTypeARP:
		return "arp"
	case etherTypeVLAN:
		return "8021q"
	case etherTypeQinQ:
		return "8021ad"
	}
	return "ip"
}

// protocol compares what the node's own stack would read: the type behind the outer
// VLAN tag, which the kernel has taken off by now.
func protocol(t uint16) match {
	return match{"meta protocol " + typeText(t), link, []expr.Any{
		meta(expr.MetaKeyPROTOCOL, reg1), compare(expr.CmpOpEq, be16(t)...)}}
}

// priorityTag matches frames whose outer tag, of type t, has VLAN 0: the node's stack
// reads what is in it.
func priorityTag(t uint16) match {
	m := match{"vlan id 0", link, []expr.Any{
		payload(expr.PayloadBaseLLHeader, offsetEtherType, 2, reg1), compare(expr.CmpOpEq, be16(t)...),
		payload(expr.PayloadBaseLLHeader, offsetVLANTag, 2, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 2, Mask: be16(0x0fff), Xor: make([]byte, 2)},
		compare(expr.CmpOpEq, 0, 0)}}
	if t != etherTypeVLAN {
		m.text = "ether type " + typeText(t) + " " + m.text
	}
	return m
}

// etherType compares the type field on the wire; `meta protocol` would look
// through VLAN tags.
func etherType(t uint16) match {
	return match{"ether type " + typeText(t), link, []expr.Any{
		payload(expr.PayloadBaseLLHeader, offsetEtherType, 2, reg1), compare(expr.CmpOpEq, be16(t)...)}}
}

// etherDst matches a masked destination MAC.
func etherDst(mask, want net.HardwareAddr) match {
	return match{"ether daddr & " + mask.String() + " == " + want.String(), link, []expr.Any{
		payload(expr.PayloadBaseLLHeader, offsetEtherDst, 6, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 6, Mask: mask, Xor: make([]byte, 6)},
		compare(expr.CmpOpEq, want...)}}
}

// isGroup matches broadcast and multicast frames.
func isGroup() match {
	group := net.HardwareAddr{1, 0, 0, 0, 0, 0}
	return etherDst(group, group)
}

// isLinkLocal matches 01:80:c2:00:00:00 to 0f, which bridges keep to one link:
// BPDUs, pause frames, LACP, LLDP.
func isLinkLocal() match {
	return etherDst(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0},
		net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0})
}

// A field is one part of a set's key and where a frame has it.
type field struct {
	text  string
	typ   fieldType
	needs layer
	load  func(reg uint32) expr.Any
}

func frameField(text string, typ fieldType, needs layer, base expr.PayloadBase, offset uint32) field {
	return field{text, typ, needs, func(reg uint32) expr.Any {
		return payload(base, offset, typ.length(), reg)
	}}
}

func iifname() field {
	return field{"iifname", ifName, link, func(reg uint32) expr.Any { return meta(expr.MetaKeyIIFNAME, reg) }}
}

func oifname() field {
	return field{"oifname", ifName, link, func(reg uint32) expr.Any { return meta(expr.MetaKeyOIFNAME, reg) }}
}

func etherSrc() field {
	return frameField("ether saddr", etherAddr, link, expr.PayloadBaseLLHeader, offsetEtherSrc)
}

func etherTo() field {
	return frameField("ether daddr", etherAddr, link, expr.PayloadBaseLLHeader, offsetEtherDst)
}

func ipSrc() field {
	return frameField("ip saddr", ipv4Addr, ip, expr.PayloadBaseNetworkHeader, 12)
}

func ipDst() field {
	return frameField("ip daddr", ipv4Addr, ip, expr.PayloadBaseNetworkHeader, 16)
}

func arpSrcMAC() field {
	return frameField("arp saddr ether", etherAddr, arp, expr.PayloadBaseNetworkHeader, 8)
}

func arpSrcIP() field {
	return frameField("arp saddr ip", ipv4Addr, arp, expr.PayloadBaseNetworkHeader, 14)
}

func arpDstIP() field {
	return frameField("arp daddr ip", ipv4Addr, arp, expr.PayloadBaseNetworkHeader, 24)
}

// tagged is the field wherever a VLAN tag leaves it to the node's own stack.
func (f field) tagged() field {
	switch f.needs {
	case ip:
		f.needs = taggedIP
	case arp:
		f.needs = taggedARP
	}
	return f
}

// chaddr is the client's MAC inside a DHCP message (RFC 2131 section 2): 28 bytes
// into it, 8 of UDP header before. nft has no name for it, so that the rule itself
// must say that there is a datagram.
func chaddr() field {
	return frameField("@th,288,48", etherAddr, link, expr.PayloadBaseTransportHeader, 8+28)
}

// in matches frames whose fields are an element of set s.
func (s setName) in(fields ...field) match { return s.lookup(false, fields) }

// notIn matches frames whose fields are no element of set s. A frame too short to
// have the fields matches neither: notIn is safe only for fields no frame lacks.
func (s setName) notIn(fields ...field) match { return s.lookup(true, fields) }

func (s setName) lookup(invert bool, fields []field) match {
	var m match
	var names []string
	for i, f := range fields {
		m.needs = max(m.needs, f.needs)
		m.exprs = append(m.exprs, f.load([]uint32{reg1, regSnd, regThird}[i]))
		names = append(names, f.text)
	}
	m.exprs = append(m.exprs, &expr.Lookup{SourceRegister: reg1, SetName: string(s), Invert: invert})
	op := expr.CmpOpEq
	if invert {
		op = expr.CmpOpNeq
	}
	m.text = strings.Join(names, " . ") + opText(op) + " @" + string(s)
	return m
}

// is matches frames whose IPv4 field has one value.
func (f field) is(a netip.Addr) match {
	return match{f.text + " " + a.String(), f.needs,
		[]expr.Any{f.load(reg1), compare(expr.CmpOpEq, a.AsSlice()...)}}
}

// arpStandard matches plain requests and replies: Ethernet and IPv4, six and four
// bytes of address. Longer ones could carry anything.
func arpStandard() []match {
	header := func(text string, offset uint32, want ...byte) match {
		return match{text, arp, []expr.Any{
			payload(expr.PayloadBaseNetworkHeader, offset, uint32(len(want)), reg1), compare(expr.CmpOpEq, want...)}}
	}
	return []match{
		header("arp htype 1", 0, 0, 1),
		header("arp ptype ip", 2, be16(etherTypeIPv4)...),
		header("arp hlen 6", 4, 6),
		header("arp plen 4", 5, 4),
		{"arp operation 1-2", arp, []expr.Any{
			payload(expr.PayloadBaseNetworkHeader, 6, 2, reg1),
			&expr.Range{Op: expr.CmpOpEq, Register: reg1, FromData: be16(1), ToData: be16(2)}}},
	}
}

func arpRequest() match {
	return match{"arp operation request", arp, []expr.Any{
		payload(expr.PayloadBaseNetworkHeader, 6, 2, reg1), compare(expr.CmpOpEq, be16(1)...)}}
}

// maxLength bounds a frame without its Ethernet header.
func maxLength(text string, n uint32) match {
	return match{"meta length <= " + text, link, []expr.Any{
		meta(expr.MetaKeyLEN, reg1),
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		compare(expr.CmpOpLte, be32(n)...)}}
}

func l4protoUDP(op expr.CmpOp) match {
	return match{"meta l4proto" + opText(op) + " udp", link,
		[]expr.Any{meta(expr.MetaKeyL4PROTO, reg1), compare(op, unix.IPPROTO_UDP)}}
}

func udpPort(name string, offset uint32, op expr.CmpOp, text string, port uint16) match {
	return match{"udp " + name + opText(op) + " " + text, udp, []expr.Any{
		payload(expr.PayloadBaseTransportHeader, offset, 2, reg1), compare(op, be16(port)...)}}
}

func udpSrc(op expr.CmpOp, text string, port uint16) match {
	return udpPort("sport", 0, op, text, port)
}

func udpDst(op expr.CmpOp, text string, port uint16) match {
	return udpPort("dport", 2, op, text, port)
}

// dhcpDst matches what is sent to a DHCP server or client.
func dhcpDst() match {
	return match{"udp dport 67-68", udp, []expr.Any{
		payload(expr.PayloadBaseTransportHeader, 2, 2, reg1),
		compare(expr.CmpOpGte, be16(portDHCPServer)...), compare(expr.CmpOpLte, be16(portDHCPClient)...)}}
}

// laterFragment matches all fragments of a datagram but the first, which alone has
// the ports.
func laterFragment() match {
	return match{"ip frag-off & 8191 != 0", ip, []expr.Any{
		payload(expr.PayloadBaseNetworkHeader, 6, 2, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 2, Mask: be16(0x1fff), Xor: make([]byte, 2)},
		compare(expr.CmpOpNeq, 0, 0)}}
}

func opText(op expr.CmpOp) string {
	if op == expr.CmpOpNeq {
		return " !="
	}
	return ""
}

func verdict(text string, kind expr.VerdictKind, chain string) match {
	return match{text, link, []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

func accept() match { return verdict("accept", expr.VerdictAccept, "") }

func back() match { return verdict("return", expr.VerdictReturn, "") }

func jump(chain string) match { return verdict("jump "+chain, expr.VerdictJump, chain) }

func goTo(chain string) match { return verdict("goto "+chain, expr.VerdictGoto, chain) }

// dropAs counts the frame under a reason and drops it.
func dropAs(reason string) match {
	m := verdict("drop", expr.VerdictDrop, "")
	m.text = `counter name "` + reason + `" ` + m.text
	m.exprs = append([]expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: reason}}, m.exprs...)
	return m
}
