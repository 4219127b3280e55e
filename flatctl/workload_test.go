package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

func TestWorkloadArguments(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("apply", s.file("storage", "10.5.0.0/24", ""))
	s.attach("flat", pod("default", "web-0"), dead("aa11"))
	two := pod("default", "web-0")
	two.IfName = "net1"
	s.attach("storage", two, dead("aa11"))
	s.attach("flat", pod("prod", "web-0"), dead("aa22"))
	s.attach("flat", ipam.Workload{Kind: ipam.KindName, Value: "podman1", IfName: "eth0"}, dead("bb33"))
	s.attach("flat", ipam.Workload{Namespace: "kubevirt", Kind: ipam.KindMAC, Value: "02:00:00:00:00:07", IfName: "eth0"}, dead("cc44"))
	s.text.Reset()
	for _, tc := range []struct{ arg, want string }{
		{"10.0.0.2", "10.0.0.2"},
		{"prod/web-0", "10.0.0.3"},
		{"default/pod:web-0/net1", "10.5.0.2"},
		{"aa2", "10.0.0.3"},
		{"bb33", "10.0.0.4"},
		{"podman1", "10.0.0.4"},
		{"/podman1", "10.0.0.4"},
		{"kubevirt/02:00:00:00:00:07", "10.0.0.5"},
		{"kubevirt/mac:02:00:00:00:00:07", "10.0.0.5"},
		{"default/web-0", ""}, // two interfaces
		{"aa", ""},
		{"zz", ""},
		{"10.0.0.9", ""},
		{"web-0", ""},
	} {
		code, out := s.run("rules", tc.arg)
		if tc.want == "" {
			if code != exitFailed {
				t.Errorf("%s: exit %d", tc.arg, code)
			}
			continue
		}
		if code != exitDone || !strings.Contains(out, "address "+tc.want+",") {
			t.Errorf("%s: exit %d, %s", tc.arg, code, out)
		}
	}
	// Only the errors are of interest here.
	var errs strings.Builder
	for block := range strings.SplitSeq(s.text.String(), "$ flatctl ") {
		if strings.Contains(block, "[exit") {
			errs.WriteString("$ flatctl " + block)
		}
	}
	s.text.Reset() // a Builder must not be copied: it points to itself
	s.text.WriteString(errs.String())
	s.golden("ambiguous.txt")
}

// The plan's own text is the filter package's to test.
func TestRules(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", `"allowSameNetTraffic": false, "ingress": [{"protocol": "tcp", "ports": "80"}],`))
	s.run("reserve", "flat", "--workload", "default/later")
	row := s.attach("flat", pod("default", "web-0"), dead("c1"))
	s.attach("flat", pod("default", "other"), s.alive("c2"))
	networks, err := s.stores().Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := filter.WorkloadChain(networks[0], row)
	specs := strings.Split(strings.TrimSpace(plan.String()), "\n")
	contains := func(out string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("no %q in\n%s", part, out)
			}
		}
	}

	_, out := s.run("rules", "default/web-0")
	contains(out, "workload default/pod:web-0/eth0, address 10.0.0.3, network flat\nno counters: not in this test\n",
		"sends only as MAC fa:16:3e:00:00:03, addresses 10.0.0.3,", "allowSameNetTraffic is off",
		"sends at most, in a second: 500 ARP packets, 1000 broadcasts and multicasts, 100 DHCP messages, 2000 DNS queries\n", "port "+link.PortName("c1", "eth0"))

	s.counters.guard = func(context.Context) ([]guard.Counter, error) {
		return []guard.Counter{{Name: "quiet"}, {Name: "spoofed-arp", Packets: 3}, {Name: "in_mac", Packets: 4}}, nil
	}
	s.counters.chain = func(_ context.Context, chain string) ([]filter.RuleCounter, error) {
		if chain != plan.Name {
			t.Errorf("counters of chain %s", chain)
		}
		var out []filter.RuleCounter
		for i, spec := range specs {
			out = append(out, filter.RuleCounter{Packets: uint64(i), Bytes: uint64(100 * i), Rule: spec})
		}
		return out, nil
	}
	_, out = s.run("rules", "default/web-0")
	for i, r := range plan.Rules {
		contains(out, fmt.Sprintf("\n  # %s [%d packets, %d bytes]\n  %s\n", r.Why, i, 100*i, strings.TrimPrefix(specs[i], "-A "+plan.Name+" ")))
	}
	contains(out, "dropped so far, all ports of the node: spoofed-arp 3\n", // of another version
		"dropped so far, all ports of the node: in_mac 4 (the source MAC is not the port's)\n")
	if strings.Contains(out, "quiet") || strings.Contains(out, "no counters") {
		t.Errorf("got\n%s", out)
	}
	_, out = s.run("rules", "default/web-0", "-o", "json")
	var info rulesInfo
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Rules) != len(specs) || info.Rules[2].Rule != specs[2] || info.Rules[2].Packets == nil || *info.Rules[2].Packets != 2 ||
		!info.Guard.Closed || info.Guard.Limits.DNS != 2000 || info.Guard.Dropped["spoofed-arp"] != 3 || info.Live != "" {
		t.Errorf("got %s", out)
	}

	whole := s.counters.chain
	s.counters.chain = func(ctx context.Context, chain string) ([]filter.RuleCounter, error) {
		all, err := whole(ctx, chain)
		return all[1:], err
	}
	_, out = s.run("rules", "10.0.0.3")
	contains(out, fmt.Sprintf("the chain in the kernel is not the planned one (%d rules, %d planned): `flatctl apply` puts it right\n", len(specs)-1, len(specs)))

	unfiltered, bridge := networks[0], *networks[0].Bridge
	bridge.Filter = ipam.FilterNone
	unfiltered.Bridge = &bridge
	text := rulesOf(t.Context(), found{Network: unfiltered, Reservation: row}, s.counters).String()
	contains(text, "network flat is unfiltered (filter: none): no chain judges", "What its port may send and get", "spoofed-arp 3")
	if strings.Contains(text, plan.Name) {
		t.Errorf("got\n%s", text)
	}

	s.text.Reset()
	s.run("rules", "default/later")
	s.run("rules", "default/other")
	s.golden("norules.txt")
}

func TestRelease(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.text.Reset()
	s.attach("flat", pod("default", "web-0"), dead("c1"))
	s.run("release", "c1") // its DEL never came
	s.attach("flat", pod("default", "web-1"), dead("c2"))
	if _, _, err := s.stores().Store("flat").Release(t.Context(), "c2", "eth0"); err != nil {
		t.Fatal(err)
	}
	s.run("release", "default/web-1") // no row any more
	s.run("release", "10.0.0.3")      // but a claim
	s.run("release", "10.0.0.3")
	// An administrator's reservation whose container died is given up as well.
	s.run("reserve", "flat", "--workload", "default/db-0", "--ip", "10.0.0.20")
	s.attach("flat", pod("default", "db-0"), dead("c3"))
	s.run("release", "default/db-0")
	s.run("reservations")
	s.run("networks")
	s.golden("release.txt")
	if diff := cmp.Diff([]string{"apply flat", "delete c1 eth0", "delete c3 eth0"}, s.node.did); diff != "" {
		t.Error(diff)
	}
}

// What a workload may use besides its own is shown with what reaches it.
func TestAllowedAddressesAreShown(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", `"allowedAddresses": [{"ip": "10.0.0.200"}, {"mac": "52:54:00:00:00:01"},
		{"ip": "10.0.0.201", "mac": "00:00:5e:00:01:07", "onRequest": true}],`))
	s.attach("flat", pod("default", "web-0"), dead("c1"))
	if _, out := s.run("reservations"); strings.Contains(out, "MAY USE") {
		t.Errorf("a column that nobody needs:\n%s", out)
	}
	h := dead("c2")
	h.IfName = "eth0"
	_, err := s.stores().Store("flat").Reserve(t.Context(), nil, ipam.Request{Workload: pod("default", "router"), Holder: h,
		AllowedAddresses: []ipam.AllowedAddress{{Addr: netip.MustParseAddr("10.0.0.201"), MAC: ipam.MAC{0, 0, 0x5e, 0, 1, 7}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, out := s.run("reservations"); !strings.Contains(out, "MAY USE") || !strings.Contains(out, "10.0.0.201/00:00:5e:00:01:07") {
		t.Errorf("reservations:\n%s", out)
	}
	chain := func(addr string) string {
		return filter.ChainName("flat", "allowed address", addr)
	}
	everybody := "  may have 10.0.0.200 as well, which is reached as chain " + chain("10.0.0.200") + " says\n" +
		"  may send its own addresses with MAC 52:54:00:00:00:01 as well\n"
	requested := "  may have 10.0.0.201 with MAC 00:00:5e:00:01:07 as well, which is reached as chain " + chain("10.0.0.201") + " says\n"
	if _, out := s.run("rules", "default/web-0"); !strings.Contains(out, everybody) || strings.Contains(out, requested) {
		t.Errorf("rules of who asked for nothing:\n%s", out)
	}
	if _, out := s.run("rules", "default/router"); !strings.Contains(out, everybody+requested) {
		t.Errorf("rules of who asked:\n%s", out)
	}
	_, out := s.run("rules", "default/router", "-o", "json")
	var info rulesInfo
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Guard.Allowed) != 3 || info.Guard.Allowed[2].Chain != chain("10.0.0.201") || info.Guard.Allowed[2].MAC.String() != "00:00:5e:00:01:07" {
		t.Errorf("got %s", out)
	}
}
