package e2e

import (
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// The gateway address that is new on a bridge is announced: workloads, and hosts behind an
// uplink, may remember another MAC for it.
func TestGatewayIsAnnouncedWhenItAppears(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	w := n.attach("w", lab.CNIOptions{})
	remembered := func() string {
		out, _, err := w.Run(n.within(), "ip", "neighbour", "show", gateway.String())
		if err != nil {
			t.Fatal(err)
		}
		return word(out, "lladdr")
	}
	const another = "02:00:00:00:00:01"
	own := word(n.run("ip", "link", "show", "dev", "br100"), "link/ether")
	for _, by := range []struct {
		name string
		do   func()
	}{
		{"an ADD", func() { n.attach("other", lab.CNIOptions{}) }},
		{"the daemon", func() { n.daemon("--conf-dir", "/etc/cni/net.d") }},
	} {
		n.run("ip", "address", "del", gateway.String()+"/24", "dev", "br100")
		if _, _, err := w.Run(n.within(), "ip", "neighbour", "replace", gateway.String(), "lladdr", another, "nud", "stale", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
		if got := remembered(); got != another {
			t.Fatalf("the control: the workload remembers %q", got)
		}
		by.do()
		n.eventually("word of the gateway by "+by.name, func() bool { return remembered() == own })
	}
}
