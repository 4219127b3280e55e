package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOrdinaryTraffic: real network stacks behind guarded ports resolve and reach
// each other and the gateway. Whether a closed port may be reached by unicast is up
// to its chain, which is not here.
func TestOrdinaryTraffic(t *testing.T) {
	l := newLab(t, true)
	l.mustDo("giving the node its address", func() error { return setAddr(bridgeName, netip.MustParseAddr(gateway)) })
	hosts := map[string]*host{}
	for i, name := range []string{attacker, victim, closed, unchecked} {
		hosts[name] = l.host(name, byte(2+i))
		l.attach(Port{Name: name, MAC: mac(byte(2 + i)), Addrs: []netip.Addr{addr(byte(2 + i))},
			Closed: name == closed, CheckSource: name != unchecked})
	}
	for from, h := range hosts {
		for to, other := range hosts {
			if from != to {
				h.reach(t, from+" to "+to, other.addr)
			}
		}
		h.reach(t, from+" to the gateway", netip.MustParseAddr(gateway))
		node := host{do: l.do}
		node.reach(t, "the gateway to "+from, h.addr)
	}
	if got := l.counters(); len(got) > 0 {
		t.Errorf("ordinary traffic is counted as dropped: %v", got)
	}
}

// A host is a station with a network stack: a namespace of its own.
type host struct {
	do   func(func())
	addr netip.Addr
}

func (l *lab) host(port string, n byte) *host {
	l.t.Helper()
	stations := *l
	stations.far, stations.farNS = inNewNetNS(l.t)
	stations.mustFar("silencing "+port, quiet)
	s := stations.plug(port, n)
	stations.mustFar("giving "+port+" an address", func() error { return setAddr(farName(port), s.addr) })
	return &host{stations.far, s.addr}
}

func setAddr(ifName string, a netip.Addr) error {
	link, err := netlink.LinkByName(ifName)
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(a.String() + "/24")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, address)
}

// reach waits for the answer to an ICMP echo.
func (h *host) reach(t *testing.T, what string, to netip.Addr) {
	t.Helper()
	must(t, h.do, what, func() (err error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		timeout := unix.NsecToTimeval((20 * time.Second).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		request := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
		binary.BigEndian.PutUint16(request[2:], checksum(request))
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("no answer: %w", err)
			}
			if a, ok := from.(*unix.SockaddrInet4); ok && a.Addr == to.As4() && n >= 28 && buf[20] == 0 {
				return nil
			}
		}
	})
}
