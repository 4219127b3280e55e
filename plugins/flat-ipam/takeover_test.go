package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

func TestTakeover(t *testing.T) {
	const pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"
	t.Run("refused while the namespace is there", func(t *testing.T) {
		r := newRig(t)
		r.add(call{container: "old", args: pod})
		got := r.fails(call{verb: "ADD", container: "new", args: pod, netns: r.namespace("new")}, 11)
		for _, part := range []string{"10.0.0.2", "container old", "interface eth0", "which is alive: its network namespace " + r.netns + " exists"} {
			if !strings.Contains(got, part) {
				t.Errorf("got %s, without %q", got, part)
			}
		}
		r.want("10.0.0.2 default/pod:web/eth0 old")
		r.sound()
	})
	for name, kill := range map[string]func(r *rig) error{
		"granted when the namespace is gone": func(r *rig) error { return os.Remove(r.netns) },
		"granted when the path is another namespace": func(r *rig) error {
			return os.Rename(r.namespace("another"), r.netns)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.add(call{container: "old", args: pod})
			if err := kill(r); err != nil {
				t.Fatal(err)
			}
			got := r.do(call{verb: "ADD", container: "new", args: pod, netns: r.namespace("new")})
			if got.exit != 0 || !strings.Contains(got.stdout, "10.0.0.2/24") {
				t.Fatalf("got %+v", got)
			}
			if want := "flat-ipam: address 10.0.0.2 of workload default/pod:web/eth0 was taken over from container old, which is dead\n"; got.stderr != want {
				t.Errorf("logged %q, want %q", got.stderr, want)
			}
			// A DEL for the replaced container, late, takes nothing away.
			r.ok(call{verb: "DEL", container: "old"})
			r.want("10.0.0.2 default/pod:web/eth0 new")
			r.sound()
		})
	}
	t.Run("granted after another boot, even with a port", func(t *testing.T) {
		r := newRig(t)
		r.hold("old", ipam.Holder{BootID: "an earlier boot", NetNS: r.netns, Ported: true})
		if got := r.add(call{container: "new", args: pod}); got != "10.0.0.2/24" {
			t.Errorf("got %s", got)
		}
		r.sound()
	})
	t.Run("refused for a port of this boot, which only flat-bridge can look for", func(t *testing.T) {
		r := newRig(t)
		here, err := findSelf(r.netns)
		if err != nil {
			t.Fatal(err)
		}
		r.hold("old", ipam.Holder{BootID: here.bootID, NetNS: "/nowhere", NetNSInode: 7, Ported: true})
		got := r.fails(call{verb: "ADD", container: "new", args: pod}, 11)
		if !strings.Contains(got, "flat-bridge made its port") {
			t.Errorf("got %s", got)
		}
		r.sound()
	})
	t.Run("refused while a verb of the old container runs", func(t *testing.T) {
		r := newRig(t)
		r.add(call{container: "old", args: pod})
		if err := os.Remove(r.netns); err != nil {
			t.Fatal(err)
		}
		lock, err := rundir.Dir(r.run).Attachment("old", "eth0").Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := r.fails(call{verb: "ADD", container: "new", args: pod, netns: r.namespace("new")}, 11)
		if !strings.Contains(got, "for which a verb is running") {
			t.Errorf("got %s", got)
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
		r.sound()
	})
}

// hold makes a row for pod default/web whose holder the test invents.
func (r *rig) hold(container string, h ipam.Holder) {
	r.t.Helper()
	r.add(call{container: "first"}) // configures the network
	r.ok(call{verb: "DEL", container: "first"})
	h.ContainerID, h.IfName = container, "eth0"
	workload := ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: "web", IfName: "eth0"}
	store := ipam.OpenDir(r.data).Store("flat")
	addr := mustAddr(r.t, "10.0.0.2")
	if _, err := store.ReleaseAdmin(r.t.Context(), addr); err != nil { // the first one's claim
		r.t.Fatal(err)
	}
	if _, err := store.ReserveAdmin(r.t.Context(), ipam.AdminRequest{Workload: workload, Addr: addr}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := store.Reserve(r.t.Context(), nil, ipam.Request{Workload: workload, Holder: h}); err != nil {
		r.t.Fatal(err)
	}
}

// DEL wins over an ADD that is still running: the ADD undoes itself.
func TestDelWhileAddRuns(t *testing.T) {
	r := newRig(t)
	attachment := rundir.Dir(r.run).Attachment("c1", "eth0")
	lock, err := attachment.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add := r.command(call{verb: "ADD"})
	var stdout bytes.Buffer
	add.Stdout = &stdout
	if err := add.Start(); err != nil {
		t.Fatal(err)
	}
	mark, err := attachment.Mark() // what a DEL does first
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := add.Wait(); err == nil {
		t.Errorf("the ADD succeeded: %s", stdout.String())
	}
	var e struct {
		Code uint
		Msg  string
	}
	decodeOne(t, stdout.String(), &e)
	if e.Code != 11 || !strings.Contains(e.Msg, "its DEL arrived meanwhile") {
		t.Errorf("got %+v", e)
	}
	if err := mark.Remove(); err != nil {
		t.Error(err)
	}
	r.want()
	r.ok(call{verb: "DEL"})
	r.add(call{}) // and it can be added again
	r.sound()
}
