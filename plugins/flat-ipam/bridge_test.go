package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// innerProgram names, in the environment of the test's inner run, the plugin's binary.
const innerProgram = "FLAT_IPAM_TEST_PROGRAM"

// innerBridge names the reference plugin's.
const innerBridge = "FLAT_IPAM_TEST_BRIDGE"

// Under the reference bridge plugin, as a drop-in for host-local. The node is a
// network and mount namespace of its own, so that nothing of the machine is touched
// and nothing can be left.
func TestUnderTheReferenceBridge(t *testing.T) {
	if os.Getenv(innerProgram) != "" {
		underTheReferenceBridge(t)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root for its network namespaces")
		}
		t.Skip("needs root for its network namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", self, "-test.run=^TestUnderTheReferenceBridge$", "-test.v")
	cmd.Env = append(os.Environ(), innerProgram+"="+program, innerBridge+"="+referenceBridge(t))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUnderTheReferenceBridge") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// referenceBridge returns the reference plugin that `make` built, or builds it.
func referenceBridge(t *testing.T) string {
	t.Helper()
	made, err := filepath.Abs("../../bin/tools/cni/bridge")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err == nil {
		return made
	}
	path := filepath.Join(t.TempDir(), "bridge")
	build := exec.Command("go", "build", "-C", "../../hack/tools/cni", "-o", path, "github.com/containernetworking/plugins/plugins/main/bridge")
	build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the reference bridge plugin: %v\n%s", err, out)
	}
	return path
}

func underTheReferenceBridge(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{"flat-ipam": program, "bridge": os.Getenv(innerBridge)} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && ip netns add c1 && ip netns add c2")
	data := filepath.Join(dir, "data")
	plugin := func(verb, container, prev string) reply {
		cmd := exec.Command(filepath.Join(dir, "bridge"))
		cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "cni0", "isGateway": true,
			"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}], "prevResult": ` + prev + `,
			"ipam": {"type": "flat-ipam", "subnet": "10.9.0.0/24", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "` + data + `"}}`)
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0",
			"CNI_NETNS=/run/netns/"+container, "CNI_PATH="+dir, "FLATDHCP_RUN_DIR=/run/flatdhcp")
		return execute(t, cmd)
	}
	ok := func(verb, container, prev string) string {
		t.Helper()
		got := plugin(verb, container, prev)
		if got.exit != 0 {
			t.Fatalf("%s %s: %+v", verb, container, got)
		}
		return got.stdout
	}
	first, second := ok("ADD", "c1", "null"), ok("ADD", "c2", "null")
	var res addResult
	if err := json.Unmarshal([]byte(first), &res); err != nil || len(res.IPs) != 1 || res.IPs[0].Address != "10.9.0.2/24" || res.IPs[0].Gateway != "10.9.0.1" {
		t.Fatalf("result %s, %v", first, err)
	}
	if !strings.Contains(second, "10.9.0.3/24") {
		t.Errorf("result %s", second)
	}
	sh(t, "ip netns exec c1 ping -c 1 -W 5 10.9.0.1")
	sh(t, "ip netns exec c1 ping -c 1 -W 5 10.9.0.3")
	ok("CHECK", "c1", first)
	ok("STATUS", "", "null")
	ok("DEL", "c1", first)
	ok("DEL", "c1", "null")
	if got := plugin("CHECK", "c1", first); got.exit == 0 {
		t.Error("CHECK passed after DEL")
	}
	ok("DEL", "c2", second)
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
