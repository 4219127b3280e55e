package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
	"github.com/flatdhcp/flatdhcp/plugins/filter"
	"github.com/flatdhcp/flatdhcp/plugins/guard"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// session runs command lines against a data directory of its own and writes down what
// a person would see.
type session struct {
	t        *testing.T
	dir      string // holds data/ and the test's files
	node     *fakeNode
	counters liveCounters
	now      time.Time
	text     strings.Builder
	live     bool // no --data-dir: the daemon is asked
	events   func(...lease.Event)
	running  chan *transcript // told of the next command's output; nil = nobody waits
}

// transcript is a command's output, which may be read while it runs.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.node = &fakeNode{session: s}
	s.counters = liveCounters{
		chain: func(context.Context, string) ([]filter.RuleCounter, error) {
			return nil, errors.New("not in this test")
		},
		guard: func(context.Context) ([]guard.Counter, error) { return nil, errors.New("not in this test") },
	}
	return s
}

func (s *session) data() string { return filepath.Join(s.dir, "data") }

// run executes one command line, notes it and returns its exit code and output.
func (s *session) run(args ...string) (int, string) {
	s.t.Helper()
	return s.runWith("", args...)
}

func (s *session) runWith(stdin string, args ...string) (int, string) {
	s.t.Helper()
	var out, errOut transcript
	if s.running != nil {
		s.running <- &out
	}
	c := &control{
		in: strings.NewReader(stdin), out: &out, errOut: &errOut,
		now:      func() time.Time { return s.now },
		node:     func(string) (node, error) { return s.node, s.node.missing },
		host:     func() (string, error) { return "compute-1", nil },
		counters: s.counters,
		daemon:   daemonClient{filepath.Join(s.dir, "flat-dhcpd.sock")},
	}
	line := append([]string{}, args...)
	if args[0] != "apply" && !s.live { // there the file says where the store is
		line = append([]string{"--data-dir", s.data()}, args...)
	}
	code := c.run(line)
	fmt.Fprintf(&s.text, "$ flatctl %s\n%s%s", strings.Join(args, " "), out.String(), errOut.String())
	if code != exitDone {
		fmt.Fprintf(&s.text, "[exit %d]\n", code)
	}
	s.text.WriteString("\n")
	return code, out.String()
}

// golden compares what the session saw with a file of testdata.
func (s *session) golden(file string) {
	s.t.Helper()
	got := strings.ReplaceAll(s.text.String(), s.dir, "DIR")
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		s.t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// file writes a conflist of network name with the keys given, and returns its path.
func (s *session) file(name, subnet, keys string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name+".conflist")
	text := fmt.Sprintf(`{
  "cniVersion": "1.1.0",
  "name": %q,
  "plugins": [
    {
      "type": "flat-bridge",
      "bridge": "br-%s",%s
      "ipam": {"type": "flat-ipam", "subnet": %q, "dataDir": %q}
    }
  ]
}
`, name, name, keys, subnet, s.data())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// attach makes a row that a container holds.
func (s *session) attach(network string, w ipam.Workload, h ipam.Holder) ipam.Reservation {
	s.t.Helper()
	h.IfName = w.IfName
	g, err := s.stores().Store(network).Reserve(s.t.Context(), nil, ipam.Request{Workload: w, Holder: h})
	if err != nil {
		s.t.Fatal(err)
	}
	return g.Reservation
}

func (s *session) stores() *ipam.Dir {
	return ipam.OpenDir(s.data(), ipam.WithClock(func() time.Time { return s.now }))
}

// alive is a holder that the machine proves to live, without a port of ours.
func (s *session) alive(container string) ipam.Holder {
	s.t.Helper()
	boot, err := attach.BootID()
	if err != nil {
		s.t.Fatal(err)
	}
	netns := filepath.Join(s.dir, "netns")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(netns) // any file does: only its inode is looked at
	if err != nil {
		s.t.Fatal(err)
	}
	return ipam.Holder{ContainerID: container, NetNS: netns, NetNSInode: info.Sys().(*syscall.Stat_t).Ino, BootID: boot}
}

// dead is a holder of an earlier boot, with a port.
func dead(container string) ipam.Holder {
	return ipam.Holder{ContainerID: container, NetNS: "/run/netns/x", NetNSInode: 7, BootID: "an earlier boot", Ported: true}
}

func pod(namespace, name string) ipam.Workload {
	return ipam.Workload{Namespace: namespace, Kind: ipam.KindPod, Value: name, IfName: "eth0"}
}

// fakeNode stands for the kernel.
type fakeNode struct {
	session *session
	report  attach.Report
	side    attach.Side
	err     error // of Apply
	missing error // of getting the node at all
	did     []string
}

func (n *fakeNode) Renew(context.Context, ipam.Network) (attach.Side, error) {
	return n.side, nil
}

func (n *fakeNode) RestoreUplink(_ context.Context, network ipam.Network) (string, error) {
	return network.Bridge.FlatInterface, nil
}

func (n *fakeNode) Apply(_ context.Context, network string) (attach.Report, error) {
	n.did = append(n.did, "apply "+network)
	return n.report, n.err
}

func (n *fakeNode) Remove(ctx context.Context, network string) error {
	n.did = append(n.did, "remove "+network)
	return n.session.stores().Remove(ctx, network)
}

func (n *fakeNode) DeleteDead(ctx context.Context, network string, row ipam.Reservation) error {
	h := row.Holder
	n.did = append(n.did, "delete "+h.ContainerID+" "+h.IfName)
	_, _, err := n.session.stores().Store(network).Release(ctx, h.ContainerID, h.IfName)
	return err
}
