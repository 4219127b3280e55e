package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/dhcpd/holder"
)

// receiveBuffer is room for what comes while a copy of the store is made, in bytes.
const receiveBuffer = 1 << 20

// TakenError says that another program has the port, as far as can be told which one.
type TakenError struct {
	Addr   netip.AddrPort
	Holder string // such as "dnsmasq (process 812)"
	Err    error
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("port %d of %s is taken by %s: %v; stop it there or keep it off that address "+
		"(bind-interfaces for dnsmasq), or set dns.enabled to false", e.Addr.Port(), e.Addr.Addr(), e.Holder, e.Err)
}

// Unwrap returns the system's error.
func (e *TakenError) Unwrap() error { return e.Err }

// Sockets are what a Server listens on: one address, by UDP and by TCP.
//
// They are bound to the address and not to the bridge, since what the node itself asks
// arrives by lo. For UDP the kernel tells with every datagram by which link it came; TCP
// needs no such word, as its handshake proves that the source is where it says.
type Sockets struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// Listen opens the sockets on addr. The error is a *TakenError if another program has
// the port.
func Listen(addr netip.AddrPort) (*Sockets, error) {
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		if network != "udp4" {
			return nil
		}
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			// Beyond the system's limit if that is allowed; less is no reason to stop.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	pc, err := config.ListenPacket(context.Background(), "udp4", addr.String())
	if err != nil {
		return nil, listening("udp", addr, err)
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listening on %s: unexpected %T", addr, pc), pc.Close())
	}
	// Port 0, in tests: the one that UDP was given.
	if local, ok := udp.LocalAddr().(*net.UDPAddr); ok {
		addr = netip.AddrPortFrom(addr.Addr(), uint16(local.Port))
	}
	l, err := config.Listen(context.Background(), "tcp4", addr.String())
	if err != nil {
		return nil, errors.Join(listening("tcp", addr, err), udp.Close())
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listening on %s: unexpected %T", addr, l), l.Close(), udp.Close())
	}
	return &Sockets{udp, tcp}, nil
}

func listening(network string, addr netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return &TakenError{Addr: addr, Holder: holder.Of("/proc", network, addr, holder.DNSServers), Err: err}
	}
	return fmt.Errorf("listening for DNS on %s (%s): %w", addr, network, err)
}

// Addr returns what is listened on.
func (s *Sockets) Addr() netip.AddrPort {
	a, _ := netip.ParseAddrPort(s.udp.LocalAddr().String())
	return a
}

// Close ends listening; accepted connections are their handler's.
func (s *Sockets) Close() error { return errors.Join(s.udp.Close(), s.tcp.Close()) }

// controlSize is room for one IP_PKTINFO message.
var controlSize = unix.CmsgSpace(unix.SizeofInet4Pktinfo)

// arrival returns the index of the link by which a datagram came; 0 = unknown.
func arrival(control []byte) int {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range list {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			return int(int32(binary.NativeEndian.Uint32(m.Data)))
		}
	}
	return 0
}
