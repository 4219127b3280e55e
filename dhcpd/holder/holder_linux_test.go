package holder

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestHolder reads a /proc of its own making, since what may be seen of other processes
// depends on who looks.
func TestHolder(t *testing.T) {
	const (
		head   = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
		socket = "  12: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000 %5s        0 %s 2 0 0\n"
	)
	line := func(local, state, uid, inode string) string { return fmt.Sprintf(socket, local, state, uid, inode) }
	addr := netip.MustParseAddrPort("10.0.0.1:53")
	type process struct {
		pid, comm, uid string
		fds            string // what its one descriptor is; "" = none may be seen
		elsewhere      bool   // in another network namespace
	}
	for name, tc := range map[string]struct {
		udp, udp6 string
		processes []process
		want      string
	}{
		"nobody, it has gone": {"", "", nil, "another program"},
		"seen": {line("0100000A:0035", "07", "0", "777"), "",
			[]process{{"812", "dnsmasq", "0", "socket:[777]", false}, {"813", "named", "0", "socket:[778]", false}}, "dnsmasq (process 812)"},
		"on every address": {line("00000000:0035", "07", "0", "777"), "",
			[]process{{"812", "my server", "0", "socket:[777]", false}}, "my server (process 812)"},
		"on every address of both families": {"", line("00000000000000000000000000000000:0035", "07", "0", "777"),
			[]process{{"812", "x", "0", "socket:[777]", false}}, "x (process 812)"},
		"of another address or port": {line("0200000A:0035", "07", "0", "777") + line("0100000A:0036", "07", "0", "777"), "",
			[]process{{"812", "x", "0", "socket:[777]", false}}, "another program"},
		"unseen, by its user": {line("0100000A:0035", "07", "101", "777"), "",
			[]process{{"812", "x", "101", "", false}, {"813", "y", "0", "", false}}, "probably x (process 812)"},
		"unseen, by its name": {line("0100000A:0035", "07", "0", "777"), "",
			[]process{{"812", "dnsmasq", "0", "", false}, {"813", "bash", "0", "", false}, {"814", "named", "0", "", true}}, "probably dnsmasq (process 812)"},
		"unseen, several": {line("0100000A:0035", "07", "0", "777"), "",
			[]process{{"812", "dnsmasq", "0", "", false}, {"814", "named", "0", "", false}}, "one of dnsmasq (process 812), named (process 814)"},
		"unseen": {line("0100000A:0035", "07", "0", "777"), "",
			[]process{{"812", "x", "0", "", false}}, "a program of user 0"},
		"the caller has the port on another link": {line("00000000:0035", "07", "0", "776") + line("00000000:0035", "07", "0", "777"), "",
			[]process{{"self", "flat-dhcpd", "0", "socket:[776]", false}, {"812", "dnsmasq", "0", "socket:[777]", false}}, "dnsmasq (process 812)"},
		"two have it on links that are not told": {line("00000000:0035", "07", "0", "777") + line("00000000:0035", "07", "0", "778"), "",
			[]process{{"812", "dnsmasq", "0", "socket:[777]", false}, {"813", "x", "0", "socket:[778]", false}}, "one of dnsmasq (process 812), x (process 813)"},
		"one has both": {line("0100000A:0035", "07", "0", "777"), line("00000000000000000000000000000000:0035", "07", "0", "777"),
			[]process{{"812", "dnsmasq", "0", "socket:[777]", false}}, "dnsmasq (process 812)"},
		"a name to break the log": {line("0100000A:0035", "07", "0", "777"), "",
			[]process{{"812", "a\x1b[2Jb", "0", "socket:[777]", false}}, "a?[2Jb (process 812)"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write := func(path, text string) {
				t.Helper()
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("net/udp", head+tc.udp)
			write("net/udp6", head+tc.udp6)
			for _, p := range tc.processes {
				write(p.pid+"/comm", p.comm+"\n")
				write(p.pid+"/status", "Name:\tx\nUid:\t"+p.uid+"\t"+p.uid+"\t"+p.uid+"\t"+p.uid+"\n")
				if !p.elsewhere {
					write(p.pid+"/net/udp", head+tc.udp)
				}
				if p.fds != "" {
					fd := filepath.Join(root, p.pid, "fd")
					if err := os.MkdirAll(fd, 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Symlink(p.fds, filepath.Join(fd, "3")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := Of(root, "udp", addr, DNSServers); got != tc.want {
				t.Errorf("holder is %q, want %q", got, tc.want)
			}
		})
	}
}
