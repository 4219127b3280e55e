package link

import (
	"errors"
	"fmt"
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

// enableForwarding lets the calling thread's namespace route IPv4, as the reference
// bridge plugin does for a gateway. The switch is the whole namespace's and is never set
// back: others may rely on it by then. It is written only if it is off, since writing it
// resets settings of every link.
func enableForwarding() error {
	const forward = "ipv4/ip_forward"
	v, err := sysctl(forward)
	if err != nil || v == "1" {
		return err
	}
	if err := os.WriteFile(filepath.Join(sysctlNet, forward), []byte("1"), 0); err != nil {
		return fmt.Errorf("a gateway routes, but net.ipv4.ip_forward is %s and cannot be set to 1 (do it yourself: `sysctl -w net.ipv4.ip_forward=1`): %w", v, err)
	}
	return nil
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
