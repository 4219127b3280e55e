package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// insideLab marks the process that TestMain started in namespaces of its own.
const insideLab = "FLATDHCP_LINK_LAB"

// TestMain runs the tests in a process with its own network and mount namespace:
// nothing a test forgets outlives it, and no mistake reaches the machine. All
// threads are in the lab, so tests may use goroutines as callers do.
func TestMain(m *testing.M) {
	fuzzing := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") }) // its workers talk by inherited files
	if os.Getenv(insideLab) == "" && os.Geteuid() == 0 && !fuzzing {
		// Root of a sandbox may not make namespaces: then the tests skip, or fail.
		if code, err := runInLab(); err == nil {
			os.Exit(code)
		}
	}
	if os.Getenv(insideLab) != "" {
		if err := furnishLab(); err != nil {
			fmt.Fprintln(os.Stderr, "furnishing the lab:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func runInLab() (exitCode int, err error) {
	runtime.LockOSThread() // the child dies with this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideLab+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func furnishLab() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// The old /sys shows the machine's links.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mounting sysfs: %w", err)
	}
	c, err := dial(context.Background())
	if err != nil {
		return err
	}
	defer c.close()
	return c.setUp(0, "lo", true)
}

// inLab skips a test where there is no lab, and checks afterwards that the test
// left no link behind.
func inLab(t testing.TB) context.Context {
	t.Helper()
	return inLabPlus(t)
}

// inLabPlus is inLab for a subtest that finds links of its parent's.
func inLabPlus(t testing.TB, parents ...string) context.Context {
	t.Helper()
	if os.Getenv(insideLab) == "" {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("FLATDHCP_REQUIRE_ROOT=1, but the test cannot make network namespaces")
		}
		t.Skip("needs root: makes network namespaces and links")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(func() {
		cancel()
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Attrs().Name != "lo" && !slices.Contains(parents, l.Attrs().Name) {
				t.Errorf("the test left link %s behind", l.Attrs().Name)
				_ = netlink.LinkDel(l)
			}
		}
	})
	return ctx
}

// newNetNS makes a network namespace and returns its path.
func newNetNS(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	ok(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() { done <- bindNewNetNS(path) }()
	ok(t, <-done)
	t.Cleanup(func() { dropNetNS(t, path) })
	return path
}

// dropNetNS lets go of a namespace made by newNetNS; twice does no harm.
func dropNetNS(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		t.Errorf("unmounting %s: %v", path, err)
	}
}

func bindNewNetNS(path string) error {
	runtime.LockOSThread()
	old, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer old.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	if back := unix.Setns(int(old.Fd()), unix.CLONE_NEWNET); back != nil {
		return back // still locked: the thread ends with the goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// inNetNS runs f in the namespace at path.
func inNetNS(t testing.TB, path string, f func() error) {
	t.Helper()
	ok(t, within(path, f))
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err says every one of the words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s in vain: %s", what)
		}
	}
}

func linkNamed(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("looking up %s: %v", name, err)
	}
	return l
}

func deleteLinkAtEnd(t testing.TB, name string) {
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Errorf("removing %s: %v", name, err)
			}
		}
	})
}

var gateway = netip.MustParsePrefix("10.0.0.1/24")

func testBridge() BridgeSpec {
	return BridgeSpec{
		Name: "br100", MAC: ipam.DeriveMAC(ipam.DefaultMACPrefix, gateway.Addr()),
		MTU: 1500, Gateway: gateway, NFCallIPTables: true,
	}
}

// ensureBridge makes the test's bridge and removes it at its end.
func ensureBridge(ctx context.Context, t testing.TB, spec BridgeSpec) BridgeInfo {
	t.Helper()
	info, _, err := EnsureBridge(ctx, spec)
	ok(t, err)
	deleteLinkAtEnd(t, spec.Name)
	return info
}

// workload is an attachment under test: 10.0.0.N.
type workload struct {
	netns string
	addr  netip.Prefix
	spec  PortSpec
	info  PortInfo
}

func newWorkload(t testing.TB, n byte) *workload {
	t.Helper()
	w := &workload{netns: newNetNS(t), addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24)}
	cid := fmt.Sprintf("container-%d", n)
	w.spec = PortSpec{
		Learning: true, // the looser case: what is pinned must hold there, too
		Name:     PortName(cid, "eth0"), Alias: Alias("flat", cid, "eth0"), Bridge: "br100",
		ContainerNetNS: w.netns, ContainerIfName: "eth0",
		MAC: ipam.DeriveMAC(ipam.DefaultMACPrefix, w.addr.Addr()), MTU: 1500,
	}
	return w
}

// attach does what ADD does for the workload with this package's functions.
func (w *workload) attach(ctx context.Context, t testing.TB) *workload {
	t.Helper()
	var err error
	w.info, err = CreatePort(ctx, w.spec)
	ok(t, err)
	deleteLinkAtEnd(t, w.spec.Name)
	ok(t, PortUp(ctx, w.spec.Name))
	_, err = ConfigureContainer(ctx, ContainerSpec{NetNS: w.netns, IfName: w.spec.ContainerIfName, Addr: w.addr, Gateway: gateway.Addr()})
	ok(t, err)
	forwards, err := WaitForwarding(ctx, w.spec.Name, time.Second)
	ok(t, err)
	if !forwards {
		t.Fatalf("port %s does not forward", w.spec.Name)
	}
	return w
}

// fdb lists the bridge's entries for a MAC as "port flags state".
func fdb(t testing.TB, mac ipam.MAC) []string {
	t.Helper()
	entries, err := dump(context.Background(), "fdb", func() ([]netlink.Neigh, error) { return netlink.NeighList(0, unix.AF_BRIDGE) })
	ok(t, err)
	var found []string
	for _, e := range entries {
		if slices.Equal(e.HardwareAddr, mac[:]) {
			l, err := netlink.LinkByIndex(e.LinkIndex)
			ok(t, err)
			found = append(found, fmt.Sprintf("%s flags=%#x state=%#x", l.Attrs().Name, e.Flags, e.State))
		}
	}
	return found
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	return strings.TrimSpace(string(b))
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	ok(t, os.WriteFile(path, []byte(content), 0))
}
