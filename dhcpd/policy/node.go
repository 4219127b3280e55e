package policy

import (
	"context"
	"log/slog"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// Node is what a Keeper does to the machine.
type Node interface {
	// Configure writes a network's record and reports whether that changed it.
	Configure(ctx context.Context, dataDir string, n ipam.Network) (bool, error)
	// Bridge makes the network's bridge ready and returns what there is to say about it.
	Bridge(ctx context.Context, dataDir string, n ipam.Network) (notices []string, err error)
	// Here reports whether there is a bridge of that name.
	Here(ctx context.Context, bridge string) (bool, error)
	// Apply puts the stored policy in force for the workloads that live.
	Apply(ctx context.Context, dataDir, network string) (attach.Report, error)
}

// ThisNode returns the node that the process runs on.
func ThisNode(run rundir.Dir, log *slog.Logger) Node { return thisNode{run, log} }

type thisNode struct {
	run rundir.Dir
	log *slog.Logger
}

func (t thisNode) Configure(ctx context.Context, dataDir string, n ipam.Network) (bool, error) {
	return ipam.OpenDir(dataDir).Store(n.Name).Configure(ctx, n)
}

func (t thisNode) Bridge(ctx context.Context, dataDir string, n ipam.Network) (notices []string, err error) {
	node, err := attach.NewNode(t.run, dataDir, t.log)
	if err != nil {
		return nil, err
	}
	side, err := node.BringUp(ctx, n)
	return append(side.Changes, side.Notices...), err
}

func (t thisNode) Here(ctx context.Context, bridge string) (bool, error) {
	_, here, err := link.BridgeByName(ctx, bridge)
	return here, err
}

func (t thisNode) Apply(ctx context.Context, dataDir, network string) (attach.Report, error) {
	n, err := attach.NewNode(t.run, dataDir, t.log)
	if err != nil {
		return attach.Report{}, err
	}
	return n.Apply(ctx, network)
}
