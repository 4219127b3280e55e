package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

const hostName = "node"

// up makes the lab, and leaves it to its user: a node, or the network of several hosts.
func up(ctx context.Context, hosts int) (code int, err error) {
	if code, done, err := lab.Reexec(ctx); done || err != nil {
		return code, err
	}
	dir, err := filepath.Abs(stateDir)
	if err != nil {
		return 0, err
	}
	old, err := lab.Open(ctx, dir)
	switch {
	case errors.Is(err, lab.ErrNoLab):
	case err != nil:
		return 0, err
	case len(old.Hosts()) > 0:
		return 0, errors.New("a lab is up already; hack/lab sh " + hostName + " enters it, make lab-down removes it")
	default: // its processes ended with the last boot
		if err := old.Close(); err != nil {
			return 0, err
		}
	}
	return 0, start(ctx, dir, func(l *lab.Lab) error {
		if hosts == 1 {
			return node(ctx, l)
		}
		return seed(ctx, l, hosts)
	})
}

// node makes the one host that the demo shows.
func node(ctx context.Context, l *lab.Lab) error {
	h, err := l.AddHost(ctx, hostName)
	if err != nil {
		return err
	}
	workloads := []workload{{"web", "net.d"}, {"vm1", "vm.d"}, {"db", "net.d"}}
	if err := furnish(ctx, h, `"subnet": "10.0.0.0/24"`, workloads); err != nil {
		return err
	}
	fmt.Print(`The lab is up. Enter it with

    hack/lab sh ` + hostName + `

and try, there:

    flatctl reservations
    flatctl rules default/web
    ip netns exec web ping 10.0.0.4            # db; vm1, 10.0.0.3, has not booted yet
    vi /etc/cni/net.d/flat.conflist            # "allowSameNetTraffic": false
    flatctl apply /etc/cni/net.d/flat.conflist
    ip netns exec vm1 udhcpc -f -q -i eth0 -s /run/lab/udhcpc.sh
    tail /run/flat-dhcpd.log
    ip netns add mine && cnitool add flat /run/netns/mine

make lab-down removes it.
`)
	return nil
}

// workload is a container to attach, and the directory of the conflist that it is
// attached by: containers have their address configured, VMs ask for it.
type workload struct{ name, confDir string }

// furnish makes a host's network, its daemon and its workloads. The pool is what flat-ipam
// is told, in JSON.
func furnish(ctx context.Context, h *lab.Host, pool string, workloads []workload) error {
	for dir, addressing := range map[string]string{"net.d": "static", "vm.d": "dhcp"} {
		conflist := fmt.Sprintf(`{
  "cniVersion": "1.1.0",
  "name": "flat",
  "plugins": [{
    "type": "flat-bridge",
    "bridge": "br100",
    "addressing": "%s",
    "allowSameNetTraffic": true,
    "antiSpoofing": true,
    "ipam": {"type": "flat-ipam", %s}
  }]
}
`, addressing, pool)
		if err := h.WriteFile(ctx, "/etc/cni/"+dir+"/flat.conflist", 0o644, conflist); err != nil {
			return err
		}
	}
	// Not a lab.Process: the daemon outlives this program, and so must what it writes to.
	if _, _, err := h.Run(ctx, "sh", "-c", "flat-dhcpd >/run/flat-dhcpd.log 2>&1 &"); err != nil {
		return err
	}
	for _, w := range workloads {
		if _, err := h.Container(ctx, w.name); err != nil {
			return err
		}
		cmd := h.Command(ctx, "cnitool", "add", "flat", "/run/netns/"+w.name)
		cmd.Env = append(cmd.Env, "NETCONFPATH=/etc/cni/"+w.confDir,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+w.name)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("attaching %s: %w", w.name, err)
		}
	}
	return nil
}
