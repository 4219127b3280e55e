package attach

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// deadNode is a node in a network namespace of its own, on whose network a holder
// without a port has died. Each look at the clock runs tick.
func deadNode(t *testing.T, tick func()) (*Node, ipam.Network, ipam.Reservation) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatalf("needs root for its network namespace: %v", err)
		}
		t.Skipf("needs root for its network namespace: %v", err)
	}
	dir := t.TempDir()
	clock := func() time.Time { tick(); return time.Unix(1e9, 0) }
	n := &Node{Run: rundir.Dir(filepath.Join(dir, "run")), BootID: "this", Filter: filter.New(filter.Options{}), Log: slog.New(slog.DiscardHandler),
		Data: ipam.OpenDir(filepath.Join(dir, "data"), ipam.WithClock(clock))}
	network := ipam.Network{Name: "flat", Pool: ipam.Pool{
		Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"), MACPrefix: ipam.DefaultMACPrefix,
		RangeStart: netip.MustParseAddr("10.0.0.1"), RangeEnd: netip.MustParseAddr("10.0.0.254"), Domain: "novalocal"}}
	grant, err := n.Data.Store("flat").Reserve(t.Context(), &network, ipam.Request{Workload: web, Holder: ipam.Holder{
		ContainerID: "c1", IfName: "eth0", NetNS: filepath.Join(dir, "gone"), NetNSInode: 7, BootID: "this"}})
	if err != nil {
		t.Fatal(err)
	}
	return n, network, grant.Reservation
}

var web = ipam.Workload{Namespace: "shop", Kind: ipam.KindPod, Value: "web-0", IfName: "eth0"}

// A lock that cannot be given back is an error even if all else went well, and what
// was granted is told beside it, to be given back.
func TestTakeoverReportsALockThatStays(t *testing.T) {
	var n *Node
	stuck := func() {
		if n == nil {
			return
		}
		locks, err := filepath.Glob(filepath.Join(n.ticketDir(), "*.lock"))
		if err != nil || len(locks) != 1 {
			return // the first question, before the dead one's lock is taken
		}
		if err := errors.Join(os.RemoveAll(locks[0]), os.MkdirAll(filepath.Join(locks[0], "full"), 0o700)); err != nil {
			t.Error(err)
		}
	}
	node, network, row := deadNode(t, func() { stuck() })
	n = node
	req := ipam.Request{Workload: web, Holder: ipam.Holder{ContainerID: "c2", IfName: "eth0", BootID: "this"}}
	grant, err := n.reserve(t.Context(), n.Data.Store("flat"), &network, req)
	if err == nil || !strings.Contains(err.Error(), "directory not empty") {
		t.Errorf("reserve: %v, want the error of the lock", err)
	}
	if grant.Addr != row.Addr {
		t.Errorf("granted %v beside the error, want %v", grant.Addr, row.Addr)
	}
}

// Between flatctl's look and its DEL the ADD of the attachment may have gone on.
func TestDeleteDeadAsksAgain(t *testing.T) {
	n, _, row := deadNode(t, func() {})
	held := func() bool {
		err := n.Data.Store("flat").View(t.Context(), func(v *ipam.View) error {
			_, err := v.ByHolder("c1", "eth0")
			return err
		})
		return err == nil
	}
	refused := func(why string) {
		t.Helper()
		var living *LivingHolderError
		if err := n.DeleteDead(t.Context(), "flat", row); !errors.As(err, &living) || !strings.Contains(living.Why, why) {
			t.Errorf("DeleteDead: %v, want a living holder: %s", err, why)
		}
		if !held() {
			t.Error("the row is gone")
		}
	}
	lock, err := n.Run.Attachment("c1", "eth0").Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refused("a CNI verb is running")
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	gone := row.Holder.NetNS
	row.Holder.NetNS = t.TempDir()
	info, err := os.Stat(row.Holder.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	row.Holder.NetNSInode = inodeOf(info)
	refused("its network namespace")
	row.Holder.NetNS = gone
	if err := n.DeleteDead(t.Context(), "flat", row); err != nil || held() {
		t.Errorf("the control, dead and idle: %v, still held: %t", err, held())
	}
}
