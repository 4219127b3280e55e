package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// link is a packet socket on the clients' interface. One goroutine uses it.
type link struct {
	fd   int
	port int // a UDP socket that hears nothing; -1 = none
	poll []unix.PollFd
}

// openLink opens an interface in another network namespace.
func openLink(netns, name string) (*link, error) {
	l := &link{fd: -1, port: -1}
	err := inNetNS(netns, func() error { return l.open(name) })
	if err != nil {
		_ = l.close()
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	return l, nil
}

func (l *link) open(name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	// Unbound and with protocol 0 it receives nothing until its filter is in place.
	if l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	l.poll = []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	// All answers to a storm, however late they are read.
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
		return os.NewSyscallError("SO_RCVBUFFORCE", err)
	}
	if err := attach(l.fd, fromServers); err != nil {
		return err
	}
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	if err := unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index}); err != nil {
		return err
	}
	return l.occupy()
}

// occupy takes the port of a relay, so that the kernel does not tell the server that
// nobody listens there. The socket itself hears nothing.
func (l *link) occupy() (err error) {
	if l.port, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := attach(l.port, []unix.SockFilter{{Code: unix.BPF_RET}}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(l.port, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.Bind(l.port, &unix.SockaddrInet4{Port: serverPort})
}

// fromServers lets IPv4 through that is UDP from the port of DHCP servers.
var fromServers = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethernetLen + 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 4, K: unix.IPPROTO_UDP},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethernetLen},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: ethernetLen},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: serverPort},
	{Code: unix.BPF_RET, K: 65535},
	{Code: unix.BPF_RET},
}

func attach(fd int, filter []unix.SockFilter) error {
	return os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
}

func (l *link) close() error {
	var errs []error
	for _, fd := range []int{l.fd, l.port} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// send sends a frame. A device whose queue is full loses it, as on a wire: the client
// repeats it, and is counted.
func (l *link) send(frame []byte) error {
	_, err := unix.Write(l.fd, frame)
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return os.NewSyscallError("sending a frame", err)
}

// receive waits for a frame, for so long at most, and returns its length; 0 = none.
func (l *link) receive(b []byte, wait time.Duration) (int, error) {
	for {
		n, err := unix.Read(l.fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return 0, os.NewSyscallError("receiving", err)
		case wait <= 0:
			return 0, nil
		}
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		if _, err := unix.Ppoll(l.poll, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("waiting for a frame", err)
		}
		wait = 0
	}
}

// drain throws away what is left of an earlier run.
func (l *link) drain() error {
	b := make([]byte, 2048)
	for {
		if n, err := l.receive(b, 0); n == 0 || err != nil {
			return err
		}
	}
}

// onCPU runs f on a thread that keeps to one CPU; none = wherever it likes. The thread ends
// with f, so that nothing else inherits that.
func onCPU(cpu int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if cpu != none {
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				done <- os.NewSyscallError("sched_setaffinity", err)
				return
			}
		}
		done <- f()
	}()
	return <-done
}

// none is no CPU in particular.
const none = -1

// inNetNS runs f on a thread inside the network namespace at path.
func inNetNS(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return onCPU(none, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering %s: %w", path, err)
		}
		return f()
	})
}
