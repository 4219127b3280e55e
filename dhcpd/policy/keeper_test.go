package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/attach"
)

// fakeNode notes what is done to it; it is the store too.
type fakeNode struct {
	records map[Key]ipam.Network
	did     []string
	fail    map[string]error // by verb
	made    bool             // the next bridge has to be made

	noBridge bool
}

func (f *fakeNode) note(verb, name string) error {
	f.did = append(f.did, verb+" "+name)
	return f.fail[verb]
}

func (f *fakeNode) Configure(_ context.Context, dataDir string, n ipam.Network) (bool, error) {
	if err := f.note("configure", n.Name); err != nil {
		return false, err
	}
	f.records[Key{dataDir, n.Name}] = n
	return true, nil
}

func (f *fakeNode) Bridge(_ context.Context, _ string, n ipam.Network) ([]string, error) {
	var changes []string
	if f.made {
		f.made, changes = false, []string{"bridge " + n.Bridge.Name + " is made"}
	}
	return changes, f.note("bridge", n.Bridge.Name)
}

func (f *fakeNode) Here(_ context.Context, bridge string) (bool, error) {
	return !f.noBridge, f.fail["here"]
}

func (f *fakeNode) Apply(_ context.Context, _, network string) (attach.Report, error) {
	return attach.Report{Workloads: 2, Chains: []string{"a", "b"}}, f.note("apply", network)
}

func conflist(name, more string) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q,
 "plugins": [{"type": "flat-bridge"%s, "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": "/data"}}]}`, name, more)
}

// TestKeeper walks a directory of conflists through what people do to it. The same
// keeper sees all of it.
func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	node := &fakeNode{records: map[Key]ipam.Network{}, fail: map[string]error{}}
	var log bytes.Buffer
	now := time.Unix(1000, 0)
	k := &Keeper{
		ConfDir: dir, DataDirs: []string{"/data/"}, Node: node, Now: func() time.Time { return now },
		Log:     slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Records: func() map[Key]ipam.Network { return maps.Clone(node.records) },
	}
	flat := filepath.Join(dir, "10-flat.conflist")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name    string
		change  func()
		did     []string
		says    string // "" = nothing
		refused uint64 // in all
	}{
		{"others' files", func() {
			write(filepath.Join(dir, "05-other.conflist"), `{"name": "x", "plugins": [{"type": "bridge"}]}`)
			write(filepath.Join(dir, "06-broken.conf"), `{"type": "bridge"`)
			write(filepath.Join(dir, "notes.txt"), `"flat-bridge"`)
		}, nil, "", 0},
		{"a new one", func() { write(flat, conflist("flat", "")) },
			[]string{"configure flat", "bridge br100", "apply flat"}, "network flat is configured", 0},
		{"nothing new", func() {}, []string{"bridge br100"}, "", 0},
		{"a policy", func() { write(flat, conflist("flat", `, "allowSameNetTraffic": false`)) },
			[]string{"configure flat", "bridge br100", "apply flat"}, "in force for living workloads (2): 2 changes, 0 connections cut", 0},
		{"a mistake", func() { write(flat, conflist("flat", `, "leaseTime": "soon"`)) },
			[]string{"bridge br100"}, flat + ` is refused: line 2: key leaseTime`, 1},
		{"the same mistake", func() {}, []string{"bridge br100"}, "", 1},
		{"half a file", func() { write(flat, conflist("flat", "")[:40]) }, []string{"bridge br100"}, flat + " is refused", 2},
		{"an empty one", func() { write(flat, "") }, []string{"bridge br100"}, flat + " is refused", 3},
		{"half a file with our name", func() { write(flat, conflist("flat", "")[:90]) }, []string{"bridge br100"}, "what was last configured stays in force", 4},
		{"mended", func() { write(flat, conflist("flat", `, "leaseTime": "2m"`)) },
			[]string{"configure flat", "bridge br100", "apply flat"}, "network flat is configured", 4},
		{"an ADD with an older file", func() {
			r := node.records[Key{"/data", "flat"}]
			b := *r.Bridge
			b.AllowSameNetTraffic, r.Bridge = false, &b
			node.records[Key{"/data", "flat"}] = r
		}, []string{"configure flat", "bridge br100", "apply flat"}, "network flat is configured", 4},
		{"a change that is not possible now", func() {
			node.fail["configure"] = errors.New("3 reservations would be stranded")
			write(flat, conflist("flat", `, "leaseTime": "3m"`))
		}, []string{"configure flat", "bridge br100"}, "is refused: 3 reservations would be stranded; what was last configured stays in force", 5},
		{"still not", func() { now = now.Add(time.Minute) }, []string{"configure flat", "bridge br100"}, "", 5},
		{"for another reason", func() { node.fail["configure"] = errors.New("locked") }, []string{"configure flat", "bridge br100"}, "is refused: locked", 5},
		{"possible, but the bridge is not", func() {
			clear(node.fail)
			node.fail["bridge"], node.noBridge = errors.New("br100 is a dummy"), true
		}, []string{"configure flat", "bridge br100"}, "network flat: br100 is a dummy", 5},
		{"neither are the rules, on a bridge that is there", func() {
			node.noBridge = false
			node.fail["apply"] = errors.New("no iptables")
		}, []string{"bridge br100", "apply flat"}, "not yet in force for living workloads: no iptables; trying again", 5},
		{"tried again, said once", func() {}, []string{"bridge br100", "apply flat"}, "", 5},
		{"mended, too", func() { clear(node.fail) }, []string{"bridge br100", "apply flat"}, "in force", 5},
		{"a second file for the network", func() { write(filepath.Join(dir, "20-again.conf"), conflist("flat", "")) },
			[]string{"bridge br100"}, "network flat is in " + flat + " already, which comes first", 6},
		{"another data directory", func() {
			write(filepath.Join(dir, "20-again.conf"), strings.Replace(conflist("second", `, "bridge": "br101"`), `"/data"`, `"/elsewhere"`, 1))
		}, []string{"bridge br100"}, "start flat-dhcpd with --data-dir /elsewhere as well", 7},
		{"no gateway", func() {
			write(filepath.Join(dir, "20-again.conf"), strings.Replace(conflist("second", `, "bridge": "br101", "isGateway": false`), "10.0.0", "10.1.0", 1))
		}, []string{"configure second", "bridge br100", "apply second"}, "network second is configured", 7},
		{"a file goes", func() {
			if err := os.Remove(flat); err != nil {
				t.Fatal(err)
			}
		}, []string{"bridge br100"}, flat + " is gone: network flat stays as it was last configured", 7},
		{"the directory goes", func() {
			if err := os.Rename(dir, dir+".old"); err != nil {
				t.Fatal(err)
			}
		}, []string{"bridge br100"}, "looking for conflists: open " + dir, 7},
		{"still no directory: said once", func() {}, []string{"bridge br100"}, "", 7},
	} {
		log.Reset()
		node.did = nil
		step.change()
		k.step(t.Context())
		// What of two networks comes first does not matter.
		if diff := cmp.Diff(step.did, node.did, cmp.Transformer("set", func(l []string) map[string]int {
			set := map[string]int{}
			for _, s := range l {
				set[s]++
			}
			return set
		})); diff != "" {
			t.Errorf("%s: (-want +did)\n%s", step.name, diff)
		}
		if said := log.String(); step.says == "" && said != "" || !strings.Contains(strings.ReplaceAll(said, `\"`, `"`), step.says) {
			t.Errorf("%s: said %s, want %q", step.name, said, step.says)
		}
		if got := k.Counters.Refused.Load(); got != step.refused {
			t.Errorf("%s: %d refused, want %d", step.name, got, step.refused)
		}
	}
	c := &k.Counters
	if c.Configured.Load() != 6 || c.Applied.Load() != 6 || c.Changed.Load() != 6 || c.Failed.Load() != 5 {
		t.Errorf("counted %d configured, %d applied, %d changed, %d failed", c.Configured.Load(), c.Applied.Load(), c.Changed.Load(), c.Failed.Load())
	}
}

// TestRecordsAlone: without conflists a gateway's side is brought up all the same, and again
// when it is lost. Of a network whose gateway is elsewhere there is nothing to bring up: its
// record is applied when it is first seen, if its bridge is here, and when it changes.
func TestRecordsAlone(t *testing.T) {
	record := func(name, bridge string, gateway, open bool) ipam.Network {
		return ipam.Network{Name: name, Bridge: &ipam.Bridge{Name: bridge, IsGateway: gateway, AllowSameNetTraffic: open}}
	}
	flat, compute := Key{"/data", "flat"}, Key{"/data", "compute"}
	node := &fakeNode{fail: map[string]error{}, records: map[Key]ipam.Network{
		flat: record("flat", "br100", true, false), compute: record("compute", "br101", false, false),
		{"/data", "ipam-only"}: {Name: "ipam-only"},
		// The same bridges again, after the others in the order of service.
		{"/data", "second"}: record("second", "br100", true, false), {"/data.2", "another"}: record("another", "br100", true, false),
	}}
	var log bytes.Buffer
	k := &Keeper{
		DataDirs: []string{"/data", "/data.2/"}, Node: node, Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Records: func() map[Key]ipam.Network { return maps.Clone(node.records) },
	}
	for _, step := range []struct {
		name   string
		change func()
		did    []string
	}{
		{"nobody knows of the bridge", func() { node.made, node.fail["here"] = true, errors.New("netlink is busy") }, []string{"bridge br100", "apply flat"}},
		{"first look", func() { clear(node.fail); node.fail["apply"] = errors.New("no iptables") }, []string{"apply compute", "bridge br100"}},
		{"tried again", func() { clear(node.fail) }, []string{"apply compute", "bridge br100"}},
		{"nothing new", func() {}, []string{"bridge br100"}},
		{"the bridge is lost", func() { node.made = true }, []string{"bridge br100", "apply flat"}},
		{"a record changes", func() { node.records[flat] = record("flat", "br100", true, true) }, []string{"bridge br100", "apply flat"}},
		{"once", func() {}, []string{"bridge br100"}},
		{"that of a compute node", func() { node.records[compute] = record("compute", "br101", false, true) }, []string{"apply compute", "bridge br100"}},
		{"the network goes, and the next has its bridge", func() { delete(node.records, flat) }, []string{"bridge br100", "apply second"}},
		{"and comes back", func() { node.records[flat] = record("flat", "br100", true, true) }, []string{"bridge br100", "apply flat"}},
		{"the compute node's goes", func() { delete(node.records, compute) }, []string{"bridge br100"}},
		{"and comes back without its bridge", func() { node.records[compute], node.noBridge = record("compute", "br101", false, false), true }, []string{"bridge br100"}},
		{"which an ADD makes", func() { node.noBridge = false }, []string{"bridge br100"}},
	} {
		node.did = nil
		step.change()
		k.step(t.Context())
		if diff := cmp.Diff(step.did, node.did); diff != "" {
			t.Errorf("%s: (-want +did)\n%s", step.name, diff)
		}
	}
	for _, want := range []string{"network compute: netlink is busy; trying again", "not yet in force for living workloads: no iptables"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("said %d times: %s", n, want)
		}
	}
}

// TestWatch: edits of every kind are found by being notified.
func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	configured := make(chan string, 10)
	node := &tellingNode{configured: configured}
	k := &Keeper{
		ConfDir: dir, DataDirs: []string{"/data"}, Node: node, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Records: func() map[Key]ipam.Network { return map[Key]ipam.Network{} },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	looked := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx, looked)
	}()
	defer func() { cancel(); <-done }()
	looked <- struct{}{} // taken only after the first look, and so after the watch
	path := filepath.Join(dir, "10-flat.conflist")
	wait := func(how, want string) {
		t.Helper()
		deadline := time.After(againAfter - time.Second) // less than it takes without
		for {
			select {
			case got := <-configured:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("%s: not noticed", how)
			}
		}
	}
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(path, conflist("flat", `, "leaseTime": "1m"`))
	wait("a new file", "1m0s")
	put(path, conflist("flat", `, "leaseTime": "2m"`))
	wait("a file written over", "2m0s")
	put(path+".new", conflist("flat", `, "leaseTime": "3m"`))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	wait("a file renamed into place", "3m0s")
	elsewhere := filepath.Join(t.TempDir(), "4")
	put(elsewhere, conflist("flat", `, "leaseTime": "4m"`))
	if err := errors.Join(os.Remove(path), os.Symlink(elsewhere, path)); err != nil {
		t.Fatal(err)
	}
	wait("a link put in its place", "4m0s")
}

type tellingNode struct{ configured chan<- string }

func (n *tellingNode) Configure(_ context.Context, _ string, r ipam.Network) (bool, error) {
	n.configured <- r.Bridge.LeaseTime.String()
	return true, nil
}
func (n *tellingNode) Bridge(context.Context, string, ipam.Network) ([]string, error) {
	return nil, nil
}
func (n *tellingNode) Here(context.Context, string) (bool, error) { return true, nil }
func (n *tellingNode) Apply(context.Context, string, string) (attach.Report, error) {
	return attach.Report{}, nil
}

// TestFlushed: what is in force is applied again when somebody may have taken it away.
func TestFlushed(t *testing.T) {
	applied := make(chan string, 10)
	flushed := make(chan struct{}, 1)
	k := &Keeper{
		DataDirs: []string{"/data"}, Node: &applyingNode{applied: applied}, Now: time.Now, Log: slog.New(slog.DiscardHandler), Flushed: flushed,
		Records: func() map[Key]ipam.Network {
			return map[Key]ipam.Network{{"/data", "flat"}: {Name: "flat", Bridge: &ipam.Bridge{Name: "br100", IsGateway: true}}}
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	looked := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx, looked)
	}()
	defer func() { cancel(); <-done }()
	if got := <-applied; got != "flat" {
		t.Errorf("applied %s", got)
	}
	looked <- struct{}{} // taken when the first look is over,
	looked <- struct{}{} // and this one when the second is
	if len(applied) != 0 {
		t.Error("the control: it is applied again although nothing happened")
	}
	flushed <- struct{}{}
	if got := <-applied; got != "flat" {
		t.Errorf("applied %s", got)
	}
}

type applyingNode struct {
	tellingNode
	applied chan<- string
}

func (n *applyingNode) Apply(_ context.Context, _, network string) (attach.Report, error) {
	n.applied <- network
	return attach.Report{}, nil
}
