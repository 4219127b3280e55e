package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// metadataSeen lets the workload ask for metadata and returns the source that the server,
// which listens at at, sees.
func (l *packetLab) metadataSeen(server netns, at string) (netip.Addr, error) {
	l.t.Helper()
	var listener net.Listener
	err := server.do(func() (err error) {
		listener, err = net.Listen("tcp4", at)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), arrived)
	defer cancel()
	err = l.workload.do(func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", "169.254.169.254:80")
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	c, err := listener.Accept()
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.MustParseAddrPort(c.RemoteAddr().String()).Addr(), c.Close()
}

func (l *packetLab) forward(on string) {
	l.t.Helper()
	if err := l.ns.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(on), 0) }); err != nil {
		l.t.Fatal(err)
	}
}

// The server sees the workload's own address, whatever others would masquerade, and is
// reached whatever the policy of INPUT: on this node with forwarding off, too.
func TestMetadataKeepsTheSource(t *testing.T) {
	requireRoot(t)
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			l := newPacketLab(t, backend)
			l.ipt("-t nat -A POSTROUTING " + foreignMasq)
			l.ipt("-P INPUT DROP")
			back := &netlink.Route{Gw: net.ParseIP(nodeIP), Dst: ipNet("10.0.0.0/24")}
			if err := l.outside.do(func() error { return netlink.RouteReplace(back) }); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name     string
				metadata string
				edits    []func(*ipam.Network)
				server   netns
				at       string
				forward  string
				chain    string // of the last rule that decides
				rule     string
			}{
				{"an address of this node", nodeIP + ":8775", nil, l.ns, nodeIP + ":8775", "0", chainInput, metadataOnly},
				{"the gateway", gatewayIP + ":80", nil, l.ns, gatewayIP + ":80", "0", chainInput, metadataOnly},
				{"this node", "127.0.0.1:8775", nil, l.ns, gatewayIP + ":8775", "0", chainInput, metadataOnly},
				{"unfiltered", nodeIP + ":8775", []func(*ipam.Network){unfiltered}, l.ns, nodeIP + ":8775", "0", chainInput, metadataOnly},
				{"another host", outsideIP + ":8775", []func(*ipam.Network){ipMasq}, l.outside, outsideIP + ":8775", "1",
					chainPostrouting, "-s 10.0.0.0/24 -d 192.0.2.2/32 -p tcp -m tcp --dport 8775"},
				{"another host, without ipMasq", outsideIP + ":8775", nil, l.outside, outsideIP + ":8775", "1",
					chainPostrouting, "-s 10.0.0.0/24 -d 192.0.2.2/32 -p tcp -m tcp --dport 8775"},
			} {
				t.Run(c.name, func(t *testing.T) {
					l.t = t
					l.forward(c.forward)
					n := network("flat", "10.0.0.0/24", "br100", append(c.edits, metadataAt(c.metadata))...)
					l.attach(l.table, networksOf(n), n, row(workloadIP))
					before, _ := l.counter(c.chain, c.rule)
					got, err := l.metadataSeen(c.server, c.at)
					if err != nil || got.String() != workloadIP {
						t.Errorf("the server sees %v, %v\n%s", got, err, l.save())
					}
					if after, _ := l.counter(c.chain, c.rule); after == before {
						t.Errorf("the counter of %q in %s did not move", c.rule, c.chain)
					}
				})
			}
			t.Run("the control: another way to the same port meets INPUT's policy", func(t *testing.T) {
				l.t = t
				n := network("flat", "10.0.0.0/24", "br100", metadataAt(nodeIP+":8775"))
				l.attach(l.table, networksOf(n), n, row(workloadIP))
				before := l.policyDrops("INPUT")
				err := l.workload.do(func() error {
					_, err := net.DialTimeout("tcp4", nodeIP+":8775", drained)
					return err
				})
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("got %v", err)
				}
				l.dropsByPolicy("INPUT", before)
			})
		})
	}
}

func ipNet(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(fmt.Sprintf("parsing %s: %v", s, err))
	}
	return n
}
