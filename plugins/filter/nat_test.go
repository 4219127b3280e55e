package filter

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const (
	settled     = "-s 10.0.0.0/24 -d 10.0.0.0/24 -m conntrack ! --ctstate DNAT"
	switched    = "-o br100 -m physdev --physdev-is-bridged -m conntrack ! --ctstate DNAT"
	hairpinned  = "-s 10.0.0.0/24 -d 10.0.0.0/24 -m conntrack --ctstate DNAT"
	leavingOut  = leavingAny + " -o out"
	leavingAny  = "-s 10.0.0.0/24 ! -d 10.0.0.0/24"
	foreignMasq = "-s 10.0.0.0/8 ! -d 224.0.0.0/4 -m comment --comment theirs -j MASQUERADE"
)

// sourceSeen sends a datagram from one place to another's address and port, and
// returns the source that arrives where listens: behind a DNAT that is elsewhere.
func (l *packetLab) sourceSeen(from netns, source, to string, port int, listener netns, listens string) string {
	l.t.Helper()
	in := l.listen(listener, "udp4", listens, port)
	out := l.listen(from, "udp4", source, l.nextPort())
	defer func() { _, _ = in.Close(), out.Close() }()
	if _, err := out.WriteTo([]byte("probe"), &net.UDPAddr{IP: net.ParseIP(to), Port: port}); err != nil {
		l.t.Fatal(err)
	}
	if err := in.SetReadDeadline(time.Now().Add(arrived)); err != nil {
		l.t.Fatal(err)
	}
	_, from4, err := in.ReadFrom(make([]byte, 64))
	if err != nil {
		l.t.Fatalf("from %s to %s: %v\n%s", source, to, err, l.save())
	}
	host, _, err := net.SplitHostPort(from4.String())
	if err != nil {
		l.t.Fatal(err)
	}
	return host
}

// TestWhoIsMasqueraded has somebody's MASQUERADE for a range that holds the subnet
// behind our jump, as kube-proxy or another CNI plugin may. Each case names the rule
// that settles it, and where nothing of ours does, theirs shows that it would have.
func TestWhoIsMasqueraded(t *testing.T) {
	requireRoot(t)
	const servicePort = 9099
	inside := func(l *packetLab) string {
		return l.sourceSeen(l.workload, workloadIP, neighbourIP, echoPort, l.neighbour, neighbourIP)
	}
	routed := func(l *packetLab) string {
		return l.sourceSeen(l.workload, workloadIP, outsideIP, echoPort, l.outside, outsideIP)
	}
	dnated := func(l *packetLab) string {
		return l.sourceSeen(l.workload, workloadIP, gatewayIP, servicePort, l.neighbour, neighbourIP)
	}
	fromOutside := func(l *packetLab) string {
		return l.sourceSeen(l.outside, outsideIP, nodeIP, servicePort, l.neighbour, neighbourIP)
	}
	cases := []struct {
		name  string
		edits []func(*ipam.Network)
		send  func(*packetLab) string
		rule  string // of FLAT-POSTROUTING, whose counter moves; foreignMasq: of POSTROUTING
		want  string
	}{
		{"switched", []func(*ipam.Network){ipMasq}, inside, switched, workloadIP},
		{"switched, without ipMasq", nil, inside, switched, workloadIP},
		{"switched, unfiltered", []func(*ipam.Network){unfiltered}, inside, settled, workloadIP},
		{"node to workload", []func(*ipam.Network){ipMasq}, func(l *packetLab) string {
			return l.sourceSeen(l.ns, gatewayIP, neighbourIP, echoPort, l.neighbour, neighbourIP)
		}, settled, gatewayIP},
		{"leaves", []func(*ipam.Network){ipMasq}, routed, leavingAny, nodeIP},
		{"leaves, unfiltered", []func(*ipam.Network){ipMasq, unfiltered}, routed, leavingAny, nodeIP},
		{"leaves, without ipMasq: theirs to decide", nil, routed, foreignMasq, nodeIP},
		{"leaves with natAddress by publicInterface", []func(*ipam.Network){ipMasq, natKeys}, routed, leavingOut, "192.0.2.7"},
		{"leaves by another interface: theirs to decide", []func(*ipam.Network){ipMasq, natKeys, func(n *ipam.Network) {
			n.Bridge.PublicInterface = "elsewhere"
		}}, routed, foreignMasq, nodeIP},
		{"leaves to nonMasqueradeCIDRs", []func(*ipam.Network){ipMasq, func(n *ipam.Network) {
			n.Bridge.NonMasqueradeCIDRs = prefixes("192.0.2.0/30")
		}}, routed, "-s 10.0.0.0/24 -d 192.0.2.0/30", workloadIP},
		{"DNATed inside", []func(*ipam.Network){ipMasq}, dnated, hairpinned, gatewayIP},
		{"DNATed inside nonMasqueradeCIDRs", []func(*ipam.Network){ipMasq, natKeys}, dnated, hairpinned, gatewayIP},
		{"DNATed inside, without ipMasq: theirs to decide", nil, dnated, foreignMasq, gatewayIP},
		{"DNATed from outside", []func(*ipam.Network){ipMasq}, fromOutside, "", outsideIP},
	}
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			l.ipt("-t nat -A POSTROUTING " + foreignMasq)
			l.ipt("-t nat -A PREROUTING -p udp --dport 9099 -j DNAT --to-destination " + neighbourIP)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					l.t = t
					n := network("flat", "10.0.0.0/24", "br100", c.edits...)
					for _, addr := range []string{workloadIP, neighbourIP} {
						l.attach(l.table, networksOf(n), n, row(addr))
					}
					chain := chainPostrouting
					if c.rule == foreignMasq {
						chain = "POSTROUTING"
					}
					count := func(chain, rule string) (n uint64) {
						if rule != "" {
							n, _ = l.counter(chain, rule)
						}
						return n
					}
					before, theirs := count(chain, c.rule), count("POSTROUTING", foreignMasq)
					if got := c.send(l); got != c.want {
						t.Errorf("arrives from %s, not %s\n%s", got, c.want, l.save())
					}
					if after := count(chain, c.rule); c.rule != "" && after == before {
						t.Errorf("the counter of %q in %s did not move", c.rule, chain)
					}
					if after := count("POSTROUTING", foreignMasq); c.rule != foreignMasq && after != theirs {
						t.Errorf("the foreign rule was reached %d times", after-theirs)
					}
				})
			}
			t.Run("without our jump theirs would be reached", func(t *testing.T) {
				l.t = t
				l.ipt("-t nat -D POSTROUTING -j FLAT-POSTROUTING")
				before, _ := l.counter("POSTROUTING", foreignMasq)
				got := inside(l)
				if after, _ := l.counter("POSTROUTING", foreignMasq); after == before || got != gatewayIP {
					t.Errorf("arrives from %s; the foreign rule's counter went from %d to %d", got, before, after)
				}
			})
		})
	}
}

// Multicast that the node routes or sends for the subnet is left to others' rules.
func TestMulticastIsNotMasqueraded(t *testing.T) {
	requireRoot(t)
	const group = "239.1.2.3"
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			n := network("flat", "10.0.0.0/24", "br100", ipMasq)
			l.attach(l.table, networksOf(n), n, row(workloadIP))
			before, _ := l.counter(chainPostrouting, "-d "+multicast)
			masqueraded, _ := l.counter(chainPostrouting, leavingAny)
			err := l.ns.do(func() error {
				out, err := netlink.LinkByName("out")
				if err != nil {
					return err
				}
				_, all, err := net.ParseCIDR(multicast)
				if err != nil {
					return err
				}
				return netlink.RouteAdd(&netlink.Route{LinkIndex: out.Attrs().Index, Dst: all})
			})
			if err != nil {
				t.Fatal(err)
			}
			// Sent by the node in the subnet's name, out of another interface.
			c := l.listen(l.ns, "udp4", gatewayIP, l.nextPort())
			if _, err := c.WriteTo([]byte("probe"), &net.UDPAddr{IP: net.ParseIP(group), Port: echoPort}); err != nil {
				t.Fatal(err)
			}
			if after, _ := l.counter(chainPostrouting, "-d "+multicast); after == before {
				t.Error("the counter of the multicast rule did not move")
			}
			if after, _ := l.counter(chainPostrouting, leavingAny); after != masqueraded {
				t.Error("it was masqueraded")
			}
		})
	}
}
