package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
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

// AnnounceByKernel makes the kernel announce every IPv4 address of a container's
// interface, once each, by a gratuitous ARP in its request form: what arp_notify does when
// an interface comes up, at a time when somebody hears it. Call it after WaitForwarding.
//
// It suffices where nobody remembers another MAC for the address, and costs no packet
// socket, whose end waits for a grace period of the kernel's: some 8 ms of an idle node,
// more of a busy one. mac must be the interface's: a link that is given its own MAC
// announces itself (devinet.c, NETDEV_CHANGEADDR). The interface keeps arp_notify, as under
// the reference bridge plugin.
func AnnounceByKernel(ctx context.Context, netns, ifName string, mac ipam.MAC) error {
	if err := announceByKernel(ctx, netns, ifName, mac); err != nil {
		return fmt.Errorf("making the kernel announce %s in namespace %s: %w", ifName, netns, err)
	}
	return nil
}

func announceByKernel(ctx context.Context, netns, ifName string, mac ipam.MAC) error {
	c, err := dialAt(ctx, netns)
	if err != nil {
		return err
	}
	defer c.close()
	d, err := c.device(ifName)
	if err != nil {
		return fmt.Errorf("looking it up: %w", err)
	}
	// The kernel takes IFLA_ADDRESS of a request before IFLA_AF_SPEC, hence two.
	for _, attr := range []*nl.RtAttr{arpNotify(), nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:])} {
		req, _ := linkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK, d.index, "")
		req.AddData(attr)
		if _, err := c.execute(req, 0); err != nil {
			return err
		}
	}
	return nil
}

// arpNotify returns the attribute that sets a link's arp_notify, without /proc/sys,
// which may be read-only (linux/if_link.h, linux/ip.h).
func arpNotify() *nl.RtAttr {
	const (
		inetConf = 1  // IFLA_INET_CONF
		notify   = 22 // IPV4_DEVCONF_ARP_NOTIFY
	)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil).AddRtAttr(notify, nl.Uint32Attr(1))
	return spec
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
	c, err := open(ctx) // of this thread's namespace, which may be a container's
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
