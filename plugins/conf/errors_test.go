package conf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// peers gives the node itself 10.0.0.2 to 10.0.0.63.
func peers(list ...map[string]any) map[string]any {
	return map[string]any{"ipam.rangeStart": "10.0.0.2", "ipam.rangeEnd": "10.0.0.63", "ipam.peers": list}
}

// raw is JSON in a table.
func raw(s string) json.RawMessage { return json.RawMessage(s) }

// Each mistake that a person or a runtime makes, and what it is told: testdata/errors.txt.
// What pods get wrong is in testdata/hostile.txt.
func TestMistakesAreExplained(t *testing.T) {
	type keys = map[string]any
	var text strings.Builder
	for _, tc := range []struct {
		name string
		keys keys
	}{
		{"cniVersion too old", keys{"cniVersion": "0.2.0"}},
		{"cniVersion missing", keys{"cniVersion": nil}},
		{"cniVersion too new", keys{"cniVersion": "2.0.0"}},
		{"cniVersion no string", keys{"cniVersion": 1.1}},
		{"name missing", keys{"name": nil}},
		{"name with a slash", keys{"name": "a/b"}},
		{"name too long", keys{"name": strings.Repeat("n", 129)}},

		{"misspelt", keys{"allowSameNetTrafic": false}},
		{"wrong case", keys{"isgateway": true}},
		{"misspelt inside ipam", keys{"ipam.subnets": "10.0.0.0/24"}},
		{"far from any key", keys{"colour": "green"}},
		{"ipam's key outside", keys{"rangeStart": "10.0.0.5"}},
		{"bridge's key inside ipam", keys{"ipam.isGateway": true}},
		{"vlan", keys{"vlan": 100}},
		{"vlan no number", keys{"vlan": "none"}},
		{"vlanTrunk", keys{"vlanTrunk": []keys{{"id": 5}}}},
		{"vlanTrunk no list", keys{"vlanTrunk": 5}},
		{"disableContainerInterface", keys{"disableContainerInterface": true}},
		{"disableContainerInterface's type", keys{"disableContainerInterface": "no"}},
		{"ipMasqBackend", keys{"ipMasqBackend": "nftables"}},
		{"ipMasqBackend unknown", keys{"ipMasqBackend": "ipchains"}},
		{"ipMasqBackend's type", keys{"ipMasqBackend": true}},
		{"promiscMode's type", keys{"promiscMode": 1}},
		{"forceAddress's type", keys{"forceAddress": "true"}},
		{"enabledad's type", keys{"enabledad": []bool{}}},
		{"preserveDefaultVlan's type", keys{"preserveDefaultVlan": 0}},
		{"misspelt key of the reference plugin", keys{"promiscmode": true}},
		{"a long value", keys{"colour": strings.Repeat("é", 100)}},

		{"bridge's type", keys{"bridge": 5}},
		{"bridge's name empty", keys{"bridge": ""}},
		{"bridge's name too long", keys{"bridge": "bridge0123456789"}},
		{"bridge's name a wildcard of iptables", keys{"bridge": "br+"}},
		{"bridge's name a pattern of the kernel", keys{"bridge": "br%d"}},
		{"bridge's name an option", keys{"bridge": "-br"}},
		{"bridge's name all", keys{"bridge": "all"}},
		{"bridge's name like a port's", keys{"bridge": "fdp0"}},
		{"bridge's name like a shared gateway's", keys{"bridge": "fgw0"}},
		{"flatInterface's type", keys{"flatInterface": []string{"eth1"}}},
		{"flatInterface empty", keys{"flatInterface": ""}},
		{"flatInterface no link's name", keys{"flatInterface": "eth1 up"}},
		{"flatInterface too long", keys{"flatInterface": "enp130s0f0np0.100"}},
		{"flatInterface the loopback device", keys{"flatInterface": "lo"}},
		{"flatInterface a workload port", keys{"flatInterface": "fdp0123456789ab"}},
		{"flatInterface the bridge", keys{"bridge": "br0", "flatInterface": "br0"}},
		{"flatInterface misspelt", keys{"flatinterface": "eth1"}},
		{"detectConflict without an uplink", keys{"detectConflict": true}},
		{"detectConflict's type", keys{"flatInterface": "eth1", "detectConflict": 200}},
		{"moveAddresses without an uplink", keys{"moveAddresses": true}},
		{"moveAddresses's type", keys{"flatInterface": "eth1", "moveAddresses": "yes"}},
		{"boolean in quotes", keys{"isGateway": "true"}},
		{"isDefaultGateway's type", keys{"isDefaultGateway": 1}},
		{"gatewayAddresses no list", keys{"gatewayAddresses": "10.0.0.2"}},
		{"gatewayAddresses no address", keys{"gatewayAddresses": []string{"gw2"}}},
		{"gatewayAddresses with length", keys{"gatewayAddresses": []string{"10.0.0.2/24"}}},
		{"gatewayAddresses outside the subnet", keys{"gatewayAddresses": []string{"10.0.0.2", "10.1.0.2"}}},
		{"gatewayAddresses the broadcast", keys{"gatewayAddresses": []string{"10.0.0.255"}}},
		{"gatewayAddresses twice", keys{"gatewayAddresses": []string{"10.0.0.2", "10.0.0.2"}}},
		{"gatewayAddresses too many", keys{"gatewayAddresses": make([]string, 65)}},
		{"gatewayAddresses a peer's", keys{"gatewayAddresses": []string{"10.0.0.70"}, "ipam.rangeEnd": "10.0.0.63",
			"ipam.peers": []keys{{"node": "n2", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}}}},
		{"gatewayAddresses all there are", keys{"gatewayAddresses": []string{"10.0.0.2"}, "ipam.subnet": "10.0.0.0/30"}},
		{"gatewayShared's type", keys{"gatewayShared": "yes", "nodeAddress": "10.0.0.251"}},
		{"gatewayShared without nodeAddress", keys{"gatewayShared": true}},
		{"gatewayShared on a compute node", keys{"gatewayShared": true, "isGateway": false}},
		{"nodeAddress without gatewayShared", keys{"nodeAddress": "10.0.0.251"}},
		{"nodeAddress no address", keys{"gatewayShared": true, "nodeAddress": "n1"}},
		{"nodeAddress with length", keys{"gatewayShared": true, "nodeAddress": "10.0.0.251/24"}},
		{"nodeAddress outside the subnet", keys{"gatewayShared": true, "nodeAddress": "10.0.1.251"}},
		{"nodeAddress the network's", keys{"gatewayShared": true, "nodeAddress": "10.0.0.0"}},
		{"nodeAddress the gateway's", keys{"gatewayShared": true, "nodeAddress": "10.0.0.1"}},
		{"nodeAddress a peer's", keys{"gatewayShared": true, "nodeAddress": "10.0.0.70", "ipam.rangeEnd": "10.0.0.63",
			"ipam.peers": []keys{{"node": "n2", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}}}},
		{"nodeAddress all there is", keys{"gatewayShared": true, "nodeAddress": "10.0.0.2", "ipam.subnet": "10.0.0.0/30"}},
		{"allowSameNetTraffic's type", keys{"allowSameNetTraffic": "no"}},
		{"published's type", keys{"published": 0}},
		{"antiSpoofing's type", keys{"antiSpoofing": "on"}},
		{"fallback", keys{"fallback": "accept"}},
		{"filter a truth", keys{"filter": false}},
		{"filter", keys{"filter": "off"}},
		{"filter none with the toggle off", keys{"filter": "none", "allowSameNetTraffic": false}},
		{"filter none with isolated ports", keys{"filter": "none", "portIsolation": true}},
		{"filter none with ingress", keys{"filter": "none", "ingress": []keys{{"protocol": "icmp"}}}},
		{"filter none with deny", keys{"filter": "none", "deny": []keys{{"protocol": "icmp"}}}},
		{"logDrops's type", keys{"logDrops": "true"}},
		{"ipMasq's type", keys{"ipMasq": "yes"}},
		{"allowedAddresses no list", keys{"allowedAddresses": "10.0.0.200"}},
		{"allowedAddresses a list of texts", keys{"allowedAddresses": []string{"10.0.0.200"}}},
		{"allowedAddresses empty entry", keys{"allowedAddresses": []keys{{"ip": "10.0.0.200"}, {}}}},
		{"allowedAddresses misspelt", keys{"allowedAddresses": []keys{{"addr": "10.0.0.200"}}}},
		{"allowedAddresses outside the subnet", keys{"allowedAddresses": []keys{{"ip": "10.0.1.200"}}}},
		{"allowedAddresses IPv6", keys{"allowedAddresses": []keys{{"ip": "fd00::5"}}}},
		{"allowedAddresses with length", keys{"allowedAddresses": []keys{{"ip": "10.0.0.200/24"}}}},
		{"allowedAddresses the gateway's", keys{"allowedAddresses": []keys{{"ip": "10.0.0.1"}}}},
		{"allowedAddresses another gateway's", keys{"allowedAddresses": []keys{{"ip": "10.0.0.2"}}, "gatewayAddresses": []string{"10.0.0.2"}}},
		{"allowedAddresses the broadcast", keys{"allowedAddresses": []keys{{"ip": "10.0.0.255"}}}},
		{"allowedAddresses twice", keys{"allowedAddresses": []keys{{"ip": "10.0.0.200"}, {"ip": "10.0.0.200"}}}},
		{"allowedAddresses no MAC", keys{"allowedAddresses": []keys{{"mac": "00:00:5e:00:01"}}}},
		{"allowedAddresses multicast MAC", keys{"allowedAddresses": []keys{{"mac": "01:00:5e:00:00:12"}}}},
		{"allowedAddresses zero MAC", keys{"allowedAddresses": []keys{{"mac": "00:00:00:00:00:00"}}}},
		{"allowedAddresses a host side's MAC", keys{"allowedAddresses": []keys{{"mac": "fe:16:3e:00:00:09"}}}},
		{"allowedAddresses a workload's MAC", keys{"allowedAddresses": []keys{{"mac": "fa:16:3e:00:00:09"}}}},
		{"allowedAddresses on request in words", keys{"allowedAddresses": []keys{{"ip": "10.0.0.200", "onRequest": "yes"}}}},
		{"allowedAddresses too many", keys{"allowedAddresses": make([]keys, 65)}},
		{"allowedAddresses that leave nothing", keys{"allowedAddresses": []keys{{"ip": "10.0.0.9"}}, "ipam.rangeStart": "10.0.0.9", "ipam.rangeEnd": "10.0.0.9"}},
		{"limits a number", keys{"limits": 100}},
		{"limits misspelt", keys{"limits": map[string]any{"broadcasts": 100}}},
		{"limits below zero", keys{"limits": map[string]any{"arp": -1}}},
		{"limits too high", keys{"limits": map[string]any{"arp": 10_000_001}}},
		{"limits with unit", keys{"limits": map[string]any{"dhcp": "100/s"}}},
		{"limits no whole number", keys{"limits": map[string]any{"dns": 1.5}}},
		{"uplinkDHCP misspelt", keys{"uplinkDHCP": "blocked"}},
		{"uplinkDHCP of another type", keys{"uplinkDHCP": false}},
		{"natAddress with length", keys{"natAddress": "192.0.2.7/24"}},
		{"natAddress empty", keys{"natAddress": ""}},
		{"natAddress IPv6", keys{"natAddress": "2001:db8::7"}},
		{"natAddress a loopback's", keys{"natAddress": "127.0.0.1"}},
		{"natAddress a group's", keys{"natAddress": "224.0.0.9"}},
		{"natAddress everybody's", keys{"natAddress": "255.255.255.255"}},
		{"natAddress a workload's", keys{"natAddress": "10.0.0.9"}},
		{"natAddress without ipMasq", keys{"natAddress": "192.0.2.7", "ipMasq": false}},
		{"natAddress on a compute node", keys{"natAddress": "192.0.2.7", "isGateway": false}},
		{"publicInterface empty", keys{"publicInterface": ""}},
		{"publicInterface a wildcard of iptables", keys{"publicInterface": "eth+"}},
		{"publicInterface too long", keys{"publicInterface": "enp0s31f6-public"}},
		{"publicInterface a port", keys{"publicInterface": "fdp0"}},
		{"publicInterface without ipMasq", keys{"publicInterface": "eth1", "ipMasq": false}},
		{"nonMasqueradeCIDRs no list", keys{"nonMasqueradeCIDRs": "10.0.0.0/8"}},
		{"nonMasqueradeCIDRs an address", keys{"nonMasqueradeCIDRs": []string{"192.0.2.7"}}},
		{"nonMasqueradeCIDRs with host bits", keys{"nonMasqueradeCIDRs": []string{"10.0.0.1/8"}}},
		{"nonMasqueradeCIDRs IPv6", keys{"nonMasqueradeCIDRs": []string{"10.0.0.0/8", "fd00::/8"}}},
		{"nonMasqueradeCIDRs everything", keys{"nonMasqueradeCIDRs": []string{"0.0.0.0/0"}}},
		{"nonMasqueradeCIDRs twice", keys{"nonMasqueradeCIDRs": []string{"10.0.0.0/8", "10.0.0.0/8"}}},
		{"nonMasqueradeCIDRs without ipMasq", keys{"nonMasqueradeCIDRs": []string{"10.0.0.0/8"}, "ipMasq": false}},
		{"metadata a port", keys{"metadata": 8775}},
		{"metadata empty", keys{"metadata": ""}},
		{"metadata without port", keys{"metadata": "192.168.56.200"}},
		{"metadata port 0", keys{"metadata": "192.168.56.200:0"}},
		{"metadata port too large", keys{"metadata": "192.168.56.200:87750"}},
		{"metadata a name", keys{"metadata": "controller:8775"}},
		{"metadata a URL", keys{"metadata": "http://192.168.56.200:8775"}},
		{"metadata IPv6", keys{"metadata": "[2001:db8::7]:8775"}},
		{"metadata nowhere", keys{"metadata": "0.0.0.0:8775"}},
		{"metadata a group", keys{"metadata": "224.0.0.9:8775"}},
		{"metadata a workload", keys{"metadata": "10.0.0.9:8775"}},
		{"metadata on a compute node", keys{"metadata": "192.168.56.200:8775", "isGateway": false}},
		{"hostAccess a truth", keys{"hostAccess": true}},
		{"hostAccess misspelt", keys{"hostAccess": "service"}},
		{"hostAccess without chains", keys{"hostAccess": "services", "filter": "none"}},
		{"hairpinMode's type", keys{"hairpinMode": 1}},
		{"macspoofchk's type", keys{"macspoofchk": "on"}},
		{"portIsolation's type", keys{"portIsolation": "on"}},
		{"portIsolation against the toggle", keys{"portIsolation": true, "allowSameNetTraffic": true}},
		{"toggle against portIsolation", keys{"portIsolation": false, "allowSameNetTraffic": false}},
		{"statusOnExhaustion", keys{"statusOnExhaustion": "fine"}},
		{"annotations no list", keys{"annotations": "ip"}},
		{"annotations a number", keys{"annotations": []any{5}}},
		{"annotations misspelt", keys{"annotations": []string{"ip", "hostnames"}}},
		{"annotations in full", keys{"annotations": []string{"flatdhcp.io/identity"}}},
		{"annotations far from any", keys{"annotations": []string{"everything"}}},
		{"annotations of a later version", keys{"annotations": []string{"mac", "groups"}}},
		{"addressing", keys{"addressing": "none"}},
		{"mtu too small", keys{"mtu": 67}},
		{"mtu too large", keys{"mtu": 65536}},
		{"mtu in quotes", keys{"mtu": "1500"}},
		{"mtu a fraction", keys{"mtu": 1500.5}},
		{"macPrefix multicast", keys{"macPrefix": "01:16:3e"}},
		{"macPrefix of host sides", keys{"macPrefix": "fe:16:3e"}},
		{"macPrefix zero", keys{"macPrefix": "00:00:00"}},
		{"macPrefix too long", keys{"macPrefix": "fa:16:3e:00"}},
		{"leaseTime a number", keys{"leaseTime": 3600}},
		{"leaseTime without unit", keys{"leaseTime": "3600"}},
		{"leaseTime in days", keys{"leaseTime": "1d"}},
		{"leaseTime too short", keys{"leaseTime": "1s"}},
		{"leaseTime negative", keys{"leaseTime": "-1h"}},
		{"leaseTime too long", keys{"leaseTime": "2000000h"}},
		{"leaseTime with a fraction", keys{"leaseTime": "90.5s"}},
		{"dhcpOptions a list", keys{"dhcpOptions": []string{"42"}}},
		{"an option of the server's own", keys{"dhcpOptions": keys{"51": 3600}}},
		{"an option by name", keys{"dhcpOptions": keys{"ntp-servers": "10.0.0.9"}}},
		{"an option that is no number", keys{"dhcpOptions": keys{"300": "hex:00"}}},
		{"an option of the wrong form", keys{"dhcpOptions": keys{"42": []string{"10.0.0.9", "ntp.example.org"}}}},
		{"an option of half a byte", keys{"dhcpOptions": keys{"224": "hex:0a0"}}},
		{"dhcp true", keys{"dhcp": true}},
		{"dhcp misspelt", keys{"dhcp": keys{"rapidcommit": true}}},
		{"rapidCommit a word", keys{"dhcp": keys{"rapidCommit": "yes"}}},
		{"relays an address", keys{"dhcp": keys{"relays": "10.0.0.9"}}},
		{"a relay by name", keys{"dhcp": keys{"relays": []string{"relay"}}}},
		{"a relay everywhere", keys{"dhcp": keys{"relays": []string{"255.255.255.255"}}}},
		{"a relay twice", keys{"dhcp": keys{"relays": []string{"10.0.0.9", "10.0.0.9"}}}},

		{"ingress no list", keys{"ingress": keys{"protocol": "tcp"}}},
		{"ingress rule no object", keys{"ingress": []string{"tcp/80"}}},
		{"ingress rule empty", keys{"ingress": []keys{{}}}},
		{"ingress rule misspelt", keys{"ingress": []keys{{"protocol": "tcp", "port": 80}}}},
		{"protocol", keys{"ingress": []keys{{"protocol": "TCP"}}}},
		{"protocol a number", keys{"ingress": []keys{{"protocol": 6}}}},
		{"ports without ports", keys{"ingress": []keys{{"protocol": "icmp", "ports": "8"}}}},
		{"ports of any", keys{"deny": []keys{{"protocol": "any", "ports": "25"}}}},
		{"ports a comma list", keys{"ingress": []keys{{"protocol": "tcp", "ports": "80,443"}}}},
		{"port 0", keys{"ingress": []keys{{"protocol": "tcp", "ports": 0}}}},
		{"port too large", keys{"ingress": []keys{{"protocol": "tcp"}, {"protocol": "tcp"}, {"protocol": "tcp", "ports": []any{70000}}}}},
		{"ports backwards", keys{"ingress": []keys{{"protocol": "tcp", "ports": []any{"80", "90-80"}}}}},
		{"port a truth", keys{"ingress": []keys{{"protocol": "tcp", "ports": true}}}},
		{"port a name", keys{"ingress": []keys{{"protocol": "tcp", "ports": "http"}}}},
		{"ports empty", keys{"ingress": []keys{{"protocol": "tcp", "ports": []any{}}}}},
		{"from no list", keys{"ingress": []keys{{"protocol": "tcp", "from": "10.0.0.0/8"}}}},
		{"from empty", keys{"ingress": []keys{{"protocol": "tcp", "from": []any{}}}}},
		{"from an address", keys{"ingress": []keys{{"protocol": "tcp", "from": []any{"10.1.0.7"}}}}},
		{"from with host bits", keys{"deny": []keys{{"protocol": "tcp", "from": []any{"10.1.0.7/16"}}}}},
		{"from IPv6", keys{"ingress": []keys{{"protocol": "tcp", "from": []any{"2001:db8::/32"}}}}},
		{"from a name", keys{"ingress": []keys{{"protocol": "tcp", "from": []any{"lan"}}}}},

		{"dns no object", keys{"dns": []string{"10.0.0.1"}}},
		{"dns misspelt", keys{"dns": keys{"nameserver": []string{"10.0.0.1"}}}},
		{"nameserver a name", keys{"dns": keys{"nameservers": []string{"10.0.0.1", "dns.example"}}}},
		{"dns domain", keys{"dns": keys{"domain": "x y"}}},
		{"dns search", keys{"dns": keys{"search": []string{"a..b"}}}},
		{"dns enabled no boolean", keys{"dns": keys{"enabled": "no"}}},
		{"dns enabled without gateway", keys{"isGateway": false, "dns": keys{"enabled": true}}},
		{"dns forwarder a name", keys{"dns": keys{"forwarders": []string{"9.9.9.9", "dns.example"}}}},
		{"dns forwarder nowhere", keys{"dns": keys{"forwarders": []string{"0.0.0.0"}}}},
		{"dns forwarder without port", keys{"dns": keys{"forwarders": []string{"9.9.9.9:0"}}}},
		{"dns forwarder the gateway", keys{"dns": keys{"forwarders": []string{"9.9.9.9", "10.0.0.1:53"}}}},
		{"dns forwarders no list", keys{"dns": keys{"forwarders": "9.9.9.9"}}},
		{"dns options", keys{"dns": keys{"options": "ndots:2"}}},

		{"ipam missing", keys{"ipam": nil}},
		{"ipam no object", keys{"ipam": "flat-ipam"}},
		{"ipam another", keys{"ipam": keys{"type": "host-local", "subnet": "10.0.0.0/24"}}},
		{"ipam empty", keys{"ipam": keys{}}},
		{"subnet missing", keys{"ipam.subnet": nil}},
		{"subnet with host bits", keys{"ipam.subnet": "10.0.0.5/24"}},
		{"subnet IPv6", keys{"ipam.subnet": "fd00::/64"}},
		{"subnet without length", keys{"ipam.subnet": "10.0.0.0"}},
		{"subnet too small", keys{"ipam.subnet": "10.0.0.0/31"}},
		{"subnet too large", keys{"ipam.subnet": "0.0.0.0/0"}},
		{"subnet and ranges", keys{"ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}]]`)}},
		{"ranges and rangeStart", keys{"ipam.subnet": nil, "ipam.rangeStart": "10.0.0.9", "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}]]`)}},
		{"second range set", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}]]`)}},
		{"second range set IPv6", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]`)}},
		{"second range", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.1.0/24"}]]`)}},
		{"range set empty", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[]]`)}},
		{"range set no list", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[{"subnet": "10.0.0.0/24"}]`)}},
		{"range IPv6", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "fd00::/64"}]]`)}},
		{"range misspelt", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24", "start": "10.0.0.5"}]]`)}},
		{"range without subnet", keys{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"rangeStart": "10.0.0.5"}]]`)}},
		{"gateway outside", keys{"ipam.gateway": "10.0.1.1"}},
		{"gateway with length", keys{"ipam.gateway": "10.0.0.1/24"}},
		{"gateway the broadcast", keys{"ipam.gateway": "10.0.0.255"}},
		{"gateway no address", keys{"ipam.gateway": "router"}},
		{"rangeStart outside", keys{"ipam.rangeStart": "10.0.1.5"}},
		{"range backwards", keys{"ipam.rangeStart": "10.0.0.9", "ipam.rangeEnd": "10.0.0.5"}},
		{"range all excluded", keys{"ipam.rangeStart": "10.0.0.1", "ipam.rangeEnd": "10.0.0.4", "ipam.exclude": []string{"10.0.0.3-10.0.0.9", "10.0.0.2"}}},
		{"exclude outside", keys{"ipam.exclude": []string{"10.0.0.5", "10.0.0.128/24"}}},
		{"exclude larger than the subnet", keys{"ipam.exclude": []string{"10.0.0.0/16"}}},
		{"exclude no address", keys{"ipam.exclude": []string{"gateway"}}},
		{"exclude backwards", keys{"ipam.exclude": []string{"10.0.0.9-10.0.0.5"}}},
		{"exclude no list", keys{"ipam.exclude": "10.0.0.5"}},
		{"peers no list", keys{"ipam.peers": keys{"node": "compute-1"}}},
		{"peer no object", keys{"ipam.peers": []string{"compute-1"}}},
		{"peer misspelt", peers(keys{"node": "compute-1", "rangeBegin": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"peer without node", peers(keys{"rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"peer's node no name", peers(keys{"node": "compute 1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"peer's node's type", peers(keys{"node": 1, "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"peer without rangeEnd", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64"})},
		{"peer's range no address", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64/26", "rangeEnd": "10.0.0.127"})},
		{"peer's range outside the subnet", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.1.127"})},
		{"peer's range backwards", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.127", "rangeEnd": "10.0.0.64"})},
		{"peer's range is the node's own", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.60", "rangeEnd": "10.0.0.127"})},
		{"peer's range and no own", keys{"ipam.peers": []keys{{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}}}},
		{"peer's range with the gateway", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1"})},
		{"peer's range with the network", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.0"})},
		{"peer's range with the broadcast", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.255"})},
		{"peer twice", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}, keys{"node": "compute-1", "rangeStart": "10.0.0.128", "rangeEnd": "10.0.0.191"})},
		{"peers with one range", peers(keys{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}, keys{"node": "compute-2", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"peers' ranges overlap", peers(keys{"node": "compute-2", "rangeStart": "10.0.0.120", "rangeEnd": "10.0.0.191"}, keys{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"})},
		{"routes no list", keys{"ipam.routes": keys{"dst": "0.0.0.0/0"}}},
		{"route without dst", keys{"ipam.routes": []keys{{"gw": "10.0.0.1"}}}},
		{"route IPv6", keys{"ipam.routes": []keys{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}}}},
		{"route's gw outside", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "gw": "10.1.0.1"}}}},
		{"route's mtu", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "mtu": "1400"}}}},
		{"route's advmss", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "advmss": 65536}}}},
		{"route's priority", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "priority": -1}}}},
		{"route's table", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "table": "main"}}}},
		{"route's scope", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "scope": 256}}}},
		{"route misspelt", keys{"ipam.routes": []keys{{"dst": "10.8.0.0/16", "via": "10.0.0.1"}}}},
		{"resolvConf relative", keys{"ipam.resolvConf": "resolv.conf"}},
		{"domain", keys{"ipam.domain": "-x"}},
		{"domain no host's", keys{"ipam.domain": "a_b"}},
		{"domain empty", keys{"ipam.domain": ""}},
		{"reuseDelay negative", keys{"ipam.reuseDelay": "-1s"}},
		{"retain a number", keys{"ipam.retain": 0}},
		{"dataDir relative", keys{"ipam.dataDir": "var"}},

		{"runtimeConfig no object", keys{"runtimeConfig": 1}},
		{"runtimeConfig mac", keys{"runtimeConfig": keys{"mac": 5}}},
		{"runtimeConfig ips", keys{"runtimeConfig": keys{"ips": "10.0.0.5"}}},
		{"runtimeConfig ipRanges", keys{"runtimeConfig": keys{"ipRanges": raw(`[[{"subnet": "10.1.0.0/24"}]]`)}}},
		{"args", keys{"args": keys{"cni": "x"}}},
		{"prevResult", keys{"prevResult": "x"}},
		{"prevResult of another version", keys{"prevResult": keys{"cniVersion": "9.9.9"}}},
		{"valid-attachments", keys{"cni.dev/valid-attachments": "x"}},
	} {
		_, err := Parse(with(tc.keys), FlatBridge)
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		fmt.Fprintf(&text, "%s\n\t%s\n", tc.name, cniText(t, err))
	}
	for _, tc := range []struct{ name, text string }{
		{"no text", " \n"},
		{"no JSON", "{\n  \"name\": flat\n}"},
		{"cut off", `{"name": "flat"`},
		{"a list", `["flat"]`},
		{"null", `null`},
	} {
		_, err := Parse([]byte(tc.text), FlatBridge)
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		fmt.Fprintf(&text, "%s\n\t%s\n", tc.name, cniText(t, err))
	}
	requestMistakes(t, &text)
	storeMistakes(t, &text)
	golden(t, "errors.txt", text.String())
}

func TestParseRefusesEveryLaterKeyByName(t *testing.T) {
	for _, k := range bridgeKeys {
		if k.state != keyLater {
			continue
		}
		_, err := Parse(with(map[string]any{k.name: false}), FlatBridge)
		want := "2: key " + k.name + " with value false: it is not supported by this version: take it out"
		if err == nil || cniText(t, err) != want {
			t.Errorf("%s: got %v, want %s", k.name, err, want)
		}
	}
}

func TestParseNeverRefusesReservedKeys(t *testing.T) {
	for _, k := range []string{"cniVersions", "capabilities", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "cni.dev/x"} {
		if _, err := Parse(with(map[string]any{k: []int{1}}), FlatBridge); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	for _, k := range []string{"args", "runtimeConfig", "prevResult", "dns"} {
		for _, v := range []any{raw("null"), map[string]any{}} {
			if _, err := Parse(with(map[string]any{k: v}), FlatBridge); err != nil {
				t.Errorf("%s %s: %v", k, v, err)
			}
		}
	}
}

func TestCNIErrorCodes(t *testing.T) {
	row := ipam.Reservation{Addr: netip.MustParseAddr("10.0.0.2"), Holder: &ipam.Holder{ContainerID: "c1", IfName: "eth0"},
		Workload: ipam.Workload{Kind: ipam.KindCID, Value: "c1", IfName: "eth0"}}
	for _, tc := range []struct {
		err  error
		code uint
	}{
		{&ipam.HeldError{Row: row}, 11},
		{fmt.Errorf("x: %w", &ipam.ExhaustedError{Network: "flat"}), 11},
		{ipam.ErrLocked, 11},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), 11},
		{&ipam.StrandedError{Network: "flat", Count: 1, First: row.Addr}, 7},
		{ipam.ErrConfig, 7},
		{fmt.Errorf("x: %w", ipam.ErrRefused), 100},
		{ipam.ErrDamaged, 5},
		{ipam.ErrNewerSchema, 5},
		{errors.New("disk full"), 5},
		{invalidCode(42), 42},
	} {
		if got := CNIError("reserving", tc.err); got.Code != tc.code || !strings.Contains(got.Error(), tc.err.Error()) {
			t.Errorf("%v: got code %d, text %q, want %d", tc.err, got.Code, got, tc.code)
		}
	}
	if CNIError("reserving", nil) != nil {
		t.Error("no error became one")
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func invalidCode(code uint) error { return newError(code, "already one") }
