package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// meaning is what a bridge conflist comes to on a node, as its workloads, its neighbours
// and the world outside notice it.
type meaning struct {
	Bridge    string // name, state and MTU
	Addresses string // of the bridge
	Inside    string // address and MTU of the container's interface
	MAC       string // of the same, where it was asked for
	Routes    string // in the container
	Result    string // address and gateway
	DNS       string
	Hairpin   bool

	Neighbour    string // how a workload appears to its neighbour, if it reaches it
	Gateway      bool   // answers the workload
	Node         bool   // is answered by the workload
	Outside      string // how the workload appears outside
	HostPort     string // how outside appears to the workload at its hostPort
	OwnHostPort  bool   // the workload reaches itself there
	ForeignMAC   bool   // a frame with another source MAC reaches the neighbour
	ForeignChain bool   // plugin firewall has its chain
}

// nobody is who appears where nobody is reached.
const nobody = "nobody"

// list is a conflist, or a single configuration, on a node with a host outside, which
// knows the way to its subnet.
type list struct {
	*node
	outside *lab.Host
	text    []byte
	file    string
}

// newList makes the hosts and puts the list, named file, in labtest.Place.
func newList(t *testing.T, file string, text []byte) *list {
	t.Helper()
	var named struct{ Name string }
	if err := json.Unmarshal(text, &named); err != nil {
		t.Fatal(err)
	}
	n, outside := newBareNode(t)
	n.network = named.Name
	if _, _, err := outside.Run(n.within(), "ip", "route", "add", "10.0.0.0/8", "via", nodeOutside.String()); err != nil {
		t.Fatal(err)
	}
	if err := n.WriteFile(n.within(), "/etc/cni/net.d/"+file, 0o644, string(text)); err != nil {
		t.Fatal(err)
	}
	return &list{node: n, outside: outside, text: text, file: file}
}

// word returns the word behind another.
func word(out, before string) string {
	words := strings.Fields(out)
	if i := slices.Index(words, before); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// measure finds out what the list means to w and its neighbour.
func (l *list) measure(w, neighbour *workload) meaning {
	l.t.Helper()
	inside := func(argv ...string) string {
		l.t.Helper()
		out, _, err := w.Run(l.within(), argv...)
		if err != nil {
			l.t.Fatal(err)
		}
		return out
	}
	bridge, port := w.result.Interfaces[0].Name, w.result.Interfaces[1].Name
	link := l.run("ip", "link", "show", "dev", bridge)
	m := meaning{
		Bridge:    fmt.Sprintf("%s %s mtu %s", bridge, word(link, "state"), word(link, "mtu")),
		Addresses: strings.Join(addresses(l.run("ip", "-4", "address", "show", "dev", bridge)), " "),
		Inside: strings.Join(addresses(inside("ip", "-4", "address", "show", "dev", "eth0")), " ") +
			" mtu " + word(inside("ip", "link", "show", "dev", "eth0"), "mtu"),
		Routes:       routes(inside("ip", "-4", "route")),
		Result:       fmt.Sprint(w.result.IPs[0].Address.String(), " ", w.result.IPs[0].Gateway),
		DNS:          fmt.Sprint(w.result.DNS.Nameservers, w.result.DNS.Domain, w.result.DNS.Search, w.result.DNS.Options),
		Hairpin:      strings.Contains(l.run("bridge", "-d", "link", "show", "dev", port), "hairpin on"),
		ForeignChain: strings.Contains(l.run("iptables-save", "-t", "filter"), ":CNI-FORWARD "),
	}
	l.serve(neighbour, 80)
	l.serve(w, 80)
	l.serve(l.outside, 80)
	who := map[netip.Addr]string{w.addr: "itself", nodeOutside: "the node", outsideAddr: "itself", w.gateway(): "the gateway"}
	seen := func(from labtest.Place, to netip.AddrPort) string {
		source, err := ask(l.within(), from, to)
		if err != nil {
			return nobody
		}
		return who[source]
	}
	// A ping that is not answered is the quick way to nobody.
	m.Neighbour, m.Outside = nobody, nobody
	if reaches(w, neighbour.addr) {
		m.Neighbour = seen(w, at(neighbour.addr, 80))
		m.ForeignMAC = foreignMACPasses(w, neighbour)
	}
	m.Gateway = w.gateway().IsValid() && reaches(w, w.gateway())
	m.Node = l.exec("ping", "-c", "4", "-i", "0.3", "-W", "5", w.addr.String()) == nil
	if reaches(w, outsideAddr) {
		m.Outside = seen(w, at(outsideAddr, 80))
	}
	m.HostPort = nobody
	if strings.Contains(string(l.text), `"portmap"`) {
		m.HostPort = seen(l.outside, at(nodeOutside, 8080))
		if m.Hairpin { // without it the frame is dropped, and only time would tell
			m.OwnHostPort = seen(w, at(nodeOutside, 8080)) != nobody
		}
	}
	return m
}

// gateway is the one that the result names.
func (w *workload) gateway() netip.Addr {
	a, _ := netip.AddrFromSlice(w.result.IPs[0].Gateway.To4())
	return a
}

func reaches(w *workload, addr netip.Addr) bool {
	return w.exec("ping", "-c", "4", "-i", "0.3", "-W", "5", addr.String()) == nil
}

// foreignMACPasses sends a frame of another's MAC to the neighbour.
func foreignMACPasses(w, neighbour *workload) bool {
	w.n.t.Helper()
	frame := lab.Ethernet(neighbour.mac, []byte{2, 0, 0, 0, 0, 0x42}, 0x0800, lab.Echo(w.addr, neighbour.addr, 1, 1, nil))
	return newPath(w, neighbour).passes(frame)
}

// addresses are those of an interface, sorted.
func addresses(out string) []string {
	var all []string
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "inet "); ok {
			all = append(all, strings.Fields(rest)[0])
		}
	}
	slices.Sort(all)
	return all
}

// routes are sorted, and without blanks at their ends.
func routes(out string) string {
	var all []string
	for line := range strings.Lines(out) {
		all = append(all, strings.TrimSpace(line))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}
