package server_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	bridgeMAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 1}
	clientMAC = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}
	gateway   = netip.MustParseAddr("10.0.0.1")
)

// opened is a transport on a bridge with one station.
func opened(t *testing.T) (*testnet.NS, server.Binding, server.Transport, *testnet.Station) {
	t.Helper()
	n, c := testnet.New(t), testnet.New(t)
	b := server.Binding{Bridge: "br100", MAC: bridgeMAC, Addrs: []netip.Addr{gateway}}
	b.Index = n.Bridge(t, "br100", bridgeMAC, netip.MustParsePrefix("10.0.0.1/24"))
	n.Port(t, "br100", "fdp0", c, clientMAC)
	tr := open(t, n, b)
	return n, b, tr, c.Station(t, "eth0")
}

func open(t *testing.T, n *testnet.NS, b server.Binding) (tr server.Transport) {
	t.Helper()
	n.Do(t, func() (err error) { tr, err = server.Open(b); return err })
	t.Cleanup(func() {
		if err := tr.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return tr
}

func discover(t *testing.T) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(clientMAC.HardwareAddr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTransportTellsWhereADatagramWasSent(t *testing.T) {
	_, _, tr, s := opened(t)
	buf := make([]byte, 2000)
	for _, to := range []netip.Addr{testnet.BroadcastIP, gateway, netip.MustParseAddr("10.0.0.255")} {
		e := testnet.Envelope{To: to}
		if to == gateway {
			e.ToMAC = bridgeMAC
		}
		m := discover(t)
		s.Send(t, m, e)
		d, err := tr.Receive(buf)
		if err != nil || d.To != to || d.From != clientMAC || d.Damaged || !bytes.Equal(buf[d.Off:d.Off+d.Len], m.ToBytes()) || d.Cut || d.Drops != 0 {
			t.Errorf("sent to %v: %+v, %v", to, d, err)
		}
	}
	s.Send(t, discover(t), testnet.Envelope{})
	if d, err := tr.Receive(buf[:100]); err != nil || !d.Cut {
		t.Errorf("a datagram longer than the buffer: %+v, %v", d, err)
	}
}

// TestOverflowIsCounted: what the kernel drops, and how much its buffer holds.
func TestOverflowIsCounted(t *testing.T) {
	_, _, tr, s := opened(t)
	m := discover(t)
	const flood = 20000
	for range flood {
		s.Send(t, m, testnet.Envelope{})
	}
	// Only now is anything read: first what the buffer held, then, since a message
	// tells of those dropped before it alone, some that are sent meanwhile.
	var received, drops atomic.Uint32
	go func() {
		for buf := make([]byte, 2000); ; received.Add(1) {
			d, err := tr.Receive(buf)
			if err != nil {
				return
			}
			drops.Store(d.Drops)
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); received.Load() < 1500 || drops.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d received and %d dropped of %d: the buffer must hold a storm of 1000, and no flood", received.Load(), drops.Load(), flood)
		}
		s.Send(t, m, testnet.Envelope{})
		time.Sleep(time.Millisecond)
	}
	t.Logf("%d received and %d dropped of %d", received.Load(), drops.Load(), flood)
}

func TestSecondTransportIsRefused(t *testing.T) {
	n, b, tr, _ := opened(t)
	n.Do(t, func() error {
		second, err := server.Open(b)
		if err == nil {
			t.Error("two transports on one bridge")
			return second.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "UDP port 67 on br100 is taken by another DHCP server") {
			t.Errorf("error: %v", err)
		}
		return nil
	})
	// Another bridge of the node is no conflict, and a closed one none either.
	other := b
	other.Bridge, other.Index = "br200", n.Bridge(t, "br200", ipam.MAC{2, 0, 0, 0, 0, 9})
	open(t, n, other)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, n, b)
}

func TestCloseEndsReceive(t *testing.T) {
	_, _, tr, _ := opened(t)
	done := make(chan error, 1)
	go func() {
		_, err := tr.Receive(make([]byte, 100))
		done <- err
	}()
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Receive does not end")
	}
	if err := tr.Send(make([]byte, 60)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send: %v", err)
	}
}

func TestSendOnABridgeThatIsGone(t *testing.T) {
	n, _, tr, _ := opened(t)
	n.Delete(t, "br100")
	if err := tr.Send(make([]byte, 342)); err == nil || !strings.Contains(err.Error(), "sending a frame") {
		t.Errorf("error: %v", err)
	}
}
