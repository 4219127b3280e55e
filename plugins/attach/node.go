// Package attach brings workloads onto a network and off it again: the verbs ADD and
// DEL as tables of steps over store, bridge, chains, guard and port; CHECK, which
// compares all of these, GC, which deletes what a runtime has forgotten, and STATUS; and
// Apply, which puts a changed policy in force for the workloads that live.
//
// In no step, killed or not, is a port up whose chain or guard element is absent.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/link"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// Node is the machine the verbs work on: the network namespace they are called in,
// its run directory and its packet filter.
type Node struct {
	Run    rundir.Dir
	Data   *ipam.Dir
	Filter *filter.Table
	BootID string
	Log    *slog.Logger
}

// NewNode returns the node that the calling thread's network namespace is.
func NewNode(run rundir.Dir, dataDir string, log *slog.Logger) (*Node, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	// Without a lock of its own: chains and guard change together, under one that this
	// package holds.
	table := filter.New(filter.Options{RecordPath: run.FilterBackend()})
	return &Node{Run: run, Data: ipam.OpenDir(dataDir), Filter: table, BootID: boot, Log: log}, nil
}

// ErrUnprivileged says that the process may not do what every verb needs.
var ErrUnprivileged = errors.New("the runtime must run plugins as root with these capabilities")

// Privileged returns ErrUnprivileged unless the process has CAP_NET_ADMIN, for links and
// rules, and CAP_SYS_ADMIN, to enter a container's namespace. Asked first, it keeps verbs
// from finding that out half-way.
func Privileged() error {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("asking for the process's capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is missing: %w", strings.Join(missing, ", "), ErrUnprivileged)
	}
	return nil
}

// bootIDFile changes with every boot of the machine.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// BootID returns the identity of the machine's current boot.
func BootID() (string, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("reading the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// LivingHolderError says that a reservation cannot be taken over, because its holder
// lives, or may: in doubt it does.
type LivingHolderError struct {
	Row ipam.Reservation
	Why string
}

func (e *LivingHolderError) Error() string {
	return fmt.Sprintf("%s is held by container %s, interface %s, which is alive (%s): "+
		"end that container, or `flatctl release %s` once its port is gone",
		e.Row.Addr, e.Row.Holder.ContainerID, e.Row.Holder.IfName, e.Why, e.Row.Addr)
}

// reserve asks the store, and once more when the holder that stands in the way turns
// out to be dead. Until then that holder's attachment is locked, so that no verb of its
// own brings it back to life.
//
// What the dead one left goes before its row does: from the row alone it is known, and
// killed in between the next ADD finds it there again.
func (n *Node) reserve(ctx context.Context, store *ipam.Store, network *ipam.Network, req ipam.Request) (grant ipam.Grant, err error) {
	grant, err = store.Reserve(ctx, network, req)
	var held *ipam.HeldError
	if !errors.As(err, &held) {
		return grant, err
	}
	old := *held.Row.Holder
	if old.ContainerID != req.Holder.ContainerID || old.IfName != req.Holder.IfName {
		lock, lockErr := n.lockIdle(held.Row)
		if lockErr != nil {
			return ipam.Grant{}, lockErr
		}
		defer func() { err = errors.Join(err, lock.Release()) }()
	}
	if err := n.provenDead(ctx, held.Row); err != nil {
		return ipam.Grant{}, err
	}
	if old.Ported {
		if err := n.changeRules(ctx, ruleChange{Network: *network, Row: held.Row}); err != nil {
			return ipam.Grant{}, err
		}
	}
	if err := n.forget(ctx, *network, held.Row); err != nil {
		return ipam.Grant{}, err
	}
	req.Dead = &old
	return store.Reserve(ctx, network, req)
}

// lockIdle takes the lock of the attachment that holds row, if no verb runs for it:
// else *LivingHolderError.
func (n *Node) lockIdle(row ipam.Reservation) (*rundir.Held, error) {
	lock, free, err := n.Run.Attachment(row.Holder.ContainerID, row.Holder.IfName).TryLock()
	if err == nil && !free {
		err = &LivingHolderError{Row: row, Why: "a CNI verb is running for it"}
	}
	return lock, err
}

// provenDead returns *LivingHolderError unless row's holder is dead.
func (n *Node) provenDead(ctx context.Context, row ipam.Reservation) error {
	why, err := Alive(ctx, *row.Holder, n.BootID)
	if err == nil && why != "" {
		err = &LivingHolderError{Row: row, Why: why}
	}
	return err
}

// Alive returns why h must be taken for alive, or "" if it is proven dead: another boot
// than bootID, its port gone, or, where it has no port of ours, its namespace gone. In
// doubt it lives: two workloads with one address is worse than an ADD to be tried again.
func Alive(ctx context.Context, h ipam.Holder, bootID string) (string, error) {
	if h.BootID != "" && h.BootID != bootID {
		return "", nil
	}
	if h.Ported {
		port := link.PortName(h.ContainerID, h.IfName)
		_, exists, err := link.PortByName(ctx, port)
		if err != nil || !exists {
			return "", err
		}
		return "its port " + port + " exists", nil
	}
	if h.NetNS == "" || h.NetNSInode == 0 {
		return "nothing tells its end but another boot", nil
	}
	// By inode alone: a file that lost its mount is a namespace gone as well.
	info, err := os.Stat(h.NetNS)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking at the namespace of container %s: %w", h.ContainerID, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Ino != h.NetNSInode {
		return "", nil
	}
	return "its network namespace " + h.NetNS + " exists", nil
}
