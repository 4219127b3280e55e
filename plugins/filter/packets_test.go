package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The lab: a node with br100 (10.0.0.1, also 10.0.0.9 and 172.31.0.9), on it the workload 10.0.0.2, whose chain is
// tested, and its neighbour 10.0.0.3, whose port is not called as a workload's; and a host outside, 192.0.2.2, to which the
// node (192.0.2.1) routes.
type packetLab struct {
	kernel
	workload, neighbour, outside netns
	table                        *Table
	port                         atomic.Uint32 // source ports, so that each try is a new flow
}

const (
	gatewayIP   = "10.0.0.1"
	workloadIP  = "10.0.0.2"
	neighbourIP = "10.0.0.3"
	secondIP    = "10.0.0.9"   // the node's other address on the bridge
	thirdIP     = "172.31.0.9" // and one outside the subnet
	nodeIP      = "192.0.2.1"  // the node's, not on the bridge
	outsideIP   = "192.0.2.2"

	echoPort = 7007
)

func newPacketLab(t *testing.T, backend string) *packetLab {
	t.Helper()
	l := &packetLab{kernel: newKernel(t, backend), workload: newNetNS(t), neighbour: newNetNS(t), outside: newNetNS(t)}
	l.table = l.kernel.table()
	l.port.Store(20000)
	err := l.ns.do(func() error {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
			return fmt.Errorf("bridged frames do not reach iptables here: %w", err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br100"}}
		return errors.Join(netlink.LinkAdd(br), up("lo", ""), up("br100", gatewayIP+"/24"), up("br100", secondIP+"/24"), up("br100", thirdIP+"/32"),
			veth("fdp1", "br100", l.workload), veth("p2", "br100", l.neighbour), veth("out", "", l.outside), up("out", nodeIP+"/24"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for ns, addr := range map[netns]string{l.workload: workloadIP, l.neighbour: neighbourIP, l.outside: outsideIP} {
		gateway := gatewayIP
		if addr == outsideIP {
			gateway = nodeIP
		}
		err := ns.do(func() error {
			return errors.Join(up("lo", ""), up("eth0", addr+"/24"), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func up(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if addr != "" {
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// veth makes a pair: name here, a port of bridge if one is given, and eth0 there.
func veth(name, bridge string, there netns) error {
	attrs := netlink.LinkAttrs{Name: name}
	if bridge != "" {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs.MasterIndex = br.Attrs().Index
	}
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(there.fd)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	return netlink.LinkSetUp(pair)
}

func (l *packetLab) nextPort() int { return int(l.port.Add(1)) }

// listen opens a raw or UDP socket ("udp4", "ip4:icmp", "ip4:tcp") in ns.
func (l *packetLab) listen(ns netns, proto, addr string, port int) net.PacketConn {
	l.t.Helper()
	var c net.PacketConn
	err := ns.do(func() (err error) {
		if proto == "udp4" {
			addr = fmt.Sprintf("%s:%d", addr, port)
		}
		c, err = net.ListenPacket(proto, addr)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// counter returns how many packets the one rule of chain that contains match has
// seen, and the rule's number.
func (l *packetLab) counter(chain, match string) (packets uint64, number int) {
	l.t.Helper()
	var rules []RuleCounter
	l.must(func(ctx context.Context) (err error) {
		rules, err = l.table.Counters(ctx, chain)
		return err
	})
	for i, r := range rules {
		if strings.Contains(r.Rule+" ", match+" ") {
			if number != 0 {
				l.t.Fatalf("two rules of %s contain %q", chain, match)
			}
			packets, number = r.Packets, i+1
		}
	}
	if number == 0 {
		l.t.Fatalf("no rule of %s contains %q: %v", chain, match, rules)
	}
	return packets, number
}

// policyDrops returns how many packets a built-in chain's policy has dropped.
func (l *packetLab) policyDrops(builtin string) (packets uint64) {
	l.t.Helper()
	l.must(func(ctx context.Context) error {
		out, err := l.exec(ctx, l.iptables()+"-save", []string{"-c", "-t", "filter"}, nil)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			if rest, ok := strings.CutPrefix(line, ":"+builtin+" DROP ["); ok {
				_, err = fmt.Sscanf(rest, "%d:", &packets)
			}
		}
		return err
	})
	return packets
}

// dropsByPolicy waits until a policy has dropped more than before.
func (l *packetLab) dropsByPolicy(builtin string, before uint64) {
	l.t.Helper()
	for deadline := time.Now().Add(arrived); l.policyDrops(builtin) == before; {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s's policy dropped nothing", builtin)
		}
	}
}

// drained is how long a packet that was let by may take to its socket, and arrived
// how long to wait for one that must come. A drop needs no wait: when the rule's
// counter has moved, the packet is no more.
const (
	drained = 50 * time.Millisecond
	arrived = 10 * time.Second
)

// verdict sends a probe, waits until the rule's counter moves and checks the
// packet's fate.
func (l *packetLab) verdict(p probe, chain, match string, arrives bool) {
	l.t.Helper()
	before, _ := l.counter(chain, match)
	came, err := p(l)
	if err != nil && (arrives || !errors.Is(err, syscall.EPERM)) {
		l.t.Fatalf("sending: %v", err)
	}
	for deadline := time.Now().Add(arrived); ; {
		if now, _ := l.counter(chain, match); now > before {
			break
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the counter of %q in %s did not move:\n%s", match, chain, l.save())
		}
	}
	wait := drained
	if arrives {
		wait = arrived
	}
	if came(wait) != arrives {
		l.t.Errorf("judged by %q in %s: arrived should be %v", match, chain, arrives)
	}
}
