package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// usual is how long an ADD takes here and now. Nothing is judged by it: it spreads what
// comes between over the whole ADD.
func (n *node) usual(c *lab.Container) time.Duration {
	n.t.Helper()
	began := time.Now()
	if out, err := n.verb("ADD", c, "", "").CombinedOutput(); err != nil {
		n.t.Fatalf("%v, %s", err, out)
	}
	took := time.Since(began)
	n.bareDEL(c)
	return took
}

func (n *node) bareDEL(c *lab.Container) {
	n.t.Helper()
	if out, err := n.verb("DEL", c, "", "").CombinedOutput(); err != nil {
		n.t.Fatalf("DEL: %v, %s", err, out)
	}
}

// A DEL that comes before, during or after its ADD succeeds, and then the attachment is
// whole or gone: gone if DEL came last.
func TestEveryMomentOfAnADDForItsDEL(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	w := &workload{Container: c, n: n, ifName: "eth0"}
	usual := n.usual(c)
	before := n.state()
	count := rounds(t, "moments of an ADD for its DEL", 10, 100)
	outcomes := map[string]int{}
	for i := range count {
		add, del := n.verb("ADD", c, "", ""), n.verb("DEL", c, "", "")
		type answer struct {
			out string
			err error
		}
		added := make(chan answer, 1)
		run := func() {
			out, err := add.CombinedOutput()
			added <- answer{string(out), err}
		}
		var a answer
		switch i {
		case 0: // certainly before
			if out, err := del.CombinedOutput(); err != nil {
				t.Fatalf("DEL: %v, %s", err, out)
			}
			run()
			a = <-added
		case 1: // certainly after
			run()
			a = <-added
			if out, err := del.CombinedOutput(); err != nil {
				t.Fatalf("DEL: %v, %s", err, out)
			}
		default:
			go run()
			time.Sleep(usual * time.Duration(i-2) / time.Duration(count-2)) // what the round tries out
			if out, err := del.CombinedOutput(); err != nil {
				t.Errorf("round %d, DEL: %v, %s", i, err, out)
			}
			a = <-added
		}
		what := fmt.Sprintf("round %d", i)
		switch {
		case a.err != nil && strings.Contains(a.out, `"code": 11`):
			outcomes["the ADD gave up"]++
			n.unchanged(before, what+", an ADD that gave up,")
		case a.err != nil:
			t.Fatalf("%s, ADD: %v, %s", what, a.err, a.out)
		case n.exec("ip", "link", "show", "dev", w.port()) != nil:
			outcomes["DEL after the ADD"]++
			n.unchanged(before, what+", a DEL after an ADD,")
		default:
			outcomes["ADD after the DEL"]++
			n.protected(w, what)
			n.run("iptables", "-C", w.chain(), "-j", "FLAT-DROP") // the port is whole, and up
			n.bareDEL(c)
			n.unchanged(before, what+", an ADD after a DEL, and its DEL,")
		}
		if t.Failed() {
			t.Fatalf("outcomes so far: %v", outcomes)
		}
	}
	if outcomes["ADD after the DEL"] == 0 || outcomes["DEL after the ADD"] == 0 {
		t.Errorf("outcomes: %v, want all", outcomes)
	}
	t.Logf("outcomes: %v", outcomes)
}

// A runtime that kills its ADD at a deadline, wherever it happens to be, deletes and tries
// again; or tries again at once.
func TestEveryDeadlineOfARuntime(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	w := &workload{Container: c, n: n, ifName: "eth0"}
	usual := n.usual(c)
	before := n.state()
	count := rounds(t, "deadlines of a runtime", 6, 60)
	killed := 0
	for i := range count {
		deadline := usual * time.Duration(i+1) / time.Duration(count+1)
		timedOut := func() {
			ctx, cancel := context.WithTimeout(n.within(), deadline)
			defer cancel()
			add := n.verbWithin(ctx, "ADD", c, "", "")
			if out, err := add.CombinedOutput(); err != nil {
				if ctx.Err() == nil {
					t.Fatalf("ADD: %v, %s", err, out)
				}
				killed++
			}
			n.protected(w, fmt.Sprintf("killed after %v", deadline))
		}
		what := fmt.Sprintf("an ADD killed after %v", deadline)
		timedOut()
		w.del()
		n.unchanged(before, what+" and DEL")
		again := n.attachTo(c, lab.CNIOptions{})
		if !answered(n, n.exec, again.addr) {
			t.Errorf("after %s, DEL and ADD the workload is not reached", what)
		}
		w.del()
		// Podman tries the same container again without a DEL. One that was killed after its
		// last step left an interface that is complete, and in the way.
		timedOut()
		if again, err := n.tryAttach(c, lab.CNIOptions{}); err == nil {
			n.protected(again, what+" and ADD")
			if !answered(n, n.exec, again.addr) {
				t.Errorf("after %s and ADD the workload is not reached", what)
			}
		} else if !strings.Contains(err.Error(), "eth0") {
			t.Errorf("%s, and another: %v", what, err)
		}
		w.del()
		n.unchanged(before, what+", ADD and DEL")
		if t.Failed() {
			return
		}
	}
	if killed == 0 {
		t.Error("no ADD was killed: all were faster than their deadline")
	}
	t.Logf("%d of %d ADDs were killed", killed, 2*count)
}

// An ADD that cannot go on ends by itself at its own deadline, with a code that asks the
// runtime to try later, and undoes itself.
func TestADDEndsAtItsOwnDeadline(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("w")
	before := n.state()
	lock, err := n.Start("flock", "-F", "/run/flatdhcp/node.lock", "sh", "-c", "echo locked; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := lock.WaitLine(n.within(), 0, "locked"); err != nil {
		t.Fatal(err)
	}
	if got := n.errorCode("ADD", c, ""); got != 11 {
		t.Errorf("CNI code %d, want 11", got)
	}
	if err := lock.Kill(); err != nil {
		t.Fatal(err)
	}
	n.unchanged(before, "an ADD that met its deadline")
	if w := n.attachTo(c, lab.CNIOptions{}); !answered(n, n.exec, w.addr) {
		t.Error("the ADD after it is not reached")
	}
}

// The reservations of before a reboot are taken over, whatever stands there in their
// holders' names: by a container of the same ID (podman), of the same name (Kubernetes).
func TestTakeoverAfterAReboot(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	pod := lab.CNIOptions{Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"}
	same, named := n.attach("same", lab.CNIOptions{}), n.attach("named", pod)
	boot := func(id string) {
		t.Helper()
		const file = "/run/boot_id"
		if err := n.WriteFile(n.within(), file, 0o444, id+"\n"); err != nil {
			t.Fatal(err)
		}
		n.run("mount", "--bind", file, "/proc/sys/kernel/random/boot_id")
	}
	// What a reboot takes: namespaces with their ports, bridge, rules and /run.
	n.run("sh", "-ec", `ip netns del same; ip netns del named
		while ip link show type veth | grep -q .; do :; done
		ip link del br100
		iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X; nft delete table bridge flatdhcp
		rm -r /run/flatdhcp /var/lib/cni/results`)
	// A device that happens to have the dead port's name tells nothing of this boot. Of the
	// same boot it does: the control.
	n.run("ip", "link", "add", named.port(), "type", "veth", "peer", "name", "other")
	heir := n.container("heir")
	if _, err := n.tryAttach(heir, pod); err == nil || !strings.Contains(err.Error(), named.ID()) || !strings.Contains(err.Error(), "alive") {
		t.Errorf("the control, in the same boot: %v, want an error that names %s", err, named.ID())
	}
	boot("3f1b7c52-0000-4000-8000-000000000002")
	if w := n.attachTo(heir, pod); w.addr != named.addr || w.mac.String() != named.mac.String() {
		t.Errorf("the same pod has %s %s, had %s %s", w.addr, w.mac, named.addr, named.mac)
	} else if !answered(n, n.exec, w.addr) {
		t.Error("the same pod is not reached")
	}
	if w := n.attach("same", lab.CNIOptions{}); w.addr != same.addr || w.mac.String() != same.mac.String() {
		t.Errorf("the same container has %s %s, had %s %s", w.addr, w.mac, same.addr, same.mac)
	} else if !answered(n, n.exec, w.addr) {
		t.Error("the same container is not reached")
	}
	n.run("flatctl", "check")
}

// What libcni keeps of a result does not survive every crash. DEL needs none of it.
func TestDELWithACorruptCache(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	before := n.state()
	for name, corrupt := range map[string]string{
		"empty":     `: >"$1"`,
		"truncated": `truncate -s 300 "$1"`,
		"garbage":   `head -c 2000 /dev/urandom >"$1"`,
		"another":   `echo '{"kind": "cniCacheV1", "containerId": "x", "result": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.99/24"}]}}' >"$1"`,
		"a list":    `echo '[]' >"$1"`,
		"gone":      `rm "$1"`,
	} {
		t.Run(name, func(t *testing.T) {
			w := n.attach("w", lab.CNIOptions{})
			n.run("sh", "-ec", corrupt, "sh", "/var/lib/cni/results/"+network+"-"+w.ID()+"-eth0")
			w.detach()
			n.run("rm", "-f", "/var/lib/cni/results/"+network+"-"+w.ID()+"-eth0")
			n.unchanged(before, "DEL with a cache that is "+name)
		})
	}
}
