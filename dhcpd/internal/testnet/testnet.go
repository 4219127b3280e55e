// Package testnet gives tests network namespaces of their own, with a bridge, ports
// and processes in them. Nothing has a name outside the test process: whatever is
// left over goes with it, even when it is killed.
package testnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// RequireRoot skips a test that needs root, or fails it where FLATDHCP_REQUIRE_ROOT
// says that nothing may be skipped.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
		t.Fatal("needs root, and FLATDHCP_REQUIRE_ROOT forbids to skip")
	}
	t.Skip("needs root: it makes network namespaces")
}

// RequireProgram returns the path of a program that the test drives.
func RequireProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
		t.Fatalf("%v (hack/deps installs it)", err)
	}
	t.Skipf("%v (hack/deps installs it)", err)
	return ""
}

// NS is a network namespace that lives as long as the test.
type NS struct{ file *os.File }

// New makes a namespace with its loopback up.
func New(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	n := &NS{}
	must(t, onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		var err error
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	t.Cleanup(func() { must(t, n.file.Close()) })
	return n
}

// Do runs f on a thread inside the namespace: sockets that f opens belong to it.
func (n *NS) Do(t testing.TB, f func() error) {
	t.Helper()
	must(t, n.TryDo(f))
}

// TryDo is Do for goroutines other than the test's.
func (n *NS) TryDo(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

// Start starts cmd inside the namespace. It is killed when the test ends and when
// this process dies. done is closed when it has ended; cmd.ProcessState tells how.
func (n *NS) Start(t testing.TB, cmd *exec.Cmd) (done <-chan struct{}) {
	t.Helper()
	started, ended := make(chan error, 1), make(chan struct{})
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go func() {
		defer close(ended)
		// The death signal comes when the parent's thread ends: it waits.
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			started <- err
			return
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	return ended
}

// onThread runs f on a thread that nobody else uses and that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: its namespace must not spread
		done <- f()
	}()
	return <-done
}

// Bridge makes a bridge with a MAC and addresses, and returns its index.
func (n *NS) Bridge(t testing.TB, name string, mac ipam.MAC, addrs ...netip.Prefix) (index int) {
	t.Helper()
	n.Do(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac.HardwareAddr()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("making bridge %s: %w", name, err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		index = link.Attrs().Index
		for _, a := range addrs {
			if err := netlink.AddrAdd(link, Address(a)); err != nil {
				return fmt.Errorf("giving %s to %s: %w", a, name, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
	return index
}

// Give gives a link of the namespace an address, and Take takes it away.
func (n *NS) Give(t testing.TB, name string, p netip.Prefix) {
	t.Helper()
	n.address(t, name, p, netlink.AddrAdd)
}

// Take takes an address from a link.
func (n *NS) Take(t testing.TB, name string, p netip.Prefix) {
	t.Helper()
	n.address(t, name, p, netlink.AddrDel)
}

func (n *NS) address(t testing.TB, name string, p netip.Prefix, change func(netlink.Link, *netlink.Addr) error) {
	t.Helper()
	n.Do(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return change(link, Address(p))
	})
}

// Route sends what has no route of its own by a neighbour.
func (n *NS) Route(t testing.TB, via netip.Addr) {
	t.Helper()
	n.Do(t, func() error { return netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice()}) })
}

// Address returns p as netlink takes it.
func Address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// Port makes a veth pair: port on n's bridge, eth0 with mac in peer; both are up.
func (n *NS) Port(t testing.TB, bridge, port string, peer *NS, mac ipam.MAC) {
	t.Helper()
	n.Do(t, func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.HardwareAddr = port, br.Attrs().Index, mac.HostSide().HardwareAddr()
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0",
			PeerHardwareAddr: mac.HardwareAddr(), PeerNamespace: netlink.NsFd(peer.file.Fd()),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("making port %s: %w", port, err)
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	peer.Do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	peer.forwarding(t, "eth0")
	n.forwarding(t, bridge, port)
}

// forwarding waits until frames pass: a port forwards, and a link sends, only after
// the kernel has dealt with the carrier, which it does later. What is sent before is
// lost without an error.
func (n *NS) forwarding(t testing.TB, links ...string) {
	t.Helper()
	n.Do(t, func() error {
		deadline := time.Now().Add(10 * time.Second)
		for _, name := range links {
			for {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if link.Attrs().OperState == netlink.OperUp {
					break
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("link %s stays %v", name, link.Attrs().OperState)
				}
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	})
}

// Rejoin puts an existing port on a bridge again that was made anew.
func (n *NS) Rejoin(t testing.TB, bridge, port string) {
	t.Helper()
	n.Do(t, func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, br)
	})
	n.forwarding(t, bridge, port)
}

// Delete deletes a link.
func (n *NS) Delete(t testing.TB, name string) {
	t.Helper()
	n.Do(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
