package seed

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// service is a Service with one TCP port, 80, as kube-proxy knows it.
type service struct {
	name     string
	cluster  netip.Addr
	nodePort uint16 // 0: none
	local    bool   // externalTrafficPolicy: Local
	backends []*workload
}

func (v service) at() netip.AddrPort { return netip.AddrPortFrom(v.cluster, 80) }

// title is how kube-proxy's comments call the port.
func (v service) title() string { return "default/" + v.name + ":http" }

// kubeChain is a chain's name: kube-proxy's hash of what it is about.
func kubeChain(kind string, of ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(of, "")))
	return "KUBE-" + kind + "-" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func (v service) chain(kind string) string { return kubeChain(kind, v.title(), "tcp") }

func (v service) endpointChain(w *workload) string {
	return kubeChain("SEP", v.title(), "tcp", w.addr.String()+":80")
}

// kubeProxy is what kube-proxy gives to iptables-restore --noflush on a node, in its mode
// iptables with --cluster-cidr 10.0.0.0/24 (release 1.29 and later; the counters of its own
// for INVALID packets left out).
func kubeProxy(n *node, services []service) string {
	var filter, nat []string
	chains := []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"}
	rule := func(format string, args ...any) { nat = append(nat, fmt.Sprintf(format, args...)) }
	rule("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN")
	rule("-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000")
	rule(`-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully`)
	rule("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000")
	balance := func(v service, chain string, over []*workload) {
		for i, w := range over {
			some := ""
			if left := len(over) - i; left > 1 {
				some = fmt.Sprintf(" -m statistic --mode random --probability %0.10f", 1/float64(left))
			}
			rule(`-A %s -m comment --comment "%s -> %s:80"%s -j %s`, chain, v.title(), w.addr, some, v.endpointChain(w))
		}
	}
	for _, v := range services {
		svc, ext, title := v.chain("SVC"), v.chain("EXT"), v.title()
		chains = append(chains, svc)
		rule(`-A KUBE-SERVICES -m comment --comment "%s cluster IP" -m tcp -p tcp -d %s --dport 80 -j %s`, title, v.cluster, svc)
		rule(`-A %s -m comment --comment "%s cluster IP" -m tcp -p tcp -d %s --dport 80 ! -s 10.0.0.0/24 -j KUBE-MARK-MASQ`, svc, title, v.cluster)
		balance(v, svc, v.backends)
		for _, w := range v.backends {
			sep := v.endpointChain(w)
			chains = append(chains, sep)
			rule(`-A %s -m comment --comment %s -s %s -j KUBE-MARK-MASQ`, sep, title, w.addr)
			rule(`-A %s -m comment --comment %s -m tcp -p tcp -j DNAT --to-destination %s:80`, sep, title, w.addr)
		}
		if v.nodePort == 0 {
			continue
		}
		chains = append(chains, ext)
		rule(`-A KUBE-NODEPORTS -m comment --comment %s -m tcp -p tcp --dport %d -j %s`, title, v.nodePort, ext)
		if !v.local {
			rule(`-A %s -m comment --comment "masquerade traffic for %s external destinations" -j KUBE-MARK-MASQ`, ext, title)
			rule(`-A %s -j %s`, ext, svc)
			continue
		}
		rule(`-A %s -m comment --comment "pod traffic for %s external destinations" -s 10.0.0.0/24 -j %s`, ext, title, svc)
		rule(`-A %s -m comment --comment "masquerade LOCAL traffic for %s external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ`, ext, title)
		rule(`-A %s -m comment --comment "route LOCAL traffic for %s external destinations" -m addrtype --src-type LOCAL -j %s`, ext, title, svc)
		here := slices.DeleteFunc(slices.Clone(v.backends), func(w *workload) bool { return w.n != n })
		if len(here) == 0 {
			filter = append(filter, fmt.Sprintf(`-A KUBE-EXTERNAL-SERVICES -m comment --comment "%s has no local endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport %d -j DROP`, title, v.nodePort))
			continue
		}
		chains = append(chains, v.chain("SVL"))
		rule(`-A %s -j %s`, ext, v.chain("SVL"))
		balance(v, v.chain("SVL"), here)
	}
	rule(`-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS`)
	filter = append(filter,
		"-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
		`-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT`,
		`-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`)
	declare := func(names []string) string {
		var b strings.Builder
		for _, name := range names {
			fmt.Fprintf(&b, ":%s - [0:0]\n", name)
		}
		return b.String()
	}
	return "*filter\n" + declare(filterChains) + strings.Join(filter, "\n") + "\nCOMMIT\n" +
		"*nat\n" + declare(chains) + strings.Join(nat, "\n") + "\nCOMMIT\n"
}

var filterChains = []string{"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"}

// kubeJumps are kube-proxy's rules in the built-in chains; it puts each first when it finds it
// missing, in this order.
var kubeJumps = []struct{ table, from, to, match, comment string }{
	{"filter", "INPUT", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW", "kubernetes externally-visible service portals"},
	{"filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW", "kubernetes externally-visible service portals"},
	{"filter", "INPUT", "KUBE-NODEPORTS", "", "kubernetes health check service ports"},
	{"filter", "FORWARD", "KUBE-SERVICES", "-m conntrack --ctstate NEW", "kubernetes service portals"},
	{"filter", "OUTPUT", "KUBE-SERVICES", "-m conntrack --ctstate NEW", "kubernetes service portals"},
	{"filter", "FORWARD", "KUBE-FORWARD", "", "kubernetes forwarding rules"},
	{"filter", "INPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW", "kubernetes load balancer firewall"},
	{"filter", "OUTPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW", "kubernetes load balancer firewall"},
	{"filter", "FORWARD", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW", "kubernetes load balancer firewall"},
	{"nat", "OUTPUT", "KUBE-SERVICES", "", "kubernetes service portals"},
	{"nat", "PREROUTING", "KUBE-SERVICES", "", "kubernetes service portals"},
	{"nat", "POSTROUTING", "KUBE-POSTROUTING", "", "kubernetes postrouting rules"},
}

// proxied writes kube-proxy's rules on the node. With jumps, kube-proxy starts there: it puts
// its own in front of everybody's.
func (n *node) proxied(jumps bool, services []service) {
	n.s.t.Helper()
	const file = "/run/kube-proxy.rules"
	if err := n.WriteFile(n.s.within(), file, 0o600, kubeProxy(n, services)); err != nil {
		n.s.t.Fatal(err)
	}
	n.run("iptables-restore", "--noflush", file)
	if jumps {
		n.kubeJumps("-I")
	}
}

// kubeJumps inserts (-I) or deletes (-D) kube-proxy's rules in the built-in chains.
func (n *node) kubeJumps(verb string) {
	n.s.t.Helper()
	for _, j := range kubeJumps {
		argv := append([]string{"iptables", "-w", "-t", j.table, verb, j.from}, strings.Fields(j.match)...)
		n.run(append(argv, "-m", "comment", "--comment", j.comment, "-j", j.to)...)
	}
}
