package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// Announce tells the segment, from inside the container, that addr is at mac: count
// times, at once, a gratuitous ARP in its request form (RFC 5227, section 3) and in its
// reply form, since there are hosts that heed only one. The kernel's own arp_notify
// comes too early, when the port does not forward yet: call it after WaitForwarding.
func Announce(ctx context.Context, netns, ifName string, mac ipam.MAC, addr netip.Addr, count int) error {
	err := within(netns, func() error { return announce(ctx, ifName, mac, addr, count) })
	if err != nil {
		return fmt.Errorf("announcing %s: %w", addr, err)
	}
	return nil
}

// AnnounceHost is Announce from an interface of the host: the gateway address on the
// bridge, after the bridge or the address was made anew.
func AnnounceHost(ctx context.Context, ifName string, mac ipam.MAC, addr netip.Addr, count int) error {
	if err := announce(ctx, ifName, mac, addr, count); err != nil {
		return fmt.Errorf("announcing %s: %w", addr, err)
	}
	return nil
}

func announce(ctx context.Context, ifName string, mac ipam.MAC, addr netip.Addr, count int) (err error) {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	d, err := c.device(ifName)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", ifName, err)
	}
	// Protocol 0: the socket sends only, nothing queues up on it.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	to := &unix.SockaddrLinklayer{Ifindex: d.index}
	for range count {
		for _, op := range []byte{arpRequest, arpReply} {
			if err := unix.Sendto(fd, gratuitousARP(op, mac, addr), 0, to); err != nil {
				return fmt.Errorf("sending from %s: %w", ifName, err)
			}
		}
	}
	return nil
}

const (
	arpRequest = 1
	arpReply   = 2
	minFrame   = 60 // bytes, without checksum: Ethernet's minimum
)

// gratuitousARP returns a broadcast frame in which sender and target address are
// addr (RFC 826 layout).
func gratuitousARP(op byte, mac ipam.MAC, addr netip.Addr) []byte {
	ip := addr.As4()
	target := ipam.MAC{} // a request asks for it
	if op == arpReply {
		target = mac
	}
	f := make([]byte, 0, minFrame)
	f = append(f, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}...)
	f = append(f, mac[:]...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, op)
	f = append(f, mac[:]...)
	f = append(f, ip[:]...)
	f = append(f, target[:]...)
	f = append(f, ip[:]...)
	return f[:minFrame]
}
