package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// gc is a GC of flat-bridge, not yet started, for which these workloads are valid.
func (n *node) gc(fault string, valid ...*workload) *exec.Cmd {
	n.t.Helper()
	list := []map[string]string{}
	for _, w := range valid {
		list = append(list, map[string]string{"containerID": w.ID(), "ifname": w.ifName})
	}
	b, err := json.Marshal(list)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := n.Command(n.within(), "/opt/cni/bin/flat-bridge")
	cmd.Env = append(cmd.Env, "CNI_COMMAND=GC", "CNI_PATH=/opt/cni/bin", "FLATDHCP_FAULT="+fault)
	cmd.Stdin = strings.NewReader(`{"cni.dev/valid-attachments": ` + string(b) + `, ` + n.plain("1.1.0")[1:])
	return cmd
}

func (n *node) collect(valid ...*workload) {
	n.t.Helper()
	out, err := n.gc("", valid...).Output()
	if err != nil || len(out) > 0 {
		n.t.Fatalf("GC: %v, %s", err, out)
	}
}

// GC itself may be killed anywhere: no port is open meanwhile, and the next one, or a DEL,
// finishes.
func TestKilledGC(t *testing.T) {
	n := newNode(t, nil)
	valid := n.neighbours()
	c := n.container("w")
	before := n.state()
	first := n.attachTo(c, lab.CNIOptions{})
	steps := n.steps("GC", func(fault string) *exec.Cmd { return n.gc(fault, valid...) })
	first.del() // cnitool's cache at least
	for _, step := range steps {
		for _, when := range []string{"before", "after"} {
			for _, then := range []string{"GC", "DEL"} {
				fault := fmt.Sprintf("GC/%s/%s/kill", step, when)
				t.Run(fault+" then "+then, func(t *testing.T) {
					w := n.attachTo(c, lab.CNIOptions{})
					out, err := n.gc(fault, valid...).CombinedOutput()
					if err == nil || !strings.Contains(err.Error(), "signal: killed") {
						t.Fatalf("GC was to be killed at %s: %v, %s", fault, err, out)
					}
					n.protected(w, fault)
					if then == "GC" {
						n.collect(valid...)
					}
					w.del() // cnitool's cache at least
					n.unchanged(before, fault+" and "+then)
				})
			}
		}
	}
}
