package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// keptCapabilities is what serving takes, also when a bridge is made again: packet
// sockets and sockets bound to a link, ports below 1024, the large receive buffer.
const keptCapabilities = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE

// privileges are those of the calling thread, capabilities as one bit each.
type privileges struct {
	effective, permitted, inheritable uint64
	bounding                          uint64
	noNew                             bool
}

// confined reports whether nothing beyond keptCapabilities is held or can be gained.
// A bounding set that is too large and may not be lowered changes nothing about that.
func (p privileges) confined() bool {
	return p.noNew && (p.effective|p.permitted|p.inheritable)&^keptCapabilities == 0
}

// confine gives up, for good, every capability but keptCapabilities, in the bounding
// set too, and the way to new ones. User 0 stays, so that the store stays 0600.
//
// Capabilities belong to threads and a Go program has many, of which a cgo runtime
// may have started some: so one thread gives them up and executes the program again,
// which as the same process then has them in none. Before the sockets are opened and
// not after, since what is kept is all that opening takes. It returns once confined.
func confine(log *slog.Logger) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := readPrivileges()
	if err != nil {
		return err
	}
	if p.confined() {
		if more := p.bounding &^ keptCapabilities; more != 0 {
			log.Warn(fmt.Sprintf("capabilities %#x stay in the bounding set: CAP_SETPCAP is wanted to remove them", more))
		}
		return nil
	}
	if err := p.lower(); err != nil {
		return err
	}
	path, err := program()
	if err != nil {
		return err
	}
	return fmt.Errorf("executing %s again without its capabilities: %w", path, unix.Exec(path, os.Args, os.Environ()))
}

func readPrivileges() (p privileges, err error) {
	data, err := capget()
	if err != nil {
		return p, err
	}
	for i, d := range data {
		p.effective |= uint64(d.Effective) << (32 * i)
		p.permitted |= uint64(d.Permitted) << (32 * i)
		p.inheritable |= uint64(d.Inheritable) << (32 * i)
	}
	for c := range 64 {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // beyond the kernel's last
			break
		}
		if err != nil {
			return p, fmt.Errorf("reading the capability bounding set: %w", err)
		}
		p.bounding |= uint64(in) << c
	}
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return p, fmt.Errorf("reading no_new_privs: %w", err)
	}
	p.noNew = noNew == 1
	return p, nil
}

func capget() (data [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return data, fmt.Errorf("reading capabilities: %w", err)
	}
	return data, nil
}

// lower takes from the calling thread what confine gives up. The bounding set comes
// first, as lowering it takes a capability that goes.
func (p privileges) lower() error {
	if p.effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range 64 {
			if 1<<c&p.bounding&^keptCapabilities == 0 {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				return fmt.Errorf("removing capability %d from the bounding set: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	data, err := capget()
	if err != nil {
		return err
	}
	for i := range data {
		keep := uint32(uint64(keptCapabilities) >> (32 * i))
		data[i].Effective &= keep
		data[i].Permitted &= keep
		data[i].Inheritable &= keep
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// program returns the path of this process's program: its own, so that the process
// keeps its name, unless another file has taken its place meanwhile.
func program() (string, error) {
	const self = "/proc/self/exe"
	running, err := os.Stat(self)
	if err != nil {
		return "", fmt.Errorf("finding the program that runs: %w", err)
	}
	if path, err := os.Executable(); err == nil {
		if there, err := os.Stat(path); err == nil && os.SameFile(there, running) {
			return path, nil
		}
	}
	return self, nil
}
