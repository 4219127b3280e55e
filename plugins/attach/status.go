package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// daemonAway is how old flat-dhcpd's sign of life may be. It renews it every 10 s.
const daemonAway = 60 * time.Second

// Status looks for what stops every ADD to network on this node and only a person can
// mend; the store is another matter (ipam.Store.Ready). It takes no lock, changes
// nothing and runs no program. An empty list means ready; an error that is the end of
// ctx means that something was not found out in time.
func (n *Node) Status(ctx context.Context, network ipam.Network) []error {
	if err := Privileged(); err != nil {
		return []error{err} // nothing else can be found out
	}
	var problems []error
	for _, look := range []func(context.Context, ipam.Network) error{
		n.lookForRunDir, lookForBridge, n.lookForUplink, lookForNetfilter, n.lookForIPTables, lookForGuard, n.lookForDaemon,
	} {
		if err := look(ctx, network); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// lookForRunDir asks whether there can be locks, without which no verb does anything.
func (n *Node) lookForRunDir(context.Context, ipam.Network) error { return n.Run.Writable() }

// lookForBridge asks whether the bridge is here, or can be made, and workloads' pairs.
func lookForBridge(ctx context.Context, network ipam.Network) error {
	_, exists, err := link.BridgeByName(ctx, network.Bridge.Name)
	if err == nil && !exists {
		err = link.CanMake(ctx, "bridge")
	}
	if err == nil {
		err = link.CanMake(ctx, "veth")
	}
	if err != nil || !network.SharesGateway() {
		return err
	}
	spec, err := sideSpec(network)
	if err != nil {
		return err
	}
	return link.CanMakeLeg(ctx, legSpec(network, spec.MAC, 0))
}

// lookForNetfilter asks for what shows bridged frames to chains.
func lookForNetfilter(_ context.Context, network ipam.Network) error {
	if !network.Filtered() {
		return nil
	}
	if err := link.BridgeNetfilter(); err != nil {
		return fmt.Errorf("chains would see no frame of bridge %s: %w, or set `filter` to \"none\"", network.Bridge.Name, err)
	}
	return nil
}

func (n *Node) lookForIPTables(_ context.Context, network ipam.Network) error {
	if !filter.NeedsIPTables(network) {
		return nil
	}
	return n.Filter.Installed()
}

func lookForGuard(ctx context.Context, _ ipam.Network) error { return guard.Supported(ctx) }

// DaemonLives reports whether flat-dhcpd has given a sign of life of late.
func (n *Node) DaemonLives() bool {
	info, err := os.Stat(n.Run.DaemonAlive())
	return err == nil && time.Since(info.ModTime()) <= daemonAway
}

// lookForDaemon asks for flat-dhcpd only where workloads get no address without it. A
// node that has just booted gives it as long to come as one that has lost it.
func (n *Node) lookForDaemon(_ context.Context, network ipam.Network) error {
	if network.Bridge.Addressing != ipam.AddressingDHCP || !network.Bridge.IsGateway {
		return nil
	}
	path := n.Run.DaemonAlive()
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		var up unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
			return fmt.Errorf("asking for the time since boot: %w", err)
		}
		if time.Duration(up.Nano()) < daemonAway {
			return nil
		}
		return fmt.Errorf("flat-dhcpd, which gives workloads their addresses (addressing: dhcp), has not run since boot: "+
			"there is no %s; start it", path)
	}
	if err != nil {
		return fmt.Errorf("looking for flat-dhcpd's sign of life: %w", err)
	}
	if age := time.Since(info.ModTime()); age > daemonAway {
		return fmt.Errorf("flat-dhcpd, which gives workloads their addresses (addressing: dhcp), has been away for %s, says %s: "+
			"start it and see its log", age.Round(time.Second), path)
	}
	return nil
}
