package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// insideLab marks the process that TestMain started in namespaces of its own.
const insideLab = "FLATDHCP_UPLINK_LAB"

// TestMain runs the tests in a process with its own network and mount namespace: no mistake
// reaches the machine.
func TestMain(m *testing.M) {
	if os.Getenv(insideLab) == "" && os.Geteuid() == 0 {
		runtime.LockOSThread() // the child dies with this thread
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideLab+"=1", "LC_ALL=C")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		if err == nil || errors.As(err, &exit) {
			os.Exit(cmd.ProcessState.ExitCode())
		}
	}
	if os.Getenv(insideLab) != "" {
		err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if err == nil {
			err = unix.Mount("tmpfs", "/run", "tmpfs", 0, "")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "furnishing the lab:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func inLab(t testing.TB) context.Context {
	t.Helper()
	if os.Getenv(insideLab) == "" {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("FLATDHCP_REQUIRE_ROOT=1, but the test cannot make network namespaces")
		}
		t.Skip("needs root: makes network namespaces and links")
	}
	return t.Context()
}

// ip runs lines of iproute2 in the lab, each a command: fails the test if one does.
func ip(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}

// A site is a node (the lab's own namespace) with eth1, behind which is a LAN with one
// host, which is also its router.
type site struct {
	t   testing.TB
	lan string // name of the host's namespace
	u   Uplink
}

const (
	bridgePlain = "fa:16:3e:00:00:01"
	nicMAC      = "52:54:00:12:34:56"
)

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, lan: "lan"}
	ip(t, "netns add lan", "link add eth1 address "+nicMAC+" mtu 1400 type veth peer name wire netns lan",
		"link add br100 address "+bridgePlain+" type bridge forward_delay 0")
	t.Cleanup(func() {
		for _, line := range []string{"link del eth1", "link del br100", "netns del lan"} {
			// A test may have removed it.
			_ = exec.Command("ip", strings.Fields(line)...).Run()
		}
	})
	// As link.EnsureBridge leaves it.
	write(t, "/proc/sys/net/ipv6/conf/br100/addr_gen_mode", "1")
	write(t, "/proc/sys/net/ipv6/conf/br100/disable_ipv6", "1")
	ip(t, "link set br100 up",
		"-n lan link set lo up", "-n lan link set wire up",
		"-n lan address add 192.0.2.1/24 dev wire", "-n lan address add 2001:db8::1/64 dev wire nodad",
		"-n lan address add fe80::1/64 dev wire nodad", "-n lan address add 198.51.100.1/32 dev lo", "-n lan address add 2001:db8:3::1/128 dev lo nodad")
	plain, err := ipam.ParseMAC(bridgePlain)
	if err != nil {
		t.Fatal(err)
	}
	s.u = Uplink{NIC: "eth1", Bridge: "br100", Path: filepath.Join(t.TempDir(), "br100.json"), BootID: "this", MoveAddresses: true, PlainMAC: plain}
	return s
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// furnish gives the NIC everything that can be moved.
func (s *site) furnish() {
	s.t.Helper()
	ip(s.t, "link set eth1 up",
		"address add 192.0.2.5/24 brd + dev eth1",
		"address add 192.0.2.6/24 dev eth1 label eth1:0", // secondary
		"address add 203.0.113.9/32 dev eth1 valid_lft 3900 preferred_lft 1900",
		"address add 192.0.2.77 peer 192.0.2.78 dev eth1",
		"address add 172.20.0.1/16 dev eth1 metric 333",
		"address add 172.21.0.1/16 dev eth1 noprefixroute",
		"route add 172.21.0.0/16 dev eth1 proto kernel scope link src 172.21.0.1 metric 100", // as NetworkManager does
		"-6 address add 2001:db8::5/64 dev eth1 nodad",
		"-6 address add 2001:db8::6/64 dev eth1 valid_lft 7900 preferred_lft 3900 nodad",
		"route add default via 192.0.2.1 dev eth1 proto static metric 100 src 192.0.2.6",
		"route append default via 192.0.2.254 dev eth1 proto static metric 100",
		"route add 10.9.0.0/16 via 172.30.0.1 dev eth1 onlink table 77 mtu 1300 advmss 1200",
		"route add 10.10.0.0/16 dev eth1 scope link",
		"route add 10.11.0.0/16 nexthop via 192.0.2.1 dev eth1 weight 3 nexthop via 192.0.2.2 dev eth1",
		"route add 10.12.0.0/16 via inet6 fe80::1 dev eth1",
		"-6 route add default via fe80::1 dev eth1 metric 50 proto static",
		"-6 route add 2001:db8:1::/48 via 2001:db8::1 dev eth1 src 2001:db8::6 table 78",
		"-6 route add 2001:db8:2::/48 dev eth1 metric 5",
		"-6 route add 2001:db8:3::/48 nexthop via 2001:db8::1 dev eth1 weight 2 nexthop via fe80::1 dev eth1",
		"-6 route add 2001:db8:4::/48 via 2001:db8::1 dev eth1 expires 3900",
		"neighbour add 192.0.2.99 lladdr 02:00:00:00:00:99 dev eth1 nud permanent")
	s.settled()
}

// settled waits until the kernel has done with new IPv6 addresses: with their duplicate
// checks, and then with the routes to them.
func (s *site) settled() {
	s.t.Helper()
	eventually(s.t, "the duplicate checks to end", func() bool {
		if output(s.t, "ip", "-6", "address", "show", "tentative") != "" {
			return false
		}
		routes := output(s.t, "ip", "-6", "route", "show", "table", "local")
		for line := range strings.Lines(output(s.t, "ip", "-o", "-6", "address", "show")) {
			f := strings.Fields(line) // 2: eth1 inet6 ADDRESS/LENGTH
			address, _, _ := strings.Cut(f[3], "/")
			if f[1] != "lo" && !strings.Contains(routes, "local "+address+" dev "+f[1]+" ") {
				return false
			}
		}
		return true
	})
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s in vain: %s", what)
		}
	}
}

var (
	running = regexp.MustCompile(`(valid_lft|preferred_lft|expires) (\d+)sec`)
	timer   = regexp.MustCompile(`(hello_timer|tcn_timer|topology_change_timer|gc_timer|hold_timer|message_age_timer|forward_delay_timer) +[\d.]+ `)
)

// state is everything that a move could have changed, as text. What runs by itself is cut:
// time in thousands of seconds.
func (s *site) state() string {
	s.t.Helper()
	s.settled()
	var b strings.Builder
	for _, args := range []string{
		"-details link show", "-details address show", "-details -4 route show table all", "-details -6 route show table all",
		"rule show", "-6 rule show", "neighbour show nud permanent",
	} {
		fmt.Fprintf(&b, "== ip %s\n%s", args, output(s.t, "ip", strings.Fields(args)...))
	}
	for _, link := range []string{"eth1", "br100"} {
		for _, key := range append(slices.Clone(ipv6Settings), "addr_gen_mode") {
			v, err := os.ReadFile(filepath.Join(sysctlIPv6, link, key))
			if err != nil {
				v = []byte("(none)\n")
			}
			fmt.Fprintf(&b, "%s.%s = %s", link, key, v)
		}
	}
	// What a bridge can have a port cut into segments for it, the kernel does not take back.
	text := regexp.MustCompile(`tso_max_size \d+ `).ReplaceAllString(timer.ReplaceAllString(b.String(), ""), "")
	return running.ReplaceAllStringFunc(text, func(m string) string {
		f := running.FindStringSubmatch(m)
		n := 0
		_, _ = fmt.Sscan(f[2], &n)
		return fmt.Sprintf("%s %d000 s and more", f[1], n/1000)
	})
}

// stable is the state once it stays: the kernel makes routes to new IPv6 addresses by and by.
func (s *site) stable() string {
	s.t.Helper()
	last := ""
	eventually(s.t, "the state to stay", func() bool {
		before := last
		last = s.state()
		return before == last
	})
	return last
}

// unchanged compares the state with an earlier one. The kernel tells a bridge by and by that
// its last port is gone.
func (s *site) unchanged(before, when string) {
	s.t.Helper()
	var after string
	for end := time.Now().Add(3 * time.Second); ; {
		if after = s.state(); after == before {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: not as before:\n%s", when, lineDiff(before, after))
		}
	}
}

// lineDiff lists lines that only one of two texts has.
func lineDiff(a, b string) string {
	var out bytes.Buffer
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, line := range x {
		if !slices.Contains(y, line) {
			fmt.Fprintln(&out, "-", line)
		}
	}
	for _, line := range y {
		if !slices.Contains(x, line) {
			fmt.Fprintln(&out, "+", line)
		}
	}
	if out.Len() == 0 {
		for i := range x {
			if i < len(y) && x[i] != y[i] {
				return fmt.Sprintf("the same lines in another order:\n- %s\n+ %s\nof %s", x[i], y[i], b)
			}
		}
		return "the same lines"
	}
	return out.String()
}

// inLAN runs f in the LAN host's namespace, on a thread of its own.
func (s *site) inLAN(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		ns, err := os.Open("/run/netns/" + s.lan)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// A talk is a TCP connection by which the node and the LAN host send each other a byte by
// turns, without a rest.
type talk struct {
	name string
	conn net.Conn
	stop chan struct{}
	done chan error
	max  time.Duration // the longest turn
	n    atomic.Int64
}

// talk begins one: from is the node's address, empty for the kernel's choice.
func (s *site) talk(from, to string) *talk {
	s.t.Helper()
	var l net.Listener
	err := s.inLAN(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(to, "0"))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	d := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	k := &talk{name: fmt.Sprintf("%s to %s", c.LocalAddr(), c.RemoteAddr()), conn: c, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { k.done <- k.run() }()
	return k
}

func (k *talk) run() error {
	b := []byte{1}
	for {
		select {
		case <-k.stop:
			return k.conn.Close()
		default:
		}
		began := time.Now()
		if err := k.conn.SetDeadline(began.Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := k.conn.Write(b); err != nil {
			return err
		}
		if _, err := k.conn.Read(b); err != nil {
			return err
		}
		k.max = max(k.max, time.Since(began))
		k.n.Add(1)
		time.Sleep(100 * time.Microsecond) // lets others at the processors
	}
}

// end checks that the connection has survived, and tells its longest stall.
func (k *talk) end(t testing.TB, what string) {
	t.Helper()
	close(k.stop)
	if err := <-k.done; err != nil {
		t.Errorf("%s: TCP %s broke after %d turns: %v", what, k.name, k.n.Load(), err)
	}
	t.Logf("%s: TCP %s: %d turns, longest stall %s (target: under 100 ms)", what, k.name, k.n.Load(), k.max.Round(10*time.Microsecond))
}
