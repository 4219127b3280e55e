package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// A pod is not given the MAC by which its node's workloads know the gateway beyond the
// uplink, or by which the node knows its router: pinned to the pod's port it would cut them
// off. It gets any other.
func TestMACsOfHostsBeyondTheUplinkAreNoPods(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.1")
	asks := func(mac string) lab.CNIOptions {
		return pod("evil", "mallory", map[string]string{"flatdhcp.io/mac": mac})
	}
	for name, tc := range map[string]struct {
		extra   keys
		foreign netip.Addr
		needs   func(n *node, victim *workload) func(...string) error // who needs the foreign host
	}{
		"a gateway's": {keys{}, gateway, func(_ *node, victim *workload) func(...string) error { return victim.exec }},
		"a router's":  {keys{"isGateway": true, "moveAddresses": true}, router, func(n *node, _ *workload) func(...string) error { return n.exec }},
	} {
		t.Run(name, func(t *testing.T) {
			tc.extra["capabilities"] = keys{podAnnotations: true}
			n, stranger := withStranger(t, tc.extra, tc.foreign.String())
			n.run("ip", "address", "flush", "dev", "eth2")
			if tc.foreign == router {
				n.run("ip", "address", "add", "192.0.2.5/24", "dev", "eth2")
			}
			reaches := tc.needs(n, n.attach("victim", lab.CNIOptions{}))
			if !answered(n, reaches, tc.foreign) {
				t.Fatalf("%s is not reached", tc.foreign)
			}
			thief := n.container("thief")
			before := n.state()
			mac := strings.Fields(stranger.run("ip", "-br", "link", "show", "eth2"))[2]
			_, err := n.tryAttach(thief, asks(mac))
			if err == nil || !strings.Contains(err.Error(), "MAC "+mac+": "+tc.foreign.String()+" beyond uplink eth2 has it") {
				t.Errorf("an ADD that asks for %s of %s: %v", mac, tc.foreign, err)
			}
			n.unchanged(before, "an ADD that was refused")
			if !answered(n, reaches, tc.foreign) {
				t.Errorf("%s is not reached any more", tc.foreign)
			}
			const other = "02:00:00:00:00:66"
			if w, err := n.tryAttach(thief, asks(other)); err != nil || w.mac.String() != other {
				t.Errorf("an ADD that asks for nobody's MAC: %v", err)
			}
		})
	}
}

// A network that has workloads gets an uplink: nobody beyond it poses as one of them, also if
// whoever applies that dies the moment that the card is a port.
func TestLivingWorkloadsAreGuardedBeforeTheUplinkJoins(t *testing.T) {
	n, _ := withStranger(t, keys{"isGateway": true})
	delete(n.extra, "flatInterface")
	n.configure(nil)
	w := n.attach("w", lab.CNIOptions{})
	n.configure(keys{"flatInterface": "eth2"})
	for _, when := range []string{"before", "after"} {
		if err := n.exec("env", "FLATDHCP_FAULT=UPLINK/eth2: join bridge br100/"+when+"/kill", "flatctl", "apply", lab.ConflistPath(network)); err == nil {
			t.Fatalf("flatctl apply was not killed %s it put the card into the bridge: %s", when, n.link("eth2"))
		}
		if joined := strings.Contains(n.link("eth2"), "master br100"); joined != (when == "after") {
			t.Fatalf("killed %s it put the card into the bridge: %s", when, n.link("eth2"))
		}
		for set, own := range map[string]string{"uplink_macs": w.mac.String(), "uplink_sources": w.addr.String()} {
			if out := n.run("nft", "list", "set", "bridge", "flatdhcp", set); !strings.Contains(out, `"eth2" . `+own) {
				t.Errorf("killed %s the card joined, set %s lacks %s: %s", when, set, own, out)
			}
		}
	}
}
