package guard

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
)

// tableName is the guard's table in the bridge family.
const tableName = "flatdhcp"

// setName names a set of the table. A set's key type never changes: another key
// is another name, so that a new version's base finds the old one's elements.
type setName string

const (
	setPorts     setName = "ports"     // every attached port; the comment records all of its elements
	setUnchecked setName = "unchecked" // ports whose sources are not checked
	setMACOnly   setName = "maconly"   // ports of whose sources only MACs are checked
	setClosed    setName = "closed"    // ports with the toggle off
	setMACs      setName = "macs"      // own MAC
	setSources   setName = "sources"   // own MAC with own address
	setAddresses setName = "addresses" // addresses reachable behind a port
	setGateways  setName = "gateways"  // whose DHCP replies reach closed ports

	setGatewayMACs setName = "gateway_macs" // shared gateways', to which IPv4 is the node's

	setLimitARP       setName = "limit_arp" // ports, each with its limit
	setLimitBroadcast setName = "limit_broadcast"
	setLimitDHCP      setName = "limit_dhcp"
	setLimitDNS       setName = "limit_dns"

	setUplinks          setName = "uplinks"            // ports that lead beyond the node; the comment records the own elements
	setUplinkMACs       setName = "uplink_macs"        // of this node and its workloads: no source of what enters
	setUplinkSources    setName = "uplink_sources"     // the same of addresses
	setUplinkDHCP       setName = "uplink_dhcp"        // uplinks that DHCP does not cross
	setUplinkClients    setName = "uplink_clients"     // the node's MACs, whose own DHCP does
	setUplinkRelays     setName = "uplink_relays"      // relay agents, whose DHCP does
	setUplinkShared     setName = "uplink_shared"      // gateway addresses that other nodes have, too
	setUplinkSharedMACs setName = "uplink_shared_macs" // and their MACs
)

// sets lists the sets and their keys in the order nft shows them.
func sets() []set {
	return []set{
		{setPorts, []fieldType{ifName}},
		{setUnchecked, []fieldType{ifName}},
		{setMACOnly, []fieldType{ifName}},
		{setClosed, []fieldType{ifName}},
		{setMACs, []fieldType{ifName, etherAddr}},
		{setSources, []fieldType{ifName, etherAddr, ipv4Addr}},
		{setAddresses, []fieldType{ifName, ipv4Addr}},
		{setGateways, []fieldType{ipv4Addr}},
		{setGatewayMACs, []fieldType{ifName, etherAddr}},
		{setLimitARP, []fieldType{ifName}},
		{setLimitBroadcast, []fieldType{ifName}},
		{setLimitDHCP, []fieldType{ifName}},
		{setLimitDNS, []fieldType{ifName}},
		{setUplinks, []fieldType{ifName}},
		{setUplinkMACs, []fieldType{ifName, etherAddr}},
		{setUplinkSources, []fieldType{ifName, ipv4Addr}},
		{setUplinkDHCP, []fieldType{ifName}},
		{setUplinkClients, []fieldType{ifName, etherAddr}},
		{setUplinkRelays, []fieldType{ifName, ipv4Addr}},
		{setUplinkShared, []fieldType{ifName, ipv4Addr}},
		{setUplinkSharedMACs, []fieldType{ifName, etherAddr}},
	}
}

// A chain is a sequence of rules; one with a hook is entered by the kernel.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

// hook is where the bridge calls a chain. priorityText is nft's name of it.
type hook struct {
	name         string
	number       uint32
	priority     int32
	priorityText string
}

// Every chain with a hook filters, and accepts what no rule drops: the frames of
// ports that are not ours.
const (
	chainType    = "filter"
	policyAccept = 1 // NF_ACCEPT
)

// Numbers of the bridge family's hooks and priorities (linux/netfilter_bridge.h).
const (
	hookPrerouting = 0
	hookInput      = 1
	hookForward    = 2
	hookOutput     = 3

	// First of all: before br_netfilter's conntrack, and before the bridge learns a
	// source MAC, which it does after this hook.
	priorityFirst = -300
	// Before br_netfilter hands the frame to iptables (0): what the guard drops,
	// conntrack never confirms.
	priorityFilter = -200
)

const (
	portDHCPServer = 67 // nft calls them bootps and bootpc
	portDHCPClient = 68
	portDNS        = 53

	// maxARPLength is a minimal Ethernet frame's payload: 28 bytes of ARP and padding.
	maxARPLength = 46
)

// chains are the guard's rules. They are constant. Everything that lets a frame
// pass is a positive match, and each chain a port's frame may end in ends with a
// drop: a frame too short for a match to be tried is dropped, never passed.
func chains() []chain {
	standardARP := arpStandard()
	withRules := func(prefix []match, rest ...match) rule { return slices.Concat(prefix, rest) }
	limitedBroadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	unspecified := netip.IPv4Unspecified()

	return append([]chain{
		{"prerouting", &hook{"prerouting", hookPrerouting, priorityFirst, "dstnat"}, []rule{
			{iifPrefix(), goTo("from_port")},
			{setUplinks.in(iifname()), goTo("from_uplink")},
		}},
		// Link-local groups but the first meet no prerouting hook; the bridge learns
		// their source after this one.
		{"input", &hook{"input", hookInput, priorityFilter, "filter"}, []rule{
			{iifPrefix(), isLinkLocal(), dropAs(inBPDU)},
		}},
		{"forward", &hook{"forward", hookForward, priorityFilter, "filter"}, []rule{
			{oifPrefix(), goTo("to_port")},
			{toLeg(), isGroup(), goTo("to_leg")},
			{setUplinks.in(oifname()), goTo("to_uplink")},
		}},
		{"output", &hook{"output", hookOutput, priorityFilter, "filter"}, []rule{
			{oifPrefix(), goTo("to_port")},
			{toLeg(), isGroup(), goTo("to_leg")},
			{setUplinks.in(oifname()), goTo("to_uplink")},
		}},

		// What a workload sends.
		{"from_port", nil, []rule{
			{setPorts.notIn(iifname()), dropAs(inNoPort)},
			{isLinkLocal(), dropAs(inBPDU)},
			{jump("limits")},
			{etherType(etherTypeIPv4), jump("no_dhcp_server")},
			// A shared gateway's MAC is behind a port of the bridge, its leg, where ARP is
			// answered. IPv4 to it would cross the bridge and then be routed, and meet
			// conntrack twice: its MAC's first octet is made that of the leg's own port, which
			// the bridge takes for its own.
			{setGatewayMACs.in(iifname(), etherTo()), etherType(etherTypeIPv4), toHost(), hostSide()},
			{setUnchecked.in(iifname()), goTo("from_unchecked")},
			{setMACs.notIn(iifname(), etherSrc()), dropAs(inMAC)},
			{setMACOnly.in(iifname()), goTo("from_mac_only")},
			{etherType(etherTypeIPv4), goTo("from_ipv4")},
			{etherType(etherTypeARP), goTo("from_arp")},
			{dropAs(inEtherType)},
		}},
		{"from_unchecked", nil, []rule{
			{etherType(etherTypeIPv4), accept()},
			{etherType(etherTypeARP), accept()},
			{dropAs(inEtherType)},
		}},
		// Any address, but in the name of the own MAC alone: that of the frame, which is
		// checked already, of ARP and of DHCP.
		{"from_mac_only", nil, []rule{
			{etherType(etherTypeIPv4), goTo("from_mac_only_ipv4")},
			{etherType(etherTypeARP), goTo("from_mac_only_arp")},
			{dropAs(inEtherType)},
		}},
		{"from_mac_only_ipv4", nil, []rule{
			{udpDst(expr.CmpOpEq, "67", portDHCPServer), goTo("from_mac_only_dhcp_client")},
			{etherType(etherTypeIPv4), accept()},
		}},
		{"from_mac_only_dhcp_client", nil, []rule{
			{l4protoUDP(expr.CmpOpEq), setMACs.in(iifname(), chaddr()), accept()},
			{dropAs(inDHCPClient)},
		}},
		{"from_mac_only_arp", nil, []rule{
			withRules(standardARP, maxLength("46", maxARPLength), setMACs.in(iifname(), arpSrcMAC()), accept()),
			{dropAs(inARP)},
		}},
		// Returns for what is certainly no DHCP server's. A later fragment has no
		// ports, and is nothing without its first, which has.
		{"no_dhcp_server", nil, []rule{
			{l4protoUDP(expr.CmpOpNeq), back()},
			{udpSrc(expr.CmpOpNeq, "67", portDHCPServer), back()},
			{l4protoUDP(expr.CmpOpEq), laterFragment(), back()},
			{udpSrc(expr.CmpOpEq, "67", portDHCPServer), dropAs(inDHCPServer)},
			{dropAs(inMalformed)},
		}},
		{"from_ipv4", nil, []rule{
			{udpDst(expr.CmpOpEq, "67", portDHCPServer), goTo("from_dhcp_client")},
			{setSources.in(iifname(), etherSrc(), ipSrc()), accept()},
			{dropAs(inIPv4)},
		}},
		// A DHCP server knows its clients by chaddr alone: it must be as trustworthy as
		// the source MAC, or a workload declines its neighbour's address.
		{"from_dhcp_client", nil, []rule{
			{l4protoUDP(expr.CmpOpEq), setMACs.in(iifname(), chaddr()), goTo("from_own_dhcp_client")},
			{dropAs(inDHCPClient)},
		}},
		{"from_own_dhcp_client", nil, []rule{
			{setSources.in(iifname(), etherSrc(), ipSrc()), accept()},
			{ipSrc().is(unspecified), ipDst().is(limitedBroadcast), udpSrc(expr.CmpOpEq, "68", portDHCPClient), accept()},
			{dropAs(inIPv4)},
		}},
		{"from_arp", nil, []rule{
			withRules(standardARP, maxLength("46", maxARPLength), goTo("from_arp_sender")),
			{dropAs(inARP)},
		}},
		{"from_arp_sender", nil, []rule{
			{setSources.in(iifname(), arpSrcMAC(), arpSrcIP()), accept()},
			// A probe (RFC 5227) asks on behalf of no address yet.
			{arpRequest(), arpSrcIP().is(unspecified), setMACs.in(iifname(), arpSrcMAC()), accept()},
			{dropAs(inARP)},
		}},

		// The node hears broadcasts by the bridge, also its own.
		{"to_leg", nil, []rule{
			{etherType(etherTypeARP), accept()},
			{dropAs(outLeg)},
		}},

		// What a workload would receive.
		{"to_port", nil, []rule{
			{setPorts.notIn(oifname()), dropAs(outNoPort)},
			{etherType(etherTypeARP), goTo("to_arp")},
			{isGroup(), goTo("to_group")},
			{setAddresses.in(oifname(), ipDst()), accept()},
			{etherType(etherTypeIPv4), dropAs(outAddress)},
			{dropAs(outEtherType)},
		}},
		{"to_arp", nil, []rule{
			withRules(standardARP, accept()),
			{dropAs(outARP)},
		}},
		{"to_group", nil, []rule{
			{setClosed.in(oifname()), goTo("to_closed")},
			{etherType(etherTypeIPv4), accept()},
			{dropAs(outEtherType)},
		}},
		{"to_closed", nil, []rule{
			{setGateways.in(ipSrc()), udpSrc(expr.CmpOpEq, "67", portDHCPServer),
				udpDst(expr.CmpOpEq, "68", portDHCPClient), accept()},
			{dropAs(outClosed)},
		}},
	}, append(limitChains(), uplinkChains()...)...)
}
