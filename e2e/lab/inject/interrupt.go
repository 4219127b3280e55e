package inject

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// interrupt receives an answer in the program's place, marks it as that of an interrupted
// dump, and delivers it. What cannot be marked, because it is no recvfrom or nothing has
// come yet, is left to the program.
func (w *watcher) interrupt(n notification, r *response) {
	pidfd, err := unix.PidfdOpen(w.pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(pidfd) }()
	fd, err := unix.PidfdGetfd(pidfd, int(n.args[0]), 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	at, length := n.args[1], n.args[2]
	flags := int(n.args[3])
	if uint32(n.number) == unix.SYS_RECVMSG {
		at, length = firstVector(n, n.args[1])
		flags = int(n.args[2])
	}
	b := make([]byte, length)
	got, _, err := unix.Recvfrom(fd, b, flags|unix.MSG_DONTWAIT)
	if err != nil {
		return
	}
	for m := b[:min(got, len(b))]; len(m) >= unix.SizeofNlMsghdr; {
		flags := binary.NativeEndian.Uint16(m[6:])
		binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_DUMP_INTR)
		size := (int(binary.NativeEndian.Uint32(m)) + 3) &^ 3
		m = m[min(max(size, unix.SizeofNlMsghdr), len(m)):]
	}
	if err := deliver(n, at, b[:min(got, len(b))]); err != nil {
		return
	}
	if uint32(n.number) == unix.SYS_RECVFROM {
		deliverSender(n)
	}
	r.flags, r.value = 0, int64(got)
}

func deliver(n notification, at uint64, b []byte) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", n.thread), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = f.WriteAt(b, int64(at))
	return err
}

// deliverSender says that the kernel (port 0) has sent it.
func deliverSender(n notification) {
	addr, size := n.args[4], n.args[5]
	if addr == 0 || size == 0 {
		return
	}
	from := make([]byte, unix.SizeofSockaddrNetlink)
	binary.NativeEndian.PutUint16(from, unix.AF_NETLINK)
	_ = deliver(n, addr, from)
	_ = deliver(n, size, binary.NativeEndian.AppendUint32(nil, unix.SizeofSockaddrNetlink))
}
