package seed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// patience is how long anything may take before a test gives up. Nothing is measured by it.
const patience = time.Minute

const network = "flat"

// scene is the network in one shape, with the toggle on or off, with vm1 and vm2 on
// compute-1 and vm3 on compute-2.
type scene struct {
	t     *testing.T // of the case that is played
	whole *testing.T // of the scene
	lab   *lab.Lab
	shape shape
	open  bool

	outside                        *lab.Host
	controller, compute1, compute2 *node
	vm1, vm2, vm3                  *workload

	flows uint16 // how many echo flows there were
}

// node is a host with its part of the network.
type node struct {
	*lab.Host
	s     *scene
	keys  keys
	dhcpd *lab.Process // nil where none runs
	// chained are the plugins behind flat-bridge in the conflist.
	chained []keys
}

// workload is a VM's port, or a container, on the network.
type workload struct {
	*lab.VM
	n    *node
	name string
	o    lab.CNIOptions
	addr netip.Addr
	mac  net.HardwareAddr
}

// newScene brings the network up, workloads included; they have their addresses by DHCP.
func newScene(t *testing.T, sh shape, open bool) *scene {
	t.Helper()
	return newSceneOn(t, sh, open, lab.Seed(2))
}

// newSceneOn is newScene on a network with more than the seed's hosts.
func newSceneOn(t *testing.T, sh shape, open bool, topology lab.Topology) *scene {
	t.Helper()
	s := newHosts(t, sh, open, topology)
	s.vm1 = s.compute1.attach("vm1", lab.CNIOptions{})
	s.vm2 = s.compute1.attach("vm2", lab.CNIOptions{})
	s.vm3 = s.compute2.attach("vm3", lab.CNIOptions{})
	for _, w := range []*workload{s.vm1, s.vm2, s.vm3} {
		w.boot()
	}
	return s
}

// newHosts brings the hosts up, without workloads.
func newHosts(t *testing.T, sh shape, open bool, topology lab.Topology) *scene {
	t.Helper()
	s := &scene{t: t, whole: t, shape: sh, open: open, lab: labtest.New(t, labtest.Options(t))}
	if err := s.lab.Build(s.within(), topology); err != nil {
		t.Fatal(err)
	}
	s.outside = s.lab.Host("outside")
	s.controller, s.compute1, s.compute2 = s.node("controller"), s.node("compute-1"), s.node("compute-2")
	return s
}

// node configures a host.
func (s *scene) node(name string) *node {
	s.t.Helper()
	n := &node{Host: s.lab.Host(name), s: s, keys: keys{"allowSameNetTraffic": s.open, "leaseTime": "120s", "addressing": "dhcp", "flatInterface": "eth2"}}
	n.configure(s.shape.keys[name])
	// The bridge's own flag must do: others set the sysctl to 0.
	n.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
	if n.keys["isGateway"] == nil {
		n.configure(keys{"metadata": n.metadata()})
		// The gateway's side needs no workload, only a record. On the others the first ADD
		// makes the bridge.
		n.apply(nil)
		n.serve()
		n.serving()
	} else if links := n.run("ip", "-details", "link"); strings.Contains(links, "br100") || strings.Contains(links, "promiscuity 1") {
		s.t.Errorf("before its first workload %s has a bridge, or its NIC is touched:\n%s", name, links)
	}
	return n
}

// serve starts the node's daemon.
func (n *node) serve() {
	n.s.t.Helper()
	p, err := n.StartDaemon()
	if err != nil {
		n.s.t.Fatal(err)
	}
	n.dhcpd = p
	n.s.whole.Cleanup(func() {
		if n.s.whole.Failed() {
			n.s.whole.Logf("flat-dhcpd on %s:\n%s", n.Name(), strings.Join(p.Lines(), "\n"))
		}
		if p.Running() {
			if err := p.Stop(); err != nil {
				n.s.whole.Errorf("stopping flat-dhcpd on %s: %v", n.Name(), err)
			}
		}
	})
}

// serving waits until the node's daemon serves the bridge.
func (n *node) serving() {
	n.s.t.Helper()
	if _, _, err := n.dhcpd.WaitLine(n.s.within(), 0, "DHCP, static leases only on "); err != nil {
		n.s.t.Fatal(err)
	}
}

// paused keeps the node's daemon, if one runs, from mending what a case damages, until the
// function that it returns is called.
func (n *node) paused() func() {
	n.s.t.Helper()
	if n.dhcpd == nil {
		return func() {}
	}
	signal := func(sig os.Signal) {
		n.s.t.Helper()
		if err := n.dhcpd.Signal(sig); err != nil {
			n.s.t.Fatal(err)
		}
	}
	// It must not keep a lock while it sleeps.
	const free = `for f in /run/flatdhcp/node.lock /run/flatdhcp/filter.lock /var/lib/flatdhcp/lock /var/lib/flatdhcp/flat.db; do
	flock --nonblock $f true || exit 1
done`
	for ctx := n.s.within(); ; {
		signal(syscall.SIGSTOP)
		for !stopped(n.s.t, n.dhcpd.PID()) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		_, _, err := n.Run(ctx, "sh", "-c", free)
		if err == nil {
			break
		}
		signal(syscall.SIGCONT)
		if ctx.Err() != nil {
			n.s.t.Fatalf("flat-dhcpd on %s never lets go of its locks: %v", n.Name(), err)
		}
	}
	return func() { n.s.t.Helper(); signal(syscall.SIGCONT) }
}

// stopped reports whether all threads of a process sleep by SIGSTOP: one after the other
// does, some time after the signal.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d is gone: %v", pid, err)
	}
	for _, task := range tasks {
		// NUMBER (NAME) STATE; a thread that ended meanwhile does no harm.
		stat, err := os.ReadFile(task)
		if _, after, ok := strings.Cut(string(stat), ") "); err == nil && (!ok || after[0] != 'T') {
			return false
		}
	}
	return true
}

// gatewayNode is the host that is vm1's gateway.
func (s *scene) gatewayNode() *node {
	if s.shape.multi {
		return s.compute1
	}
	return s.controller
}

func (s *scene) nodes() []*node { return []*node{s.controller, s.compute1, s.compute2} }

func (s *scene) within() context.Context { return labtest.Within(s.t, patience) }

// configure writes the node's conflist with some keys changed; nothing is applied.
func (n *node) configure(change keys) {
	n.s.t.Helper()
	n.keys = with(n.keys, change)
	ipam := keys{"type": "flat-ipam", "subnet": "10.0.0.0/24"}
	plugin := keys{"type": "flat-bridge", "ipam": ipam}
	for k, v := range n.keys {
		if v == nil { // the key is left out again
			continue
		}
		if sub, ok := strings.CutPrefix(k, "ipam."); ok {
			ipam[sub] = v
		} else {
			plugin[k] = v
		}
	}
	list, err := json.MarshalIndent(keys{"cniVersion": "1.1.0", "name": network,
		"plugins": append([]keys{plugin}, n.chained...)}, "", " ")
	if err != nil {
		n.s.t.Fatal(err)
	}
	if err := n.WriteConflist(n.s.within(), network, string(list)); err != nil {
		n.s.t.Fatal(err)
	}
}

// apply changes keys of the node's conflist and puts it in force, as an administrator does.
func (n *node) apply(change keys) {
	n.s.t.Helper()
	if n.dhcpd == nil || change == nil {
		n.configure(change)
		n.run("flatctl", "apply", lab.ConflistPath(network))
		return
	}
	before := n.reconciled()
	n.configure(change)
	n.run("flatctl", "apply", lab.ConflistPath(network))
	// The daemon looks at the rules, too, and must not do so when a case has taken one out.
	ctx := n.s.within()
	for n.reconciled() == before {
		select {
		case <-ctx.Done():
			n.s.t.Fatalf("waiting for flat-dhcpd on %s to see the change: %v", n.Name(), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// reconciled is how often the node's daemon has looked at rules because a record changed.
func (n *node) reconciled() int {
	n.s.t.Helper()
	socket := fmt.Sprintf("/proc/%d/root/run/flatdhcp/flat-dhcpd.sock", n.dhcpd.PID())
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(n.s.within(), http.MethodGet, "http://flat-dhcpd/metrics", nil)
	if err != nil {
		n.s.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		n.s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		n.s.t.Fatal(err)
	}
	sum := 0
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "flatdhcp_reconciles_total{"); ok {
			_, value, _ := strings.Cut(rest, "} ")
			count, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				n.s.t.Fatalf("reading %q: %v", line, err)
			}
			sum += count
		}
	}
	return sum
}

// run runs a program that must succeed, and returns what it printed.
func (n *node) run(argv ...string) string {
	n.s.t.Helper()
	return n.s.run(n.Host, argv...)
}

func (s *scene) run(h *lab.Host, argv ...string) string {
	s.t.Helper()
	out, stderr, err := h.Run(s.within(), argv...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, stderr)
	}
	return out
}

// attach makes a workload by cnitool.
func (n *node) attach(name string, o lab.CNIOptions) *workload {
	n.s.t.Helper()
	vm, err := n.VM(n.s.within(), name)
	if err != nil {
		n.s.t.Fatal(err)
	}
	out, err := n.CNI(n.s.within(), "add", network, vm.Container, o)
	if err != nil {
		n.s.t.Fatal(err)
	}
	w := &workload{VM: vm, n: n, name: name, o: o}
	var result types100.Result
	if err := json.Unmarshal(out, &result); err != nil {
		n.s.t.Fatalf("decoding the result %s: %v", out, err)
	}
	w.addr, _ = netip.AddrFromSlice(result.IPs[0].Address.IP.To4())
	if w.mac, err = net.ParseMAC(result.Interfaces[2].Mac); err != nil {
		n.s.t.Fatal(err)
	}
	return w
}

// detach ends a workload, without a word to the DHCP server.
func (w *workload) detach() {
	w.n.s.t.Helper()
	if _, err := w.n.CNI(w.n.s.within(), "del", network, w.Container, w.o); err != nil {
		w.n.s.t.Fatal(err)
	}
	if err := w.Delete(w.n.s.within()); err != nil {
		w.n.s.t.Fatal(err)
	}
}

// boot runs a DHCP client until the workload has its address.
func (w *workload) boot(flags ...string) lab.Lease {
	w.n.s.t.Helper()
	lease, console, err := w.Boot(w.n.s.within(), "eth0", append([]string{"-t", "20"}, flags...)...)
	if err != nil {
		w.n.s.t.Fatalf("%s: %v\n%s", w.name, err, console)
	}
	return lease
}

// booted reports whether a DHCP client gets a lease within three tries, a second each.
func (w *workload) booted(flags ...string) bool {
	w.n.s.t.Helper()
	_, console, err := w.Boot(w.n.s.within(), "eth0", flags...)
	if err != nil && !errors.Is(err, lab.ErrNoLease) {
		w.n.s.t.Fatalf("%s: %v\n%s", w.name, err, console)
	}
	return err == nil
}

func (w *workload) port() string           { return link.PortName(w.ID(), "eth0") }
func (w *workload) chain() string          { return filter.ChainName(network, w.ID(), "eth0") }
func (w *workload) endpoint() lab.Endpoint { return lab.Endpoint{MAC: w.mac, Addr: w.addr} }

// place is where a program is run: a host or a container.
type place interface {
	Run(ctx context.Context, argv ...string) (stdout, stderr string, err error)
}

// ping reports whether one ping is answered. What is expected to be answered may take
// long; what is not is given up after a second, as the counters tell the truth.
func (s *scene) ping(from place, to netip.Addr, expected bool) bool {
	s.t.Helper()
	wait := "1"
	if expected {
		wait = "20"
	}
	_, _, err := from.Run(s.within(), "ping", "-n", "-c", "1", "-W", wait, to.String())
	var failed *lab.RunError
	if err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	return err == nil
}

// tap opens an interface until the test ends.
func (s *scene) tap(from interface {
	Tap(ifName string) (*lab.Tap, error)
}, ifName string) *lab.Tap {
	s.t.Helper()
	tap, err := from.Tap(ifName)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = tap.Close() }) // a capture: nothing to lose
	return tap
}

// watch starts a capture that ends with the test.
func (s *scene) watch(points ...lab.Point) *lab.Capture {
	s.t.Helper()
	c, err := lab.Watch(points...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// sightings are those until now.
func (s *scene) sightings(c *lab.Capture) []lab.Sighting {
	s.t.Helper()
	seen, err := c.Sightings()
	if err != nil {
		s.t.Fatal(err)
	}
	return seen
}

// described tells the frames that Describe describes so.
func described(text string) func([]byte) bool {
	return func(f []byte) bool { return strings.HasPrefix(lab.Describe(f), text) }
}

// path is the way of a frame from a workload to an interface, with a marker that always
// passes, so that absence is proven and not waited for.
type path struct {
	s        *scene
	from, to *lab.Tap
	marker   func() []byte
}

func (s *scene) path(from *workload, to *lab.Tap, end lab.Endpoint) path {
	return path{s: s, from: s.tap(from, "eth0"), to: to, marker: func() []byte {
		m, _ := lab.Marker(from.endpoint(), end)
		return m
	}}
}

// pathTo ends at a workload.
func (s *scene) pathTo(from, to *workload) path {
	s.t.Helper()
	return s.path(from, s.tap(to, "eth0"), to.endpoint())
}

// pathToGateway ends at the bridge of vm1's gateway.
func (s *scene) pathToGateway(from *workload) path {
	s.t.Helper()
	bridge := s.tap(s.gatewayNode(), "br100")
	return s.path(from, bridge, lab.Endpoint{MAC: bridge.MAC(), Addr: gateway})
}

func (p path) passes(frame []byte) bool {
	p.s.t.Helper()
	ok, err := lab.Delivered(p.s.within(), p.from, p.to, frame, p.marker())
	if err != nil {
		p.s.t.Fatal(err)
	}
	return ok
}

// word is what a table says of a yes or no.
func word(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// echo is an echo request of a flow of its own: one that passed makes the next of its flow
// ESTABLISHED.
func (s *scene) echo(from, to lab.Endpoint) []byte {
	s.flows++
	return lab.Ethernet(to.MAC, from.MAC, 0x0800, lab.Echo(from.Addr, to.Addr, s.flows, 1, fmt.Appendf(nil, "flow %d", s.flows)))
}

// arpRequest asks who has an address, by broadcast.
func arpRequest(from *workload, addr string) []byte {
	return lab.ARP(lab.Broadcast, from.mac, lab.ARPRequest, from.endpoint(),
		lab.Endpoint{MAC: make(net.HardwareAddr, 6), Addr: netip.MustParseAddr(addr)})
}
