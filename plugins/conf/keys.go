package conf

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// keyState says what this version does with a key.
type keyState int

const (
	keyRead     keyState = iota // read
	keyReserved                 // the specification's own: accepted whatever it holds
	keyLater                    // of a later version: error 2 by name
	keyDropIn                   // the reference plugins': accepted where it asks for nothing that is not here
)

// key is one row of the tables of docs/configuration.md.
type key struct {
	name     string
	state    keyState
	accepted string // what a value looks like, for errors
}

// reservedKeys are those the CNI specification gives a meaning for runtimes; they
// may stand in every plugin's configuration.
var reservedKeys = []key{
	{name: "cniVersion", state: keyReserved}, {name: "cniVersions", state: keyReserved},
	{name: "name", state: keyReserved}, {name: "type", state: keyReserved},
	{name: "capabilities", state: keyReserved}, {name: "args", state: keyReserved},
	{name: "runtimeConfig", state: keyReserved}, {name: "prevResult", state: keyReserved},
	{name: "dns", state: keyReserved}, {name: "ipam", state: keyReserved},
	{name: "disableCheck", state: keyReserved}, {name: "disableGC", state: keyReserved},
	{name: "loadOnlyInlinedPlugins", state: keyReserved},
}

// bridgeKeys are flat-bridge's, the reference bridge plugin's among them.
var bridgeKeys = append([]key{
	{name: "bridge", accepted: `a bridge's name such as "br100"`},
	{name: "isGateway", accepted: "true or false"},
	{name: "isDefaultGateway", accepted: "true or false"},
	{name: "gatewayShared", accepted: "true or false"},
	{name: "nodeAddress", accepted: "an address of the subnet"},
	{name: "gatewayAddresses", accepted: `a list of addresses of the subnet, such as ["10.0.0.1", "10.0.0.2"]`},
	{name: "allowSameNetTraffic", accepted: "true or false"},
	{name: "ingress", accepted: `a list of rules such as {"protocol": "tcp", "ports": "80", "from": ["10.1.0.0/16"]}`},
	{name: "deny", accepted: `a list of rules such as {"protocol": "tcp", "ports": "25"}`},
	{name: "published", accepted: "true or false"},
	{name: "fallback", accepted: `"drop" or "reject"`},
	{name: "antiSpoofing", accepted: "true or false"},
	{name: "allowedAddresses", accepted: `a list such as [{"ip": "10.0.0.200"}, {"ip": "10.0.0.201", "mac": "00:00:5e:00:01:07"}]`},
	{name: "limits", accepted: `packets a second, such as {"arp": 500, "broadcast": 1000, "dhcp": 100, "dns": 2000}; 0 is none`},
	{name: "flatInterface", accepted: `a network card's name such as "eth1"`},
	{name: "detectConflict", accepted: "true or false"},
	{name: "moveAddresses", accepted: "true or false"},
	{name: "uplinkDHCP", accepted: `"block" or "pass"`},
	{name: "addressing", accepted: `"static" or "dhcp"`},
	{name: "mtu", accepted: "a number of bytes, 68 to 65535"},
	{name: "macPrefix", accepted: `three octets such as "fa:16:3e"`},
	{name: "leaseTime", accepted: `a duration such as "1h"`},
	{name: "dhcpOptions", accepted: `options by number, such as {"42": ["10.0.0.9"], "224": "hex:0a0b"}`},
	{name: "dhcp", accepted: `an object such as {"relays": ["10.0.0.9"], "rapidCommit": true}`},

	{name: "filter", accepted: `"on" or "none"`},
	{name: "logDrops", accepted: "true or false"},
	{name: "ipMasq", accepted: "true or false"},
	{name: "natAddress", accepted: "an IPv4 address of this node"},
	{name: "publicInterface", accepted: `a link's name such as "eth1"`},
	{name: "nonMasqueradeCIDRs", accepted: "a list of IPv4 networks"},
	{name: "metadata", accepted: `an address and port such as "192.168.56.200:8775"`},
	{name: "hostAccess", accepted: `"all" or "services"`},
	{name: "hairpinMode", accepted: "true or false"},
	{name: "macspoofchk", accepted: "true or false"},
	{name: "portIsolation", accepted: "true or false"},
	{name: "annotations", accepted: `a list of what pods may ask for, such as ["ip", "mac", "hostname"]`},
	{name: "statusOnExhaustion", accepted: `"fail" or "ok"`},

	{name: "ipMasqBackend", state: keyDropIn, accepted: `"iptables"`},
	{name: "promiscMode", state: keyDropIn, accepted: "true or false, without effect"},
	{name: "forceAddress", state: keyDropIn, accepted: "true or false, without effect"},
	{name: "enabledad", state: keyDropIn, accepted: "true or false, without effect"},
	{name: "preserveDefaultVlan", state: keyDropIn, accepted: "true or false, without effect"},
	{name: "vlan", state: keyDropIn, accepted: "0"},
	{name: "vlanTrunk", state: keyDropIn, accepted: "[]"},
	{name: "disableContainerInterface", state: keyDropIn, accepted: "false"},
}, reservedKeys...)

// ipamKeys are flat-ipam's: those that stand inside "ipam".
var ipamKeys = []key{
	{name: "type", accepted: `"flat-ipam"`},
	{name: "subnet", accepted: `an IPv4 network such as "10.0.0.0/24"`},
	{name: "ranges", accepted: `one set of one range: [[{"subnet": "10.0.0.0/24"}]]`},
	{name: "rangeStart", accepted: "an address of the subnet"},
	{name: "rangeEnd", accepted: "an address of the subnet"},
	{name: "gateway", accepted: "an address of the subnet"},
	{name: "routes", accepted: `a list of routes such as {"dst": "10.8.0.0/16", "gw": "10.0.0.9"}`},
	{name: "resolvConf", accepted: "an absolute path"},
	{name: "exclude", accepted: `a list of addresses, networks or ranges such as "10.0.0.5-10.0.0.9"`},
	{name: "domain", accepted: `a DNS domain such as "novalocal"`},
	{name: "reuseDelay", accepted: `a duration such as "60s"`},
	{name: "retain", accepted: `a duration such as "24h"`},
	{name: "dataDir", accepted: "an absolute path"},
	{name: "peers", accepted: `a list such as [{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"}]`},
}

// rangeKeys may stand in the one range of "ranges".
var rangeKeys = []key{
	{name: "subnet", accepted: `an IPv4 network such as "10.0.0.0/24"`},
	{name: "rangeStart", accepted: "an address of the subnet"},
	{name: "rangeEnd", accepted: "an address of the subnet"},
	{name: "gateway", accepted: "an address of the subnet"},
}

var routeKeys = []key{
	{name: "dst", accepted: "an IPv4 network"},
	{name: "gw", accepted: "an address of the subnet"},
	{name: "mtu", accepted: "a number of bytes"},
	{name: "advmss", accepted: "a number of bytes"},
	{name: "priority", accepted: "a metric"},
	{name: "table", accepted: "a routing table's number"},
	{name: "scope", accepted: "a scope's number, such as 253 for link"},
}

var ruleKeys = []key{
	{name: "protocol", accepted: `"tcp", "udp", "sctp", "icmp" or "any"`},
	{name: "ports", accepted: `"80", "8000-8100" or a list of them`},
	{name: "from", accepted: "a list of IPv4 networks"},
}

var allowedKeys = []key{
	{name: "ip", accepted: "an address of the subnet"},
	{name: "mac", accepted: "a MAC"},
	{name: "onRequest", accepted: "true or false"},
}

var limitKeys = []key{
	{name: "arp", accepted: "packets a second"},
	{name: "broadcast", accepted: "packets a second"},
	{name: "dhcp", accepted: "packets a second"},
	{name: "dns", accepted: "packets a second"},
}

var dhcpKeys = []key{
	{name: "relays", accepted: `a list of addresses such as ["10.0.0.9"]`},
	{name: "rapidCommit", accepted: "true or false"},
}

var dnsKeys = []key{
	{name: "nameservers", accepted: "a list of addresses"},
	{name: "domain", accepted: "a DNS domain"},
	{name: "search", accepted: "a list of DNS domains"},
	{name: "options", accepted: "a list of resolv.conf options"},
	{name: "enabled", accepted: "true or false"},
	{name: "forwarders", accepted: `a list of DNS servers such as "9.9.9.9" or "10.0.0.9:5353"`},
}

// checkKeys refuses every key of o that accepted does not list, in alphabetical
// order so that the same configuration always gives the same error.
func (o *object) checkKeys(accepted []key) error {
	for _, name := range sortedKeys(o.fields) {
		if err := o.checkKey(name, accepted); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(fields map[string]json.RawMessage) []string {
	return slices.Sorted(maps.Keys(fields))
}

func (o *object) checkKey(name string, accepted []key) error {
	if o.path == "" && strings.HasPrefix(name, "cni.dev/") {
		return nil
	}
	for _, k := range accepted {
		if k.name != name {
			continue
		}
		if k.state == keyLater {
			return later(o.invalid(name, "it is not supported by this version: take it out"))
		}
		return nil
	}
	err := o.invalid(name, "no such key%s", o.hint(name, accepted))
	err.details = "accepted here: " + strings.Join(acceptedNames(accepted), ", ")
	return err
}

// hint says which key was probably meant and what it takes.
func (o *object) hint(name string, accepted []key) string {
	// The right key at the wrong place is the commonest mistake but for a typing error.
	switch {
	case o.path == "" && isKey(ipamKeys, name):
		return ": it belongs inside ipam"
	case o.path == "ipam" && isKey(bridgeKeys, name):
		return ": it belongs beside ipam, not inside"
	}
	i := nearest(name, len(accepted), func(i int) string { return accepted[i].name })
	if i < 0 {
		return ""
	}
	s := ": did you mean " + accepted[i].name + "?"
	if accepted[i].accepted != "" {
		s += " (" + accepted[i].accepted + ")"
	}
	return s
}

// nearest returns the index of the name most like s, -1 if none of the n is.
func nearest(s string, n int, name func(int) string) int {
	best, distance := -1, min(len(s), 1+max(2, len(s)/3))
	for i := range n {
		if d := editDistance(strings.ToLower(s), strings.ToLower(name(i))); d < distance {
			best, distance = i, d
		}
	}
	return best
}

func isKey(keys []key, name string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.name == name })
}

// acceptedNames lists what a person may write, without the specification's own keys.
func acceptedNames(keys []key) []string {
	var names []string
	for _, k := range keys {
		if k.state == keyRead {
			names = append(names, k.name)
		}
	}
	return names
}

// editDistance counts the single-character insertions, deletions, substitutions and
// swaps of neighbours between a and b (optimal string alignment).
func editDistance(a, b string) int {
	before, last, now := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
