package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// probes is how often Probe asks: one may be lost.
const probes = 2

// Probe asks the segment behind an interface whose addr is, as RFC 5227 has it: with no
// sender address, so that nobody's cache changes. It returns the MAC of whoever answers
// within the time, or announces or asks for the address himself; zero = nobody did. The
// interface must be up, and may be a port of a bridge.
//
// The socket sees frames before the bridge, and so before the guard: a bridge's port hands
// no frame to sockets of one protocol.
func Probe(ctx context.Context, ifName string, addr netip.Addr, wait time.Duration) (foreign ipam.MAC, err error) {
	foreign, err = probe(ctx, ifName, addr, wait)
	if err != nil {
		return foreign, fmt.Errorf("asking behind %s whose %s is: %w", ifName, addr, err)
	}
	return foreign, nil
}

func probe(ctx context.Context, ifName string, addr netip.Addr, wait time.Duration) (foreign ipam.MAC, err error) {
	c, err := dial(ctx)
	if err != nil {
		return foreign, err
	}
	defer c.close()
	d, err := c.device(ifName)
	if err != nil {
		return foreign, err
	}
	fd, err := arpSocket(d.index)
	if err != nil {
		return foreign, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	end := time.Now().Add(wait)
	for asked := range probes {
		if err := unix.Sendto(fd, arpProbe(d.mac, addr), 0, &unix.SockaddrLinklayer{Ifindex: d.index}); err != nil {
			return foreign, fmt.Errorf("sending: %w", err)
		}
		until := end.Add(-wait / probes * time.Duration(probes-1-asked))
		foreign, err = awaitOwner(ctx, fd, d.mac, addr, until)
		if err != nil || !foreign.IsZero() {
			return foreign, err
		}
	}
	return foreign, nil
}

// arpSocket opens a packet socket that receives an interface's ARP.
func arpSocket(index int) (fd int, err error) {
	// Protocol 0: nothing queues up before the filter is there.
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("opening a packet socket: %w", err)
	}
	const typeAt, all = 12, 0xffff
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_ARP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("preparing a packet socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// awaitOwner reads ARP until one frame tells who else has, or wants, addr.
func awaitOwner(ctx context.Context, fd int, own ipam.MAC, addr netip.Addr, until time.Time) (ipam.MAC, error) {
	frame := make([]byte, 128)
	for {
		left := time.Until(until)
		if left <= 0 {
			return ipam.MAC{}, ctx.Err()
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return ipam.MAC{}, fmt.Errorf("setting the socket's timeout: %w", err)
		}
		n, from, err := unix.Recvfrom(fd, frame, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return ipam.MAC{}, fmt.Errorf("receiving: %w", err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue // this node's own, or its workloads'
		}
		if mac, ok := ownerIn(frame[:n], addr); ok && mac != own {
			return mac, nil
		}
	}
}

// ownerIn returns the sender's MAC of an ARP frame (RFC 826) by which somebody shows that
// he has addr, or asks whether he may have it.
func ownerIn(frame []byte, addr netip.Addr) (mac ipam.MAC, ok bool) {
	const ethernet, length = 14, 28
	if len(frame) < ethernet+length {
		return mac, false
	}
	p := frame[ethernet:]
	if string(p[:6]) != "\x00\x01\x08\x00\x06\x04" { // Ethernet and IPv4
		return mac, false
	}
	copy(mac[:], p[8:14])
	sender, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	return mac, sender == addr || sender.IsUnspecified() && target == addr
}

// arpProbe returns a broadcast question for addr from nobody.
func arpProbe(mac ipam.MAC, addr netip.Addr) []byte {
	f := gratuitousARP(arpRequest, mac, addr)
	clear(f[28:32]) // the sender's address
	return f
}
