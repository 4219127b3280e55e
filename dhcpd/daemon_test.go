package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// asDaemon makes this test binary run as flat-dhcpd.
const asDaemon = "FLAT_DHCPD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) == "1" {
		os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	if addr := os.Getenv(asHolder); addr != "" {
		os.Exit(hold(addr))
	}
	// Tests that are parallel mostly wait for a client's clock, not for a CPU.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("12"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

var (
	gateway   = netip.MustParseAddr("10.0.0.1")
	gatewayIn = netip.MustParsePrefix("10.0.0.1/24")
	bridgeMAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 1}
	known     = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}
	stranger  = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 99}
	reserved  = netip.MustParseAddr("10.0.0.2")
)

// patience is how long anything may take that is to happen; nothing waits that long
// unless the test fails.
const patience = 20 * time.Second

// network is the record of the network that most tests serve.
func network(change ...func(*ipam.Network)) ipam.Network {
	n := ipam.Network{
		Name: "flat",
		Pool: ipam.Pool{
			Subnet:     netip.MustParsePrefix("10.0.0.0/24"),
			RangeStart: netip.MustParseAddr("10.0.0.1"), RangeEnd: netip.MustParseAddr("10.0.0.254"),
			Gateway: gateway, Domain: "novalocal", MACPrefix: ipam.DefaultMACPrefix,
			ReuseDelay: ipam.Duration(time.Minute), Retain: ipam.Duration(24 * time.Hour),
		},
		Bridge: &ipam.Bridge{
			Name: "br100", IsGateway: true, AllowSameNetTraffic: true, Fallback: ipam.FallbackDrop,
			Published: true, AntiSpoofing: true, Addressing: ipam.AddressingDHCP, MTU: 1500,
			LeaseTime: ipam.Duration(2 * time.Minute),
			DNS:       ipam.DNS{Nameservers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}},
		},
	}
	for _, f := range change {
		f(&n)
	}
	return n
}

// node is a namespace with a bridge, a data directory and, if started, a daemon.
type node struct {
	*testnet.NS
	data, run string
	store     *ipam.Store
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{NS: testnet.New(t), data: filepath.Join(t.TempDir(), "data"), run: filepath.Join(t.TempDir(), "run")}
	n.store = ipam.OpenDir(n.data).Store("flat")
	n.Bridge(t, "br100", bridgeMAC, gatewayIn)
	return n
}

// reserve gives the workload named after host the given MAC and address.
func (n *node) reserve(t testing.TB, host string, mac ipam.MAC, addr netip.Addr, change ...func(*ipam.Network)) ipam.Grant {
	t.Helper()
	g, err := n.tryReserve(host, mac, addr, change...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (n *node) tryReserve(host string, mac ipam.MAC, addr netip.Addr, change ...func(*ipam.Network)) (ipam.Grant, error) {
	record := network(change...)
	return n.store.Reserve(context.Background(), &record, ipam.Request{
		Workload: ipam.Workload{Kind: ipam.KindName, Value: host, IfName: "eth0"},
		Holder:   ipam.Holder{ContainerID: host, IfName: "eth0", Ported: true, BootID: "test"},
		Addr:     addr, MAC: mac, Hostname: host,
	})
}

// release ends the attachment that reserve made.
func (n *node) release(t testing.TB, host string) {
	t.Helper()
	if _, ok, err := n.store.Release(context.Background(), host, "eth0"); err != nil || !ok {
		t.Fatalf("releasing %s: %v, %v", host, ok, err)
	}
}

// daemon is a running flat-dhcpd.
type daemon struct {
	cmd  *exec.Cmd
	log  logFile
	done <-chan struct{}
}

// start runs flat-dhcpd in the node's namespace.
func (n *node) start(t testing.TB, args ...string) *daemon {
	t.Helper()
	return n.startWith(t, nil, args...)
}

// startWith is start with more in the environment.
func (n *node) startWith(t testing.TB, env []string, args ...string) *daemon {
	t.Helper()
	// A file and no pipe: what the daemon has written is there to read at once.
	stderr, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stderr.Close() }()
	d := &daemon{log: logFile(stderr.Name())}
	d.cmd = exec.Command("/proc/self/exe", append([]string{"--data-dir", n.data, "--run-dir", n.run}, args...)...)
	d.cmd.Env = append(append(os.Environ(), asDaemon+"=1"), env...)
	d.cmd.Stderr = stderr
	d.done = n.Start(t, d.cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("flat-dhcpd said:\n%s", d.log)
		}
	})
	return d
}

// serving waits until the daemon has said n times that it serves.
func (d *daemon) serving(t testing.TB, n int) {
	t.Helper()
	await(t, fmt.Sprintf("flat-dhcpd serving for the %d. time", n), func() bool {
		return strings.Count(d.log.String(), "DHCP, sockets bound exclusively to interface") >= n
	})
}

// stop ends the daemon as an administrator does and checks that it ends well.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(patience):
		t.Fatal("flat-dhcpd does not stop")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("flat-dhcpd stopped with code %d", code)
	}
}

// await waits until a condition holds.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// logFile is the path of a daemon's log; its String is the content.
type logFile string

func (l logFile) String() string {
	b, err := os.ReadFile(string(l))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
