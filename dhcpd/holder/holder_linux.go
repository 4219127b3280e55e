// Package holder finds out which program has a port that the daemon wants.
package holder

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Programs known to answer DNS and DHCP: the names to look for where the kernel does not
// say whose a socket is.
var (
	DNSServers = []string{"dnsmasq", "systemd-resolve", "named", "unbound", "coredns", "node-cache", "pdns_recursor",
		"pdns_server", "nsd", "knotd", "kresd", "dnscrypt-proxy", "AdGuardHome", "pihole-FTL", "flat-dhcpd"}
	DHCPServers = []string{"dnsmasq", "dhcpd", "kea-dhcp4", "udhcpd", "systemd-network", "pihole-FTL", "coredhcp", "flat-dhcpd"}
)

// socket is one line of /proc/net's tables.
type socket struct{ inode, uid string }

// Of says which program has a socket on addr or on every address, by /proc (root). The
// calling process is named only if nobody else is there: it may have the port on another
// link, which those tables do not tell. To see another process's sockets takes either its own user and no more
// capabilities than we kept, or CAP_SYS_PTRACE, which the daemon gives up. Where that is
// not enough it names those that it could be: the socket's user's, and those with one of
// the names of servers. network is "udp" or "tcp".
func Of(root, network string, addr netip.AddrPort, servers []string) string {
	sockets := socketsAt(filepath.Join(root, "net", network), addr)
	own, _ := inodes(filepath.Join(root, "self"))
	if others := slices.DeleteFunc(slices.Clone(sockets), func(s socket) bool { return own[s.inode] }); len(others) > 0 {
		sockets = others
	}
	if len(sockets) == 0 {
		return "another program"
	}
	var who []string
	unseen := len(sockets)
	for _, pid := range processes(root) {
		dir := filepath.Join(root, pid)
		has, err := inodes(dir)
		seen := 0
		for _, s := range sockets {
			if has[s.inode] {
				seen++
			}
		}
		unseen -= seen
		if seen > 0 || err != nil && slices.ContainsFunc(sockets, func(s socket) bool { return couldHold(dir, network, s, servers) }) {
			who = append(who, program(dir, pid))
		}
		if unseen == 0 && len(who) == 1 {
			return who[0]
		}
	}
	switch len(who) {
	case 0:
		return "a program of user " + sockets[0].uid
	case 1:
		return "probably " + who[0]
	}
	return "one of " + strings.Join(who[:min(len(who), 5)], ", ")
}

// inodes returns a process's sockets. An error says that there may be others.
func inodes(dir string) (map[string]bool, error) {
	has := map[string]bool{}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		target, e := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			has[strings.TrimSuffix(inode, "]")] = true
		}
		if e != nil {
			err = e
		}
	}
	return has, err
}

// couldHold reports whether the process in dir, which may not be looked into, is in the
// socket's namespace and either of its user (root's processes are too many for that to
// say anything) or a server by its name.
func couldHold(dir, network string, s socket, servers []string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "net", network))
	if err != nil || !slices.ContainsFunc(strings.Split(string(text), "\n"), func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 9 && f[9] == s.inode
	}) {
		return false
	}
	if slices.Contains(servers, name(dir)) {
		return true
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	return err == nil && s.uid != "0" && strings.Contains(string(status), "\nUid:\t"+s.uid+"\t")
}

func program(dir, pid string) string { return fmt.Sprintf("%s (process %s)", name(dir), pid) }

// name returns a process's command name, at most 15 bytes, made harmless for a log.
func name(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return "a program that has ended"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.TrimSpace(string(b)))
}

func processes(root string) []string {
	list, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var pids []string
	for _, e := range list {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

// socketsAt returns the sockets in one of /proc/net's tables that listen on addr, or on
// every address; the tables of IPv6 (network + "6") hold those that listen for both.
func socketsAt(table string, addr netip.AddrPort) []socket {
	var list []socket
	for _, path := range []string{table, table + "6"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 {
				continue
			}
			local, ok := parseEndpoint(f[1])
			const listen, unconnected = "0A", "07"
			if !ok || local.Port() != addr.Port() || f[3] != listen && f[3] != unconnected {
				continue
			}
			if a := local.Addr().Unmap(); a == addr.Addr() || a.IsUnspecified() {
				list = append(list, socket{inode: f[9], uid: f[7]})
			}
		}
	}
	return list
}

// parseEndpoint reads /proc/net's form of an address: 32-bit words in the machine's
// order, in hexadecimal.
func parseEndpoint(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], nativeUint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
