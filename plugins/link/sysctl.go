package link

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlNet is where the network sysctls of the calling thread's namespace are.
const sysctlNet = "/proc/sys/net"

// disableIPv6 switches IPv6 off on a link of the calling thread's namespace. With
// no address ever made (noIPv6Address) it is a second line: it also keeps people
// from adding one, and the kernel from reporting multicast groups through the port.
// So a kernel without IPv6, a link too small for it, and a read-only /proc/sys
// (rootless, kind) are no errors.
func disableIPv6(name string) error {
	err := os.WriteFile(filepath.Join(sysctlNet, "ipv6/conf", name, "disable_ipv6"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// sysctl reads a network sysctl of the calling thread's namespace; empty if the
// kernel does not have it.
func sysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlNet, path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}
