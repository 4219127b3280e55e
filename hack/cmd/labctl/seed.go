package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// maxHosts is how many hosts share the one subnet, with 32 addresses for each.
const maxHosts = 8

// seed makes the network that the demo shows: a controller that is gateway, DHCP and DNS
// server, and compute hosts whose bridges are no more than a switch.
func seed(ctx context.Context, l *lab.Lab, hosts int) error {
	if hosts < 2 || hosts > maxHosts {
		return fmt.Errorf("--hosts %d: 1 is the node alone, 2 to %d are accepted for a controller and compute hosts", hosts, maxHosts)
	}
	computes := hosts - 1
	if err := l.Build(ctx, lab.Seed(computes)); err != nil {
		return err
	}
	var peers []string
	for i := 1; i <= computes; i++ {
		peers = append(peers, fmt.Sprintf(`{"node": "compute-%d", "rangeStart": "10.0.0.%d", "rangeEnd": "10.0.0.%d"}`, i, first(i), 32*i-1))
	}
	c := config{pool: fmt.Sprintf(`"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "rangeStart": "10.0.0.%d",
             "peers": [%s]`, 32*computes, strings.Join(peers, ",\n                       ")), gateway: true, uplink: ` "flatInterface": "eth2",`}
	if err := furnish(ctx, l.Host("controller"), c, nil); err != nil {
		return fmt.Errorf("furnishing the controller: %w", err)
	}
	for i := 1; i <= computes; i++ {
		h := l.Host(fmt.Sprintf("compute-%d", i))
		c := config{pool: fmt.Sprintf(`"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "rangeStart": "10.0.0.%d", "rangeEnd": "10.0.0.%d"`, first(i), 32*i-1), uplink: c.uplink}
		workloads := []workload{{fmt.Sprintf("vm%d", i), "vm.d"}, {fmt.Sprintf("web%d", i), "net.d"}}
		if err := furnish(ctx, h, c, workloads); err != nil {
			return fmt.Errorf("furnishing %s: %w", h.Name(), err)
		}
	}
	fmt.Print(`The lab is up: outside, controller, compute-1 and so on. Enter a host with

    hack/lab sh compute-1

and try, there:

    flatctl reservations
    ip netns exec vm1 udhcpc -f -q -i eth0 -s /run/lab/udhcpc.sh
    ip netns exec web1 ping 10.0.0.33          # web2, on compute-2
    ip netns exec web1 ping 192.168.56.1       # outside
    ip -brief link; bridge link
    ping 10.0.0.3                              # web1, from its own host: refused

and on the controller: flatctl leases; tail /run/flat-dhcpd.log.
The switches are entered as well: hack/lab sh flat, where each port has its host's name.

make lab-down removes it.
`)
	return nil
}

// first is the first address that a compute host gives; the first of all is the gateway.
func first(compute int) int { return max(2, 32*(compute-1)) }

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
