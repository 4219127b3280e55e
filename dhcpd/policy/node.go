package policy

import (
	"context"
	"errors"
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
	Bridge(ctx context.Context, n ipam.Network) (notices []string, err error)
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

// Bridge holds the node's lock, as an ADD does: one that undoes itself removes the
// bridge it made if that has no ports.
func (t thisNode) Bridge(ctx context.Context, n ipam.Network) (notices []string, err error) {
	lock, err := t.run.Lock(ctx, t.run.NodeLock())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	spec := attach.BridgeSpec(n)
	info, notices, err := link.EnsureBridge(ctx, spec)
	switch {
	case info.Created:
		notices = append(notices, "bridge "+spec.Name+" is made, with gateway address "+spec.Gateway.String())
	case info.AddedAddress:
		notices = append(notices, "bridge "+spec.Name+" has gateway address "+spec.Gateway.String()+" now")
	default:
		notices = nil // said when it was adopted
	}
	return notices, err
}

func (t thisNode) Apply(ctx context.Context, dataDir, network string) (attach.Report, error) {
	n, err := attach.NewNode(t.run, dataDir, t.log)
	if err != nil {
		return attach.Report{}, err
	}
	return n.Apply(ctx, network)
}
