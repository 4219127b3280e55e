package link

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// tap is a packet socket that sees what an interface receives.
type tap struct{ fd int }

// packetSocket opens a packet socket on an interface of the calling thread's namespace.
func packetSocket(ifName string) (int, *unix.SockaddrLinklayer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	r, err := unix.NewIfreq(ifName)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	return fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: int(r.Uint32())}, nil
}

// capture starts to see the frames of a workload's interface.
func capture(t *testing.T, w *workload) *tap {
	t.Helper()
	p := &tap{}
	inNetNS(t, w.netns, func() error { return p.open(w.spec.ContainerIfName) })
	t.Cleanup(func() { ok(t, unix.Close(p.fd)) })
	return p
}

func (p *tap) open(ifName string) error {
	fd, to, err := packetSocket(ifName)
	if err != nil {
		return err
	}
	p.fd = fd
	return errors.Join(unix.Bind(fd, to), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
}

// await reads until a frame that is wanted, and returns all that came before it.
func (p *tap) await(t *testing.T, what string, wanted func(frame []byte) bool) (frame []byte, before [][]byte) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		b := make([]byte, 2048)
		n, _, err := unix.Recvfrom(p.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if wanted(b[:n]) {
			return b[:n], before
		}
		before = append(before, b[:n])
	}
	t.Fatalf("waited 10 s in vain: %s", what)
	return nil, nil
}

// sendFrame sends raw frames from inside a workload.
func sendFrame(t *testing.T, w *workload, frames ...[]byte) {
	t.Helper()
	inNetNS(t, w.netns, func() (err error) {
		fd, to, err := packetSocket(w.spec.ContainerIfName)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, to); err != nil {
				return err
			}
		}
		return nil
	})
}

// broadcastFrom is a frame of an experimental ethertype to everybody.
func broadcastFrom(mac ipam.MAC) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	return append(f, 0x88, 0xb5, 0, 0)
}
