package filter

import (
	"context"
	"encoding/binary"
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
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The lab: a node with br100 (10.0.0.1), on it the workload 10.0.0.2, whose chain is
// tested, and its neighbour 10.0.0.3; and a host outside, 192.0.2.2, to which the
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
	nodeIP      = "192.0.2.1" // the node's, not on the bridge
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
		return errors.Join(netlink.LinkAdd(br), up("lo", ""), up("br100", gatewayIP+"/24"),
			veth("p1", "br100", l.workload), veth("p2", "br100", l.neighbour), veth("out", "", l.outside), up("out", nodeIP+"/24"))
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

// probe sends one packet and tells, once its verdict has been given, whether it
// arrived.
type probe func(l *packetLab) (arrived func(wait time.Duration) bool, err error)

// udp sends a datagram to the workload's echoPort, or to port.
func udp(from func(*packetLab) netns, source string, sourcePort, port int) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		in := l.listen(l.workload, "udp4", workloadIP, port)
		sport := sourcePort
		if sport == 0 {
			sport = l.nextPort()
		}
		out := l.listen(from(l), "udp4", source, sport)
		_, err := out.WriteTo([]byte("probe"), &net.UDPAddr{IP: net.ParseIP(workloadIP), Port: port})
		return func(wait time.Duration) bool {
			defer func() { _, _ = in.Close(), out.Close() }()
			return receives(in, wait, func(b []byte) bool { return string(b) == "probe" })
		}, err
	}
}

func node(l *packetLab) netns      { return l.ns }
func neighbour(l *packetLab) netns { return l.neighbour }
func outside(l *packetLab) netns   { return l.outside }

// receives reads until a packet is the wanted one or nothing comes any more.
func receives(c net.PacketConn, wait time.Duration, want func([]byte) bool) bool {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false
	}
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return false
		}
		if want(b[:n]) {
			return true
		}
	}
}

// reply lets the workload ask a peer and is about the answer.
func reply(l *packetLab) (func(time.Duration) bool, error) {
	in, peer := l.listen(l.workload, "udp4", workloadIP, l.nextPort()), l.listen(l.neighbour, "udp4", neighbourIP, echoPort)
	if _, err := in.WriteTo([]byte("question"), &net.UDPAddr{IP: net.ParseIP(neighbourIP), Port: echoPort}); err != nil {
		return nil, err
	}
	if !receives(peer, testDeadline, func(b []byte) bool { return string(b) == "question" }) {
		return nil, errors.New("the question did not arrive")
	}
	_, err := peer.WriteTo([]byte("answer"), in.LocalAddr())
	return func(wait time.Duration) bool {
		defer func() { _, _ = in.Close(), peer.Close() }()
		return receives(in, wait, func(b []byte) bool { return string(b) == "answer" })
	}, err
}

// forgedError lets the workload talk to the gateway; the neighbour then sends an
// ICMP error that quotes that flow.
func forgedError(l *packetLab) (func(time.Duration) bool, error) {
	port := l.nextPort()
	in, gw := l.listen(l.workload, "udp4", workloadIP, port), l.listen(l.ns, "udp4", gatewayIP, echoPort)
	if _, err := in.WriteTo([]byte("question"), gw.LocalAddr()); err != nil {
		return nil, err
	}
	if !receives(gw, testDeadline, func(b []byte) bool { return string(b) == "question" }) {
		return nil, errors.New("the question did not arrive")
	}
	icmp, out := l.listen(l.workload, "ip4:icmp", workloadIP, 0), l.listen(l.neighbour, "ip4:icmp", neighbourIP, 0)
	_, err := out.WriteTo(unreachable(quotedUDP(workloadIP, gatewayIP, port, echoPort)), &net.IPAddr{IP: net.ParseIP(workloadIP)})
	return func(wait time.Duration) bool {
		defer func() { _, _, _, _ = in.Close(), gw.Close(), icmp.Close(), out.Close() }()
		return receives(icmp, wait, func(b []byte) bool { return b[0] == icmpUnreachable })
	}, err
}

// gatewayError lets the workload ask a port of the gateway's that nobody listens on.
func gatewayError(l *packetLab) (func(time.Duration) bool, error) {
	icmp, in := l.listen(l.workload, "ip4:icmp", workloadIP, 0), l.listen(l.workload, "udp4", workloadIP, l.nextPort())
	_, err := in.WriteTo([]byte("question"), &net.UDPAddr{IP: net.ParseIP(gatewayIP), Port: echoPort + 1})
	return func(wait time.Duration) bool {
		defer func() { _, _ = in.Close(), icmp.Close() }()
		return receives(icmp, wait, func(b []byte) bool { return b[0] == icmpUnreachable })
	}, err
}

// impossibleTCP sends a segment that no connection can have: SYN and RST.
func impossibleTCP(l *packetLab) (func(time.Duration) bool, error) {
	port := uint16(l.nextPort())
	in, out := l.listen(l.workload, "ip4:tcp", workloadIP, 0), l.listen(l.neighbour, "ip4:tcp", neighbourIP, 0)
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment[0:], port)
	binary.BigEndian.PutUint16(segment[2:], 80)
	segment[12], segment[13] = 5<<4, 0x06
	pseudo := append(append(net.ParseIP(neighbourIP).To4(), net.ParseIP(workloadIP).To4()...), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(segment[16:], checksum(append(pseudo, segment...)))
	_, err := out.WriteTo(segment, &net.IPAddr{IP: net.ParseIP(workloadIP)})
	return func(wait time.Duration) bool {
		defer func() { _, _ = in.Close(), out.Close() }()
		return receives(in, wait, func(b []byte) bool { return binary.BigEndian.Uint16(b) == port })
	}, err
}

const icmpUnreachable = 3

func unreachable(quoted []byte) []byte {
	m := append([]byte{icmpUnreachable, 3, 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return m
}

// quotedUDP is an IPv4 header and the first eight bytes behind it.
func quotedUDP(from, to string, sport, dport int) []byte {
	b := make([]byte, 28)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], 28)
	copy(b[12:], net.ParseIP(from).To4())
	copy(b[16:], net.ParseIP(to).To4())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], uint16(sport))
	binary.BigEndian.PutUint16(b[22:], uint16(dport))
	binary.BigEndian.PutUint16(b[24:], 8)
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// tcp connects; the workload (or whoever is behind to) listens.
func tcp(from func(*packetLab) netns, source string, to string, port int) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		var listener net.Listener
		err := l.workload.do(func() (err error) {
			listener, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", workloadIP, 80))
			return err
		})
		if err != nil {
			return nil, err
		}
		dialed := make(chan error, 1)
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source), Port: l.nextPort()}}
		ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
		go func() {
			dialed <- from(l).do(func() error {
				c, err := dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", to, port))
				if err == nil {
					err = c.Close()
				}
				return err
			})
		}()
		return func(wait time.Duration) bool {
			defer func() { _ = listener.Close() }()
			defer cancel()
			select {
			case err := <-dialed:
				return err == nil
			case <-time.After(wait):
				cancel()
				return <-dialed == nil
			}
		}, nil
	}
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

func TestVerdictOfEachRule(t *testing.T) {
	requireRoot(t)
	const fallback, anywhere = "-j FLAT-DROP", "-s 10.0.0.0/24 -j ACCEPT"
	web := ingress(ipam.Rule{Protocol: "tcp", Ports: ports(80, 0)})
	cases := []struct {
		name    string
		edits   []func(*ipam.Network)
		prepare []string // iptables calls
		probe   probe
		// rule decides; without it the rule called otherwise does, the other way.
		rule      string
		otherwise string
		arrives   bool
		without   []string // rules taken away beforehand
	}{
		{name: "1 INVALID", probe: impossibleTCP, rule: "--ctstate INVALID", otherwise: anywhere},
		{name: "2a RELATED from a neighbour", edits: []func(*ipam.Network){closed}, probe: forgedError,
			rule: "-s 10.0.0.0/24 -m conntrack --ctstate RELATED", otherwise: "--ctstate RELATED,ESTABLISHED"},
		{name: "2a RELATED from the gateway", edits: []func(*ipam.Network){closed}, probe: gatewayError,
			rule: "-s 10.0.0.1/32 -m conntrack --ctstate RELATED", otherwise: "-s 10.0.0.0/24 -m conntrack --ctstate RELATED", arrives: true},
		{name: "2b ESTABLISHED", edits: []func(*ipam.Network){closed}, probe: reply,
			rule: "--ctstate RELATED,ESTABLISHED", otherwise: fallback, arrives: true},
		{name: "4 DHCP", edits: []func(*ipam.Network){closed}, probe: udp(node, gatewayIP, 67, 68), without: []string{"-s 10.0.0.1/32 -j ACCEPT"},
			rule: "--sport 67 --dport 68", otherwise: fallback, arrives: true},
		{name: "5 gateway", edits: []func(*ipam.Network){closed}, probe: udp(node, gatewayIP, 0, echoPort),
			rule: "-s 10.0.0.1/32 -j ACCEPT", otherwise: fallback, arrives: true},
		{name: "5 published", edits: []func(*ipam.Network){closed}, prepare: []string{
			"-t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80"},
			probe: tcp(outside, outsideIP, nodeIP, 8080), rule: "--ctstate DNAT", otherwise: fallback, arrives: true},
		{name: "6 the toggle", probe: udp(neighbour, neighbourIP, 0, echoPort), rule: anywhere, otherwise: fallback, arrives: true},
		{name: "7 ingress", edits: []func(*ipam.Network){closed, web}, probe: tcp(outside, outsideIP, workloadIP, 80),
			rule: "--dport 80", otherwise: fallback, arrives: true},
		{name: "8 a neighbour, toggle off", edits: []func(*ipam.Network){closed}, probe: udp(neighbour, neighbourIP, 0, echoPort), rule: fallback},
		{name: "8 outside, toggle on", probe: udp(outside, outsideIP, 0, echoPort), rule: fallback},
		{name: "8 another port than ingress", edits: []func(*ipam.Network){closed, web}, probe: udp(outside, outsideIP, 0, 80), rule: fallback},
		{name: "8 the node, from an address not on the bridge", probe: udp(node, nodeIP, 0, echoPort), rule: fallback},
	}
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					l.t = t
					n := network("flat", "10.0.0.0/24", "br100", c.edits...)
					r := row(workloadIP)
					chain := dispatchTo(n, r).Chain
					l.ipt("-t nat -F")
					for _, args := range c.prepare {
						l.ipt(args)
					}
					l.attach(l.table, networksOf(n), n, r)
					remove := func(match string) {
						_, number := l.counter(chain, match)
						l.ipt(fmt.Sprintf("-D %s %d", chain, number))
					}
					for _, match := range c.without {
						remove(match)
					}
					l.verdict(c.probe, chain, c.rule, c.arrives)
					remove(c.rule)
					if c.otherwise != "" {
						l.verdict(c.probe, chain, c.otherwise, !c.arrives)
						return
					}
					// Nothing stands behind the fallback in the chain: the shared ones accept.
					came, err := c.probe(l)
					if err != nil || !came(arrived) {
						t.Errorf("without %q it does not arrive: %v", c.rule, err)
					}
				})
			}
		})
	}
}

func TestDenyComesBeforeEverythingThatAccepts(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", deny(ipam.Rule{Protocol: "udp", From: prefixes("10.0.0.3/32")}))
			r := row(workloadIP)
			l.attach(l.table, networksOf(n), n, r)
			p := udp(neighbour, neighbourIP, 0, echoPort)
			l.verdict(p, chainProvider, "-s 10.0.0.3/32 -d 10.0.0.0/24 -p udp", false)
			n.Bridge.Deny = nil
			l.attach(l.table, networksOf(n), n, r)
			l.verdict(p, dispatchTo(n, r).Chain, "-s 10.0.0.0/24 -j ACCEPT", true)
			l.ipt("-A FLAT-PROVIDER-USER -s 10.0.0.3 -p udp -j DROP")
			l.verdict(p, chainProviderUser, "-s 10.0.0.3/32 -p udp -j DROP", false)
		})
	}
}

func TestRejectAnswers(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", closed, func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject })
			l.attach(l.table, networksOf(n), n, row(workloadIP))
			for from, ns := range map[string]netns{neighbourIP: l.neighbour, outsideIP: l.outside} {
				for proto, rule := range map[string]string{"tcp4": "-j REJECT --reject-with tcp-reset", "udp4": "-j REJECT --reject-with icmp-port-unreachable"} {
					before, _ := l.counter(chainReject, rule)
					err := ns.do(func() error {
						c, err := net.DialTimeout(proto, workloadIP+":80", arrived)
						if err != nil {
							return err
						}
						defer func() { _ = c.Close() }()
						if _, err := c.Write([]byte("probe")); err != nil {
							return err
						}
						if err := c.SetReadDeadline(time.Now().Add(arrived)); err != nil {
							return err
						}
						_, err = c.Read(make([]byte, 1))
						return err
					})
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s from %s: %v, not refused", proto, from, err)
					}
					if after, _ := l.counter(chainReject, rule); after == before {
						t.Errorf("%s from %s: the counter of %q did not move", proto, from, rule)
					}
				}
			}
		})
	}
}

func TestPoliciesOfOthersDoNotMatter(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100")
			l.attach(l.table, networksOf(n), n, row(workloadIP))
			l.ipt("-P FORWARD DROP")
			l.ipt("-P INPUT DROP")
			l.verdict(udp(neighbour, neighbourIP, 0, echoPort), dispatchTo(n, row(workloadIP)).Chain, "-s 10.0.0.0/24 -j ACCEPT", true)

			send := func(ns netns, source, to string, port int) (net.PacketConn, net.PacketConn) {
				in := l.listen(ns, "udp4", to, port)
				out := l.listen(l.workload, "udp4", source, l.nextPort())
				if _, err := out.WriteTo([]byte("probe"), in.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				return in, out
			}
			isProbe := func(b []byte) bool { return string(b) == "probe" }
			if in, _ := send(l.outside, workloadIP, outsideIP, echoPort); !receives(in, arrived, isProbe) {
				t.Error("nothing gets out")
			}
			if in, _ := send(l.ns, workloadIP, gatewayIP, 67); !receives(in, arrived, isProbe) {
				t.Error("DHCP does not reach the node")
			}
			dropped := func() uint64 {
				var n uint64
				l.must(func(ctx context.Context) error {
					out, err := l.exec(ctx, l.iptables()+"-save", []string{"-c", "-t", "filter"}, nil)
					if err != nil {
						return err
					}
					for line := range strings.Lines(string(out)) {
						if rest, ok := strings.CutPrefix(line, ":INPUT DROP ["); ok {
							_, err = fmt.Sscanf(rest, "%d:", &n)
						}
					}
					return err
				})
				return n
			}
			before := dropped()
			in, _ := send(l.ns, workloadIP, gatewayIP, 69)
			for deadline := time.Now().Add(arrived); dropped() == before; {
				if time.Now().After(deadline) {
					t.Fatal("INPUT's policy dropped nothing")
				}
			}
			if receives(in, drained, isProbe) {
				t.Error("the node accepts more than DHCP for us")
			}
		})
	}
}
