package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// session runs command lines against a data directory of its own and writes down what
// a person would see.
type session struct {
	t        *testing.T
	dir      string // holds data/ and the test's files
	node     *fakeNode
	counters liveCounters
	now      time.Time
	text     strings.Builder
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.node = &fakeNode{session: s}
	s.counters = liveCounters{
		chain: func(context.Context, string) ([]filter.RuleCounter, error) {
			return nil, errors.New("not in this test")
		},
		guard: func(context.Context) ([]guard.Counter, error) { return nil, errors.New("not in this test") },
	}
	return s
}

func (s *session) data() string { return filepath.Join(s.dir, "data") }

// run executes one command line, notes it and returns its exit code and output.
func (s *session) run(args ...string) (int, string) {
	s.t.Helper()
	return s.runWith("", args...)
}

func (s *session) runWith(stdin string, args ...string) (int, string) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	c := &control{
		in: strings.NewReader(stdin), out: &out, errOut: &errOut,
		now:      func() time.Time { return s.now },
		node:     func(string) (node, error) { return s.node, s.node.missing },
		counters: s.counters,
	}
	line := append([]string{}, args...)
	if args[0] != "apply" { // there the file says where the store is
		line = append([]string{"--data-dir", s.data()}, args...)
	}
	code := c.run(line)
	fmt.Fprintf(&s.text, "$ flatctl %s\n%s%s", strings.Join(args, " "), out.String(), errOut.String())
	if code != exitDone {
		fmt.Fprintf(&s.text, "[exit %d]\n", code)
	}
	s.text.WriteString("\n")
	return code, out.String()
}

// golden compares what the session saw with a file of testdata.
func (s *session) golden(file string) {
	s.t.Helper()
	got := strings.ReplaceAll(s.text.String(), s.dir, "DIR")
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		s.t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// file writes a conflist of network name with the keys given, and returns its path.
func (s *session) file(name, subnet, keys string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name+".conflist")
	text := fmt.Sprintf(`{
  "cniVersion": "1.1.0",
  "name": %q,
  "plugins": [
    {
      "type": "flat-bridge",
      "bridge": "br-%s",%s
      "ipam": {"type": "flat-ipam", "subnet": %q, "dataDir": %q}
    }
  ]
}
`, name, name, keys, subnet, s.data())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// attach makes a row that a container holds.
func (s *session) attach(network string, w ipam.Workload, h ipam.Holder) ipam.Reservation {
	s.t.Helper()
	h.IfName = w.IfName
	g, err := s.stores().Store(network).Reserve(s.t.Context(), nil, ipam.Request{Workload: w, Holder: h})
	if err != nil {
		s.t.Fatal(err)
	}
	return g.Reservation
}

func (s *session) stores() *ipam.Dir {
	return ipam.OpenDir(s.data(), ipam.WithClock(func() time.Time { return s.now }))
}

// alive is a holder that the machine proves to live, without a port of ours.
func (s *session) alive(container string) ipam.Holder {
	s.t.Helper()
	boot, err := attach.BootID()
	if err != nil {
		s.t.Fatal(err)
	}
	netns := filepath.Join(s.dir, "netns")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(netns) // any file does: only its inode is looked at
	if err != nil {
		s.t.Fatal(err)
	}
	return ipam.Holder{ContainerID: container, NetNS: netns, NetNSInode: info.Sys().(*syscall.Stat_t).Ino, BootID: boot}
}

// dead is a holder of an earlier boot, with a port.
func dead(container string) ipam.Holder {
	return ipam.Holder{ContainerID: container, NetNS: "/run/netns/x", NetNSInode: 7, BootID: "an earlier boot", Ported: true}
}

func pod(namespace, name string) ipam.Workload {
	return ipam.Workload{Namespace: namespace, Kind: ipam.KindPod, Value: name, IfName: "eth0"}
}

// fakeNode stands for the kernel.
type fakeNode struct {
	session *session
	report  attach.Report
	err     error // of Apply
	missing error // of getting the node at all
	did     []string
}

func (n *fakeNode) Apply(_ context.Context, network string) (attach.Report, error) {
	n.did = append(n.did, "apply "+network)
	return n.report, n.err
}

func (n *fakeNode) Remove(ctx context.Context, network string) error {
	n.did = append(n.did, "remove "+network)
	return n.session.stores().Remove(ctx, network)
}

func (n *fakeNode) Delete(ctx context.Context, network, containerID, ifName string) error {
	n.did = append(n.did, "delete "+containerID+" "+ifName)
	_, _, err := n.session.stores().Store(network).Release(ctx, containerID, ifName)
	return err
}

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
		"reserve flat --workload d/w --mac x", "reserve flat --workload d/mac:x", "reserve flat --workload d/w --ifname a/b",
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
	fails("apply", s.file("later", "10.1.0.0/24", `"ipMasq": true,`))
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
	s.text = errs
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
		"sends only as MAC fa:16:3e:00:00:03, addresses 10.0.0.3,", "allowSameNetTraffic is off", "port "+link.PortName("c1", "eth0"))

	s.counters.guard = func(context.Context) ([]guard.Counter, error) {
		return []guard.Counter{{Name: "quiet"}, {Name: "spoofed-arp", Packets: 3}}, nil
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
	contains(out, "dropped so far, all ports of the node: spoofed-arp 3\n")
	if strings.Contains(out, "quiet") || strings.Contains(out, "no counters") {
		t.Errorf("got\n%s", out)
	}
	_, out = s.run("rules", "default/web-0", "-o", "json")
	var info rulesInfo
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Rules) != len(specs) || info.Rules[2].Rule != specs[2] || info.Rules[2].Packets == nil || *info.Rules[2].Packets != 2 ||
		!info.Guard.Closed || info.Guard.Dropped["spoofed-arp"] != 3 || info.Live != "" {
		t.Errorf("got %s", out)
	}

	whole := s.counters.chain
	s.counters.chain = func(ctx context.Context, chain string) ([]filter.RuleCounter, error) {
		all, err := whole(ctx, chain)
		return all[1:], err
	}
	_, out = s.run("rules", "10.0.0.3")
	contains(out, fmt.Sprintf("the chain in the kernel is not the planned one (%d rules, %d planned): `flatctl apply` puts it right\n", len(specs)-1, len(specs)))

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
		{"apply ", "conflist conf json :8"},
		{"reserve flat --workload ", ":4"},
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

func TestAliveBecause(t *testing.T) {
	s := newSession(t)
	alive := s.alive("c1")
	gone, other := alive, alive
	gone.NetNS = filepath.Join(s.dir, "none")
	other.NetNSInode++
	ported := alive
	ported.Ported, ported.ContainerID, ported.IfName = true, "no such container", "eth0"
	unknown := alive
	unknown.NetNSInode = 0
	for name, tc := range map[string]struct {
		holder ipam.Holder
		want   string
	}{
		"namespace there":          {alive, "its network namespace " + alive.NetNS + " exists"},
		"namespace gone":           {gone, ""},
		"another namespace":        {other, ""},
		"another boot":             {dead("c1"), ""},
		"its port is not here":     {ported, ""},
		"nothing known of its end": {unknown, "nothing tells its end but another boot"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := aliveBecause(t.Context(), tc.holder)
			if err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
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
