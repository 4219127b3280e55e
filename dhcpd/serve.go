package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/dhcpd/holder"
	"github.com/flatdhcp/flatdhcp/dhcpd/hook"
	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/dhcpd/names"
	"github.com/flatdhcp/flatdhcp/dhcpd/policy"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/flock"
	"github.com/flatdhcp/flatdhcp/plugins/firewalld"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
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

	listeners, err := listen(ctx, c, log)
	if err != nil {
		return err
	}
	known, err := newSeen(c, log)
	if err != nil {
		return err
	}
	dirs := make([]snapshot.Dir, len(c.dataDirs))
	for i, path := range c.dataDirs {
		dirs[i] = snapshot.Of(ipam.OpenDir(path))
	}
	follower := snapshot.NewFollower(log, dirs...)
	follower.Replaced, follower.Gone = known.replaced, known.gone
	log.Info(fmt.Sprintf("flat-dhcpd %s started, following %s", version, strings.Join(c.dataDirs, ", ")))

	// What runs beside ends after the servers did, so that it hears the last of them.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	wg.Go(func() { follower.Run(beside) })
	links := make(chan struct{}, 1)
	wg.Go(func() { watchLinks(beside, links, log) })
	keeper := newKeeper(c, follower, log)
	flushed := make(chan struct{}, 1)
	keeper.Flushed = flushed
	wg.Go(func() { firewalld.Watch(beside, firewalld.SystemBus, flushed, log) })
	recheck := make(chan struct{}, 1)
	// Not before it is clear that this is the node's daemon.
	keep := sync.OnceFunc(func() { wg.Go(func() { keeper.Run(beside, recheck) }) })
	wg.Go(func() { known.book.Run(beside) })
	if known.hook != nil {
		wg.Go(func() { known.hook.Run(beside, known.book.List()) })
	}

	resolving := &resolvers{listen: names.Listen, resolvConf: "/etc/resolv.conf", now: time.Now, log: log}
	s := supervisor{
		networks: follower.Networks,
		look:     lookBridge,
		open:     openClaimed,
		holder: func(b server.Binding) string {
			return holder.Of("/proc", "udp", netip.AddrPortFrom(b.Addrs[0], 67), holder.DHCPServers)
		},
		now:  time.Now,
		log:  log,
		seen: known,
		dns:  resolving,
	}
	defer s.stop()
	turns := newTurns(log)
	drops := &dropWatch{read: guard.Counters, now: time.Now, log: log}
	r := report.Report{
		Leases: known.book.List, Events: &known.stream, Networks: s.networkStates, Alive: turns.alive, Log: log,
		Sources: []report.Source{known.metrics(follower.Networks), keeperMetrics(keeper), stateMetrics(s.networkStates), resolving.metrics(follower.Networks), drops.metrics},
	}
	wg.Go(func() { r.Serve(beside, listeners...) })
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	touchAlive(c.runDir, log)
	drops.look(ctx) // what is logged counts from now on
	start, read := starting{began: time.Now()}, follower.Ready()
	for {
		s.reconcile(ctx)
		again, err := start.look(time.Now(), s.refusal(), len(s.serving) > 0)
		if err != nil {
			return err
		}
		ready := read == nil && again == 0
		if ready {
			keep()
		}
		turns.turn(ready)
		select {
		case recheck <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			turns.stopping()
			log.Info("flat-dhcpd stops")
			return nil
		case <-read:
			read = nil
		case <-after(again):
		case <-follower.Changed():
		case <-links:
		case <-turns.due():
		case <-alive.C:
			// From this loop and no other, so that a daemon that hangs looks dead.
			touchAlive(c.runDir, log)
			drops.look(ctx)
		}
	}
}

// after is time.After, but never for 0.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// listen opens what requests come in by. The unix socket may fail: serving DHCP matters
// more. What was asked for on the command line may not.
func listen(ctx context.Context, c config, log *slog.Logger) (list []net.Listener, err error) {
	if c.listen != "" {
		l, err := report.ListenTCP(ctx, c.listen)
		if err != nil {
			return nil, err
		}
		log.Info("answering requests on " + l.Addr().String())
		list = append(list, l)
	}
	if l, err := report.ListenUnix(ctx, c.runDir.DaemonSocket()); err != nil {
		log.Error(fmt.Sprintf("%v; flatctl leases reads what is on the disk, and flatctl events nothing", err))
	} else {
		list = append(list, l)
	}
	return list, nil
}

// newSeen makes what knows of leases, with the lease state of every network that is in
// the data directories now.
func newSeen(c config, log *slog.Logger) (*seen, error) {
	s := &seen{book: lease.NewBook(time.Now, log), now: time.Now}
	if c.hook != "" {
		if err := unix.Access(c.hook, unix.X_OK); err != nil {
			return nil, fmt.Errorf("--hook %s cannot be executed: %w", c.hook, err)
		}
		s.hook = hook.New(c.hook, log)
	}
	for _, dir := range c.dataDirs {
		names, err := ipam.OpenDir(dir).Names(context.Background())
		if err != nil {
			continue // the follower says so
		}
		for _, name := range names {
			s.book.Open(filepath.Clean(dir), name)
		}
	}
	return s, nil
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
			"stop it first, or give this one a --run-dir of its own", processIn(path), path)
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

// processIn returns the process that a lock file names.
func processIn(path string) string {
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
