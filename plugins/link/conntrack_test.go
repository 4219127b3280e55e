package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// trackConnections makes the lab's kernel follow connections: it does so only where a
// rule wants to know.
func trackConnections(t testing.TB) {
	t.Helper()
	nft := &nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "track"})
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookInput, "out": nftables.ChainHookOutput, "fwd": nftables.ChainHookForward} {
		chain := nft.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}})
	}
	ok(t, nft.Flush())
	t.Cleanup(func() {
		nft.DelTable(table)
		ok(t, nft.Flush())
		ok(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	})
}

// flows lists the UDP flows that the kernel follows, as "source>destination".
func flows(t testing.TB) []string {
	t.Helper()
	all, err := dump(context.Background(), "flows", func() ([]*netlink.ConntrackFlow, error) {
		return netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	})
	ok(t, err)
	var found []string
	for _, f := range all {
		if f.Forward.Protocol != unix.IPPROTO_UDP {
			continue // the kernel's own IGMP
		}
		if f.Forward.SrcIP[0] == 172 {
			continue // addOthers
		}
		s := fmt.Sprintf("%s>%s", f.Forward.SrcIP, f.Forward.DstIP)
		if !f.Forward.SrcIP.Equal(f.Reverse.DstIP) || !f.Forward.DstIP.Equal(f.Reverse.SrcIP) {
			s += fmt.Sprintf(" nat %s>%s", f.Reverse.SrcIP, f.Reverse.DstIP)
		}
		found = append(found, s)
	}
	slices.Sort(found)
	return found
}

// exchange sends a datagram and has it answered; a nil workload is the host.
func exchange(t *testing.T, from, to *workload) {
	t.Helper()
	var server, client *net.UDPConn
	at := func(w *workload, f func() error) {
		if w == nil {
			ok(t, f())
			return
		}
		inNetNS(t, w.netns, f)
	}
	server4 := net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway.Addr(), 0))
	if to != nil {
		server4.IP = to.addr.Addr().AsSlice()
	}
	at(to, func() (err error) { server, err = net.ListenUDP("udp4", server4); return err })
	defer server.Close()
	at(from, func() (err error) {
		client, err = net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
		return err
	})
	defer client.Close()
	b := make([]byte, 16)
	for _, c := range []*net.UDPConn{server, client} {
		ok(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	}
	_, err := client.Write([]byte("ping"))
	ok(t, err)
	_, back, err := server.ReadFromUDPAddrPort(b)
	ok(t, err)
	_, err = server.WriteToUDPAddrPort([]byte("pong"), back)
	ok(t, err)
	_, err = client.Read(b)
	ok(t, err)
}

func TestFlushConntrack(t *testing.T) {
	ctx := inLab(t)
	ensureBridge(ctx, t, testBridge())
	trackConnections(t)
	a, b, c := newWorkload(t, 2).attach(ctx, t), newWorkload(t, 3).attach(ctx, t), newWorkload(t, 4).attach(ctx, t)
	fill := func(t *testing.T) {
		t.Helper()
		addOthers(t, 500) // more than one answer's worth
		for _, pair := range [][2]*workload{{a, b}, {b, a}, {a, nil}, {nil, a}, {b, c}, {b, nil}} {
			exchange(t, pair[0], pair[1])
		}
		addTranslated(t, "198.51.100.7", "192.0.2.1", a.addr.Addr().String(), "198.51.100.7") // published: DNAT to a
		addTranslated(t, a.addr.Addr().String(), "198.51.100.8", "198.51.100.8", "192.0.2.1") // masqueraded: SNAT of a
		addTranslated(t, b.addr.Addr().String(), "192.0.2.1", a.addr.Addr().String(), b.addr.Addr().String())
		want := []string{
			"10.0.0.1>10.0.0.2", "10.0.0.2>10.0.0.1", "10.0.0.2>10.0.0.3",
			"10.0.0.2>198.51.100.8 nat 198.51.100.8>192.0.2.1",
			"10.0.0.3>10.0.0.1", "10.0.0.3>10.0.0.2", "10.0.0.3>10.0.0.4",
			"10.0.0.3>192.0.2.1 nat 10.0.0.2>10.0.0.3",
			"198.51.100.7>192.0.2.1 nat 10.0.0.2>198.51.100.7",
		}
		if d := cmp.Diff(want, flows(t)); d != "" {
			t.Fatalf("flows before (-want +got):\n%s", d)
		}
	}

	none := func(Connection) bool { return false }
	t.Run("but those that stay allowed", func(t *testing.T) {
		fill(t)
		var asked []string
		n, err := FlushConntrackAmong(ctx, []netip.Addr{a.addr.Addr()}, a.addr.Masked(), []netip.Addr{gateway.Addr()}, func(c Connection) bool {
			asked = append(asked, fmt.Sprintf("%s>%s protocol %d, port %t, redirected %t", c.From, c.To, c.Protocol, c.Port != 0, c.Redirected))
			return c.To == a.addr.Addr() && !c.Redirected
		})
		ok(t, err)
		slices.Sort(asked)
		want := []string{
			"10.0.0.2>10.0.0.3 protocol 17, port true, redirected false",
			"10.0.0.3>10.0.0.2 protocol 17, port true, redirected false",
			"10.0.0.3>10.0.0.2 protocol 17, port true, redirected true",
		}
		if d := cmp.Diff(want, asked); d != "" || n != 2 {
			t.Errorf("%d deleted; asked for (-want +got):\n%s", n, d)
		}
		if left := flows(t); !slices.Contains(left, "10.0.0.3>10.0.0.2") || slices.Contains(left, "10.0.0.2>10.0.0.3") {
			t.Errorf("flows left: %s", left)
		}
		ok(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	})
	t.Run("between the workload and its neighbours", func(t *testing.T) {
		fill(t)
		n, err := FlushConntrackAmong(ctx, []netip.Addr{a.addr.Addr()}, a.addr.Masked(), []netip.Addr{gateway.Addr()}, none)
		ok(t, err)
		want := []string{
			"10.0.0.1>10.0.0.2", "10.0.0.2>10.0.0.1",
			"10.0.0.2>198.51.100.8 nat 198.51.100.8>192.0.2.1",
			"10.0.0.3>10.0.0.1", "10.0.0.3>10.0.0.4",
			"198.51.100.7>192.0.2.1 nat 10.0.0.2>198.51.100.7",
		}
		if d := cmp.Diff(want, flows(t)); d != "" || n != 3 {
			t.Errorf("%d deleted; flows left (-want +got):\n%s", n, d)
		}
		ok(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	})
	t.Run("among all workloads", func(t *testing.T) {
		fill(t)
		all := []netip.Addr{a.addr.Addr(), b.addr.Addr(), c.addr.Addr()}
		n, err := FlushConntrackAmong(ctx, all, a.addr.Masked(), []netip.Addr{gateway.Addr()}, none)
		ok(t, err)
		want := []string{
			"10.0.0.1>10.0.0.2", "10.0.0.2>10.0.0.1",
			"10.0.0.2>198.51.100.8 nat 198.51.100.8>192.0.2.1",
			"10.0.0.3>10.0.0.1",
			"198.51.100.7>192.0.2.1 nat 10.0.0.2>198.51.100.7",
		}
		if d := cmp.Diff(want, flows(t)); d != "" || n != 4 {
			t.Errorf("%d deleted; flows left (-want +got):\n%s", n, d)
		}
		ok(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	})
	// Both ways, whichever this kernel takes.
	for name, flush := range map[string]func(context.Context, netip.Addr) error{
		"all of an address":          FlushConntrack,
		"all of an address, by walk": walkFlowsOf,
	} {
		t.Run(name, func(t *testing.T) {
			fill(t)
			for range 2 {
				ok(t, flush(ctx, a.addr.Addr()))
				if d := cmp.Diff([]string{"10.0.0.3>10.0.0.1", "10.0.0.3>10.0.0.4"}, flows(t)); d != "" {
					t.Errorf("flows left (-want +got):\n%s", d)
				}
			}
			all, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
			ok(t, err)
			if len(all) < 500+2 {
				t.Errorf("%d flows are left of 500 of others and 2", len(all))
			}
			ok(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
		})
	}
}

// addTranslated adds an entry with a translation: original and reply direction.
func addTranslated(t testing.TB, src, dst, replySrc, replyDst string) {
	t.Helper()
	ok(t, addFlow(5353, src, dst, replySrc, replyDst))
}

// addOthers adds n flows of somebody else.
func addOthers(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		src := fmt.Sprintf("172.16.%d.%d", i>>8&255, i&255)
		ok(t, addFlow(53, src, "192.0.2.1", "192.0.2.1", src))
	}
}

func addFlow(port uint16, src, dst, replySrc, replyDst string) error {
	tuple := func(src, dst string) netlink.IPTuple {
		return netlink.IPTuple{SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4(), SrcPort: port, DstPort: port, Protocol: unix.IPPROTO_UDP}
	}
	return netlink.ConntrackCreate(netlink.ConntrackTable, netlink.FAMILY_V4, &netlink.ConntrackFlow{
		FamilyType: netlink.FAMILY_V4, Forward: tuple(src, dst), Reverse: tuple(replySrc, replyDst), TimeOut: 300,
	})
}

// BenchmarkFlushConntrack is what a DEL pays for the connections of others.
func BenchmarkFlushConntrack(b *testing.B) {
	for _, n := range []int{0, 1000, 50000} {
		for name, flush := range map[string]func(context.Context, netip.Addr) error{"filter": deleteFlowsOf, "walk": walkFlowsOf} {
			b.Run(fmt.Sprintf("%s/others=%d", name, n), func(b *testing.B) {
				ctx := inLab(b)
				trackConnections(b)
				addOthers(b, n)
				for b.Loop() {
					ok(b, flush(ctx, netip.MustParseAddr("10.0.0.2")))
				}
			})
		}
	}
}
