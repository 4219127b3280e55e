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
	if err := furnish(ctx, h, config{pool: `"subnet": "10.0.0.0/24"`, gateway: true}, workloads); err != nil {
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

// config is what of a host's network is its own: what flat-ipam is told and the key of its
// uplink, in JSON, and whether it is the gateway, which runs the daemon.
type config struct {
	pool    string
	uplink  string
	gateway bool
}

// furnish makes a host's network, its daemon and its workloads.
func furnish(ctx context.Context, h *lab.Host, c config, workloads []workload) error {
	for dir, addressing := range map[string]string{"net.d": "static", "vm.d": "dhcp"} {
		conflist := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "flat",
  "plugins": [{
    "type": "flat-bridge",
    "bridge": "br100",%s
    "isGateway": %t,
    "addressing": "%s",
    "allowSameNetTraffic": true,
    "antiSpoofing": true,
    "ipam": {"type": "flat-ipam", %s}
  }]
}
`, c.uplink, c.gateway, addressing, c.pool)
		if err := h.WriteFile(ctx, "/etc/cni/"+dir+"/flat.conflist", 0o644, conflist); err != nil {
			return err
		}
	}
	if c.gateway {
		if err := serve(ctx, h); err != nil {
			return err
		}
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

// serve starts the daemon, once the network is in the store, and waits until its bridge is
// there. It is not a lab.Process: it outlives this program, and so must what it writes to.
func serve(ctx context.Context, h *lab.Host) error {
	const script = `flatctl apply /etc/cni/net.d/flat.conflist
flat-dhcpd >/run/flat-dhcpd.log 2>&1 &
until ip link show br100 >/dev/null 2>&1; do
	kill -0 $! 2>/dev/null || { cat /run/flat-dhcpd.log >&2; exit 1; }
	sleep 0.02
done`
	if _, _, err := h.Run(ctx, "sh", "-ec", script); err != nil {
		return fmt.Errorf("starting flat-dhcpd: %w", err)
	}
	return nil
}
