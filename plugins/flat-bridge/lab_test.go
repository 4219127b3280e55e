package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideLab marks the process that TestMain started in namespaces of its own, and names
// the plugin's binary.
const insideLab = "FLATDHCP_BRIDGE_LAB"

// TestMain builds the plugin and runs the tests in a process with a network, a mount
// namespace and a /run of its own, so that nothing of the machine is touched and nothing
// can be left.
func TestMain(m *testing.M) {
	if os.Getenv(insideLab) == "" && os.Geteuid() == 0 {
		code, err := runInLab()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if code >= 0 {
			os.Exit(code)
		}
	}
	if os.Getenv(insideLab) != "" {
		if err := errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
			os.Mkdir("/run/netns", 0o755),
		); err != nil {
			fmt.Fprintln(os.Stderr, "furnishing the lab:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runInLab returns -1 where root may not make namespaces: then the tests skip, or fail.
func runInLab() (exitCode int, err error) {
	dir, err := os.MkdirTemp("", "flat-bridge-test")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program := filepath.Join(dir, "flat-bridge")
	// Without the race detector, whatever the tests have: the plugin starts some hundred times.
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	runtime.LockOSThread() // the child dies with this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideLab+"="+program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return max(1, exit.ExitCode()), nil // -1: killed
	}
	return -1, nil
}

// keys are keys of flat-bridge; those that begin with "ipam." go into flat-ipam.
type keys map[string]any

// node is a network namespace with a data and a run directory.
type node struct {
	t    *testing.T
	name string
	data string
	run  string
	keys keys
	// before is a shell command that the plugin's process does first, in a mount
	// namespace of its own: what it hides is hidden from the plugin alone.
	before string
	wrap   []string // program and arguments that execute the plugin
}

var made atomic.Int32

func newNode(t *testing.T, k keys) *node {
	t.Helper()
	if os.Getenv(insideLab) == "" {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("FLATDHCP_REQUIRE_ROOT=1, but the test cannot make network namespaces")
		}
		t.Skip("needs root: makes network namespaces and links")
	}
	n := &node{t: t, name: fmt.Sprintf("node%d", made.Add(1)), keys: k}
	n.data = filepath.Join("/run", n.name, "data")
	n.run = filepath.Join("/run", n.name, "run")
	n.netns(n.name)
	n.exec("ip", "link", "set", "lo", "up")
	return n
}

// netns makes a network namespace that goes with the test.
func (n *node) netns(name string) string {
	n.t.Helper()
	n.output(exec.Command("ip", "netns", "add", name))
	n.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // gone already, perhaps
	return "/run/netns/" + name
}

// output runs a program that must succeed.
func (n *node) output(cmd *exec.Cmd) string {
	n.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// outputErr runs a program that may fail.
func (n *node) outputErr(argv ...string) error {
	return exec.Command(argv[0], argv[1:]...).Run()
}

// exec runs a program in the node's network namespace.
func (n *node) exec(argv ...string) string {
	n.t.Helper()
	return n.output(exec.Command("nsenter", append([]string{"--net=/run/netns/" + n.name, "--"}, argv...)...))
}

// container is a network namespace to attach.
type container struct {
	n       *node
	id, ns  string
	ifName  string
	result  string // of ADD
	port    string
	mac     string
	address string
}

func (n *node) container(id string) *container {
	n.t.Helper()
	return &container{n: n, id: id, ns: n.netns(n.name + "-" + id), ifName: "eth0"}
}

// exec runs a program in the container's network namespace.
func (c *container) exec(argv ...string) string {
	c.n.t.Helper()
	return c.n.output(exec.Command("nsenter", append([]string{"--net=" + c.ns, "--"}, argv...)...))
}

// attach makes a container and ADDs it.
func (n *node) attach(id string) *container {
	n.t.Helper()
	c := n.container(id)
	c.add()
	return c
}

func (c *container) add() {
	c.n.t.Helper()
	c.result = c.n.ok(call{verb: "ADD", of: c})
	var r struct {
		Interfaces []struct{ Name, Mac string }
		IPs        []struct{ Address string }
	}
	if err := json.Unmarshal([]byte(c.result), &r); err != nil || len(r.Interfaces) != 3 || len(r.IPs) != 1 {
		c.n.t.Fatalf("result %s: %v", c.result, err)
	}
	c.port, c.mac, c.address = r.Interfaces[1].Name, r.Interfaces[2].Mac, r.IPs[0].Address
}

// call is one execution of the plugin.
type call struct {
	verb    string
	of      *container
	noNetNS bool
	version string // default 1.1.0
	prev    string // prevResult; empty = none
	extra   string // keys for the document, each with a comma behind it
	args    string // CNI_ARGS
	network string // default flat
	bare    bool   // nothing but what every plugin gets: DEL's and GC's minimum
}

type reply struct {
	stdout, stderr string
	exit           int
}

func (n *node) do(c call) reply {
	n.t.Helper()
	cmd := n.command(c)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return reply{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (n *node) command(c call) *exec.Cmd {
	n.t.Helper()
	program := os.Getenv(insideLab)
	argv := append([]string{"--net=/run/netns/" + n.name, "--"}, append(slices.Clone(n.wrap), program)...)
	if n.before != "" {
		argv = []string{"--net=/run/netns/" + n.name, "--", "unshare", "--mount", "sh", "-ec", n.before + "; exec " + program}
	}
	cmd := exec.Command("nsenter", argv...)
	cmd.Env = append(os.Environ(), "FLATDHCP_RUN_DIR="+n.run, "CNI_PATH=/nowhere", "CNI_COMMAND="+c.verb, "CNI_ARGS="+c.args)
	if c.of != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+c.of.id, "CNI_IFNAME="+c.of.ifName)
		if !c.noNetNS {
			cmd.Env = append(cmd.Env, "CNI_NETNS="+c.of.ns)
		}
	}
	cmd.Stdin = strings.NewReader(n.conf(c))
	return cmd
}

func (n *node) conf(c call) string {
	n.t.Helper()
	pool := keys{"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": n.data}
	plugin := keys{"type": "flat-bridge", "name": "flat", "cniVersion": "1.1.0", "ipam": pool}
	if c.network != "" {
		plugin["name"] = c.network
	}
	if c.version != "" {
		plugin["cniVersion"] = c.version
	}
	if !c.bare {
		for k, v := range n.keys {
			if sub, ok := strings.CutPrefix(k, "ipam."); ok {
				pool[sub] = v
			} else {
				plugin[k] = v
			}
		}
	}
	if c.prev != "" {
		plugin["prevResult"] = json.RawMessage(c.prev)
	}
	b, err := json.Marshal(plugin)
	if err != nil {
		n.t.Fatal(err)
	}
	return "{" + c.extra + string(b[1:])
}

// ok makes a call that must succeed, and returns its result.
func (n *node) ok(c call) string {
	n.t.Helper()
	got := n.do(c)
	if got.exit != 0 {
		n.t.Fatalf("%s failed: %s%s", c.verb, got.stdout, got.stderr)
	}
	if c.verb != "ADD" && got.stdout != "" {
		n.t.Errorf("%s wrote %q on stdout", c.verb, got.stdout)
	}
	return got.stdout
}

// fails makes a call that must fail with a CNI code, and returns what it says.
func (n *node) fails(c call, code uint) string {
	n.t.Helper()
	got := n.do(c)
	var e struct {
		Code         uint
		Msg, Details string
	}
	dec := json.NewDecoder(strings.NewReader(got.stdout))
	if err := dec.Decode(&e); err != nil || got.exit == 0 {
		n.t.Fatalf("%s: exit %d, stdout %q (%v), want an error", c.verb, got.exit, got.stdout, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		n.t.Errorf("%s wrote more than one document: %s", c.verb, got.stdout)
	}
	if e.Code != code {
		n.t.Errorf("%s: code %d, want %d: %s", c.verb, e.Code, code, e.Msg)
	}
	return strings.TrimSuffix(e.Msg+"; "+e.Details, "; ")
}

// says fails the test unless text has all parts in it.
func (n *node) says(text string, parts ...string) {
	n.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			n.t.Errorf("%q is not in: %s", part, text)
		}
	}
}
