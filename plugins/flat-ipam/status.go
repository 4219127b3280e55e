package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/conf"
)

// statusDeadline bounds STATUS: kubelet asks every five seconds, without a deadline of
// its own.
const statusDeadline = 500 * time.Millisecond

// status says whether an ADD could succeed. An error makes the node NotReady and in
// minutes evicts healthy pods, so only what a person must mend is one: a store that
// cannot be read or written, and an empty pool. A busy store is none.
func (p *plugin) status(args *skel.CmdArgs) error {
	cfg, err := conf.Parse(args.StdinData, conf.FlatIPAM)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusDeadline)
	defer cancel()
	if err := writable(cfg.DataDir); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("data directory %s cannot be written: %v", cfg.DataDir, err), "")
	}
	var stats ipam.Stats
	err = ipam.OpenDir(cfg.DataDir).Store(cfg.Name).View(ctx, func(v *ipam.View) (err error) {
		stats, err = v.Stats()
		return err
	})
	switch {
	case errors.Is(err, ipam.ErrNoNetwork), errors.Is(err, ipam.ErrLocked), errors.Is(err, context.DeadlineExceeded):
		return nil // the first ADD makes the store
	case err != nil:
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("reading the store of network %s: %v", cfg.Name, err), "")
	}
	// Retained addresses are given once nothing else is left; those in quarantine free
	// themselves within reuseDelay.
	if stats.Size > 0 && stats.Free == 0 && stats.Retained == 0 {
		return types.NewError(types.ErrLimitedConnectivity,
			fmt.Sprintf("network %s has no free address: %d are in use, %d are reserved by the administrator", cfg.Name, stats.Used, stats.Reserved),
			"see `flatctl reservations "+cfg.Name+"`")
	}
	return nil
}

// writable reports why files cannot be made in dir, or in the nearest directory above
// it that exists.
func writable(dir string) error {
	for {
		err := unix.Access(dir, unix.W_OK)
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return err
		}
		dir = filepath.Dir(dir)
	}
}
