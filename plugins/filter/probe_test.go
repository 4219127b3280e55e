package filter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe sends one packet and tells, once its verdict has been given, whether it
// arrived.
type probe func(l *packetLab) (arrived func(wait time.Duration) bool, err error)

// udp sends a datagram to the workload's echoPort, or to port.
func udp(from func(*packetLab) netns, source string, sourcePort, port int) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		in := l.listen(l.workload, "udp4", workloadIP, port)
		sport := sourcePort
		if sport == 0 {
			sport = l.nextPort()
		}
		out := l.listen(from(l), "udp4", source, sport)
		_, err := out.WriteTo([]byte("probe"), &net.UDPAddr{IP: net.ParseIP(workloadIP), Port: port})
		return func(wait time.Duration) bool {
			defer func() { _, _ = in.Close(), out.Close() }()
			return receives(in, wait, func(b []byte) bool { return string(b) == "probe" })
		}, err
	}
}

// posing lets the neighbour send a datagram from an address that it does not have.
func posing(source string) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		in := l.listen(l.workload, "udp4", workloadIP, echoPort)
		var out net.PacketConn
		err := l.neighbour.do(func() (err error) {
			transparent := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
				controlled := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
				return errors.Join(controlled, err)
			}}
			out, err = transparent.ListenPacket(context.Background(), "udp4", fmt.Sprintf("%s:%d", source, l.nextPort()))
			return err
		})
		if err != nil {
			return nil, err
		}
		_, err = out.WriteTo([]byte("probe"), in.LocalAddr())
		return func(wait time.Duration) bool {
			defer func() { _, _ = in.Close(), out.Close() }()
			return receives(in, wait, func(b []byte) bool { return string(b) == "probe" })
		}, err
	}
}

func node(l *packetLab) netns      { return l.ns }
func neighbour(l *packetLab) netns { return l.neighbour }
func outside(l *packetLab) netns   { return l.outside }

// receives reads until a packet is the wanted one or nothing comes any more.
func receives(c net.PacketConn, wait time.Duration, want func([]byte) bool) bool {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false
	}
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return false
		}
		if want(b[:n]) {
			return true
		}
	}
}

// reply lets the workload ask a peer and is about the answer.
func reply(l *packetLab) (func(time.Duration) bool, error) {
	in, peer := l.listen(l.workload, "udp4", workloadIP, l.nextPort()), l.listen(l.neighbour, "udp4", neighbourIP, echoPort)
	if _, err := in.WriteTo([]byte("question"), &net.UDPAddr{IP: net.ParseIP(neighbourIP), Port: echoPort}); err != nil {
		return nil, err
	}
	if !receives(peer, testDeadline, func(b []byte) bool { return string(b) == "question" }) {
		return nil, errors.New("the question did not arrive")
	}
	_, err := peer.WriteTo([]byte("answer"), in.LocalAddr())
	return func(wait time.Duration) bool {
		defer func() { _, _ = in.Close(), peer.Close() }()
		return receives(in, wait, func(b []byte) bool { return string(b) == "answer" })
	}, err
}

// forgedError lets the workload talk to the gateway; the neighbour then sends an
// ICMP error that quotes that flow.
func forgedError(l *packetLab) (func(time.Duration) bool, error) {
	port := l.nextPort()
	in, gw := l.listen(l.workload, "udp4", workloadIP, port), l.listen(l.ns, "udp4", gatewayIP, echoPort)
	if _, err := in.WriteTo([]byte("question"), gw.LocalAddr()); err != nil {
		return nil, err
	}
	if !receives(gw, testDeadline, func(b []byte) bool { return string(b) == "question" }) {
		return nil, errors.New("the question did not arrive")
	}
	icmp, out := l.listen(l.workload, "ip4:icmp", workloadIP, 0), l.listen(l.neighbour, "ip4:icmp", neighbourIP, 0)
	_, err := out.WriteTo(unreachable(quotedUDP(workloadIP, gatewayIP, port, echoPort)), &net.IPAddr{IP: net.ParseIP(workloadIP)})
	return func(wait time.Duration) bool {
		defer func() { _, _, _, _ = in.Close(), gw.Close(), icmp.Close(), out.Close() }()
		return receives(icmp, wait, func(b []byte) bool { return b[0] == icmpUnreachable })
	}, err
}

// errorOf lets the workload ask a port of the node's that nobody listens on.
func errorOf(addr string) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		icmp, in := l.listen(l.workload, "ip4:icmp", workloadIP, 0), l.listen(l.workload, "udp4", workloadIP, l.nextPort())
		_, err := in.WriteTo([]byte("question"), &net.UDPAddr{IP: net.ParseIP(addr), Port: echoPort + 1})
		return func(wait time.Duration) bool {
			defer func() { _, _ = in.Close(), icmp.Close() }()
			return receives(icmp, wait, func(b []byte) bool { return b[0] == icmpUnreachable })
		}, err
	}
}

// impossibleTCP sends a segment that no connection can have: SYN and RST.
func impossibleTCP(l *packetLab) (func(time.Duration) bool, error) {
	port := uint16(l.nextPort())
	in, out := l.listen(l.workload, "ip4:tcp", workloadIP, 0), l.listen(l.neighbour, "ip4:tcp", neighbourIP, 0)
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment[0:], port)
	binary.BigEndian.PutUint16(segment[2:], 80)
	segment[12], segment[13] = 5<<4, 0x06
	pseudo := append(append(net.ParseIP(neighbourIP).To4(), net.ParseIP(workloadIP).To4()...), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(segment[16:], checksum(append(pseudo, segment...)))
	_, err := out.WriteTo(segment, &net.IPAddr{IP: net.ParseIP(workloadIP)})
	return func(wait time.Duration) bool {
		defer func() { _, _ = in.Close(), out.Close() }()
		return receives(in, wait, func(b []byte) bool { return binary.BigEndian.Uint16(b) == port })
	}, err
}

const icmpUnreachable = 3

func unreachable(quoted []byte) []byte {
	m := append([]byte{icmpUnreachable, 3, 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return m
}

// quotedUDP is an IPv4 header and the first eight bytes behind it.
func quotedUDP(from, to string, sport, dport int) []byte {
	b := make([]byte, 28)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], 28)
	copy(b[12:], net.ParseIP(from).To4())
	copy(b[16:], net.ParseIP(to).To4())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], uint16(sport))
	binary.BigEndian.PutUint16(b[22:], uint16(dport))
	binary.BigEndian.PutUint16(b[24:], 8)
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// tcp connects; the workload (or whoever is behind to) listens.
func tcp(from func(*packetLab) netns, source string, to string, port int) probe {
	return func(l *packetLab) (func(time.Duration) bool, error) {
		var listener net.Listener
		err := l.workload.do(func() (err error) {
			listener, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", workloadIP, 80))
			return err
		})
		if err != nil {
			return nil, err
		}
		dialed := make(chan error, 1)
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source), Port: l.nextPort()}}
		ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
		go func() {
			dialed <- from(l).do(func() error {
				c, err := dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", to, port))
				if err == nil {
					err = c.Close()
				}
				return err
			})
		}()
		return func(wait time.Duration) bool {
			defer func() { _ = listener.Close() }()
			defer cancel()
			select {
			case err := <-dialed:
				return err == nil
			case <-time.After(wait):
				cancel()
				return <-dialed == nil
			}
		}, nil
	}
}
