package inject

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// describe says what a call is about, as far as can be seen; it is for people.
func describe(n notification) string {
	switch kindOf(uint32(n.number)) {
	case Request:
		return request(n)
	case Write, Sync, Flock:
		return file(n, n.args[0])
	case Open, Name:
		if uint32(n.number) == unix.SYS_OPENAT && n.args[2]&(unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT) != 0 {
			return path(n, n.args[1]) + " to write"
		}
		return callNames[uint32(n.number)] + path(n, n.args[1])
	case Socket:
		return fmt.Sprintf("of family %d", n.args[0])
	}
	return path(n, n.args[0])
}

var callNames = map[uint32]string{
	unix.SYS_MKDIRAT: "mkdir ", unix.SYS_RENAMEAT: "rename ", unix.SYS_UNLINKAT: "remove ", unix.SYS_FCHMODAT: "chmod ",
}

// file names what a descriptor of the caller is.
func file(n notification, fd uint64) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.thread, int32(fd)))
	if err != nil {
		return "?"
	}
	name, _, _ = strings.Cut(name, ":[")
	return name
}

// path reads a string of the caller's.
func path(n notification, at uint64) string {
	b := memory(n, at, 256)
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func memory(n notification, at uint64, length int) []byte {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.thread))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, length)
	got, _ := f.ReadAt(b, int64(at)) // what can be read: it may end at a page
	return b[:got]
}

// request names the netlink message that is sent.
func request(n notification) string {
	at, length := n.args[1], n.args[2]
	if uint32(n.number) == unix.SYS_SENDMSG {
		at, length = firstVector(n, n.args[1])
	}
	head := memory(n, at, int(min(length, unix.SizeofNlMsghdr+8)))
	if len(head) < unix.SizeofNlMsghdr {
		return "?"
	}
	if uint64(binary.NativeEndian.Uint32(head)) > length {
		return "frame"
	}
	kind, flags := binary.NativeEndian.Uint16(head[4:]), binary.NativeEndian.Uint16(head[6:])
	name, known := messages[kind]
	if kind == unix.NFNL_MSG_BATCH_BEGIN && uint32(n.number) == unix.SYS_SENDMSG {
		name = "nf_tables batch" // which has the number of RTM_NEWLINK; links go by sendto
	}
	if !known {
		name = fmt.Sprintf("message %#x", kind)
	}
	if flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP && strings.Contains(name, "GET") {
		name += " (dump)"
	}
	return name
}

// firstVector reads where the first buffer of a struct msghdr is, and how long it is.
func firstVector(n notification, at uint64) (base, length uint64) {
	header := memory(n, at, 32)
	if len(header) < 32 {
		return 0, 0
	}
	vector := memory(n, binary.NativeEndian.Uint64(header[16:]), 16)
	if len(vector) < 16 {
		return 0, 0
	}
	return binary.NativeEndian.Uint64(vector), binary.NativeEndian.Uint64(vector[8:])
}

// messages are the types of netlink messages that flatdhcp sends.
var messages = map[uint16]string{
	unix.RTM_NEWLINK: "RTM_NEWLINK", unix.RTM_SETLINK: "RTM_SETLINK", unix.RTM_DELLINK: "RTM_DELLINK", unix.RTM_GETLINK: "RTM_GETLINK",
	unix.RTM_NEWADDR: "RTM_NEWADDR", unix.RTM_DELADDR: "RTM_DELADDR", unix.RTM_GETADDR: "RTM_GETADDR",
	unix.RTM_NEWROUTE: "RTM_NEWROUTE", unix.RTM_GETROUTE: "RTM_GETROUTE",
	unix.RTM_NEWNEIGH: "RTM_NEWNEIGH", unix.RTM_DELNEIGH: "RTM_DELNEIGH", unix.RTM_GETNEIGH: "RTM_GETNEIGH",
	nft(unix.NFT_MSG_GETGEN): "NFT_MSG_GETGEN", nft(unix.NFT_MSG_GETTABLE): "NFT_MSG_GETTABLE",
	nft(unix.NFT_MSG_GETCHAIN): "NFT_MSG_GETCHAIN", nft(unix.NFT_MSG_GETRULE): "NFT_MSG_GETRULE",
	nft(unix.NFT_MSG_GETSET): "NFT_MSG_GETSET", nft(unix.NFT_MSG_GETSETELEM): "NFT_MSG_GETSETELEM",
	nft(unix.NFT_MSG_GETOBJ):        "NFT_MSG_GETOBJ",
	unix.NFNL_SUBSYS_CTNETLINK << 8: "IPCTNL_MSG_CT_NEW", unix.NFNL_SUBSYS_CTNETLINK<<8 | 1: "IPCTNL_MSG_CT_GET",
	unix.NFNL_SUBSYS_CTNETLINK<<8 | 2: "IPCTNL_MSG_CT_DELETE",
}

func nft(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }
