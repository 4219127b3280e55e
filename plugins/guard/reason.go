package guard

// The counters, one for each reason for which a frame is dropped: in_ for what a
// workload sends, out_ for what it would receive, uplink_in_ and uplink_out_ for what
// would enter and leave by an uplink.
const (
	inNoPort         = "in_no_port"
	inBPDU           = "in_bpdu"
	inMalformed      = "in_malformed"
	inDHCPServer     = "in_dhcp_server"
	inDHCPClient     = "in_dhcp_client"
	inMAC            = "in_mac"
	inIPv4           = "in_ipv4"
	inARP            = "in_arp"
	inEtherType      = "in_ethertype"
	inARPRate        = "in_arp_rate"
	inBroadcastRate  = "in_broadcast_rate"
	inDHCPRate       = "in_dhcp_rate"
	inDNSRate        = "in_dns_rate"
	outNoPort        = "out_no_port"
	outAddress       = "out_address"
	outARP           = "out_arp"
	outClosed        = "out_closed"
	outEtherType     = "out_ethertype"
	outLeg           = "out_leg"
	uplinkInMAC      = "uplink_in_mac"
	uplinkInIPv4     = "uplink_in_ipv4"
	uplinkInARP      = "uplink_in_arp"
	uplinkInDHCP     = "uplink_in_dhcp"
	uplinkInGateway  = "uplink_in_gateway"
	uplinkInTags     = "uplink_in_tags"
	uplinkOutDHCP    = "uplink_out_dhcp"
	uplinkOutGateway = "uplink_out_gateway"
)

// Reason is why frames are dropped.
type Reason struct {
	Counter string // its counter's name
	Why     string // what is wrong with the frame
	// Hostile: somebody who means well does not send such frames. The others come with
	// any segment: floods, guests with IPv6, DHCP of neighbours.
	Hostile bool
}

// Reasons lists all, in the order in which the table has their counters.
func Reasons() []Reason {
	return []Reason{
		{inNoPort, "from a port that is not attached", true},
		{inBPDU, "to a link-local group address: BPDU, LACP, LLDP", true},
		{inMalformed, "an IPv4 header without room for what it announces", true},
		{inDHCPServer, "sent from the DHCP server's port", true},
		{inDHCPClient, "a DHCP message in the name of another MAC", true},
		{inMAC, "the source MAC is not the port's", true},
		{inIPv4, "the IPv4 source is not the port's", true},
		{inARP, "the ARP sender is not the port's, or it is no plain ARP", true},
		{inEtherType, "neither IPv4 nor ARP: IPv6, VLAN tags, 802.3", false},
		{inARPRate, "more ARP than the port's limit", true},
		{inBroadcastRate, "more group-addressed frames than the port's limit", true},
		{inDHCPRate, "more to DHCP servers than the port's limit", true},
		{inDNSRate, "more to DNS servers than the port's limit", true},
		{outNoPort, "to a port that is not attached", false},
		{outAddress, "unicast IPv4 to an address that is not the port's", false},
		{outARP, "ARP that is no plain request or reply", false},
		{outClosed, "a group-addressed frame to a closed port", false},
		{outEtherType, "neither IPv4 nor ARP", false},
		{outLeg, "a group-addressed frame but ARP to a shared gateway, which hears it by the bridge", false},
		{uplinkInMAC, "the source MAC is this node's or that of a workload here", true},
		{uplinkInIPv4, "the IPv4 source is this node's or that of a workload here", true},
		{uplinkInARP, "the ARP sender is this node or a workload here", true},
		{uplinkInDHCP, "DHCP of a network that this node serves", false},
		{uplinkInGateway, "for a gateway that other nodes have, too", false},
		{uplinkInTags, "tags that would hide from the guard what the node reads", true},
		{uplinkOutDHCP, "DHCP of a network that this node serves", false},
		{uplinkOutGateway, "of or for a gateway that other nodes have, too", false},
	}
}

func counters() []string {
	var names []string
	for _, r := range Reasons() {
		names = append(names, r.Counter)
	}
	return names
}

// Why says what is wrong with the frames that a counter counts; empty for a counter
// that is not of this version.
func Why(counter string) string {
	for _, r := range Reasons() {
		if r.Counter == counter {
			return r.Why
		}
	}
	return ""
}
