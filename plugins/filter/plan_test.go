package filter

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestPlansAsText(t *testing.T) {
	web := ipam.Rule{Protocol: "tcp", Ports: ports(80, 0, 443, 0, 8000, 8100), From: prefixes("192.0.2.0/24", "198.51.100.7/32")}
	cases := []struct {
		golden string
		held   []Held
	}{
		{"open.txt", []Held{{network("flat", "10.0.0.0/24", "br100"), rowsOf("10.0.0.2", "10.0.0.3", "10.0.0.18")}}},
		{"closed.txt", []Held{{network("flat", "10.0.0.0/24", "br100", closed), rowsOf("10.0.0.2")}}},
		{"compute-node.txt", []Held{{network("flat", "10.0.0.0/24", "br100", closed, func(n *ipam.Network) {
			n.Bridge.IsGateway, n.Bridge.Published = false, false
		}), rowsOf("10.0.0.2")}}},
		{"gateways.txt", []Held{{network("flat", "10.0.0.0/24", "br100", closed, func(n *ipam.Network) {
			n.Bridge.GatewayAddresses = []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.251")}
		}), rowsOf("10.0.0.66")}}},
		{"reject.txt", []Held{{network("flat", "10.0.0.0/24", "br100", func(n *ipam.Network) {
			n.Bridge.Fallback = ipam.FallbackReject
		}), rowsOf("10.0.0.2")}}},
		{"ingress.txt", []Held{{network("flat", "10.0.0.0/24", "br100", closed, ingress(
			web,
			ipam.Rule{Protocol: "tcp", Ports: ports(22, 0)},
			ipam.Rule{Protocol: "udp", Ports: ports(5000, 5010), From: prefixes("10.0.0.77/24")},
			ipam.Rule{Protocol: "sctp", Ports: ports(5060, 0)},
			ipam.Rule{Protocol: "icmp"},
			ipam.Rule{Protocol: "any", From: prefixes("203.0.113.0/24")},
			ipam.Rule{Protocol: "tcp", Ports: manyPorts(17), From: prefixes("0.0.0.0/0")},
			ipam.Rule{Protocol: "any", From: prefixes("2001:db8::/32")},
		)), rowsOf("10.0.0.2")}}},
		{"deny.txt", []Held{{network("flat", "10.0.0.0/24", "br100", deny(
			web, ipam.Rule{Protocol: "any", From: prefixes("198.51.100.0/24")}, ipam.Rule{Protocol: "sctp"},
		)), rowsOf("10.0.0.2")}}},
		{"two-networks.txt", []Held{
			{network("wide", "10.64.0.0/10", "br1"), rowsOf("10.64.0.2", "10.127.255.254", "10.64.1.2")},
			{network("narrow", "192.0.2.8/30", "br2", closed), rowsOf("192.0.2.10")},
			{ipam.Network{Name: "bridgeless", Pool: ipam.Pool{Subnet: netip.MustParsePrefix("172.16.0.0/16")}}, rowsOf("172.16.0.2")},
		}},
		{"allowed.txt", []Held{{network("flat", "10.0.0.0/24", "br100", closed, allows(
			ipam.AllowedAddress{Addr: netip.MustParseAddr("10.0.0.200")}, ipam.AllowedAddress{MAC: ipam.MAC{0x52, 0x54, 0, 0, 0, 1}},
		)), rowsOf("10.0.0.2")}}},
		{"masquerade.txt", []Held{{network("flat", "10.0.0.0/24", "br100", ipMasq), rowsOf("10.0.0.2")}}},
		{"nat.txt", []Held{{network("flat", "10.0.0.0/24", "br100", ipMasq, natKeys), rowsOf("10.0.0.2")}}},
		{"metadata.txt", []Held{
			{network("flat", "10.0.0.0/24", "br100", ipMasq, metadataAt("192.0.2.1:8775")), nil},
			{network("here", "10.1.0.0/24", "br101", metadataAt("127.0.0.1:8775")), nil},
			{network("remote", "10.2.0.0/24", "br102", metadataAt("192.0.2.1:8775"), func(n *ipam.Network) { n.Bridge.IsGateway = false }), nil},
		}},
		{"services.txt", []Held{
			{network("compute", "10.2.0.0/24", "br102", servicesOnly, func(n *ipam.Network) { n.Bridge.IsGateway = false }), nil},
			{network("flat", "10.0.0.0/24", "br100", servicesOnly, servesDNS, metadataAt("192.0.2.1:8775")), nil},
			{network("reject", "10.1.0.0/24", "br101", servicesOnly, func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject }), nil},
		}},
		{"unfiltered.txt", []Held{
			{network("bridge", "10.0.0.0/24", "br100", unfiltered, func(n *ipam.Network) { n.Bridge.IsGateway = false }), rowsOf("10.0.0.2")},
			{network("gateway", "10.1.0.0/24", "br101", unfiltered, ipMasq, deny(ipam.Rule{Protocol: "sctp"})), rowsOf("10.1.0.2")},
			{network("remote", "10.2.0.0/24", "br102", unfiltered, ipMasq, func(n *ipam.Network) { n.Bridge.IsGateway = false }), rowsOf("10.2.0.2")},
		}},
		{"log.txt", []Held{{network("flat", "10.0.0.0/24", "br100", logDrops), rowsOf("10.0.0.2")}}},
		{"dns.txt", []Held{
			{network("flat", "10.0.0.0/24", "br100", servesDNS), rowsOf("10.0.0.2")},
			{network("other", "10.1.0.0/24", "br101"), nil},
			{network("remote", "10.2.0.0/24", "br102", servesDNS, func(n *ipam.Network) { n.Bridge.IsGateway = false }), nil},
		}},
		{"empty.txt", []Held{{network("flat", "10.0.0.0/24", "br100"), nil}}},
	}
	for _, c := range cases {
		t.Run(c.golden, func(t *testing.T) { golden(t, c.golden, PlanAll(c.held).String()) })
	}
}

func TestAnnotatedChainExplainsEveryRule(t *testing.T) {
	n := network("flat", "10.0.0.0/24", "br100", closed, ingress(ipam.Rule{Protocol: "tcp", Ports: ports(80, 0)}))
	c := WorkloadChain(n, row("10.0.0.2"))
	for _, rule := range c.Rules {
		if rule.Why == "" || strings.ContainsRune(rule.Why, '\n') {
			t.Errorf("rule %q is explained by %q", rule.spec(), rule.Why)
		}
	}
	golden(t, "annotated.txt", c.Annotated())
}

func TestWorkloadNameCannotBecomeARule(t *testing.T) {
	r := row("10.0.0.2")
	r.Workload.Value = "x\" -j ACCEPT\nCOMMIT\n*filter\n-P INPUT ACCEPT " + strings.Repeat("é", 300)
	c := WorkloadChain(network("flat", "10.0.0.0/24", "br100"), r)
	comment := c.Rules[0].Comment
	if len(comment) > maxComment || strings.ContainsAny(comment, "\"\\\n'") {
		t.Errorf("comment of %d bytes: %q", len(comment), comment)
	}
	if lines := strings.Count(c.String(), "\n"); lines != len(c.Rules) {
		t.Errorf("%d lines for %d rules:\n%s", lines, len(c.Rules), c)
	}
	m, ok := parseMarker(comment)
	if want := (marker{"flat", r.Addr}); !ok || m != want {
		t.Errorf("marker %+v, %v; want %+v", m, ok, want)
	}
}

func TestLogPrefixNamesTheWorkload(t *testing.T) {
	long := "deployment-with-a-long-name-7d4b9c-x2x9z"
	cases := []struct {
		workload ipam.Workload
		want     string
	}{
		{ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: "web-0"}, "flat default/web-0: "},
		{ipam.Workload{Namespace: "a-long-namespace", Kind: ipam.KindPod, Value: "web-0-123"}, "flat web-0-123: "},
		{ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: long}, "flat long-name-7d4b9c-x2x9z: "},
		{ipam.Workload{Kind: ipam.KindName, Value: "db"}, "flat db: "},
		{ipam.Workload{Kind: ipam.KindCID, Value: strings.Repeat("0123456789abcdef", 4)}, "flat 0123456789ab: "},
		{ipam.Workload{Kind: ipam.KindName, Value: "x\" SRC=\nCOMMIT"}, "flat x__SRC__COMMIT: "},
		{ipam.Workload{Kind: ipam.KindName, Value: strings.Repeat("é", 30)}, "flat " + strings.Repeat("_", 11) + ": "},
	}
	for _, c := range cases {
		if got := logPrefix(c.workload); got != c.want || len(got) > maxLogPrefix {
			t.Errorf("%s: %q (%d bytes), want %q", c.workload, got, len(got), c.want)
		}
	}
}

func TestHashTellsPlansApart(t *testing.T) {
	base := network("flat", "10.0.0.0/24", "br100")
	plans := map[string]ipam.Network{"": base}
	for name, edit := range map[string]func(*ipam.Network){
		"toggle":    closed,
		"published": func(n *ipam.Network) { n.Bridge.Published = false },
		"fallback":  func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject },
		"logDrops":  logDrops,
		"ingress":   ingress(ipam.Rule{Protocol: "icmp"}),
		"gateway":   func(n *ipam.Network) { n.Pool.Gateway = netip.MustParseAddr("10.0.0.254") },
		"name":      func(n *ipam.Network) { n.Name = "other" },
	} {
		plans[name] = network("flat", "10.0.0.0/24", "br100", edit)
	}
	seen := map[string]string{}
	for name, n := range plans {
		hash := strings.Fields(WorkloadChain(n, row("10.0.0.2")).Rules[0].Comment)[3]
		if other, taken := seen[hash]; taken {
			t.Errorf("%q and %q have the same hash", name, other)
		}
		seen[hash] = name
	}
}

// walk follows addr through the nodes; it returns what it reaches and the number
// of rules it met.
func walk(nodes []Chain, addr netip.Addr) (chain string, rules int) {
	at := nodes[0].Name
	for {
		i := slices.IndexFunc(nodes, func(c Chain) bool { return c.Name == at })
		if i < 0 {
			return at, rules
		}
		next := ""
		for _, r := range nodes[i].Rules {
			rules++
			if netip.MustParsePrefix(strings.TrimPrefix(r.Match, "-d ")).Contains(addr) {
				next = r.Target
				break
			}
		}
		if next == "" {
			return "", rules
		}
		at = next
	}
}

func TestTreeLeadsEveryAddressToItsChainAndNoOther(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for bits := 8; bits <= 30; bits++ {
		subnet := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits)
		rows := map[netip.Addr]string{}
		inside := func() netip.Addr {
			offset := random.Uint32N(1 << (32 - bits))
			return netip.AddrFrom4([4]byte{10, byte(offset >> 16), byte(offset >> 8), byte(offset)})
		}
		var list []Dispatch
		for range 200 {
			a := inside()
			if _, taken := rows[a]; !taken {
				rows[a] = workloadPrefix + a.String()
				list = append(list, Dispatch{a, rows[a]})
			}
		}
		list = append(list, Dispatch{netip.MustParseAddr("192.0.2.1"), "outside"})
		nodes := Tree(subnet, list)
		if nodes[0].Name != treeName(subnet) {
			t.Fatalf("/%d: root is %s", bits, nodes[0].Name)
		}
		names := map[string]bool{}
		for i, node := range nodes {
			if names[node.Name] {
				t.Errorf("/%d: node %s twice", bits, node.Name)
			}
			names[node.Name] = true
			if len(node.Rules) > 16 || len(node.Rules) == 0 {
				t.Errorf("/%d: node %s has %d rules", bits, node.Name, len(node.Rules))
			}
			if p, ok := parseTreeName(node.Name); !ok || i > 0 && p.Bits() > treeLeaf || len(node.Name) > 28 {
				t.Errorf("/%d: node is called %s", bits, node.Name)
			}
		}
		worst := 0
		for a, chain := range rows {
			got, met := walk(nodes, a)
			if got != chain {
				t.Errorf("/%d: %s leads to %q, not %q", bits, a, got, chain)
			}
			worst = max(worst, met)
		}
		if worst > 96 {
			t.Errorf("/%d: a packet meets %d rules", bits, worst)
		}
		for range 200 {
			if a := inside(); rows[a] == "" {
				if got, _ := walk(nodes, a); got != "" {
					t.Errorf("/%d: %s, which nobody has, leads to %q", bits, a, got)
				}
			}
		}
		slices.Reverse(list)
		if diff := cmp.Diff(nodes, Tree(subnet, list)); diff != "" {
			t.Errorf("/%d: the order of rows matters:\n%s", bits, diff)
		}
	}
}

func TestTreeOfNoRowsIsItsRoot(t *testing.T) {
	want := []Chain{{Name: "FLAT-T-0a000000-24", Rules: []Rule{}}}
	if diff := cmp.Diff(want, Tree(netip.MustParsePrefix("10.0.0.0/24"), nil)); diff != "" {
		t.Error(diff)
	}
}

func TestNamesFitIntoChainNames(t *testing.T) {
	const longest = 28 // XT_EXTENSION_MAXNAMELEN
	for _, name := range []string{ChainName("flat", "c", "eth0"), treeName(netip.MustParsePrefix("255.255.255.240/28")), chainProviderUser} {
		if len(name) > longest {
			t.Errorf("%s has %d characters", name, len(name))
		}
	}
}
