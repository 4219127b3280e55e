package conf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/plugins/conf/dropin"
)

// What published conflists come to mean with only their types changed: every key in
// them, and the keys of ours that are not at their default. Or why they are refused.
var published = map[string]struct{ means, err string }{
	"cni-10-mynet.conf":      {err: `1: key cniVersion with value "0.2.0": 0.3.1, 0.4.0, 1.0.0, 1.1.0 are served`},
	"cni.dev-bridge.conf":    {means: "bridge mynet0, isDefaultGateway, hairpinMode, subnet 10.10.0.0/16"},
	"cni.dev-bridge-l2.conf": {err: `7: line 6: key ipam.type is missing: "flat-ipam" is wanted, with a subnet: chains, guard and DHCP are made from its reservations`},
	"cni.dev-host-local.conf": {
		err: `7: line 8: key ipam.ranges[1] with value [{"subnet":"2001:db8:1::/64"}]: a second range set is not supported, nor is IPv6: one network has one IPv4 subnet`},
	"containerd-10-containerd-net.conflist": {
		err: `7: line 15: key ipam.ranges[1] with value [{"subnet":"2001:4860:4860::/64"}]: a second range set is not supported, nor is IPv6: one network has one IPv4 subnet`},
	"crio-10-crio-bridge.conflist": {
		err: `7: line 19: key ipam.ranges[1] with value [{"subnet":"1100:200::/24"}]: a second range set is not supported, nor is IPv6: one network has one IPv4 subnet`},
	"crio-11-crio-ipv4-bridge.conflist": {means: "bridge cni0, hairpinMode, subnet 10.85.0.0/16, route 0.0.0.0/0"},
	"ignite-10-ignite.conflist": {means: "bridge ignite0, isDefaultGateway, subnet 10.61.0.0/16\n" +
		"key promiscMode with value true has no effect: hairpinMode is what lets a workload reach itself"},
	"kubernetes-10-bridge.conf":        {means: "bridge cni0, subnet 10.200.0.0/24, route 0.0.0.0/0"},
	"nerdctl-bridge.conflist":          {means: "bridge nerdctl0, hairpinMode, subnet 10.4.0.0/24, route 0.0.0.0/0"},
	"podman-87-podman-bridge.conflist": {means: "bridge cni0, subnet 10.88.0.0/16, route 0.0.0.0/0"},
}

func TestPublishedConflistsWithOnlyTheTypesChanged(t *testing.T) {
	lists, err := dropin.All()
	if err != nil {
		t.Fatal(err)
	}
	if len(lists) != len(published) {
		t.Errorf("%d files, %d expectations", len(lists), len(published))
	}
	for _, l := range lists {
		t.Run(l.Name, func(t *testing.T) {
			want, ok := published[l.Name]
			if !ok {
				t.Fatal("nobody says what it means")
			}
			if changed := bytes.Count(l.Converted(), []byte(`"flat-`)); changed == 0 || changed > 2 {
				t.Fatalf("%d types are changed", changed)
			}
			c, err := ParseList(l.Converted())
			if want.err != "" {
				if err == nil || cniText(t, err) != want.err {
					t.Errorf("got  %v\nwant %s", err, want.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := meaning(t, c); got != want.means {
				t.Errorf("it means\n%s\nwant\n%s", got, want.means)
			}
			unmentioned(t, l, c)
		})
	}
}

// meaning tells a network as far as it is not the default one.
func meaning(t *testing.T, c *Config) string {
	t.Helper()
	n, b := c.Network, *c.Network.Bridge
	said := []string{"bridge " + b.Name}
	if !b.IsGateway || !b.IPMasq {
		said = append(said, fmt.Sprintf("isGateway %t, ipMasq %t", b.IsGateway, b.IPMasq))
	}
	if b.IsDefaultGateway != nil {
		said = append(said, map[bool]string{true: "isDefaultGateway", false: "no default gateway"}[*b.IsDefaultGateway])
	}
	if b.HairpinMode {
		said = append(said, "hairpinMode")
	}
	said = append(said, "subnet "+n.Pool.Subnet.String())
	if first := n.Pool.Subnet.Addr().Next(); n.Pool.Gateway != first || n.Pool.RangeStart != first || n.Pool.RangeEnd != broadcast(n.Pool.Subnet).Prev() {
		said = append(said, fmt.Sprintf("gateway %s, %s to %s", n.Pool.Gateway, n.Pool.RangeStart, n.Pool.RangeEnd))
	}
	for _, r := range n.Pool.Routes {
		said = append(said, "route "+r.Dst.String())
	}
	// The rest is as if nothing had been said.
	plain, err := Parse(with(map[string]any{"name": n.Name, "ipam.subnet": n.Pool.Subnet.String()}), FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	rest := plain.Network
	rest.Pool.Routes, rest.Pool.Gateway, rest.Pool.RangeStart, rest.Pool.RangeEnd = n.Pool.Routes, n.Pool.Gateway, n.Pool.RangeStart, n.Pool.RangeEnd
	rest.Bridge.Name, rest.Bridge.IsGateway, rest.Bridge.IPMasq = b.Name, b.IsGateway, b.IPMasq
	rest.Bridge.IsDefaultGateway, rest.Bridge.HairpinMode = b.IsDefaultGateway, b.HairpinMode
	if diff := cmp.Diff(indented(t, rest), indented(t, n)); diff != "" || c.DataDir != DefaultDataDir {
		t.Errorf("it also means (-default +got):\n%s%s", diff, c.DataDir)
	}
	return strings.Join(append([]string{strings.Join(said, ", ")}, c.Notices...), "\n")
}

// unmentioned fails for a key of the list's entry that meaning does not tell of. The
// value of each was compared there: with what is told, or with the default it equals.
func unmentioned(t *testing.T, l dropin.List, c *Config) {
	t.Helper()
	root, err := decode(l.Text)
	if err != nil {
		t.Fatal(err)
	}
	entry := root
	if items, err := root.list("plugins", "plugins"); err == nil && len(items) > 0 {
		if entry, err = asObject(items[0].path, items[0].raw); err != nil {
			t.Fatal(err)
		}
	}
	for key, raw := range entry.fields {
		b := c.Network.Bridge
		var now any
		switch key {
		case "cniVersion", "name", "type", "ipam":
			continue
		case "bridge":
			now = b.Name
		case "isGateway":
			now = b.IsGateway
		case "isDefaultGateway":
			now = b.IsDefaultGateway
		case "ipMasq":
			now = b.IPMasq
		case "hairpinMode":
			now = b.HairpinMode
		case "forceAddress":
			now = false
		case "promiscMode":
			now = strings.Contains(strings.Join(c.Notices, "\n"), "key promiscMode with value true")
		default:
			t.Errorf("nobody looks at key %s", key)
		}
		if text, err := json.Marshal(now); err != nil || string(text) != string(raw) {
			t.Errorf("key %s with value %s has become %s (%v)", key, raw, text, err)
		}
	}
}
