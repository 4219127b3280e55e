package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
)

// The life of a network, as its administrator sees it.
func TestLifeOfANetwork(t *testing.T) {
	s := newSession(t)
	s.run("networks")
	s.run("networks", "-o", "json")
	s.run("reservations")
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("networks")
	s.run("reserve", "flat", "--workload", "default/db-0", "--ip", "10.0.0.20", "--mac", "02:00:00:00:00:20", "--hostname", "db")
	s.run("reserve", "flat", "--workload", "default/db-1")
	s.run("reserve", "flat", "--workload", "vm7", "--ifname", "net1")
	s.run("reserve", "flat", "--workload", "default/mac:FA-16-3E-AA-00-01")
	s.attach("flat", pod("default", "web-0"), dead("4f3c2b1a09876543210fedcba9876543"))
	s.run("reservations")
	s.run("reservations", "flat", "-o", "json")
	s.run("networks", "-o", "json")

	s.node.report = attach.Report{Workloads: 1, Chains: []string{"chain FLAT-WL-0123456789abcdef: 1 rule less"},
		Guard: []string{"port fdp0123456789ab is closed"}, Cut: 2}
	s.run("apply", s.file("flat", "10.0.0.0/24", `"allowSameNetTraffic": false, "ingress": [{"protocol": "icmp"}],`))
	s.node.report = attach.Report{Workloads: 1}
	s.run("apply", filepath.Join(s.dir, "flat.conflist"))
	s.node.report.Chains = []string{"chain FLAT-WL-0123456789abcdef: 1 rule more"}
	s.run("apply", s.file("flat", "10.0.0.0/24", ""), "-o", "json")
	s.run("networks")

	s.run("check")
	s.run("network", "rm", "flat")
	s.run("release", "default/web-0")
	s.run("release", "10.0.0.20", "-o", "json")
	s.run("network", "rm", "flat")
	s.run("networks")
	s.run("check")
	s.golden("life.txt")
	want := []string{"apply flat", "apply flat", "apply flat", "apply flat", "delete 4f3c2b1a09876543210fedcba9876543 eth0", "remove flat"}
	if diff := cmp.Diff(want, s.node.did); diff != "" {
		t.Errorf("what the node was told (-want +got):\n%s", diff)
	}
}

func TestUsage(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"foo", "aply", "--colour networks", "networks extra", "networks -o yaml", "networks -o dnsmasq", "network", "network remove flat",
		"network rm", "apply", "apply a b", "reservations a b", "reserve", "reserve flat", "release", "rules", "rules a b", "reserve flat --workload default/",
		"reserve flat --workload a/b/c", "reserve flat --workload d/w --ip ten", "reserve flat --workload d/w --ip fd00::1",
		"reserve flat --workload d/w --mac x", "reserve flat --workload d/mac:x", "import", "export", "export flat x", "import --from kea f", "import --from dnsmasq", "leases a b", "leases -o dnsmasq", "events x", "reserve flat --workload d/w --ifname a/b",
	} {
		if code, _ := s.run(strings.Fields(line)...); code != exitUsage {
			t.Errorf("%s: exit %d", line, code)
		}
	}
	if code, _ := s.run("reservations", ""); code != exitFailed {
		t.Errorf("exit %d", code)
	}
	if code, _ := s.run("rules", ""); code != exitUsage {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(s.data()); !os.IsNotExist(err) {
		t.Errorf("a usage error made the data directory: %v", err)
	}
	s.golden("usage.txt")
}

// An uplink's card is given back by name of the network: testdata/uplink.txt.
func TestUplinkRestore(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("uplink", "restore", "flat")
	s.node.side.Changes = []string{"uplink eth2 is a port of bridge br100 now, which has taken over 172.30.0.5/24"}
	s.run("apply", s.file("flat", "10.0.0.0/24", `"flatInterface": "eth2",`))
	s.run("uplink", "restore", "flat")
	s.run("uplink", "restore", "flat", "-o", "json")
	s.run("uplink", "restore", "flt")
	s.run("uplink", "restore")
	s.run("uplink", "take", "flat")
	s.run("uplink")
	s.run("uplink", "restore", "--help")
	s.golden("uplink.txt")
}

func TestRefusals(t *testing.T) {
	s := newSession(t)
	fails := func(args ...string) {
		t.Helper()
		if code, _ := s.run(args...); code != exitFailed {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	fails("reservations", "flat")
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	row := s.attach("flat", pod("default", "web-0"), s.alive("c1"))
	fails("reservations", "flat2")
	fails("network", "rm", "flat2")
	fails("network", "rm", "flat")
	fails("reserve", "flt", "--workload", "default/x")
	fails("reserve", "flat", "--workload", "default/x", "--ip", "10.0.0.1")
	fails("reserve", "flat", "--workload", "default/x", "--ip", "10.0.0.2")
	fails("reserve", "flat", "--workload", "default/x", "--ip", "192.0.2.1")
	fails("reserve", "flat", "--workload", "default/x", "--mac", row.MAC.String())
	fails("reserve", "flat", "--workload", "default/x", "--hostname", "a_b")
	fails("release", "default/web-0")
	fails("release", "default/nobody")
	fails("release", "10.0.0.77")
	fails("release", "172.16.0.1")

	fails("apply", filepath.Join(s.dir, "none.conflist"))
	fails("apply", s.file("bad", "10.1.0.0/24", `"isGatway": true,`))
	fails("apply", s.file("later", "10.1.0.0/24", `"annotations": ["groups"],`))
	fails("apply", s.file("overlap", "10.0.0.128/25", ""))
	fails("apply", s.file("flat", "10.9.0.0/24", "")) // strands
	s.node.err = errors.New("iptables is missing")
	fails("apply", s.file("flat", "10.0.0.0/24", `"published": false,`))
	s.node.missing = errors.New("no boot ID")
	fails("apply", s.file("flat", "10.0.0.0/24", ""))
	s.golden("refusals.txt")
}

// A refused change leaves the record as it was.
func TestApplyRefusedChangesNothing(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.attach("flat", pod("default", "web-0"), s.alive("c1"))
	before, err := s.stores().Store("flat").Ident()
	if err != nil {
		t.Fatal(err)
	}
	s.run("apply", s.file("flat", "10.9.0.0/24", ""))
	s.run("apply", s.file("flat", "10.0.0.0/24", `"mtu": 1,`))
	after, err := s.stores().Store("flat").Ident()
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("the store changed: %+v, %+v", before, after)
	}
	if diff := cmp.Diff([]string{"apply flat"}, s.node.did); diff != "" {
		t.Error(diff)
	}
}

func TestApplyFromStandardInputAndOfFlatIPAM(t *testing.T) {
	s := newSession(t)
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth1",
		"ipam": {"type": "flat-ipam", "subnet": "10.3.0.0/16", "dataDir": %q}}`, s.data())
	if code, _ := s.runWith(text, "apply", "-"); code != exitDone {
		t.Errorf("exit %d", code)
	}
	if len(s.node.did) != 0 {
		t.Errorf("the node was told %v of a network without a bridge of ours", s.node.did)
	}
	// --data-dir and a file that says otherwise contradict each other.
	if code, _ := s.runWith(text, "apply", "-", "--data-dir", s.dir); code != exitUsage {
		t.Errorf("exit %d", code)
	}
	if code, _ := s.runWith(text, "apply", "-", "--data-dir", s.data()); code != exitDone {
		t.Errorf("exit %d", code)
	}
	s.run("networks")
	s.golden("stdin.txt")
}

func TestCheckFindsDefects(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("apply", s.file("storage", "10.5.0.0/24", ""))
	s.text.Reset()
	if err := os.WriteFile(filepath.Join(s.data(), "flat.db"), []byte("not a store"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check"}, {"check", "flat"}, {"check", "-o", "json"}, {"check", "flat", "storage"}} {
		if code, _ := s.run(args...); code != exitDefects {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	if code, _ := s.run("check", "storage"); code != exitDone {
		t.Errorf("exit %d", code)
	}
	if code, _ := s.run("check", "none"); code != exitFailed {
		t.Errorf("exit %d", code)
	}
	// The others are listed even so.
	if code, out := s.run("networks"); code != exitFailed || !strings.Contains(out, "10.5.0.0/24") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out := s.run("networks", "-o", "json"); code != exitFailed || !strings.Contains(out, "10.5.0.0/24") {
		t.Errorf("exit %d: %s", code, out)
	}
	s.golden("check.txt")
}

func TestCompletion(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("apply", s.file("storage", "10.5.0.0/24", ""))
	s.attach("flat", pod("default", "web-0"), dead("c1"))
	for _, tc := range []struct{ line, want string }{
		{"reservations ", "flat storage :4"},
		{"reservations st", "storage :4"},
		{"reservations flat ", ":4"},
		{"check flat ", "storage :4"},
		{"network rm f", "flat :4"},
		{"reserve ", "--workload flat storage :4"},
		{"rules def", "default/web-0 :4"},
		{"release ", "default/web-0 10.0.0.2 :4"},
		{"networks ", ":4"},
		{"networks -o ", "table json :4"},
		{"reservations -o ", "table json dnsmasq :4"}, {"import --from ", "node dnsmasq :4"},
		{"apply ", "conflist conf json :8"},
		{"reserve flat --workload ", "default/web-0 :4"},
		{"reserve storage --workload ", ":4"},
		{"config ", "validate :4"},
		{"config validate a.conflist ", "conflist conf json :8"},
		{"install-plugins ", ":16"},
		{"install-plugins --from ", ":16"},
	} {
		words := strings.Split(tc.line, " ")
		_, out := s.run(append([]string{"__complete"}, words...)...)
		var got []string
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			got = append(got, word)
		}
		if g := strings.Join(got, " "); g != tc.want {
			t.Errorf("%q: got %q, want %q", tc.line, g, tc.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out := s.run("completion", shell); code != exitDone || len(out) < 100 {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, len(out))
		}
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{"--help", "apply --help", "reserve --help", "release --help", "rules --help", "--version"} {
		s.run(strings.Fields(line)...)
	}
	s.golden("help.txt")
}

func TestChangesNamesKeysAsTheConflistDoes(t *testing.T) {
	off := false
	a := ipam.Network{Name: "n", Pool: ipam.Pool{Subnet: netip.MustParsePrefix("10.0.0.0/24"), MACPrefix: ipam.DefaultMACPrefix}, Bridge: &ipam.Bridge{Name: "br0"}}
	b := a
	b.Pool.MACPrefix, b.Pool.Domain = ipam.MACPrefix{2, 0, 0}, "x"
	b.Bridge = &ipam.Bridge{Name: "br1", IsDefaultGateway: &off}
	got := changes(a, b)
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", c.Key, orAbsent(c.From), orAbsent(c.To)))
	}
	want := []string{`bridge: "br0" -> "br1"`, `ipam.domain: "" -> "x"`, `isDefaultGateway: (none) -> false`, `macPrefix: "fa:16:3e" -> "02:00:00"`}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}
