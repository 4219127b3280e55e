package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// innerBin names, in the environment of the test's inner run, the directory of the
// built programs.
const innerBin = "FLATCTL_TEST_BIN"

// flatctl and flat-bridge against a real kernel. The node is a network and mount
// namespace of its own: nothing of the machine is touched, and nothing can be left.
func TestAgainstTheKernel(t *testing.T) {
	if os.Getenv(innerBin) != "" {
		againstTheKernel(t)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root for its network namespaces")
		}
		t.Skip("needs root for its network namespaces")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", ".", "../plugins/flat-bridge")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", self, "-test.run=^TestAgainstTheKernel$", "-test.v")
	cmd.Env = append(os.Environ(), innerBin+"="+bin, "FLATDHCP_RUN_DIR=/run/flatdhcp")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestAgainstTheKernel") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// execute runs a program and returns what it said, on both ways, and its exit code.
func execute(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s: %v", cmd.Path, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func againstTheKernel(t *testing.T) {
	bin := os.Getenv(innerBin)
	sh := func(script string) string {
		t.Helper()
		out, code := execute(t, exec.Command("sh", "-ec", script))
		if code != 0 {
			t.Fatalf("%s: exit %d: %s", script, code, out)
		}
		return out
	}
	sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && ip netns add c1 && ip netns add c2")
	sh("iptables -A FORWARD -s 192.0.2.1 -j DROP") // a neighbour, which must stay
	before := ruleLines(sh("iptables-save"))

	conflist := func(keys string) []byte {
		return []byte(`{"cniVersion": "1.1.0", "name": "flat", "type": "flat-bridge", ` + keys +
			`"ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": "/run/data"}}`)
	}
	cni := func(verb, container string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, "flat-bridge"))
		cmd.Stdin = bytes.NewReader(conflist(""))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0",
			"CNI_NETNS=/run/netns/"+container, "CNI_PATH="+bin, "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-"+container)
		if out, code := execute(t, cmd); code != 0 {
			t.Fatalf("%s %s: %s", verb, container, out)
		}
	}
	flatctl := func(want int, stdin []byte, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, "flatctl"), append(args, "--data-dir", "/run/data")...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, code := execute(t, cmd)
		if code != want {
			t.Errorf("flatctl %s: exit %d, want %d: %s", strings.Join(args, " "), code, want, out)
		}
		return out
	}
	rules := func(workload string) rulesInfo {
		t.Helper()
		var info rulesInfo
		if err := json.Unmarshal([]byte(flatctl(exitDone, nil, "rules", workload, "-o", "json")), &info); err != nil {
			t.Fatal(err)
		}
		if info.Live != "" {
			t.Errorf("rules of %s: %s", workload, info.Live)
		}
		return info
	}
	// passed is how many packets the rules with these words have matched.
	passed := func(info rulesInfo, words string) (n uint64) {
		for _, r := range info.Rules {
			if strings.Contains(r.Rule, words) && r.Packets != nil {
				n += *r.Packets
			}
		}
		return n
	}

	cni("ADD", "c1")
	cni("ADD", "c2")
	sh("ip netns exec c1 ping -c 1 -W 5 10.0.0.3")
	if n := passed(rules("default/pod-c2"), "-s 10.0.0.0/24 -j ACCEPT"); n == 0 {
		t.Error("the same-net rule counted nothing")
	}

	// The toggle: off stops what passed, on lets it pass again.
	if out := flatctl(exitDone, conflist(`"allowSameNetTraffic": false, "deny": [{"protocol": "tcp", "ports": "25"}], `), "apply", "-"); !strings.Contains(out, "allowSameNetTraffic: true -> false") {
		t.Errorf("apply said %s", out)
	}
	if _, code := execute(t, exec.Command("ip", "netns", "exec", "c1", "ping", "-c", "1", "-W", "1", "10.0.0.3")); code == 0 {
		t.Error("the ping passed with the toggle off")
	}
	info := rules("default/pod-c2")
	if n := passed(info, "-j FLAT-DROP"); n == 0 || !info.Guard.Closed {
		t.Errorf("the drop rule counted %d, closed %t", n, info.Guard.Closed)
	}
	if len(info.Deny) != 1 || !strings.Contains(info.Deny[0].Rule, "--dport 25") || info.Deny[0].Packets == nil {
		t.Errorf("deny rules %+v", info.Deny)
	}
	flatctl(exitDone, conflist(""), "apply", "-")
	sh("ip netns exec c1 ping -c 1 -W 5 10.0.0.3")
	if out := flatctl(exitDone, conflist(""), "apply", "-"); !strings.Contains(out, "every rule was in place") {
		t.Errorf("the second apply said %s", out)
	}

	// Living workloads are in the way; a dead one is released, rules and all.
	if out := flatctl(exitFailed, nil, "network", "rm", "flat"); !strings.Contains(out, "10.0.0.2 workload default/pod:pod-c1/eth0") {
		t.Errorf("network rm said %s", out)
	}
	if out := flatctl(exitFailed, nil, "release", "default/pod-c1"); !strings.Contains(out, "is alive: its port fdp") {
		t.Errorf("release said %s", out)
	}
	chain, port := rules("default/pod-c1").Chain, rules("default/pod-c1").Guard.Port
	sh("ip link del " + port) // its container is gone, and its DEL never came
	flatctl(exitDone, nil, "release", "default/pod-c1")
	if out := sh("iptables-save; nft list ruleset"); strings.Contains(out, chain) || strings.Contains(out, port) {
		t.Errorf("left behind of %s and %s:\n%s", chain, port, out)
	}
	flatctl(exitDone, nil, "check")
	cni("DEL", "c2")
	flatctl(exitDone, nil, "network", "rm", "flat")

	// The guard's base table and the bridge stay; iptables is as it was.
	if after := ruleLines(sh("iptables-save")); after != before {
		t.Errorf("iptables before:\n%s\nafter:\n%s", before, after)
	}
	if out := flatctl(exitDone, nil, "networks", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("networks left: %s", out)
	}
}

// ruleLines keeps the rules of an iptables-save text.
func ruleLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A") {
			b.WriteString(line)
		}
	}
	return b.String()
}
