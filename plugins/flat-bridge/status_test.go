package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

// hideIPTables hides every iptables from the plugin, hideNetfilter what shows that
// br_netfilter is there.
const (
	hideIPTables = "for d in /usr/sbin /sbin /usr/bin /bin /usr/local/sbin; do for f in $d/iptables*; do " +
		"[ ! -e $f ] || mount --bind /dev/null $f; done; done"
	hideNetfilter = "mount -t tmpfs tmpfs /proc/sys/net/bridge"
)

// Each of the things that stop every ADD, alone: STATUS names it and says what to do,
// on standard output and in the log; ADD fails as well, wherever that can be seen.
func TestStatusNamesWhatStopsEveryADD(t *testing.T) {
	tests := []struct {
		name    string
		keys    keys
		prepare func(n *node)
		want    []string
		code    uint
		add     uint // code of the ADD; 0 = it succeeds
	}{
		{name: "nothing"},
		{
			name: "br_netfilter is missing", prepare: func(n *node) { n.before = hideNetfilter },
			want: []string{"br_netfilter is not loaded", "modprobe br_netfilter", `"none"`, "br100"}, code: 50, add: 101,
		},
		{
			name: "iptables is missing", prepare: func(n *node) { n.before = hideIPTables },
			want: []string{"no usable iptables program", "/usr/sbin/iptables", "apt-get install iptables"}, code: 50, add: 101,
		},
		{
			name: "the bridge's name is taken", prepare: func(n *node) { n.exec("ip", "link", "add", "br100", "type", "veth", "peer", "name", "other") },
			want: []string{"br100 is a veth device, not a bridge", "set `bridge` to another name"}, code: 50, add: 7,
		},
		{
			name: "the data directory is a file", prepare: func(n *node) { n.write(n.data, "") },
			want: []string{"data directory", "cannot be written"}, code: 50, add: 5,
		},
		{
			name: "the run directory is a file", prepare: func(n *node) { n.write(n.run, "") },
			want: []string{"run directory", "cannot be written", "FLATDHCP_RUN_DIR"}, code: 50, add: 5,
		},
		{
			name: "the store is damaged", prepare: func(n *node) { n.write(filepath.Join(n.data, "flat.db"), "no store") },
			want: []string{"reading the store of network flat", "flat.db"}, code: 50, add: 5,
		},
		{
			name: "no daemon since boot", keys: keys{"addressing": "dhcp"},
			want: []string{"flat-dhcpd", "has not run since boot", "start it"}, code: 50,
		},
		{
			name: "the daemon is away", keys: keys{"addressing": "dhcp"}, prepare: func(n *node) { n.alive(61 * time.Second) },
			want: []string{"flat-dhcpd", "has been away for 1m", "start it"}, code: 50,
		},
		{name: "the daemon paused", keys: keys{"addressing": "dhcp"}, prepare: func(n *node) { n.alive(45 * time.Second) }},
		{name: "another node's daemon serves", keys: keys{"addressing": "dhcp", "isGateway": false}},
		{name: "no daemon, but nobody needs one"},
		{
			name: "no address is left", keys: keys{"ipam.subnet": "10.0.0.0/30"}, prepare: func(n *node) { n.attach("first") },
			want: []string{"network flat has no free address: 1 are in use", "flatctl reservations flat"}, code: 51, add: 11,
		},
		{
			name: "no address is left, but that is no reason", add: 11,
			keys:    keys{"ipam.subnet": "10.0.0.0/30", "statusOnExhaustion": "ok"},
			prepare: func(n *node) { n.attach("first") },
			want:    []string{"network flat has no free address"},
		},
		{
			name: "the last address is in quarantine", keys: keys{"ipam.subnet": "10.0.0.0/30"}, add: 11,
			prepare: func(n *node) { n.ok(call{verb: "DEL", of: n.attach("first")}) },
		},
		{
			name: "two at once", prepare: func(n *node) { n.before = hideNetfilter + ";" + hideIPTables },
			want: []string{"br_netfilter is not loaded", "no usable iptables program"}, code: 50, add: 101,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, tt.keys)
			if tt.prepare != nil {
				tt.prepare(n)
			}
			links := n.exec("ip", "-br", "link")
			var said string
			if tt.code == 0 {
				got := n.do(call{verb: "STATUS"})
				if got.exit != 0 || got.stdout != "" {
					t.Errorf("got %+v, want success", got)
				}
				if len(tt.want) == 0 && got.stderr != "" {
					t.Errorf("a ready node's log: %s", got.stderr)
				}
				said = got.stderr
			} else {
				said = n.fails(call{verb: "STATUS"}, tt.code)
				n.says(strings.ReplaceAll(n.do(call{verb: "STATUS"}).stderr, `\"`, `"`), tt.want...)
			}
			n.says(said, tt.want...)
			if after := n.exec("ip", "-br", "link"); after != links {
				t.Errorf("STATUS changed the links from\n%sto\n%s", links, after)
			}
			if nft := n.exec("nft", "list", "ruleset"); len(tt.want) > 0 && tt.code == 50 && nft != "" {
				t.Errorf("STATUS left rules:\n%s", nft)
			}
			c := n.container("c")
			if tt.add != 0 {
				n.fails(call{verb: "ADD", of: c}, tt.add)
			} else {
				c.add()
			}
		})
	}
}

// A store that others are busy with says nothing about the next ADD.
func TestStatusOfABusyStore(t *testing.T) {
	n := newNode(t, nil)
	n.attach("c")
	lock, err := flock.Exclusive(t.Context(), filepath.Join(n.data, "lock"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	}()
	got := n.do(call{verb: "STATUS"})
	if got.exit != 0 || got.stdout != "" {
		t.Errorf("got %+v, want success", got)
	}
	n.says(got.stderr, "the store is busy")
}

// A filter of none needs neither br_netfilter nor iptables.
func TestStatusWithoutAFilter(t *testing.T) {
	n := newNode(t, keys{"filter": "none", "ipMasq": false})
	n.before = hideNetfilter + ";" + hideIPTables
	n.ok(call{verb: "STATUS"})
}

func (n *node) write(path, content string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// alive gives the daemon's sign of life an age.
func (n *node) alive(age time.Duration) {
	n.t.Helper()
	path := filepath.Join(n.run, "flat-dhcpd.alive")
	n.write(path, "1\n")
	then := time.Now().Add(-age)
	if err := os.Chtimes(path, then, then); err != nil {
		n.t.Fatal(err)
	}
}
