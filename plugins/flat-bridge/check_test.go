package main

import (
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/plugins/filter"
)

func (c *container) check() call { return call{verb: "CHECK", of: c, prev: c.result} }

// Each defect alone: CHECK names it, and nothing else; mended, it passes again.
func TestCheckNamesEachDefect(t *testing.T) {
	const sh, in = "node: ", "container: " // where a script runs
	tests := []struct {
		name           string
		keys           keys
		damage, mend   string // $P port, $A address, $M MAC, $C chain
		want           []string
		cannotBeMended bool
		many           bool // one damage, several defects
		policy         keys // that another workload's ADD brings
	}{
		{name: "bridge is down", damage: sh + "ip link set br100 down", mend: sh + "ip link set br100 up", want: []string{"bridge br100 is down"}},
		{
			name: "bridge lost its flag", damage: sh + "ip link set br100 type bridge nf_call_iptables 0", mend: sh + "ip link set br100 type bridge nf_call_iptables 1",
			want: []string{"bridge br100 has lost its flag nf_call_iptables, and only the sysctl"},
		},
		{
			name:   "bridge lost its flag, and the sysctl is off",
			damage: sh + "ip link set br100 type bridge nf_call_iptables 0; echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables",
			mend:   sh + "ip link set br100 type bridge nf_call_iptables 1",
			want:   []string{"bridge br100 has lost its flag nf_call_iptables, so that chains do not see", "the next ADD sets it"},
		},
		{name: "gateway address is gone", damage: sh + "ip addr del 10.0.0.1/24 dev br100", mend: sh + "ip addr add 10.0.0.1/24 dev br100", want: []string{"bridge br100 lacks the gateway address 10.0.0.1/24"}},
		{name: "port is down", damage: sh + "ip link set $P down", mend: sh + "ip link set $P up", want: []string{"port $P is down"}},
		{name: "port has another alias", damage: sh + "ip link set $P alias x", mend: sh + "ip link set $P alias 'flatdhcp flat c1 eth0'", want: []string{`port $P has alias "x", not "flatdhcp flat c1 eth0"`}},
		{name: "port has another MAC", damage: sh + "ip link set $P address fe:00:00:00:00:01", mend: sh + "ip link set $P address fe:16:3e:00:00:02", want: []string{"port $P has MAC fe:00:00:00:00:01, not fe:16:3e:00:00:02"}},
		{name: "port has hairpin mode", damage: sh + "bridge link set dev $P hairpin on", mend: sh + "bridge link set dev $P hairpin off", want: []string{"port $P has hairpin mode true, not false"}},
		{
			name: "port has no hairpin mode", keys: keys{"hairpinMode": true},
			damage: sh + "bridge link set dev $P hairpin off", mend: sh + "bridge link set dev $P hairpin on", want: []string{"port $P has hairpin mode false, not true"},
		},
		{name: "port learns", damage: sh + "bridge link set dev $P learning on", mend: sh + "bridge link set dev $P learning off", want: []string{"port $P has learning true, not false"}},
		{
			name: "port does not learn", keys: keys{"antiSpoofing": false},
			damage: sh + "bridge link set dev $P learning off", mend: sh + "bridge link set dev $P learning on", want: []string{"port $P has learning false, not true"},
		},
		{
			name: "entry is gone", damage: sh + "bridge fdb del $M dev $P master static", mend: sh + "bridge fdb add $M dev $P master static sticky",
			want: []string{"bridge br100 has no static sticky entry of MAC $M for port $P"},
		},
		{
			name: "entry is not sticky", damage: sh + "bridge fdb del $M dev $P master static; bridge fdb add $M dev $P master static",
			mend: sh + "bridge fdb del $M dev $P master static; bridge fdb add $M dev $P master static sticky",
			want: []string{"bridge br100 has no static sticky entry of MAC $M for port $P"},
		},
		{
			name: "MAC was changed behind the guard", damage: in + "ip link set eth0 address 02:00:00:00:00:07", mend: in + "ip link set eth0 address $M",
			want: []string{"interface eth0", "has MAC 02:00:00:00:00:07", "lets only $M pass", "flat-bridge (capability mac)"},
		},
		{name: "interface is down", damage: in + "ip link set eth0 down", mend: in + "ip link set eth0 up", want: []string{"interface eth0", "is down"}},
		{name: "address is gone", damage: in + "ip addr del $A/24 dev eth0", mend: in + "ip addr add $A/24 dev eth0", want: []string{"interface eth0", "lacks its address $A/24"}},
		{
			name: "guard lacks an element", damage: sh + `nft delete element bridge flatdhcp macs '{' \"$P\" . $M '}'`, mend: sh + `nft add element bridge flatdhcp macs '{' \"$P\" . $M '}'`,
			want: []string{`the guard lacks element of set macs: "$P" . $M`, "`flatctl apply` mends it"},
		},
		{
			name: "guard has too much", damage: sh + `nft add element bridge flatdhcp unchecked '{' \"$P\" '}'`, mend: sh + `nft delete element bridge flatdhcp unchecked '{' \"$P\" '}'`,
			want: []string{`the guard has a foreign element of set unchecked: "$P"`},
		},
		{name: "chain is empty", damage: sh + "iptables -F $C", want: []string{"chain $C is empty"}, cannotBeMended: true},
		{name: "chain is gone", damage: sh + "iptables -F; iptables -X $C", want: []string{"chain $C is missing"}, cannotBeMended: true, many: true},
		{
			name: "chain lets all pass", damage: sh + "iptables -I $C -j ACCEPT", mend: sh + "iptables -D $C -j ACCEPT",
			want: []string{"chain $C begins with a rule that is not ours"},
		},
		{name: "chain lacks a rule", damage: sh + "iptables -D $C -j FLAT-DROP", mend: sh + "iptables -A $C -j FLAT-DROP", want: []string{"chain $C has ", "rules, "}},
		{
			name: "nothing leads to the chain", damage: sh + "iptables -D $(iptables-save | grep -e '-j $C' | sed 's/-A //')",
			want: []string{"on the way to $C, does not lead $A"}, cannotBeMended: true,
		},
		{name: "FORWARD does not lead to ours", damage: sh + "iptables -D FORWARD -j FLAT-FORWARD", mend: sh + "iptables -I FORWARD -j FLAT-FORWARD", want: []string{"chain FORWARD of table filter does not jump to FLAT-FORWARD"}},
		{
			name: "something comes before ours", damage: sh + "iptables -I FORWARD -j ACCEPT", mend: sh + "iptables -D FORWARD -j ACCEPT",
			want: []string{"chain FORWARD of table filter jumps to FLAT-FORWARD, but something else comes first"},
		},
		{
			name: "policy was changed, and not applied", damage: sh + "true", policy: keys{"published": false},
			want: []string{"chain $C follows another policy than the network's", "`flatctl apply` mends it"}, cannotBeMended: true, many: true,
		},
		{name: "guard is gone", damage: sh + "nft delete table bridge flatdhcp", want: []string{"the guard's table bridge flatdhcp is not what it should be: the table was missing"}, cannotBeMended: true},
		{name: "port is on another bridge", damage: sh + "ip link add other type bridge; ip link set $P master other", want: []string{`port $P is on bridge "other", not "br100"`}, cannotBeMended: true},
		{name: "port is on no bridge", damage: sh + "ip link set $P nomaster", want: []string{`port $P is on bridge "", not "br100"`}, cannotBeMended: true},
		{
			name: "interface was replaced", damage: in + "ip link set eth0 down; ip link set eth0 name old; ip link add eth0 type veth peer name eth9",
			want: []string{"interface eth0", "is not the other end of port $P"}, cannotBeMended: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, tt.keys)
			c := n.attach("c1")
			n.attach("neighbour")
			n.ok(c.check())
			fill := strings.NewReplacer("$C", filter.ChainName("flat", "c1", "eth0"), "$P", c.port, "$M", c.mac, "$A", strings.TrimSuffix(c.address, "/24"))
			run := func(script string) {
				t.Helper()
				if s, ok := strings.CutPrefix(script, in); ok {
					c.exec("sh", "-ec", fill.Replace(s))
					return
				}
				n.exec("sh", "-ec", fill.Replace(strings.TrimPrefix(script, sh)))
			}
			run(tt.damage)
			if tt.policy != nil {
				n.keys = tt.policy
				n.attach("newcomer")
			}
			said := n.fails(c.check(), 102)
			for _, want := range tt.want {
				n.says(said, fill.Replace(want))
			}
			if defects := strings.Split(said, "; "); !tt.many && len(defects) > 2 || len(defects) == 2 && !strings.HasPrefix(defects[1], "`flatctl apply`") && !strings.HasPrefix(defects[1], "find out") {
				t.Errorf("more than one defect: %s", said)
			}
			if tt.cannotBeMended {
				return
			}
			run(tt.mend)
			n.ok(c.check())
		})
	}
}

// Without a row or a port there is nothing to compare with, and the result must name
// the address.
func TestCheckOfWhatIsGone(t *testing.T) {
	t.Run("never added", func(t *testing.T) {
		n := newNode(t, nil)
		other := n.attach("other")
		c := n.container("c1")
		c.result = other.result
		n.says(n.fails(c.check(), 102), "container c1, interface eth0 holds no address of network flat", "create it again")
	})
	t.Run("no network", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.container("c1")
		c.result = `{"cniVersion": "1.1.0", "ips": []}`
		n.says(n.fails(c.check(), 102), "holds no address of network flat")
	})
	t.Run("deleted", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		n.ok(call{verb: "DEL", of: c})
		n.says(n.fails(c.check(), 102), "container c1, interface eth0 holds no address")
	})
	t.Run("port", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		n.exec("ip", "link", "del", c.port)
		n.says(n.fails(c.check(), 102), "port "+c.port+" is missing", "interface eth0 in "+c.ns+" is missing")
	})
	t.Run("bridge", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		n.exec("ip", "link", "del", "br100")
		n.says(n.fails(c.check(), 102), "bridge br100 is missing", "port "+c.port+" is on bridge")
	})
	t.Run("bridge, and something else has its name", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		n.exec("sh", "-ec", "ip link del br100; ip link add br100 type veth peer name x")
		n.says(n.fails(c.check(), 102), "br100 is a veth device, not a bridge")
	})
	t.Run("namespace", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		c.ns += "x"
		n.says(n.fails(c.check(), 102), "interface eth0 could not be looked at", c.ns)
	})
	t.Run("the result's address", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		c.result = strings.ReplaceAll(c.result, "10.0.0.2/24", "10.0.0.9/24")
		n.says(n.fails(c.check(), 102), "the result names [10.0.0.9], but the reservation is 10.0.0.2")
	})
	t.Run("br_netfilter", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		n.before = hideNetfilter
		n.says(n.fails(c.check(), 102), "chains see no frame of bridge br100", "modprobe br_netfilter")
	})
	t.Run("the result", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		c.result = ""
		n.says(n.fails(c.check(), 7), "key prevResult is missing")
	})
	t.Run("the verb", func(t *testing.T) {
		n := newNode(t, nil)
		n.fails(call{verb: "CHECK", of: n.attach("c1"), version: "0.3.1"}, 1)
	})
}

// In every version that has it CHECK passes right after ADD, and with what plugins
// chained behind us and a workload's own client may do.
func TestCheckPasses(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, nil)
			c := n.container("c1")
			c.result = n.ok(call{verb: "ADD", of: c, version: version})
			n.ok(call{verb: "CHECK", of: c, version: version, prev: c.result})
		})
	}
	for name, k := range map[string]keys{
		"closed": {"allowSameNetTraffic": false}, "no gateway": {"isGateway": false}, "unguarded": {"antiSpoofing": false},
		"hairpin": {"hairpinMode": true}, "no chains": {"filter": "none"}, "MAC checked": {"antiSpoofing": false, "macspoofchk": true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, k)
			n.ok(n.attach("c1").check())
		})
	}
	t.Run("after chained plugins", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.attach("c1")
		c.exec("sh", "-ec", `ip route del default; ip route add 192.0.2.0/24 via 10.0.0.1; ip link set eth0 mtu 1400
			ip addr add 192.0.2.7/32 dev eth0; sysctl -qw net.ipv4.conf.eth0.arp_notify=1; ip link set eth0 promisc on`)
		c.result = strings.Replace(c.result, `"ips": [`, `"ips": [{"address": "192.0.2.7/32"}, `, 1)
		n.ok(c.check())
	})
	t.Run("addressing dhcp", func(t *testing.T) {
		n := newNode(t, keys{"addressing": "dhcp"})
		n.ok(n.attach("c1").check())
	})
	t.Run("unguarded, with a MAC of its own choice", func(t *testing.T) {
		n := newNode(t, keys{"antiSpoofing": false})
		c := n.attach("c1")
		c.exec("ip", "link", "set", "eth0", "address", "02:00:00:00:00:07")
		n.ok(c.check())
	})
	t.Run("on a bridge that another node's gateway serves", func(t *testing.T) {
		n := newNode(t, keys{"isGateway": false})
		n.exec("ip", "link", "add", "br100", "type", "bridge")
		n.ok(n.attach("c1").check())
	})
}

// Somebody clears the bridge's flag and the sysctl: CHECK names it, and the next ADD
// sets the flag again, for everybody.
func TestClearedBridgeFlagIsMendedByTheNextADD(t *testing.T) {
	n := newNode(t, keys{"allowSameNetTraffic": false})
	c, d := n.attach("c1"), n.attach("c2")
	reached := func() bool {
		return n.outputErr("nsenter", "--net="+d.ns, "ping", "-c", "1", "-W", "1", strings.TrimSuffix(c.address, "/24")) == nil
	}
	if reached() {
		t.Fatal("a closed workload is reached")
	}
	n.exec("sh", "-ec", "ip link set br100 type bridge nf_call_iptables 0; echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables")
	if !reached() {
		t.Error("control: without the flag the chains stop a frame all the same")
	}
	n.says(n.fails(c.check(), 102), "bridge br100 has lost its flag nf_call_iptables")
	n.attach("c3")
	n.ok(c.check())
	if reached() {
		t.Error("after an ADD a closed workload is reached")
	}
}

// The administrator's choice of a back end, changed without a word to flatdhcp: CHECK
// says so, and the next ADD takes the rules along.
func TestChangeOfTheIPTablesBackEnd(t *testing.T) {
	n := newNode(t, nil)
	c := n.attach("c1")
	n.before = "mkdir -p /run/alternatives; for p in '' -save -restore; do ln -sf /usr/sbin/iptables-legacy$p /run/alternatives/iptables$p; done; " +
		"mount --bind /run/alternatives /etc/alternatives"
	said := n.fails(c.check(), 102)
	n.says(said, "nft", "legacy")
	n.attach("c2")
	n.ok(c.check())
}
