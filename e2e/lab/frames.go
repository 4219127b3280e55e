package lab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Tap sends and captures whole Ethernet frames on one interface. Captured are the frames
// that arrive there, in order, whatever their destination; never those sent there.
//
// That a frame does not arrive is shown without waiting: see [Delivered].
type Tap struct {
	file  *os.File
	conn  sysConn
	where string
	index int
	mac   net.HardwareAddr
}

type sysConn interface {
	Read(func(fd uintptr) bool) error
	Control(func(fd uintptr)) error
}

// Tap opens an interface of the host: a port, the bridge, an uplink.
func (h *Host) Tap(ifName string) (*Tap, error) { return openTap(h.NetNS(), h.name, ifName) }

// Tap opens an interface of the container.
func (c *Container) Tap(ifName string) (*Tap, error) { return openTap(c.NetNS(), c.where(), ifName) }

// TapAll opens the container as a whole: it captures on every interface that the container
// has or comes to have. It sends with SendBy only.
func (c *Container) TapAll() (*Tap, error) { return openTap(c.NetNS(), c.where(), "") }

func openTap(netns, where, ifName string) (*Tap, error) {
	t := &Tap{where: where + " " + ifName}
	err := inNetNS(netns, func() error {
		if ifName != "" {
			ifi, err := net.InterfaceByName(ifName)
			if err != nil {
				return err
			}
			t.index, t.mac = ifi.Index, ifi.HardwareAddr
		}
		// Protocol 0 until bound: nothing of another interface gets in.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		t.file = os.NewFile(uintptr(fd), "packet:"+ifName)
		// Room for a burst that arrives while the test does something else.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20); err != nil {
			return err
		}
		// The kernel takes VLAN tags off the frame and tells them beside it.
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: t.index})
	})
	if err == nil {
		t.conn, err = t.file.SyscallConn()
	}
	if err != nil {
		if t.file != nil {
			_ = t.file.Close()
		}
		return nil, fmt.Errorf("tapping %s: %w", t.where, err)
	}
	return t, nil
}

// Close ends the capture.
func (t *Tap) Close() error { return t.file.Close() }

// MAC returns the interface's address at the time it was opened.
func (t *Tap) MAC() net.HardwareAddr { return t.mac }

// Send sends frames, given from the destination MAC on, and keeps their order: they are sent
// from one CPU, because each CPU queues what crosses a veth by itself.
func (t *Tap) Send(frames ...[]byte) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends here, and its affinity with it.
		runtime.LockOSThread()
		done <- t.sendPinned(frames)
	}()
	return <-done
}

func (t *Tap) sendPinned(frames [][]byte) error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("sending on %s: asking for the CPUs: %w", t.where, err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("sending on %s: keeping to a CPU: %w", t.where, err)
	}
	var sendErr error
	err := t.conn.Control(func(fd uintptr) {
		to := &unix.SockaddrLinklayer{Ifindex: t.index, Protocol: htons(unix.ETH_P_ALL)}
		for i, f := range frames {
			if err := unix.Sendto(int(fd), f, 0, to); err != nil {
				sendErr = fmt.Errorf("sending frame %d of %d on %s: %w", i+1, len(frames), t.where, err)
				return
			}
		}
	})
	return errors.Join(sendErr, err)
}

// SendBy sends a frame by the interface that has this name now. Unlike Send it keeps no
// order.
func (t *Tap) SendBy(ifName string, frame []byte) error {
	request, err := unix.NewIfreq(ifName)
	if err != nil {
		return err
	}
	var sendErr error
	err = t.conn.Control(func(fd uintptr) {
		// The socket's namespace is asked, whatever the thread's is.
		if sendErr = unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, request); sendErr == nil {
			to := &unix.SockaddrLinklayer{Ifindex: int(request.Uint32()), Protocol: htons(unix.ETH_P_ALL)}
			sendErr = unix.Sendto(int(fd), frame, 0, to)
		}
	})
	if err := errors.Join(sendErr, err); err != nil {
		return fmt.Errorf("sending by %s on %s: %w", ifName, t.where, err)
	}
	return nil
}

// Receive returns the next frame that arrived.
func (t *Tap) Receive(ctx context.Context) ([]byte, error) {
	if err := t.file.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = t.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var got received
		var readErr error
		err := t.conn.Read(func(fd uintptr) bool {
			got, readErr = receive(int(fd))
			return !errors.Is(readErr, unix.EAGAIN)
		})
		if err == nil {
			err = readErr
		}
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("receiving on %s: %w", t.where, err)
		}
		if !got.sent {
			return got.frame, nil
		}
	}
}

// received is a frame and what the kernel tells of it.
type received struct {
	frame []byte
	sent  bool      // it left by the interface; else it arrived there
	at    time.Time // if asked for
}

// receive takes the next frame off a packet socket's queue.
func receive(fd int) (received, error) {
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		return received{}, err
	}
	ll, ok := from.(*unix.SockaddrLinklayer)
	r := received{frame: buf[:n], sent: ok && ll.Pkttype == unix.PACKET_OUTGOING}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return received{}, fmt.Errorf("reading what the kernel tells of a frame: %w", err)
	}
	r.frame, r.at = withTag(r.frame, messages), stamp(messages)
	return r, nil
}

// withTag puts back the VLAN tag that the kernel took off.
func withTag(frame []byte, messages []unix.SocketControlMessage) []byte {
	if len(frame) < 12 {
		return frame
	}
	for _, m := range messages {
		// struct tpacket_auxdata: status, len, snaplen u32; mac, net, vlan_tci, vlan_tpid u16.
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tpid := uint16(unix.ETH_P_8021Q)
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		tagged := append([]byte(nil), frame[:12]...)
		tagged = binary.BigEndian.AppendUint16(tagged, tpid)
		tagged = binary.BigEndian.AppendUint16(tagged, binary.NativeEndian.Uint16(m.Data[16:]))
		return append(tagged, frame[12:]...)
	}
	return frame
}

// Until returns the frames that arrived up to the first for which last is true, that
// one included.
func (t *Tap) Until(ctx context.Context, last func(frame []byte) bool) ([][]byte, error) {
	var frames [][]byte
	for {
		f, err := t.Receive(ctx)
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
		if last(f) {
			return frames, nil
		}
	}
}

// Endpoint is an interface as its neighbours know it.
type Endpoint struct {
	MAC  net.HardwareAddr
	Addr netip.Addr
}

// Marker is a frame that any network lets through, and that nobody else sends: an ARP
// request of its true sender, whose target hardware field, which receivers ignore, is drawn
// at random. It is sent to the receiver's MAC, so that no flooding is needed.
func Marker(from, to Endpoint) (frame []byte, is func([]byte) bool) {
	nonce := make(net.HardwareAddr, 6)
	// crypto/rand never fails: it ends the program instead.
	_, _ = rand.Read(nonce)
	frame = ARP(to.MAC, from.MAC, ARPRequest, from, Endpoint{MAC: nonce, Addr: to.Addr})
	return frame, func(f []byte) bool { return len(f) >= len(frame) && string(f[:len(frame)]) == string(frame) }
}

// Delivered sends frame and then the marker from one tap, waits at the other for the marker,
// and reports whether the frame came before it. Both take the same way in order, so that a
// frame that has not come by then was dropped. No marker within ctx is an error: then
// nothing is known.
func Delivered(ctx context.Context, from, to *Tap, frame, marker []byte) (bool, error) {
	if err := from.Send(frame, marker); err != nil {
		return false, err
	}
	same := func(f, want []byte) bool { return len(f) >= len(want) && string(f[:len(want)]) == string(want) }
	got, err := to.Until(ctx, func(f []byte) bool { return same(f, marker) })
	if err != nil {
		return false, fmt.Errorf("waiting for the marker: %w", err)
	}
	for _, f := range got[:len(got)-1] {
		if same(f, frame) {
			return true, nil
		}
	}
	return false, nil
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
