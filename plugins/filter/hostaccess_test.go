package filter

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// toNode sends payload of some size from one place to a UDP port of the node's, and tells
// whether it arrives.
func (l *packetLab) toNode(from netns, source, to string, port, size int) probe {
	return func(l *packetLab) (func(wait time.Duration) bool, error) {
		in := l.listen(l.ns, "udp4", to, port)
		out := l.listen(from, "udp4", source, l.nextPort())
		_, err := out.WriteTo(make([]byte, size), &net.UDPAddr{IP: net.ParseIP(to), Port: port})
		return func(wait time.Duration) bool {
			defer func() { _, _ = in.Close(), out.Close() }()
			return receives(in, wait, func(b []byte) bool { return len(b) == min(size, 2048) })
		}, err
	}
}

// With hostAccess "services" each probe meets the rule that is named; the same probe under
// "all" arrives: that is the control.
func TestHostAccess(t *testing.T) {
	requireRoot(t)
	const (
		limit   = "-i br100 " + fromPorts + " -m comment"
		replies = "--ctdir REPLY"
		ping    = "--icmp-type 8"
	)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			services := network("flat", "10.0.0.0/24", "br100", servicesOnly, servesDNS)
			all := network("flat", "10.0.0.0/24", "br100", servesDNS)
			reject := network("flat", "10.0.0.0/24", "br100", servicesOnly, func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject })
			put := func(n ipam.Network) { l.attach(l.table, networksOf(n), n, row(workloadIP)) }
			for _, c := range []struct {
				name    string
				probe   probe
				rule    string // of FLAT-INPUT; empty: none of ours
				arrives bool
			}{
				{"the gateway", l.toNode(l.workload, workloadIP, gatewayIP, echoPort, 9), limit, false},
				{"the gateway, in fragments", l.toNode(l.workload, workloadIP, gatewayIP, echoPort, 4000), limit, false},
				{"another address on the bridge", l.toNode(l.workload, workloadIP, secondIP, echoPort, 9), limit, false},
				{"an address off the bridge", l.toNode(l.workload, workloadIP, nodeIP, echoPort, 9), limit, false},
				{"DNS at another address", l.toNode(l.workload, workloadIP, secondIP, 53, 9), limit, false},
				{"DNS", l.toNode(l.workload, workloadIP, gatewayIP, 53, 9), "-p udp -m udp --dport 53", true},
				{"DHCP", l.toNode(l.workload, workloadIP, gatewayIP, 67, 9), "-p udp -m udp --dport 67", true},
				{"ping", pingNode, ping, true},
				{"an answer", answerToNode, replies, true},
				{"an ICMP error about what the node sent", errorToNode, replies, true},
				{"who is no workload of this node", l.toNode(l.neighbour, neighbourIP, gatewayIP, echoPort, 9), "", true},
			} {
				t.Run(c.name, func(t *testing.T) {
					l.t = t
					put(services)
					if c.rule != "" {
						l.verdict(c.probe, chainInput, c.rule, c.arrives)
					} else if before, _ := l.counter(chainInput, limit); true {
						came, err := c.probe(l)
						if err != nil || !came(arrived) {
							t.Errorf("it does not arrive: %v", err)
						}
						if after, _ := l.counter(chainInput, limit); after != before {
							t.Error("it met the rule for workloads")
						}
					}
					put(all)
					came, err := c.probe(l)
					if err != nil || !came(arrived) {
						t.Errorf("the control: with hostAccess all it does not arrive: %v", err)
					}
				})
			}
			t.Run("what a workload began before is cut", func(t *testing.T) {
				l.t = t
				put(all)
				server, client := l.listen(l.ns, "udp4", gatewayIP, echoPort), l.listen(l.workload, "udp4", workloadIP, l.nextPort())
				exchange := func(l *packetLab) (func(time.Duration) bool, error) {
					_, err := client.WriteTo([]byte("again"), server.LocalAddr())
					return func(wait time.Duration) bool {
						return receives(server, wait, func(b []byte) bool { return string(b) == "again" })
					}, err
				}
				for range 2 { // there and back, so that conntrack calls it established
					came, err := exchange(l)
					if err != nil || !came(arrived) {
						t.Fatalf("the control: %v", err)
					}
					if _, err := server.WriteTo([]byte("yes"), client.LocalAddr()); err != nil {
						t.Fatal(err)
					}
					receives(client, arrived, func(b []byte) bool { return string(b) == "yes" })
				}
				put(services)
				l.verdict(exchange, chainInput, limit, false)
				put(all)
				if came, err := exchange(l); err != nil || !came(arrived) {
					t.Errorf("the control: with hostAccess all again it does not arrive: %v", err)
				}
			})
			t.Run("reject says so", func(t *testing.T) {
				l.t = t
				put(reject)
				err := l.workload.do(func() error {
					c, err := net.DialTimeout("tcp4", gatewayIP+":22", arrived)
					if err == nil {
						_ = c.Close()
					}
					return err
				})
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("got %v", err)
				}
				if count, _ := l.counter(chainReject, "-p tcp"); count == 0 {
					t.Error("FLAT-REJECT refused nothing")
				}
			})
		})
	}
}

// pingNode lets the workload ask the gateway for an echo.
func pingNode(l *packetLab) (func(time.Duration) bool, error) {
	c := l.listen(l.workload, "ip4:icmp", workloadIP, 0)
	id := byte(l.nextPort())
	m := []byte{8, 0, 0, 0, 0, id, 0, 1}
	sum := checksum(m)
	m[2], m[3] = byte(sum>>8), byte(sum)
	_, err := c.WriteTo(m, &net.IPAddr{IP: net.ParseIP(gatewayIP)})
	return func(wait time.Duration) bool {
		defer func() { _ = c.Close() }()
		return receives(c, wait, func(b []byte) bool { return b[0] == 0 && b[5] == id })
	}, err
}

// answerToNode lets the node ask the workload and is about the answer.
func answerToNode(l *packetLab) (func(time.Duration) bool, error) {
	in, peer := l.listen(l.ns, "udp4", gatewayIP, l.nextPort()), l.listen(l.workload, "udp4", workloadIP, echoPort)
	if _, err := in.WriteTo([]byte("question"), peer.LocalAddr()); err != nil {
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

// errorToNode lets the node ask at a port of the workload's on which nobody listens.
func errorToNode(l *packetLab) (func(time.Duration) bool, error) {
	var c net.Conn
	err := l.ns.do(func() (err error) {
		if c, err = net.Dial("udp4", workloadIP+":7"); err == nil {
			_, err = c.Write([]byte("question"))
		}
		return err
	})
	return func(wait time.Duration) bool {
		defer func() { _ = c.Close() }()
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return false
		}
		_, err := c.Read(make([]byte, 16))
		return errors.Is(err, unix.ECONNREFUSED)
	}, err
}
