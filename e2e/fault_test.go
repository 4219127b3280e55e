package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// steps runs a verb without a fault and returns the steps of its table, which the program
// writes down: a new one is met by every test.
func (n *node) steps(verb string, with func(fault string) *exec.Cmd) []string {
	n.t.Helper()
	const file = "/run/lab/steps"
	if out, err := with("trace:" + file).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v, %s", verb, err, out)
	}
	var steps []string
	for line := range strings.Lines(n.run("cat", file)) {
		of, step, _ := strings.Cut(strings.TrimSpace(line), "/")
		if of != verb {
			n.t.Errorf("%s did step %s of %s", verb, step, of)
		}
		steps = append(steps, step)
	}
	n.run("rm", file)
	if len(steps) < 5 {
		n.t.Fatalf("%s has the steps %q", verb, steps)
	}
	return steps
}

// addSteps are the steps of an ADD. Its DEL follows.
func (n *node) addSteps(c *lab.Container) []string {
	n.t.Helper()
	steps := n.steps("ADD", func(fault string) *exec.Cmd { return n.verb("ADD", c, fault, "") })
	if out, err := n.armed("DEL", c, ""); err != nil {
		n.t.Fatalf("DEL: %v, %s", err, out)
	}
	return steps
}

// armed runs a verb of flat-bridge with a fault point armed.
func (n *node) armed(verb string, c *lab.Container, fault string) (string, error) {
	n.t.Helper()
	out, err := n.verb(verb, c, fault, "").CombinedOutput()
	return string(out), err
}

// verb is a verb of flat-bridge with a fault point armed, not yet started.
func (n *node) verb(verb string, c *lab.Container, fault, args string) *exec.Cmd {
	n.t.Helper()
	return n.verbWithin(n.within(), verb, c, fault, args)
}

// verbWithin is verb for a runtime whose deadline is ctx's: it kills the plugin.
func (n *node) verbWithin(ctx context.Context, verb string, c *lab.Container, fault, args string) *exec.Cmd {
	n.t.Helper()
	cmd := n.Command(ctx, "/opt/cni/bin/flat-bridge")
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.ID(), "CNI_NETNS="+c.Path(),
		"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS="+args, "FLATDHCP_FAULT="+fault)
	cmd.Stdin = strings.NewReader(n.plain("1.1.0"))
	return cmd
}

// kill runs a verb whose fault point kills it.
func (n *node) kill(verb string, c *lab.Container, fault, args string) {
	n.t.Helper()
	out, err := n.verb(verb, c, fault, args).CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		n.t.Fatalf("%s was to be killed at %s: %v, %s", verb, fault, err, out)
	}
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

// A DEL that comes while its ADD runs wins, at whatever step the ADD is.
func TestDELWinsOverARunningADD(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	before := n.state()
	for i, step := range n.addSteps(c) {
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

// Wherever an ADD that takes over a dead container's address is killed, nothing of that
// container is left once the new one has gone.
func TestKilledTakeover(t *testing.T) {
	n := newNode(t, keys{"ipam.retain": "0s", "ipam.reuseDelay": "0s"})
	n.neighbours()
	const pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
	steps := n.addSteps(n.container("first"))
	before := n.state()
	for i, step := range steps {
		t.Run(step, func(t *testing.T) {
			dead := n.attach(fmt.Sprintf("dead%d", i), lab.CNIOptions{Args: pod})
			if err := dead.Delete(n.within()); err != nil { // without a DEL
				t.Fatal(err)
			}
			n.eventually("the port to go with its namespace", func() bool {
				return n.exec("ip", "link", "show", "dev", dead.port()) != nil
			})
			c := n.container(fmt.Sprintf("heir%d", i))
			fault := "ADD/" + step + "/after/kill"
			n.kill("ADD", c, fault, pod)
			heir := n.attachTo(c, lab.CNIOptions{Args: pod})
			n.protected(heir, fault+" and ADD")
			if heir.addr != dead.addr {
				t.Errorf("the heir has %s, the dead one had %s", heir.addr, dead.addr)
			}
			if s := n.state(); strings.Contains(s.Section("iptables")+s.Section("nft"), dead.chain()) ||
				strings.Contains(s.Section("nft"), dead.port()) {
				t.Errorf("rules of the dead container are left:\n%s", before.Diff(s))
			}
			heir.detach()
			n.run("rm", "-f", "/var/lib/cni/results/"+network+"-"+dead.ID()+"-eth0") // cnitool's cache
			n.unchanged(before, fault+", ADD and DEL")
		})
	}
}

// A verb that is killed while it waits for the filter lock leaves a ticket. Whoever has
// the lock next may carry it out, and it changes nothing that comes later.
func TestKilledWhileWaitingForTheFilterLock(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	other := n.container("other")
	before := n.state()
	const waiting = "ls /run/flatdhcp/attach/*.rules"
	// killed starts a verb while somebody else has the filter lock, and kills it there.
	killed := func(t *testing.T, verb string) {
		t.Helper()
		lock, err := n.Start("flock", "-F", "/run/flatdhcp/filter.lock", "sh", "-c", "echo locked; exec sleep 1000")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := lock.WaitLine(n.within(), 0, "locked"); err != nil {
			t.Fatal(err)
		}
		cmd := n.verb(verb, c, "", "")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n.eventually(verb+" to leave its ticket", func() bool { return n.exec("sh", "-c", waiting) == nil })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("%s was not killed", verb)
		}
		if err := lock.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	// passing lets another workload come and go: its verbs find the ticket.
	passing := func() { n.attachTo(other, lab.CNIOptions{}).del() }
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("ADD/another verb first=%t", first), func(t *testing.T) {
			killed(t, "ADD")
			if first {
				passing()
			}
			w := &workload{Container: c, n: n, ifName: "eth0"}
			w.del()
			passing()
			n.unchanged(before, "a killed ADD and its DEL")
		})
		t.Run(fmt.Sprintf("DEL/another verb first=%t", first), func(t *testing.T) {
			n.attachTo(c, lab.CNIOptions{})
			killed(t, "DEL")
			if first {
				passing()
			}
			w := n.attachTo(c, lab.CNIOptions{})
			passing()
			n.protected(w, "after a killed DEL, an ADD and another's verbs")
			if !answered(n, n.exec, w.addr) {
				t.Error("the ticket of a killed DEL took the rules of a living port")
			}
			w.del()
			n.unchanged(before, "a killed DEL, an ADD and its DEL")
		})
	}
}
