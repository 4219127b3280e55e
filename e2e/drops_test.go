package e2e

import (
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// What the guard drops can be seen: by reason in the daemon's metrics and in flatctl
// rules, and in the daemon's log in words. What a guest sends who means no harm is not
// logged.
func TestDropsAreReported(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	daemon := n.daemon("--listen", "127.0.0.1:9100")
	vm, other := n.attach("vm", lab.CNIOptions{}), n.attach("other", lab.CNIOptions{})
	n.serving(daemon)
	p := newPath(vm, other)
	stolen := lab.Endpoint{MAC: vm.mac, Addr: gateway}
	for range 3 {
		if p.passes(lab.ARP(lab.Broadcast, vm.mac, lab.ARPReply, stolen, other.endpoint())) {
			t.Fatal("a stolen address is announced")
		}
		if p.passes(lab.Ethernet(other.mac, vm.mac, 0x86dd, []byte("IPv6 of a guest"))) {
			t.Fatal("IPv6 arrives")
		}
	}
	metrics := n.run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9100/metrics")
	rules := n.run("flatctl", "rules", vm.addr.String())
	for _, c := range []struct{ in, want string }{
		{metrics, `flatdhcp_guard_dropped_total{reason="in_arp"} 3` + "\n"},
		{metrics, `flatdhcp_guard_dropped_total{reason="in_ethertype"} 3` + "\n"},
		{metrics, `flatdhcp_guard_dropped_total{reason="in_mac"} 0` + "\n"},
		{rules, "dropped so far, all ports of the node: in_arp 3 (the ARP sender is not the port's, or it is no plain ARP)"},
	} {
		if !strings.Contains(c.in, c.want) {
			t.Errorf("no %q in\n%s", c.want, c.in)
		}
	}
	line, _, err := daemon.WaitLine(n.within(), 0, "guard dropped ")
	if want := ": 3 in_arp (the ARP sender is not the port's, or it is no plain ARP)"; err != nil || !strings.HasSuffix(line, want) {
		t.Errorf("the log says %q, %v; want %q at its end", line, err, want)
	}
}
