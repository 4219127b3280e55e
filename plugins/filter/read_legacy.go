package filter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The legacy back end's socket options, of linux/netfilter_ipv4/ip_tables.h.
const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO
	iptGetEntries = 65 // IPT_SO_GET_ENTRIES
)

// tableNameLen is XT_TABLE_MAXNAMELEN.
const tableNameLen = 32

// iptInfo is struct ipt_getinfo. Hooks are in the order of hookNames.
type iptInfo struct {
	Name       [tableNameLen]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

// iptEntriesOffset is where the entries begin in struct ipt_get_entries: behind name and
// size, at the next multiple of eight.
const iptEntriesOffset = 40

// readLegacy reads the legacy back end's tables without its program, as that does: the
// kernel hands out whole tables only, but one program less is what most of a reading
// costs. A table that is not there is not asked for: the kernel would make it.
//
// The layout is that of 64-bit kernels; elsewhere there is an error, and the program is
// asked.
func readLegacy(_ context.Context) (s *seen, err error) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return nil, fmt.Errorf("reading the legacy tables: %w", errors.ErrUnsupported)
	}
	present, err := legacyTables()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("opening a socket to read the legacy tables: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	s = &seen{depth: whole, chains: map[string][]seenRule{}}
	for _, table := range present {
		info, entries, err := legacyEntries(fd, table)
		if err != nil {
			return nil, fmt.Errorf("reading legacy table %s: %w", table, err)
		}
		if err := decodeEntries(s, table, info, entries); err != nil {
			return nil, fmt.Errorf("reading legacy table %s: %w", table, err)
		}
	}
	return s, nil
}

// legacyEntries asks for a table until its size stands still.
func legacyEntries(fd int, table string) (info iptInfo, entries []byte, err error) {
	for range maxReads {
		info = iptInfo{}
		copy(info.Name[:], table)
		b := unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))
		if err := getsockopt(fd, iptGetInfo, b); err != nil {
			return info, nil, err
		}
		b = make([]byte, iptEntriesOffset+int(info.Size))
		copy(b, info.Name[:])
		*(*uint32)(unsafe.Pointer(&b[tableNameLen])) = info.Size
		err := getsockopt(fd, iptGetEntries, b)
		if err == nil {
			return info, b[iptEntriesOffset:], nil
		}
		if !errors.Is(err, unix.EAGAIN) { // it has another size by now
			return info, nil, err
		}
	}
	return info, nil, fmt.Errorf("it changed during each of %d readings", maxReads)
}

func getsockopt(fd, option int, b []byte) error {
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	if int(length) != len(b) {
		return fmt.Errorf("getsockopt returned %d bytes, not %d", length, len(b))
	}
	return nil
}

// hookNames are the built-in chains by hook number (NF_INET_*).
var hookNames = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// decodeEntries adds a table's chains to s. A table is one run of entries: a built-in
// chain from its hook's entry to its policy, a chain of users' behind an entry with the
// target ERROR that carries its name, to a RETURN of its own. The last ERROR ends it.
func decodeEntries(s *seen, table string, info iptInfo, entries []byte) error {
	type found struct {
		chain string
		entry entry
	}
	var rules []found
	heads := map[int]string{} // chains of users by the offset of their first rule
	chain := ""
	for at := 0; at < len(entries); {
		e, err := decodeEntry(entries[at:])
		if err != nil {
			return fmt.Errorf("entry at %d: %w", at, err)
		}
		for hook, name := range hookNames {
			if info.ValidHooks&(1<<hook) != 0 && int(info.HookEntry[hook]) == at {
				chain = name
				rules = append(rules, found{chain: chain})
			}
		}
		next := at + e.size
		if e.head != "" {
			chain, heads[next] = e.head, e.head
			rules = append(rules, found{chain: chain})
		} else {
			rules = append(rules, found{chain, e})
		}
		at = next
	}
	for i, r := range rules {
		last := i+1 == len(rules) || rules[i+1].entry.size == 0
		switch {
		case !wanted(table, r.chain):
		case r.entry.size == 0:
			s.chains[r.chain] = nil
		case last: // policy, or the RETURN at the end
		default:
			s.chains[r.chain] = append(s.chains[r.chain], r.entry.seenRule(heads))
		}
	}
	return nil
}

// seenRule resolves where the entry jumps to.
func (e entry) seenRule(heads map[int]string) seenRule {
	r := e.rule
	r.jump = ""
	if e.jumps {
		if to := heads[e.jumpTo]; isKnown(to) {
			r.jump = to
		}
	}
	r.plain = r.plain && r.jump != ""
	return r
}

// isZero says whether there is nothing but zeros.
func isZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }
