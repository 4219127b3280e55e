package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
)

// An allowed address moves between workloads, as VRRP's do: neighbours reach it as the
// network's toggle says, wherever it is, and nobody whom it is not allowed has it. One on
// request is the workload's that asked for it alone.
func TestAllowedAddressMovesBetweenWorkloads(t *testing.T) {
	shared, requested := netip.MustParseAddr("10.0.0.200"), netip.MustParseAddr("10.0.0.201")
	n := newNode(t, keys{"allowSameNetTraffic": true, "allowedAddresses": []keys{{"ip": "10.0.0.200"}, {"ip": "10.0.0.201", "onRequest": true},
		{"ip": "10.0.0.202", "mac": "00:00:5e:00:01:07"}, {"ip": "10.0.0.202"}}})
	n.attach("first", lab.CNIOptions{}).detach()
	fresh := n.state()
	one := n.attach("one", lab.CNIOptions{Args: "ALLOWED_ADDRESSES=10.0.0.201"})
	two, client := n.attach("two", lab.CNIOptions{}), n.attach("client", lab.CNIOptions{})
	has := func(w *workload, addr netip.Addr) {
		t.Helper()
		if err := w.exec("ip", "address", "add", addr.String()+"/24", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	loses := func(w *workload, addr netip.Addr) {
		t.Helper()
		if err := w.exec("ip", "address", "del", addr.String()+"/24", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
		if err := client.exec("ip", "neigh", "flush", "all"); err != nil {
			t.Fatal(err)
		}
	}
	reaches := func(addr netip.Addr) bool { return answered(n, client.exec, addr) }
	chain := filter.ChainName(network, "allowed address", shared.String())

	before := n.ruleCount(chain, "-s 10.0.0.0/24 -j ACCEPT")
	for _, w := range []*workload{one, two} {
		has(w, shared)
		if !reaches(shared) {
			t.Errorf("%s is not reached at %s", w.addr, shared)
		}
		w.checked()
		loses(w, shared)
	}
	if got := n.ruleCount(chain, "-s 10.0.0.0/24 -j ACCEPT") - before; got < 2 {
		t.Errorf("the chain of %s has let %d packets by", shared, got)
	}

	// A virtual router: the address is at a MAC that the bridge has not learned, for it does
	// not learn.
	router := netip.MustParseAddr("10.0.0.202")
	for _, command := range []string{"link add link eth0 name vrrp address 00:00:5e:00:01:07 type macvlan mode bridge", "address add 10.0.0.202/32 dev vrrp", "link set vrrp up"} {
		if err := one.exec(append([]string{"ip"}, strings.Fields(command)...)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.exec("sysctl", "-q", "-w", "net.ipv4.conf.eth0.arp_ignore=1"); err != nil { // the other interface answers
		t.Fatal(err)
	}
	if !reaches(router) {
		t.Errorf("the virtual router is not reached at %s", router)
	}
	out, _, err := client.Run(n.within(), "ip", "neigh", "show", router.String())
	if err != nil || !strings.Contains(out, "00:00:5e:00:01:07") {
		t.Errorf("the client knows the virtual router as %q, %v", out, err)
	}

	has(one, requested)
	if !reaches(requested) {
		t.Errorf("who asked for %s is not reached at it", requested)
	}
	loses(one, requested)
	has(two, requested)
	c := n.guardCount("in_arp")
	if err := client.exec("ping", "-c", "1", "-W", "1", requested.String()); err == nil {
		t.Errorf("who did not ask for %s is reached at it", requested)
	}
	if n.guardCount("in_arp") == c {
		t.Error("the guard counted no ARP of who did not ask")
	}
	loses(two, requested)

	n.apply(keys{"allowSameNetTraffic": false})
	has(two, shared)
	tap := path{n: n, from: client.tap(), to: two.tap()}
	tap.marker, _ = lab.Marker(client.endpoint(), two.endpoint())
	fallback := cause{
		name:    chain + " -j FLAT-DROP",
		count:   func() int { return n.ruleCount(chain, "-j FLAT-DROP") },
		remove:  func() { n.run("iptables", "-D", chain, "-j", "FLAT-DROP") },
		restore: func() { n.run("iptables", "-A", chain, "-j", "FLAT-DROP") },
	}
	tap.mustDrop("an echo request to an allowed address, with the toggle off,", func(try uint16) []byte {
		return lab.Ethernet(two.mac, client.mac, 0x0800, lab.Echo(client.addr, shared, try, 1, nil))
	}, fallback)
	if !answered(n, n.exec, shared) {
		t.Error("the gateway does not reach the allowed address with the toggle off")
	}

	n.apply(keys{"allowSameNetTraffic": true})
	for _, w := range []*workload{one, two, client} {
		w.detach()
	}
	n.run("conntrack", "-F") // what is begun with a shared address does not end with one who may have it
	n.unchanged(fresh, "workloads with allowed addresses")

	// Off the list it is nobody's, at once, and its chain is gone.
	two, client = n.attach("two-again", lab.CNIOptions{}), n.attach("client-again", lab.CNIOptions{})
	has(two, shared)
	if !reaches(shared) {
		t.Errorf("the control: %s is not reached at %s", two.addr, shared)
	}
	n.apply(keys{"allowedAddresses": []keys{{"ip": "10.0.0.201", "onRequest": true}}})
	c = n.guardCount("in_ipv4") + n.guardCount("in_arp")
	_ = two.exec("ping", "-c", "1", "-W", "1", "-I", shared.String(), client.addr.String()) // what it says does not matter
	if n.guardCount("in_ipv4")+n.guardCount("in_arp") == c {
		t.Error("the guard counted nothing from an address that is off the list")
	}
	if err := n.exec("iptables", "-S", chain); err == nil {
		t.Error("the chain of an address that is off the list is there")
	}
}
