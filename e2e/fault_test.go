package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// The steps of the two tables, as plugins/attach names them.
var (
	addSteps = []string{"validate", "reserve", "predecessor", "bridge", "port", "rules", "up", "address", "announce"}
	delSteps = []string{"find", "down", "link", "rules", "flush", "release"}
)

// armed runs a verb of flat-bridge with a fault point armed.
func (n *node) armed(verb string, c *lab.Container, fault string) (string, error) {
	n.t.Helper()
	cmd := n.Command(n.within(), "/opt/cni/bin/flat-bridge")
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.ID(), "CNI_NETNS="+c.Path(),
		"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "FLATDHCP_FAULT="+fault)
	cmd.Stdin = strings.NewReader(n.plain("1.1.0"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// protected fails the test if a port is up without its chain or its guard elements.
func (n *node) protected(w *workload, when string) {
	n.t.Helper()
	up, _, err := n.Run(n.within(), "ip", "-br", "link", "show", "dev", w.port(), "up")
	if err != nil || !strings.Contains(up, w.port()) {
		return // no port, or one that is down
	}
	if _, _, err := n.Run(n.within(), "iptables", "-C", w.chain(), "-j", "FLAT-DROP"); err != nil {
		n.t.Errorf("%s: port %s is up without its chain", when, w.port())
	}
	if !strings.Contains(n.run("iptables-save", "-t", "filter"), "-j "+w.chain()) {
		n.t.Errorf("%s: port %s is up and nothing leads to its chain", when, w.port())
	}
	if !strings.Contains(n.run("nft", "list", "set", "bridge", "flatdhcp", "macs"), w.port()) {
		n.t.Errorf("%s: port %s is up without its guard elements", when, w.port())
	}
}

// Wherever an ADD is killed, no port is open, and DEL, or a new ADD and then DEL, leaves
// the node as it was.
func TestKilledADD(t *testing.T) {
	n := newNode(t, keys{"allowSameNetTraffic": true})
	n.neighbours()
	c := n.container("w")
	w := &workload{Container: c, n: n, ifName: "eth0"}
	before := n.state()
	for _, step := range addSteps {
		for _, when := range []string{"before", "after"} {
			t.Run(step+"/"+when, func(t *testing.T) {
				fault := fmt.Sprintf("ADD/%s/%s/kill", step, when)
				if out, err := n.armed("ADD", c, fault); err == nil {
					t.Fatalf("ADD survived %s: %s", fault, out)
				}
				n.protected(w, fault)
				w.del()
				n.unchanged(before, fault+" and DEL")

				if _, err := n.armed("ADD", c, fault); err == nil {
					t.Fatalf("ADD survived %s", fault)
				}
				again := n.attachTo(c, lab.CNIOptions{})
				if !answered(n, n.exec, again.addr) {
					t.Errorf("after %s and a new ADD the workload is not reached", fault)
				}
				n.protected(again, fault+" and ADD")
				again.del()
				n.unchanged(before, fault+", ADD and DEL")
			})
		}
	}
}

// Wherever an ADD fails, it undoes all that it did: no DEL is needed.
func TestFailedADDUndoesItself(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	before := n.state()
	for _, step := range addSteps {
		for _, when := range []string{"before", "after"} {
			t.Run(step+"/"+when, func(t *testing.T) {
				fault := fmt.Sprintf("ADD/%s/%s/fail", step, when)
				out, err := n.armed("ADD", c, fault)
				if err == nil || !strings.Contains(out, "fault point") {
					t.Fatalf("%s: %v, %s", fault, err, out)
				}
				n.unchanged(before, fault)
			})
		}
	}
	t.Run("on a node that never had a workload", func(t *testing.T) {
		n := newNode(t, nil)
		c := n.container("w")
		if out, err := n.armed("ADD", c, "ADD/announce/after/fail"); err == nil {
			t.Fatalf("ADD succeeded: %s", out)
		}
		if out := n.run("ip", "-br", "link"); strings.Contains(out, "br100") {
			t.Errorf("the bridge it made is left:\n%s", out)
		}
	})
}

// Wherever a DEL is killed, no port is open meanwhile, and a second DEL finishes.
func TestKilledDEL(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	before := n.state()
	for _, step := range delSteps {
		for _, when := range []string{"before", "after"} {
			t.Run(step+"/"+when, func(t *testing.T) {
				w := n.attachTo(c, lab.CNIOptions{})
				fault := fmt.Sprintf("DEL/%s/%s/kill", step, when)
				if out, err := n.armed("DEL", c, fault); err == nil {
					t.Fatalf("DEL survived %s: %s", fault, out)
				}
				n.protected(w, fault)
				w.del()
				n.unchanged(before, fault+" and DEL")
			})
		}
	}
}

// A DEL that comes while its ADD runs wins, at whatever step the ADD is.
func TestDELWinsOverARunningADD(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	before := n.state()
	for i, step := range addSteps {
		t.Run(step, func(t *testing.T) {
			gate := "/run/lab/gate" + strconv.Itoa(i)
			type answer struct {
				out string
				err error
			}
			added, deleted := make(chan answer, 1), make(chan answer, 1)
			go func() {
				out, err := n.armed("ADD", c, fmt.Sprintf("ADD/%s/before/wait:%s", step, gate))
				added <- answer{out, err}
			}()
			n.eventually("the ADD to reach "+step, func() bool { return n.exec("test", "-e", gate+".reached") == nil })
			go func() {
				out, err := n.armed("DEL", c, "")
				deleted <- answer{out, err}
			}()
			n.eventually("the DEL to leave its mark", func() bool {
				return n.exec("sh", "-c", "ls /run/flatdhcp/attach/*.del") == nil
			})
			n.run("touch", gate)
			if a := <-added; a.err == nil || !strings.Contains(a.out, `"code": 11`) {
				t.Errorf("ADD: %v, %s; want code 11", a.err, a.out)
			}
			if d := <-deleted; d.err != nil {
				t.Errorf("DEL: %v, %s", d.err, d.out)
			}
			n.run("rm", gate, gate+".reached")
			n.unchanged(before, "DEL over ADD at "+step)
		})
	}
}
