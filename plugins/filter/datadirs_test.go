package filter

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Two data directories on one node do not know each other's networks. Each puts the other's
// lines where the other would, so that neither writes the shared chains anew when a
// workload comes.
func TestTwoDataDirectoriesAgreeOnTheOrderOfSharedChains(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		input := ""
		table := k.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
			input += string(stdin)
			return k.exec(ctx, path, args, stdin)
		})
		extra := ingress(ipam.Rule{Protocol: "tcp", Ports: ports(22, 0)})
		a := network("a", "10.0.0.0/24", "br0", ipMasq, deny(ipam.Rule{Protocol: "icmp"}, ipam.Rule{Protocol: "udp"}))
		b := network("b", "10.0.1.0/24", "br1", ipMasq, deny(ipam.Rule{Protocol: "icmp"}), extra)
		c := network("c", "10.0.2.0/24", "br2", ipMasq, deny(ipam.Rule{Protocol: "icmp"}))
		outer, inner := networksOf(a, c), networksOf(b)
		writes := func(networks Networks, n ipam.Network, addr string) bool {
			t.Helper()
			input = ""
			k.attach(table, networks, n, row(addr))
			return slices.ContainsFunc(baseNames(), func(chain string) bool { return strings.Contains(input, "\n-A "+chain+" ") })
		}
		for _, first := range []bool{true, false, false} {
			for _, w := range []struct {
				networks Networks
				n        ipam.Network
				addr     string
			}{{outer, a, "10.0.0.2"}, {inner, b, "10.0.1.2"}, {outer, c, "10.0.2.2"}} {
				// A directory's first workload is the control.
				if got, want := writes(w.networks, w.n, w.addr), first && w.n.Name != "c"; got != want {
					t.Errorf("a workload on %s, the first of its directory %t, writes the shared chains %t:\n%s", w.n.Name, want, got, input)
				}
			}
		}
		k.holds(Held{a, rowsOf("10.0.0.2")}, Held{b, rowsOf("10.0.1.2")}, Held{c, rowsOf("10.0.2.2")})
	})
}
