package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/ipam/flock"
)

func TestGC(t *testing.T) {
	all := []string{"10.0.0.2 /cid:c1/eth0 c1", "10.0.0.3 /cid:c2/eth0 c2"}
	ported := "10.0.0.4 default/pod:vm/eth0 p1"
	for name, tc := range map[string]struct {
		valid string
		want  []string
	}{
		"absent touches nothing":     {"", append(all[:2:2], ported)},
		"null: nothing is valid":     {`"cni.dev/valid-attachments": null,`, []string{ported}},
		"empty: nothing is valid":    {`"cni.dev/valid-attachments": [],`, []string{ported}},
		"one":                        {`"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}],`, []string{all[1], ported}},
		"another interface of it":    {`"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth1"}],`, []string{ported}},
		"the misspelt key by libcni": {`"cni.dev/attachments": [],`, append(all[:2:2], ported)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.add(call{container: "c1"})
			r.add(call{container: "c2"})
			// A container of flat-bridge in the same network: its port is not ours to judge.
			_, err := ipam.OpenDir(r.data).Store("flat").Reserve(t.Context(), nil, ipam.Request{
				Workload: ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: "vm", IfName: "eth0"},
				Holder:   ipam.Holder{ContainerID: "p1", IfName: "eth0", Ported: true},
			})
			if err != nil {
				t.Fatal(err)
			}
			cmd := r.command(call{verb: "GC"})
			cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "flat", ` + tc.valid + `"ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": "` + r.data + `"}}`)
			if got := execute(t, cmd); got.exit != 0 || got.stdout != "" {
				t.Fatalf("got %+v", got)
			}
			r.want(tc.want...)
			r.sound()
		})
	}
}

func TestStatus(t *testing.T) {
	t.Run("damaged store", func(t *testing.T) {
		r := newRig(t)
		r.add(call{})
		if err := os.WriteFile(filepath.Join(r.data, "flat.db"), []byte("not a store"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.fails(call{verb: "STATUS"}, 50); !strings.Contains(got, filepath.Join(r.data, "flat.db")) {
			t.Errorf("got %s", got)
		}
		r.fails(call{verb: "ADD", container: "c2"}, 5)
		r.fails(call{verb: "DEL"}, 5)
	})
	t.Run("data directory that is a file", func(t *testing.T) {
		r := newRig(t)
		if err := os.WriteFile(r.data, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		got := r.fails(call{verb: "STATUS"}, 50)
		if !strings.Contains(got, r.data) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("run directory that is a file", func(t *testing.T) {
		r := newRig(t)
		if err := os.RemoveAll(r.run); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.run, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.fails(call{verb: "STATUS"}, 50); !strings.Contains(got, "run directory "+r.run+" cannot be written") {
			t.Errorf("got %s", got)
		}
		r.fails(call{verb: "ADD"}, 5)
	})
	t.Run("exhausted pool", func(t *testing.T) {
		r := newRig(t)
		small := map[string]any{"subnet": "10.0.0.0/30"}
		r.ok(call{verb: "STATUS", ipam: small})
		r.add(call{ipam: small})
		want := "network flat has no free address: 1 are in use, 0 are reserved by the administrator; see `flatctl reservations flat`"
		if got := r.fails(call{verb: "STATUS", ipam: small}, 51); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := r.fails(call{verb: "ADD", container: "c2", ipam: small}, 11); !strings.Contains(got, "no free address") {
			t.Errorf("got %s", got)
		}
		// What is only retained or in quarantine frees itself.
		r.ok(call{verb: "DEL", ipam: small})
		r.ok(call{verb: "STATUS", ipam: small})
		if got := r.fails(call{verb: "ADD", container: "c2", ipam: small}, 11); !strings.Contains(got, "1 in quarantine") {
			t.Errorf("got %s", got)
		}
		r.sound()
	})
	t.Run("busy store", func(t *testing.T) {
		r := newRig(t)
		r.add(call{})
		lock, err := flock.Exclusive(t.Context(), filepath.Join(r.data, "lock"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := lock.Unlock(); err != nil {
				t.Error(err)
			}
		}()
		begun := time.Now()
		r.ok(call{verb: "STATUS"})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("STATUS took %s", took)
		}
	})
}

func TestParallelAddsGiveDifferentAddresses(t *testing.T) {
	r := newRig(t)
	const n = 20
	replies := make(chan reply, n)
	for i := range n {
		cmd := r.command(call{verb: "ADD", container: fmt.Sprintf("p%d", i)})
		go func() {
			var stdout bytes.Buffer
			cmd.Stdout = &stdout
			_ = cmd.Run() // the exit code is looked at below
			replies <- reply{stdout: stdout.String(), exit: cmd.ProcessState.ExitCode()}
		}()
	}
	for range n {
		if got := <-replies; got.exit != 0 {
			t.Errorf("an ADD failed: %s", got.stdout)
		}
	}
	if got := r.rows(); len(got) != n {
		t.Errorf("%d rows: %v", len(got), got)
	}
	r.sound()
}
