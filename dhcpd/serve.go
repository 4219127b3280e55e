package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/policy"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/flock"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

const (
	// lockTimeout is how long a starting daemon waits for one that is ending.
	lockTimeout = time.Second
	// aliveEvery is how often the sign of life is renewed; STATUS calls the daemon
	// away when it is 60 s old.
	aliveEvery = 10 * time.Second
)

// serve runs the daemon until ctx is done.
func serve(ctx context.Context, c config, log *slog.Logger) (err error) {
	lock, err := single(ctx, c.runDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	dirs := make([]snapshot.Dir, len(c.dataDirs))
	for i, path := range c.dataDirs {
		dirs[i] = snapshot.Of(ipam.OpenDir(path))
	}
	follower := snapshot.NewFollower(log, dirs...)
	log.Info(fmt.Sprintf("flat-dhcpd %s started, following %s", version, strings.Join(c.dataDirs, ", ")))

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { follower.Run(ctx) })
	links := make(chan struct{}, 1)
	wg.Go(func() { watchLinks(ctx, links, log) })

	keeper := newKeeper(c, follower, log)
	recheck := make(chan struct{}, 1)
	wg.Go(func() { keeper.Run(ctx, recheck) })

	s := supervisor{
		networks: follower.Networks,
		look:     lookBridge,
		open:     server.Open,
		rpFilter: func(bridge string) int { return rpFilter("/proc/sys", bridge) },
		now:      time.Now,
		log:      log,
	}
	defer s.stop()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	touchAlive(c.runDir, log)
	for {
		s.reconcile(ctx)
		select {
		case recheck <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			log.Info("flat-dhcpd stops")
			return nil
		case <-follower.Changed():
		case <-links:
		case <-alive.C:
			// From this loop and no other, so that a daemon that hangs looks dead.
			touchAlive(c.runDir, log)
		}
	}
}

// newKeeper returns what keeps records, bridges and rules in line with the conflists.
func newKeeper(c config, follower *snapshot.Follower, log *slog.Logger) *policy.Keeper {
	return &policy.Keeper{
		ConfDir: c.confDir, DataDirs: c.dataDirs, Node: policy.ThisNode(c.runDir, log), Now: time.Now, Log: log,
		Records: func() map[policy.Key]ipam.Network {
			records := map[policy.Key]ipam.Network{}
			for _, n := range follower.Networks() {
				records[policy.Key{DataDir: n.Dir(), Name: n.Name()}] = n.Copy().Network
			}
			return records
		},
	}
}

// single makes sure that this is the run directory's only daemon.
func single(ctx context.Context, dir rundir.Dir) (*flock.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	path := dir.DaemonLock()
	lock, err := dir.Lock(ctx, path)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("another flat-dhcpd (process %s) holds %s: one serves all networks of the node; "+
			"stop it first, or give this one a --run-dir of its own", holder(path), path)
	}
	if err != nil {
		return nil, fmt.Errorf("locking out a second flat-dhcpd: %w", err)
	}
	// For the message above only: the lock itself is the kernel's.
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("noting the process in the lock file: %w", err), lock.Unlock())
	}
	return lock, nil
}

func holder(path string) string {
	b, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}

// touchAlive renews the sign of life. Failing is no reason to stop serving.
func touchAlive(dir rundir.Dir, log *slog.Logger) {
	err := os.MkdirAll(string(dir), 0o700)
	if err == nil {
		err = os.WriteFile(dir.DaemonAlive(), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
	}
	if err != nil {
		log.Error(fmt.Sprintf("renewing the sign of life: %v", err))
	}
}
