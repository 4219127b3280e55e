package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// maxHosts is how many hosts share the one subnet, with 32 addresses for each.
const maxHosts = 8

// seed makes the network of several hosts: each is gateway and DHCP server of its own
// workloads, which share one flat segment over eth2.
func seed(ctx context.Context, l *lab.Lab, hosts int) error {
	if hosts < 2 || hosts > maxHosts {
		return fmt.Errorf("--hosts %d: 1 is the node alone, 2 to %d are accepted for a controller and compute hosts", hosts, maxHosts)
	}
	if err := l.Build(ctx, lab.Seed(hosts-1)); err != nil {
		return err
	}
	for i, h := range l.Hosts()[1:] { // the first is outside, where nothing of ours runs
		workloads := []workload{{fmt.Sprintf("vm%d", i), "vm.d"}, {fmt.Sprintf("web%d", i), "net.d"}}
		gateway := 32 * i
		if i == 0 {
			gateway, workloads = 1, workloads[1:]
		}
		pool := fmt.Sprintf(`"subnet": "10.0.0.0/24", "gateway": "10.0.0.%d", "rangeStart": "10.0.0.%d", "rangeEnd": "10.0.0.%d"`,
			gateway, gateway+1, min(32*i+31, 254))
		if err := furnish(ctx, h, pool, workloads); err != nil {
			return fmt.Errorf("furnishing %s: %w", h.Name(), err)
		}
		if _, _, err := h.Run(ctx, "ip", "link", "set", "eth2", "master", "br100"); err != nil {
			return err
		}
	}
	fmt.Print(`The lab is up: outside, controller, compute-1 and so on. Enter a host with

    hack/lab sh compute-1

and try, there:

    flatctl reservations
    ip netns exec vm1 udhcpc -f -q -i eth0 -s /run/lab/udhcpc.sh
    ip netns exec web1 ping 10.0.0.2           # web0, on the controller
    ip netns exec web1 ping 192.168.56.1       # outside
    ip -brief link; bridge link

The switches are entered as well: hack/lab sh flat, where each port has its host's name.

make lab-down removes it.
`)
	return nil
}

// start makes a lab that outlives this program, and removes it if make fails.
func start(ctx context.Context, dir string, furnish func(*lab.Lab) error) (err error) {
	l, err := lab.Start(ctx, lab.Options{Bin: "bin", CNIBin: "bin/tools/cni", StateDir: dir})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	return furnish(l)
}
