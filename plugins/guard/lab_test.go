package guard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// needRoot skips a test that makes network namespaces; where they must be possible
// (CI), it fails instead.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
		t.Fatal("FLATDHCP_REQUIRE_ROOT=1, but this is not root")
	}
	t.Skip("needs root: makes network namespaces")
}

// inNewNetNS starts a goroutine that runs functions in a network namespace of its
// own, one after the other, on one thread pinned to one CPU. The pinning is what
// makes frames arrive in the order in which they were sent: the kernel queues
// those of one CPU first in, first out, over any number of veth pairs.
func inNewNetNS(t testing.TB) (do func(func()), ns netns.NsHandle) {
	t.Helper()
	needRoot(t)
	work, opened := make(chan func()), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = pinThread()
		}
		if err == nil {
			ns, err = netns.Get()
		}
		opened <- err
		for f := range work {
			f()
		}
	}()
	if err := <-opened; err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(work)
		if err := ns.Close(); err != nil {
			t.Errorf("closing the network namespace: %v", err)
		}
	})
	return func(f func()) {
		done := make(chan any)
		work <- func() {
			defer func() { done <- recover() }()
			f()
		}
		if p := <-done; p != nil {
			panic(p)
		}
	}, ns
}

func pinThread() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("reading the thread's CPUs: %w", err)
	}
	for cpu := range 1024 {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	return unix.SchedSetaffinity(0, &one)
}

// A lab is a node with one bridge, a namespace of its own, and stations, which are
// the far ends of its ports and live in a second namespace.
type lab struct {
	t        *testing.T
	do       func(func()) // on the node
	far      func(func()) // among the stations
	ns       netns.NsHandle
	farNS    netns.NsHandle
	stations map[string]*station
	tags     uint64
	// Markers take the same steps over a bridge of their own, which the guard sees
	// and lets alone.
	markFrom, markTo *station
}

// A station sends and receives frames at the far end of one port.
type station struct {
	port string
	mac  ipam.MAC
	addr netip.Addr
	fd   int // packet socket
}

// bridgeName is the lab's bridge; bridgeStation the station that is the node itself.
const (
	bridgeName    = "br0"
	bridgeStation = bridgeName
	markerBridge  = "br9"
	gateway       = "10.0.0.1"

	experimental = 0x88b5 // ethertype of the markers (IEEE 802, local experiments)
)

func newLab(t *testing.T, learning bool) *lab {
	t.Helper()
	l := &lab{t: t, stations: map[string]*station{}}
	l.do, l.ns = inNewNetNS(t)
	l.far, l.farNS = inNewNetNS(t)
	l.mustFar("silencing the stations", quiet)
	l.mustDo("making the bridges", func() error {
		if err := errors.Join(quiet(), addBridge(bridgeName, learning), addBridge(markerBridge, learning)); err != nil {
			return err
		}
		fd, err := packetSocket(bridgeName)
		if err == nil {
			s := &station{port: bridgeStation, mac: mac(1), addr: netip.MustParseAddr(gateway), fd: fd}
			l.stations[bridgeStation] = s
			l.closeAtEnd(s)
		}
		return err
	})
	l.markFrom, l.markTo = l.plugInto(markerBridge, "mark0", 98), l.plugInto(markerBridge, "mark1", 99)
	return l
}

func addBridge(name string, learning bool) error {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = name
	br.HardwareAddr = mac(1).HardwareAddr()
	br.MulticastSnooping = new(bool) // which sends reports when it pleases
	if !learning {
		// Nothing is learned, everything floods: no case depends on another.
		br.AgeingTime = new(uint32)
	}
	return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
}

// quiet keeps the kernel from sending frames of its own, and frames from iptables.
func quiet() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		err = nil // a kernel without IPv6
	}
	return errors.Join(err, bridgeNetfilter("0"))
}

// bridgeNetfilter turns the namespace's bridged frames in iptables on or off.
func bridgeNetfilter(value string) error {
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (l *lab) mustDo(what string, f func() error) {
	l.t.Helper()
	must(l.t, l.do, what, f)
}

func (l *lab) mustFar(what string, f func() error) {
	l.t.Helper()
	must(l.t, l.far, what, f)
}

func must(t *testing.T, where func(func()), what string, f func() error) {
	t.Helper()
	var err error
	where(func() { err = f() })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func mac(n byte) ipam.MAC { return ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, n} }

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

// plug adds a port to the bridge with a station behind it, whose MAC and address
// end in n.
func (l *lab) plug(port string, n byte) *station {
	l.t.Helper()
	s := l.plugInto(bridgeName, port, n)
	l.stations[port] = s
	return s
}

func (l *lab) plugInto(bridge, port string, n byte) *station {
	l.t.Helper()
	s := &station{port: port, mac: mac(n), addr: addr(n)}
	far := farName(port)
	l.mustDo("plugging "+port, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: far,
			PeerHardwareAddr: s.mac.HardwareAddr(), PeerNamespace: netlink.NsFd(l.farNS)}
		veth.Name = port
		veth.HardwareAddr = s.mac.HostSide().HardwareAddr()
		br, err := netlink.LinkByName(bridge)
		if err == nil {
			veth.MasterIndex = br.Attrs().Index
			err = netlink.LinkAdd(veth)
		}
		if err == nil {
			err = netlink.LinkSetUp(veth)
		}
		return err
	})
	l.mustFar("raising "+far, func() error {
		link, err := netlink.LinkByName(far)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err == nil {
			s.fd, err = packetSocket(far)
		}
		return err
	})
	l.mustDo("waiting for "+port+" to forward", func() error { return forwarding(port) })
	l.closeAtEnd(s)
	return s
}

func (l *lab) closeAtEnd(s *station) {
	l.t.Cleanup(func() {
		if err := unix.Close(s.fd); err != nil {
			l.t.Errorf("closing the socket of %s: %v", s.port, err)
		}
	})
}

func forwarding(port string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("port %s is %s after 10 s", port, link.Attrs().OperState)
		}
		time.Sleep(time.Millisecond)
	}
}

func packetSocket(ifName string) (int, error) {
	link, err := netlink.LinkByName(ifName)
	if err != nil {
		return -1, err
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// send puts a frame on the wire at the far end of a port; at the bridge itself, it
// is sent as the DHCP server does.
func (l *lab) send(from *station, frame []byte) {
	l.t.Helper()
	send := func() error { return unix.Send(from.fd, frame, 0) }
	// One thread for all: it is the sender's CPU that orders the frames.
	l.mustDo("sending from "+from.port, send)
}

// arrivals sends the frame and returns at which of the stations it came out. That
// it is at none of the others is certain: a marker sent after it, past ports that
// are not ours, has arrived.
func (l *lab) arrivals(from *station, frame []byte, tag []byte) map[string]bool {
	l.t.Helper()
	for _, s := range l.stations {
		s.received(nil)
	}
	l.send(from, frame)
	marker := l.tag()
	l.send(l.markFrom, ethernet(l.markTo.mac, l.markFrom.mac, experimental, marker))
	l.await(l.markTo, marker)
	at := map[string]bool{}
	for name, s := range l.stations {
		if s != from && s.received(tag) {
			at[name] = true
		}
	}
	return at
}

func (l *lab) await(s *station, tag []byte) {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !s.received(tag); {
		if time.Now().After(deadline) {
			l.t.Fatalf("a marker did not arrive at %s within 10 s", s.port)
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			l.t.Fatalf("waiting for a marker at %s: %v", s.port, err)
		}
	}
}

// received empties the socket and says whether a frame with the tag was in it.
func (s *station) received(tag []byte) (found bool) {
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return found
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if ok && ll.Pkttype != unix.PACKET_OUTGOING && tag != nil && bytes.Contains(buf[:n], tag) {
			found = true
		}
	}
}

// tag returns bytes that no other frame of the lab contains.
func (l *lab) tag() []byte {
	l.tags++
	return binary.BigEndian.AppendUint64(nil, 0xf1a7<<48|l.tags)
}

// counters are the guard's counters that are not zero.
func (l *lab) counters() map[string]uint64 {
	l.t.Helper()
	m := map[string]uint64{}
	l.mustDo("reading counters", func() error {
		cs, err := Counters(l.t.Context())
		for _, c := range cs {
			if c.Packets > 0 {
				m[c.Name] = c.Packets
			}
		}
		return err
	})
	return m
}

// run executes a program on the node.
func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	return l.pipe("", name, args...)
}

// pipe executes a program on the node with an input.
func (l *lab) pipe(input, name string, args ...string) string {
	l.t.Helper()
	var out []byte
	l.mustDo(name+" "+strings.Join(args, " "), func() (err error) {
		path, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			path = filepath.Join("/usr/sbin", name)
		}
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader(input)
		out, err = cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	return string(out)
}

// listing is nft's listing of the table as the planner writes it: counters at 0,
// elements sorted, one a line.
func (l *lab) listing() string {
	l.t.Helper()
	return canonical(l.run("nft", "list", "table", "bridge", tableName))
}

// farName is the name of a port's far end.
func farName(port string) string { return "f" + strings.TrimPrefix(port, "f") }
