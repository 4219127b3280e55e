package inject

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls of each kind. Go's library uses the at-forms alone.
var calls = map[Kind][]uint32{
	Request: {unix.SYS_SENDTO, unix.SYS_SENDMSG},
	Answer:  {unix.SYS_RECVFROM, unix.SYS_RECVMSG},
	Socket:  {unix.SYS_SOCKET},
	Open:    {unix.SYS_OPENAT},
	Write:   {unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE},
	Sync:    {unix.SYS_FSYNC, unix.SYS_FDATASYNC},
	Name:    {unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_UNLINKAT, unix.SYS_FCHMODAT},
	Flock:   {unix.SYS_FLOCK},
	Execve:  {},
}

// numbersOf lists what the kernel is to ask about. The execution of the program itself is
// always among it: what comes before is not the program's.
func numbersOf(kinds []Kind) []string {
	numbers := []string{strconv.Itoa(unix.SYS_EXECVE)}
	for _, k := range kinds {
		for _, n := range calls[k] {
			numbers = append(numbers, strconv.Itoa(int(n)))
		}
	}
	return numbers
}

func kindOf(number uint32) Kind {
	for k, numbers := range calls {
		if slices.Contains(numbers, number) {
			return k
		}
	}
	return Execve
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	dataNumber = 0
	dataArch   = 4
)

// listen makes the kernel ask about these calls of the calling thread and of what comes of
// it, and returns the descriptor on which it asks. The thread stays locked.
func listen(numbers []uint32) (int, error) {
	runtime.LockOSThread()
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: dataNumber}}
	for i, n := range numbers {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: n, Jt: uint8(len(numbers) - i)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, fmt.Errorf("installing a seccomp filter: %w", errno)
	}
	return int(fd), nil
}
