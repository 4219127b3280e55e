package server

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver reads frames from a packet socket without allocating: everything that the
// system call needs stays where it is from one frame to the next. It is for one
// goroutine.
type receiver struct {
	conn  syscall.RawConn
	msg   unix.Msghdr
	iov   unix.Iovec
	oob   [128]byte
	call  func(fd uintptr) bool // made once: a closure for each frame would be garbage
	n     int
	errno unix.Errno
	drops uint32 // reported so far
}

func newReceiver(f *os.File) (*receiver, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &receiver{conn: conn}
	r.call = func(fd uintptr) bool {
		r.msg.Control = &r.oob[0]
		r.msg.SetControllen(len(r.oob))
		r.msg.Iov = &r.iov
		r.msg.SetIovlen(1)
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), 0)
		for errno == unix.EINTR {
			n, _, errno = unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), 0)
		}
		r.n, r.errno = int(n), errno
		return errno != unix.EAGAIN // false: wait until there is something
	}
	return r, nil
}

// frame reads one frame into b.
func (r *receiver) frame(b []byte) (Datagram, error) {
	r.iov.Base = &b[0]
	r.iov.SetLen(len(b))
	err := r.conn.Read(r.call)
	r.iov.Base = nil
	switch {
	case err != nil:
		return Datagram{}, err
	case r.errno != 0:
		return Datagram{}, os.NewSyscallError("recvmsg", r.errno)
	}
	checked := r.control()
	if r.msg.Flags&unix.MSG_TRUNC != 0 {
		return Datagram{Drops: r.drops, Cut: true}, nil
	}
	d, ok := unwrap(b[:r.n], checked)
	d.Drops, d.Damaged = r.drops, !ok
	return d, nil
}

// control reads what the kernel says beside the frame: how many were lost before it, and
// whether the checksum is good (TP_STATUS_CSUM_VALID) or has not been put in
// (TP_STATUS_CSUMNOTREADY, a sender on this machine). What cannot be read is left as it is.
func (r *receiver) control() (checked bool) {
	rest := r.oob[:min(int(r.msg.Controllen), len(r.oob))]
	for len(rest) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(rest) {
			break
		}
		data := rest[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			r.drops = binary.NativeEndian.Uint32(data)
		case h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && len(data) >= 4:
			// struct tpacket_auxdata begins with the status.
			checked = binary.NativeEndian.Uint32(data)&(unix.TP_STATUS_CSUMNOTREADY|unix.TP_STATUS_CSUM_VALID) != 0
		}
		rest = rest[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(rest)):]
	}
	return checked
}

// messages is the filter of the receiving socket: whole UDP datagrams to port 67 that
// came from outside for this machine or for all. What is for others, frames that this
// machine sent, and what has a VLAN tag (which the kernel takes for another's, but for
// tag 0) never come so far.
var messages = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 0xfffff000 + 4}, // SKF_AD_OFF + SKF_AD_PKTTYPE
	{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: unix.PACKET_MULTICAST, Jt: 8},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethernetLen + 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolUDP, Jf: 6},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: ethernetLen + 6},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x3fff, Jt: 4},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethernetLen},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: ethernetLen + 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: serverPort, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// nothing is the filter of a socket that takes no message.
var nothing = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

func attach(fd int, filter []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return os.NewSyscallError("SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p))
}
