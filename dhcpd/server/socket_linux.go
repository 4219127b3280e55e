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

// socket is the usual transport: a packet socket for frames, in and out.
//
// A UDP socket would do for receiving, until INPUT rules or rp_filter of the node drop
// what it should hear: a policy of DROP without an exception for DHCP, or the REBIND of a
// client with an address of another subnet, which is the one that most needs a NAK. Which
// rules do so cannot be told from outside in general, and a packet socket hears all. It
// costs as much, and tells the Ethernet source besides. The bridge's own rules (the
// guard) still come first.
type socket struct {
	port  *net.UDPConn // holds UDP port 67 and hears nothing
	file  *os.File     // of fd
	in    *receiver
	route int // raw IPv4, headers ours

	mu     sync.Mutex // guards what follows
	fd     int
	link   unix.SockaddrLinklayer
	next   unix.SockaddrInet4
	closed bool
}

// Open opens the transport on a bridge. It needs CAP_NET_RAW, CAP_NET_ADMIN and
// CAP_NET_BIND_SERVICE, and must run in the bridge's network namespace. The sockets
// are bound to the link, not to its name: once that link is deleted they hear
// nothing more and say nothing, so the caller watches it and opens anew.
func Open(b Binding) (_ Transport, err error) {
	s := &socket{link: unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: b.Index, Halen: 6}}
	// The port first: where another server has it nothing else is opened.
	if s.port, err = hold(b); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.port.Close()
		}
	}()
	// Protocol 0 until it is bound: without its filter it must not receive anything.
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("opening a packet socket for %s (is CAP_NET_RAW missing?): %w", b.Bridge, err)
	}
	s.file = os.NewFile(uintptr(s.fd), "packet socket on "+b.Bridge)
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
	}()
	if err = s.prepare(); err != nil {
		return nil, fmt.Errorf("preparing the packet socket for %s: %w", b.Bridge, err)
	}
	// IPPROTO_RAW: headers are ours, and this one receives nothing either.
	if s.route, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW); err != nil {
		return nil, fmt.Errorf("opening a raw IPv4 socket for relay agents (is CAP_NET_RAW missing?): %w", err)
	}
	return s, nil
}

// hold takes UDP port 67 on the bridge, without SO_REUSEPORT: two servers on one bridge
// would both answer every broadcast, so the second one must fail. It is never read: it is
// there because the kernel would else answer each unicast renewal with "port
// unreachable".
func hold(b Binding) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			if err = os.NewSyscallError("SO_BINDTODEVICE", unix.BindToDevice(int(fd), b.Bridge)); err == nil {
				err = attach(int(fd), nothing)
			}
		}); e != nil {
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
		return nil, fmt.Errorf("taking UDP port %d of %s: %w", serverPort, b.Bridge, err)
	}
	return conn.(*net.UDPConn), nil
}

// prepare makes s.fd receive the bridge's DHCP messages, and nothing before its options
// are in place.
func (s *socket) prepare() (err error) {
	if err := attach(s.fd, messages); err != nil {
		return err
	}
	// FORCE goes beyond net.core.rmem_max; without the capability take what we get.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return os.NewSyscallError("SO_RCVBUF", err)
		}
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return os.NewSyscallError("SO_RXQ_OVFL", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return os.NewSyscallError("PACKET_AUXDATA", err)
	}
	if s.in, err = newReceiver(s.file); err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(s.fd, &s.link))
}

// Receive implements Transport.
func (s *socket) Receive(b []byte) (Datagram, error) {
	d, err := s.in.frame(b)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return Datagram{}, net.ErrClosed
		}
	}
	return d, err
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
	if err := unix.Sendto(s.route, packet, 0, &s.next); err != nil {
		return os.NewSyscallError("sending to relay agent "+to.String(), err)
	}
	return nil
}

// Close implements Transport; it ends a Receive that waits.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	return errors.Join(s.file.Close(), s.port.Close(), os.NewSyscallError("closing raw socket", unix.Close(s.route)))
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
