package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBuffer is asked for in bytes. The default one holds 166 DHCP messages: of
// the thousand that a rebooted node's workloads send at once, most would be lost and
// their clients wait for seconds.
const receiveBuffer = 4 << 20

// socket is the usual transport: a UDP socket to receive, so that the kernel checks
// sums, reassembles fragments and applies INPUT rules, and a packet socket to send
// whole frames to clients that have no address yet.
type socket struct {
	udp  *net.UDPConn
	oob  []byte // Receive's, one goroutine
	last uint32 // drops reported so far

	mu     sync.Mutex // guards what follows
	link   unix.SockaddrLinklayer
	fd     int
	raw    int // IPv4, headers ours
	next   unix.SockaddrInet4
	closed bool
}

// Open opens the transport on a bridge. It needs CAP_NET_RAW, CAP_NET_ADMIN and
// CAP_NET_BIND_SERVICE, and must run in the bridge's network namespace. The sockets
// are bound to the link, not to its name: once that link is deleted they hear
// nothing more and say nothing, so the caller watches it and opens anew.
func Open(b Binding) (Transport, error) {
	udp, err := listen(b)
	if err != nil {
		return nil, err
	}
	// Protocol 0: this socket must not receive anything.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		_ = udp.Close()
		return nil, fmt.Errorf("opening a packet socket for %s (is CAP_NET_RAW missing?): %w", b.Bridge, err)
	}
	// IPPROTO_RAW: headers are ours, and this one receives nothing either.
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		_ = udp.Close()
		_ = unix.Close(fd)
		return nil, fmt.Errorf("opening a raw IPv4 socket for relay agents (is CAP_NET_RAW missing?): %w", err)
	}
	return &socket{
		udp: udp, fd: fd, raw: raw, oob: make([]byte, 256),
		// The protocol is what bridge-family rules see as the frame's type.
		link: unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: b.Index, Halen: 6},
	}, nil
}

// listen opens UDP port 67 on the bridge, without SO_REUSEPORT: two servers on one
// bridge would both answer every broadcast, so the second one must fail.
func listen(b Binding) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = prepare(int(fd), b) }); e != nil {
			return e
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", serverPort))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("UDP port %d on %s is taken by another DHCP server: stop it (`ss -ulpn sport = :%d` names it): %w",
			serverPort, b.Bridge, serverPort, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on UDP port %d of %s: %w", serverPort, b.Bridge, err)
	}
	return conn.(*net.UDPConn), nil
}

// prepare sets the options that must be in place before the socket is bound.
func prepare(fd int, b Binding) error {
	if err := unix.BindToDevice(fd, b.Bridge); err != nil {
		return os.NewSyscallError("SO_BINDTODEVICE", err)
	}
	// FORCE goes beyond net.core.rmem_max; without the capability take what we get.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return os.NewSyscallError("SO_RCVBUF", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return os.NewSyscallError("SO_RXQ_OVFL", err)
	}
	return os.NewSyscallError("IP_PKTINFO", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

// Receive implements Transport.
func (s *socket) Receive(b []byte) (Datagram, error) {
	n, oobn, flags, _, err := s.udp.ReadMsgUDPAddrPort(b, s.oob)
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			return Datagram{}, net.ErrClosed
		}
		return Datagram{}, err
	}
	d := Datagram{Len: n, To: broadcastIP, Drops: s.last, Cut: flags&unix.MSG_TRUNC != 0}
	s.control(s.oob[:oobn], &d)
	return d, nil
}

// control reads what the kernel says beside the datagram: where it was sent to and
// how many were lost before it. What cannot be read is left as it is.
func (s *socket) control(rest []byte, d *Datagram) {
	for len(rest) > 0 {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return
		}
		rest = next
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: ifindex, spec_dst, addr; the last is the header's.
			d.To = netip.AddrFrom4([4]byte(data[8:12]))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			s.last = binary.NativeEndian.Uint32(data)
			d.Drops = s.last
		}
	}
}

// Send implements Transport.
func (s *socket) Send(frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	// One address for all: a new one for each frame would be garbage.
	copy(s.link.Addr[:], frame[:6])
	return os.NewSyscallError("sending a frame", unix.Sendto(s.fd, frame, 0, &s.link))
}

// Route implements Transport. A UDP socket would do but for its checksums, which it
// leaves to hardware that a veth does not have.
func (s *socket) Route(packet []byte, to netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.next.Addr = to.As4()
	if err := unix.Sendto(s.raw, packet, 0, &s.next); err != nil {
		return os.NewSyscallError("sending to relay agent "+to.String(), err)
	}
	return nil
}

// Close implements Transport; it ends a Receive that waits.
func (s *socket) Close() error {
	err := s.udp.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return err
	}
	s.closed = true
	return errors.Join(err, os.NewSyscallError("closing packet socket", unix.Close(s.fd)),
		os.NewSyscallError("closing raw socket", unix.Close(s.raw)))
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
