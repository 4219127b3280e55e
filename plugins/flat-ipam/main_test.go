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
	"strings"
	"testing"
)

// program is the plugin's binary: the tests drive it as a runtime does.
var program string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if program = os.Getenv(innerProgram); program != "" {
		return m.Run(), nil // in the namespaces of TestUnderTheReferenceBridge
	}
	dir, err := os.MkdirTemp("", "flat-ipam-test")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "flat-ipam")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3-test", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// rig is one test's surroundings: a data directory, a run directory and a file that
// stands for a container's namespace.
type rig struct {
	t     *testing.T
	data  string
	run   string
	netns string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), run: filepath.Join(t.TempDir(), "run")}
	r.netns = r.namespace("netns")
	return r
}

// namespace makes another such file. The plugin only ever looks at its inode.
func (r *rig) namespace(name string) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// call is one verb with what a runtime gives it.
type call struct {
	verb      string
	container string // c1 if empty
	version   string // 1.1.0 if empty
	args      string
	netns     string         // the rig's if empty; "-" is none
	ipam      map[string]any // over the default of subnet 10.0.0.0/24
	keys      map[string]any // beside ipam
}

// reply is what came back.
type reply struct {
	stdout, stderr string
	exit           int
}

func (r *rig) conf(c call) []byte {
	r.t.Helper()
	inside := map[string]any{"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": r.data}
	for k, v := range c.ipam {
		inside[k] = v
	}
	version := c.version
	if version == "" {
		version = "1.1.0"
	}
	root := map[string]any{"cniVersion": version, "name": "flat", "type": "bridge", "ipam": inside}
	for k, v := range c.keys {
		root[k] = v
	}
	text, err := json.Marshal(root)
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// command prepares a verb without running it.
func (r *rig) command(c call) *exec.Cmd {
	r.t.Helper()
	container, netns := c.container, c.netns
	if container == "" {
		container = "c1"
	}
	switch netns {
	case "":
		netns = r.netns
	case "-":
		netns = ""
	}
	cmd := exec.Command(program)
	cmd.Stdin = bytes.NewReader(r.conf(c))
	cmd.Env = []string{"CNI_COMMAND=" + c.verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=" + netns,
		"CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + c.args, "FLATDHCP_RUN_DIR=" + r.run}
	return cmd
}

func (r *rig) do(c call) reply {
	r.t.Helper()
	return execute(r.t, r.command(c))
}

func execute(t *testing.T, cmd *exec.Cmd) reply {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s: %v", cmd.Path, err)
	}
	return reply{stdout: stdout.String(), stderr: stderr.String(), exit: cmd.ProcessState.ExitCode()}
}

// ok fails the test unless the verb succeeded, and returns what it printed.
func (r *rig) ok(c call) string {
	r.t.Helper()
	got := r.do(c)
	if got.exit != 0 {
		r.t.Fatalf("%s %s: exit %d: %s%s", c.verb, c.container, got.exit, got.stdout, got.stderr)
	}
	if c.verb != "ADD" && c.verb != "VERSION" && got.stdout != "" {
		r.t.Errorf("%s printed %q: stdout is the result's", c.verb, got.stdout)
	}
	return got.stdout
}

// fails fails the test unless the verb failed with code, and returns message and details.
func (r *rig) fails(c call, code uint) string {
	r.t.Helper()
	got := r.do(c)
	if got.exit == 0 {
		r.t.Fatalf("%s succeeded: %s", c.verb, got.stdout)
	}
	var e struct {
		Code         uint
		Msg, Details string
	}
	decodeOne(r.t, got.stdout, &e)
	if e.Code != code {
		r.t.Errorf("%s: code %d (%s), want %d", c.verb, e.Code, e.Msg, code)
	}
	return strings.TrimSuffix(e.Msg+"; "+e.Details, "; ")
}

// decodeOne decodes stdout, which must hold exactly one JSON value.
func decodeOne(t *testing.T, stdout string, v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(stdout))
	if err := dec.Decode(v); err != nil {
		t.Fatalf("stdout %q: %v", stdout, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("stdout holds more than one value: %s", stdout)
	}
}

// result is what the tests look at in a result of any version.
type addResult struct {
	CNIVersion string `json:"cniVersion"`
	Interfaces []any  `json:"interfaces"`
	IPs        []struct {
		Version, Address, Gateway string
		Interface                 *int
	} `json:"ips"`
	Routes []struct{ Dst, GW string } `json:"routes"`
	DNS    map[string]any             `json:"dns"`
}

// add runs ADD and returns the address it gave.
func (r *rig) add(c call) string {
	r.t.Helper()
	c.verb = "ADD"
	var res addResult
	decodeOne(r.t, r.ok(c), &res)
	if len(res.IPs) != 1 {
		r.t.Fatalf("ADD gave %v", res.IPs)
	}
	return res.IPs[0].Address
}
