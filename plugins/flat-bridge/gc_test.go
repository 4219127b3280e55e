package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// gc is a call whose runtime says that these attachments, and no others, are valid.
func gc(valid ...*container) call {
	list := []map[string]string{}
	for _, c := range valid {
		list = append(list, map[string]string{"containerID": c.id, "ifname": c.ifName})
	}
	b, _ := json.Marshal(list) // strings only
	return call{verb: "GC", extra: `"cni.dev/valid-attachments": ` + string(b) + `,`, bare: true}
}

// changing are parts of a listing that differ from one to the next without meaning.
var changing = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+`)

// state is all that the verbs may change on a node, to be compared. Of addresses that
// were given back the store remembers more; rows counts those held.
func (n *node) state() []string {
	n.t.Helper()
	var parts []string
	for _, argv := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-4", "-br", "addr"}, {"bridge", "fdb"}, {"iptables-save"},
		{"nft", "list", "table", "bridge", "flatdhcp"}, {"ip", "neigh"},
	} {
		out := changing.ReplaceAllString(n.exec(argv...), "")
		lines := strings.Split(out, "\n")
		if argv[0] == "bridge" {
			slices.Sort(lines)
		}
		parts = append(parts, lines...)
	}
	for _, network := range n.rows() {
		parts = append(parts, "row "+network)
	}
	err := filepath.WalkDir(n.run, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			parts = append(parts, "file "+path)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return parts
}

func (n *node) rows() (rows []string) {
	n.t.Helper()
	dir := ipam.OpenDir(n.data)
	networks, err := dir.Networks(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, network := range networks {
		s, err := dir.Store(network.Name).Snapshot(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		for _, r := range s.Rows {
			rows = append(rows, fmt.Sprintf("%s %s %s", network.Name, r.Addr, r.Workload))
		}
	}
	return rows
}

func (n *node) unchanged(before []string, what string) {
	n.t.Helper()
	if diff := cmp.Diff(before, n.state()); diff != "" {
		n.t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}

// What the runtime says, in all the ways it can say it.
func TestGCByWhatTheRuntimeSays(t *testing.T) {
	for _, tt := range []struct {
		name, key string
		want      []string
	}{
		{"absent", ``, []string{"10.0.0.2", "10.0.0.3"}},
		{"the key that libcni misspells", `"cni.dev/attachments": [],`, []string{"10.0.0.2", "10.0.0.3"}},
		{"null", `"cni.dev/valid-attachments": null,`, nil},
		{"empty", `"cni.dev/valid-attachments": [],`, nil},
		{"one", `"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}],`, []string{"10.0.0.3"}},
		{"its other interface", `"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth1"}],`, nil},
		{"both", `"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c1", "ifname": "eth0"}],`, []string{"10.0.0.2", "10.0.0.3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, nil)
			cs := []*container{n.attach("c1"), n.attach("c2")}
			before := n.state()
			n.ok(call{verb: "GC", extra: tt.key, bare: true})
			if len(tt.want) == len(cs) {
				n.unchanged(before, "nothing is stale")
			}
			for _, c := range cs {
				addr := strings.TrimSuffix(c.address, "/24")
				if !slices.Contains(tt.want, addr) {
					if out := strings.Join(n.state(), "\n"); strings.Contains(out, c.port) || strings.Contains(out, addr+" ") || strings.Contains(out, addr+"/") {
						t.Errorf("%s is left of %s:\n%s", c.port, addr, out)
					}
					continue
				}
				n.ok(c.check())
			}
			n.ok(call{verb: "GC", extra: tt.key, bare: true}) // again
		})
	}
}

// Whatever came and was never deleted goes without a trace; its neighbours on the
// network, other networks, and what flat-ipam has given under another plugin stay.
func TestGCLeavesTheRestAlone(t *testing.T) {
	n := newNode(t, nil)
	n.attach("c0") // so that there is a bridge before
	first := n.attach("c1")
	other := n.container("c2")
	n.keys = keys{"bridge": "br200", "ipam.subnet": "10.2.0.0/24"}
	if got := n.do(call{verb: "ADD", of: other, network: "other"}); got.exit != 0 {
		t.Fatal(got)
	}
	n.keys = nil
	_, err := ipam.OpenDir(n.data).Store("flat").Reserve(t.Context(), nil, ipam.Request{
		Workload: ipam.Workload{Kind: ipam.KindName, Value: "elsewhere", IfName: "eth0"},
		Holder:   ipam.Holder{ContainerID: "m1", IfName: "net1", BootID: "of long ago"},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.exec("iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
	before := n.state()
	n.attach("stale")
	dead := n.attach("dead")
	n.exec("ip", "link", "del", dead.port) // as with its namespace
	n.ok(gc(first, &container{id: "c0", ifName: "eth0"}))
	n.unchanged(before, "GC of two stale attachments")
	n.ok(first.check())
}

// Leftovers that no row tells of.
func TestGCOfWhatHasNoRow(t *testing.T) {
	tests := []struct {
		name string
		make func(n *node)
	}{
		{"a port", func(n *node) {
			c := n.attach("gone")
			n.release(c)
		}},
		{"elements without a port", func(n *node) {
			n.exec("nft", `add element bridge flatdhcp ports { "fdp00000000dead" }; add element bridge flatdhcp addresses { "fdp00000000dead" . 10.0.0.77 }`)
		}},
		{"a chain", func(n *node) {
			c := n.attach("gone")
			n.release(c)
			n.exec("ip", "link", "del", c.port)
		}},
		{"the lock of a killed verb", func(n *node) {
			n.write(filepath.Join(n.run, "attach", "00112233aabbccdd.lock"), "held\n")
		}},
		{"the mark of a killed DEL", func(n *node) {
			n.write(filepath.Join(n.run, "attach", "00112233aabbccdd.del"), "")
		}},
		{"a ticket", func(n *node) {
			n.write(filepath.Join(n.run, "attach", "fdp00000000dead.00000000000000000007.rules"),
				`{"in": false, "network": {"name": "flat"}, "row": {"addr": "10.0.0.77", "holder": {"containerID": "x", "ifName": "eth0"}}}`)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, nil)
			c := n.attach("c1")
			before := n.state()
			tt.make(n)
			if diff := cmp.Diff(before, n.state()); diff == "" {
				t.Fatal("nothing was left over, so that nothing is shown")
			}
			n.ok(gc(c))
			n.unchanged(before, "GC of "+tt.name)
			n.ok(c.check())
		})
	}
}

// release gives back a container's address behind flat-bridge's back.
func (n *node) release(c *container) {
	n.t.Helper()
	if _, ok, err := ipam.OpenDir(n.data).Store("flat").Release(n.t.Context(), c.id, c.ifName); err != nil || !ok {
		n.t.Fatal(ok, err)
	}
}

// A verb that runs is not disturbed: what it makes may be valid in a moment.
func TestGCKeepsWhatAVerbIsRunningFor(t *testing.T) {
	n := newNode(t, nil)
	c := n.attach("c1")
	before := n.state()
	lock, err := rundir.Dir(n.run).Attachment(c.id, c.ifName).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := n.do(gc())
	if got.exit != 0 {
		t.Errorf("GC failed: %+v", got)
	}
	n.says(got.stderr, "GC keeps an attachment that a verb is running for", "container=c1")
	n.ok(c.check())
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	n.unchanged(before, "GC of an attachment in work")
	n.ok(gc())
	if rows := n.rows(); len(rows) > 0 {
		t.Errorf("left: %q", rows)
	}
}

// A node that knows nothing of the network is clean, and stays as it is.
func TestGCWithoutAStore(t *testing.T) {
	n := newNode(t, nil)
	n.ok(gc())
	if out := n.exec("iptables-save") + n.exec("nft", "list", "ruleset"); strings.Contains(out, "FLAT") || strings.Contains(out, "flatdhcp") {
		t.Errorf("GC left rules:\n%s", out)
	}
	if _, err := os.Stat(n.data); err == nil {
		t.Errorf("GC made %s", n.data)
	}
	n.before = hideIPTables
	n.ok(gc())

	// Lost with all its rows: the ports still say whose they were.
	n.before = ""
	c := n.attach("c1")
	if err := os.RemoveAll(n.data); err != nil {
		t.Fatal(err)
	}
	n.ok(gc(c))
	n.exec("ip", "link", "show", "dev", c.port)
	n.says(n.exec("iptables-save"), "FLAT-WL-")
	n.ok(gc())
	if out := n.exec("ip", "link") + n.exec("iptables-save"); strings.Contains(out, c.port) || strings.Contains(out, "FLAT") {
		t.Errorf("left:\n%s", out)
	}
}

// GC goes on after an error, and reports it.
func TestGCGoesOnAfterAnError(t *testing.T) {
	n := newNode(t, nil)
	n.attach("c1")
	n.attach("c2")
	n.write(filepath.Join(n.run, "attach", "00112233aabbccdd.lock"), "held\n")
	// A port that cannot be told from its alias, as one of a very long container ID.
	n.exec("sh", "-ec", "ip link add fdp-cut type veth peer name x; ip link set fdp-cut alias 'flatdhcp flat abc~ eth0'")
	n.before = hideIPTables
	said := n.fails(gc(), 101)
	n.says(said, "no usable iptables program", "deleting container c1, interface eth0", "deleting container c2, interface eth0", "fdp-cut", "ip link del fdp-cut")
	n.before = ""
	said = n.fails(gc(), 5)
	n.says(said, "fdp-cut", "does not say whose it is")
	if strings.Contains(said, "c1") || len(n.rows()) > 0 {
		t.Errorf("left: %q; said %s", n.rows(), said)
	}
	if out := n.exec("ip", "-br", "link"); strings.Count(out, "\nfdp") != 1 || !strings.Contains(out, "\nfdp-cut@") {
		t.Errorf("links:\n%s", out)
	}
}

// The name of a port does not name its network: a row that a container left in one is no
// reason to touch the interface of the same name that it has in another by now.
func TestGCOfARowWhoseContainerIsElsewhere(t *testing.T) {
	n := newNode(t, nil)
	c := n.attach("c1")
	n.exec("ip", "link", "del", c.port)
	n.keys = keys{"bridge": "br200", "ipam.subnet": "10.2.0.0/24"}
	c.result = n.ok(call{verb: "ADD", of: c, network: "other"})
	n.keys = nil
	n.ok(gc())
	if got := n.rows(); len(got) != 1 || !strings.HasPrefix(got[0], "other 10.2.0.2") {
		t.Errorf("rows: %q", got)
	}
	n.keys = keys{"bridge": "br200", "ipam.subnet": "10.2.0.0/24"}
	n.ok(call{verb: "CHECK", of: c, network: "other", prev: c.result})
}
