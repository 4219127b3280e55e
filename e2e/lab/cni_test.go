package lab_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

func TestCNIByCnitool(t *testing.T) {
	labtest.RequireRoot(t)
	h := labtest.AddHost(t, labtest.New(t, lab.Options{CNIBin: labtest.CNIBin(t)}), "node1")
	ctx := labtest.Within(t, patience)
	if err := h.WriteConflist(ctx, "ref", `{"cniVersion": "1.1.0", "name": "ref", "plugins": [
		{"type": "bridge", "bridge": "br0", "isGateway": true,
		 "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}]}`); err != nil {
		t.Fatal(err)
	}
	c, err := h.Container(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.CNI(ctx, "add", "ref", c, lab.CNIOptions{IfName: "net7", Args: "IgnoreUnknown=1;K8S_POD_NAME=web"})
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		IPs []struct{ Address string }
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.IPs) != 1 || result.IPs[0].Address != "10.1.0.2/24" {
		t.Fatalf("result is %s, %v", out, err)
	}
	if out, _, err := c.Run(ctx, "ip", "-br", "-4", "address", "show", "net7"); err != nil || !strings.Contains(out, "10.1.0.2/24") {
		t.Errorf("the container has %q, %v", out, err)
	}
	holders, _, err := h.Run(ctx, "sh", "-c", "cat /var/lib/cni/networks/ref/10.1.0.2")
	if err != nil || !strings.Contains(holders, c.ID()) {
		t.Errorf("host-local knows %q; Container.ID is %s, %v", holders, c.ID(), err)
	}
	if _, err := h.CNI(ctx, "del", "ref", c, lab.CNIOptions{IfName: "net7"}); err != nil {
		t.Error(err)
	}
	var failed *lab.RunError
	if _, err := h.CNI(ctx, "add", "unknown", c, lab.CNIOptions{}); !errors.As(err, &failed) {
		t.Errorf("adding to an unknown network: %v", err)
	}
	out2, err := h.Plugin(ctx, lab.PluginCall{Plugin: "host-local", Command: "VERSION", Stdin: `{"cniVersion": "1.1.0"}`})
	if err != nil || !strings.Contains(out2, "supportedVersions") {
		t.Errorf("VERSION answers %q, %v", out2, err)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
}

func TestVMWithoutAServerHasNoLease(t *testing.T) {
	h := labtest.AddHost(t, labtest.New(t, lab.Options{}), "node1")
	ctx := labtest.Within(t, patience)
	vm, err := h.VM(ctx, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"ip", "link", "add", "p0", "type", "veth", "peer", "name", "eth0", "netns", "vm1"},
		{"ip", "link", "set", "p0", "up"},
	} {
		if _, _, err := h.Run(ctx, argv...); err != nil {
			t.Fatal(err)
		}
	}
	_, console, err := vm.Boot(ctx, "eth0", "-t", "1")
	if !errors.Is(err, lab.ErrNoLease) || !strings.Contains(console, "udhcpc") {
		t.Errorf("error is %v, console:\n%s", err, console)
	}
}
