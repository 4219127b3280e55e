package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestVerdictOfEachRule(t *testing.T) {
	requireRoot(t)
	const fallback, anywhere = "-j FLAT-DROP", "-s 10.0.0.0/24 -j ACCEPT"
	// The chain's name tells the rule from that for RELATED.
	own := dispatchTo(network("flat", "10.0.0.0/24", "br100"), row(workloadIP)).Chain + " -o br100 " + ownAddress + " -j ACCEPT"
	// The neighbour stands for another node's gateway.
	listed := func(n *ipam.Network) { n.Bridge.GatewayAddresses = []netip.Addr{netip.MustParseAddr(neighbourIP)} }
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
		{name: "2a RELATED from the gateway", edits: []func(*ipam.Network){closed}, probe: errorOf(gatewayIP),
			without: []string{"--ctstate RELATED " + ownAddress},
			rule:    "-s 10.0.0.1/32 -m conntrack --ctstate RELATED", otherwise: "-s 10.0.0.0/24 -m conntrack --ctstate RELATED", arrives: true},
		{name: "2a RELATED from the node's other address", edits: []func(*ipam.Network){closed}, probe: errorOf(secondIP),
			rule: "--ctstate RELATED " + ownAddress, otherwise: "-s 10.0.0.0/24 -m conntrack --ctstate RELATED", arrives: true},
		{name: "2a RELATED from another gateway, listed", edits: []func(*ipam.Network){closed, listed}, probe: forgedError,
			rule: "-s 10.0.0.3/32 -m conntrack --ctstate RELATED", otherwise: "-s 10.0.0.0/24 -m conntrack --ctstate RELATED", arrives: true},
		{name: "2b ESTABLISHED", edits: []func(*ipam.Network){closed}, probe: reply,
			rule: "--ctstate RELATED,ESTABLISHED", otherwise: fallback, arrives: true},
		{name: "4 DHCP", edits: []func(*ipam.Network){closed}, probe: udp(node, gatewayIP, 67, 68), without: []string{"-s 10.0.0.1/32 -j ACCEPT", own},
			rule: "--sport 67 --dport 68", otherwise: fallback, arrives: true},
		{name: "5 gateway", edits: []func(*ipam.Network){closed}, probe: udp(node, gatewayIP, 0, echoPort), without: []string{own},
			rule: "-s 10.0.0.1/32 -j ACCEPT", otherwise: fallback, arrives: true},
		{name: "4 DHCP of another gateway, listed", edits: []func(*ipam.Network){closed, listed}, probe: udp(neighbour, neighbourIP, 67, 68),
			without: []string{"-s 10.0.0.3/32 -j ACCEPT"}, rule: "-s 10.0.0.3/32 -p udp -m udp --sport 67 --dport 68", otherwise: fallback, arrives: true},
		{name: "5 another gateway, listed", edits: []func(*ipam.Network){closed, listed}, probe: udp(neighbour, neighbourIP, 0, echoPort),
			rule: "-s 10.0.0.3/32 -j ACCEPT", otherwise: fallback, arrives: true},
		{name: "8 another gateway, not listed", edits: []func(*ipam.Network){closed, func(n *ipam.Network) {
			n.Bridge.GatewayAddresses = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
		}}, probe: udp(neighbour, neighbourIP, 0, echoPort), rule: fallback},
		{name: "5 the node, from its other address on the bridge", edits: []func(*ipam.Network){closed}, probe: udp(node, secondIP, 0, echoPort),
			rule: own, otherwise: fallback, arrives: true},
		{name: "5 the node, from an address on the bridge outside the subnet", probe: udp(node, thirdIP, 0, echoPort),
			rule: own, otherwise: fallback, arrives: true},
		{name: "5 published", edits: []func(*ipam.Network){closed}, prepare: []string{
			"-t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80"},
			probe: tcp(outside, outsideIP, nodeIP, 8080), rule: "--ctstate DNAT", otherwise: fallback, arrives: true},
		{name: "6 the toggle", probe: udp(neighbour, neighbourIP, 0, echoPort), rule: anywhere, otherwise: fallback, arrives: true},
		{name: "7 ingress", edits: []func(*ipam.Network){closed, web}, probe: tcp(outside, outsideIP, workloadIP, 80),
			rule: "--dport 80", otherwise: fallback, arrives: true},
		{name: "8 a neighbour, toggle off", edits: []func(*ipam.Network){closed}, probe: udp(neighbour, neighbourIP, 0, echoPort), rule: fallback},
		{name: "8 outside, toggle on", probe: udp(outside, outsideIP, 0, echoPort), rule: fallback},
		{name: "8 logged", edits: []func(*ipam.Network){closed, logDrops}, probe: udp(neighbour, neighbourIP, 0, echoPort), rule: fallback},
		{name: "8 another port than ingress", edits: []func(*ipam.Network){closed, web}, probe: udp(outside, outsideIP, 0, 80), rule: fallback},
		{name: "8 a neighbour that poses as the node", edits: []func(*ipam.Network){closed}, probe: posing(secondIP), rule: fallback},
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

// The log's rule stands before the fallback, counts a burst and then no more, and
// changes no verdict: what it has logged and what it has not is dropped alike.
func TestDropsAreLoggedWithinTheLimit(t *testing.T) {
	requireRoot(t)
	const burst, probes = 5, 20
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", closed, logDrops)
			r := row(workloadIP)
			chain, rule := dispatchTo(n, r).Chain, fmt.Sprintf("-j LOG --log-prefix %q", logPrefix(r.Workload))
			l.attach(l.table, networksOf(n), n, r)
			start := time.Now()
			for i := range probes {
				l.verdict(udp(neighbour, neighbourIP, 0, echoPort), chain, "-j FLAT-DROP", false)
				if logged, _ := l.counter(chain, rule); i < burst && logged != uint64(i+1) {
					t.Errorf("after %d drops %d are logged", i+1, logged)
				}
			}
			logged, at := l.counter(chain, rule)
			refilled := uint64(time.Since(start)/(6*time.Second)) + 1
			if logged > burst+refilled {
				t.Errorf("%d of %d drops are logged", logged, probes)
			}
			if dropped, last := l.counter(chain, "-j FLAT-DROP"); dropped != probes || last != at+1 {
				t.Errorf("%d of %d are dropped; rule %d logs, rule %d ends the chain", dropped, probes, at, last)
			}
			n.Bridge.LogDrops = false
			l.attach(l.table, networksOf(n), n, r)
			if saved := l.save(); strings.Contains(saved, "LOG") {
				t.Errorf("off, but:\n%s", saved)
			}
		})
	}
}

// An unfiltered network's traffic is accepted against others' policies as well.
func TestPoliciesOfOthersDoNotMatterUnfiltered(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", unfiltered)
			l.ipt("-P FORWARD DROP")
			l.attach(l.table, networksOf(n), n, row(workloadIP))
			for name, p := range map[string]struct {
				probe probe
				rule  string
			}{
				"a neighbour": {udp(neighbour, neighbourIP, 0, echoPort), "-i br100"},
				"outside":     {udp(outside, outsideIP, 0, echoPort), "-o br100"},
			} {
				before, _ := l.counter(chainForward, p.rule)
				came, err := p.probe(l)
				if err != nil || !came(arrived) {
					t.Errorf("%s does not get in: %v", name, err)
				}
				if after, _ := l.counter(chainForward, p.rule); after == before {
					t.Errorf("%s: the counter of %q did not move", name, p.rule)
				}
			}
			l.ipt("-D FORWARD -j FLAT-FORWARD") // the control
			before := l.policyDrops("FORWARD")
			came, err := udp(neighbour, neighbourIP, 0, echoPort)(l)
			if err != nil {
				t.Fatal(err)
			}
			l.dropsByPolicy("FORWARD", before)
			if came(drained) {
				t.Error("without our chain it arrives, whatever the policy")
			}
		})
	}
}

func TestPoliciesOfOthersDoNotMatter(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", servesDNS)
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
			if in, _ := send(l.ns, workloadIP, gatewayIP, 53); !receives(in, arrived, isProbe) {
				t.Error("DNS does not reach the node")
			}
			before := l.policyDrops("INPUT")
			in, _ := send(l.ns, workloadIP, gatewayIP, 69)
			l.dropsByPolicy("INPUT", before)
			if receives(in, drained, isProbe) {
				t.Error("the node accepts more than DHCP and DNS for us")
			}
		})
	}
}
