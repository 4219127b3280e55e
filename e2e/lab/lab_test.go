package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// asHelper in the environment makes the test binary play another program: see TestMain.
const asHelper = "LAB_TEST_HELPER"

// patience bounds what takes milliseconds on an idle machine.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if role := os.Getenv(asHelper); role != "" {
		if err := helper(role); err != nil {
			fmt.Println("FAILED:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper plays a user of the lab in a process of its own.
func helper(role string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if role == "unprivileged" {
		code, done, err := lab.Reexec(ctx)
		if err != nil {
			return err
		}
		if done {
			os.Exit(code)
		}
	}
	l, err := lab.Start(ctx, lab.Options{})
	if err != nil {
		return err
	}
	h, err := l.AddHost(ctx, "victim")
	if err != nil {
		return err
	}
	c, err := h.Container(ctx, "inner")
	if err != nil {
		return err
	}
	if role == "unprivileged" {
		return errors.Join(useOfAll(ctx, h, c), l.Close())
	}
	// One that ignores its parent's death in each kind of place.
	for _, start := range []func(...string) (*lab.Process, error){h.Start, c.Start} {
		p, err := start("setsid", "sh", "-c", "echo up; exec sleep 600")
		if err != nil {
			return err
		}
		if _, _, err := p.WaitLine(ctx, 0, "up"); err != nil {
			return err
		}
		ns, err := namespaces(p.PID())
		if err != nil {
			return err
		}
		fmt.Println("process", strings.Join(ns, " "))
	}
	if _, _, err := h.Run(ctx, "sh", "-c", "ip netns exec inner sleep 600 >/dev/null 2>&1 & ip link add cable type veth peer name other netns inner"); err != nil {
		return err
	}
	fmt.Println("ready")
	time.Sleep(patience) // to be killed
	return errors.New("was not killed")
}

// useOfAll does in a lab what needs privileges somewhere.
func useOfAll(ctx context.Context, h *lab.Host, c *lab.Container) error {
	for _, argv := range [][]string{
		{"ip", "link", "add", "br0", "type", "bridge"},
		{"ip", "link", "add", "p0", "type", "veth", "peer", "name", "eth0", "netns", "inner"},
		{"ip", "link", "set", "p0", "master", "br0", "up"},
		{"iptables", "-A", "FORWARD", "-j", "ACCEPT"},
		{"nft", "add", "table", "bridge", "x"},
		{"sysctl", "-q", "net.ipv4.ip_forward=1"},
		{"conntrack", "-L"},
		{"sh", "-c", "echo hello > /etc/cni/net.d/x && echo nameserver 10.0.0.1 > /etc/resolv.conf"},
	} {
		if _, _, err := h.Run(ctx, argv...); err != nil {
			return err
		}
	}
	if _, _, err := c.Run(ctx, "ip", "link", "set", "eth0", "up"); err != nil {
		return err
	}
	tap, err := c.Tap("eth0")
	if err != nil {
		return err
	}
	state, err := h.State(ctx)
	if err != nil {
		return err
	}
	if !strings.Contains(state.Section("iptables"), "-A FORWARD -j ACCEPT") {
		return fmt.Errorf("state without the rule:\n%s", state)
	}
	return tap.Close()
}

func namespaces(pid int) ([]string, error) {
	var out []string
	for _, kind := range []string{"mnt", "net"} {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return nil, err
		}
		out = append(out, ns)
	}
	return out, nil
}

// inNamespaces lists the processes of the machine that are in one of the namespaces.
func inNamespaces(t *testing.T, want []string) []string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, dir := range procs {
		for _, kind := range []string{"mnt", "net"} {
			if ns, err := os.Readlink(dir + "/ns/" + kind); err == nil && slices.Contains(want, ns) {
				cmdline, _ := os.ReadFile(dir + "/cmdline") // gone by now: nothing to name
				found = append(found, dir+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
			}
		}
	}
	return found
}

// machine is what a lab must not change, as far as other users of the machine do not.
func machine(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "flatdhcp-lab") {
			b.WriteString(line)
		}
	}
	for _, argv := range [][]string{{"hostname"}, {"sh", "-c", "ip netns list | grep -w inner; ip -br link | grep -w cable; ls -d /run/lab /etc/cni/net.d/x /var/lib/flatdhcp 2>&1; cat /etc/resolv.conf; :"}} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(out)
	}
	return b.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestHostIsAMachineOfItsOwn(t *testing.T) {
	before := machine(t)
	l := labtest.New(t, lab.Options{})
	a, b := labtest.AddHost(t, l, "node1"), labtest.AddHost(t, l, "node2")
	ctx := labtest.Within(t, patience)
	run := func(h *lab.Host, argv ...string) string {
		t.Helper()
		out, _, err := h.Run(ctx, argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := run(a, "hostname"); got != "node1\n" {
		t.Errorf("host name is %q", got)
	}
	if got := run(a, "ip", "-br", "link"); !strings.HasPrefix(got, "lo") || strings.Count(got, "\n") != 1 || !strings.Contains(got, "UP") {
		t.Errorf("a new host's links are not just lo, up:\n%s", got)
	}
	if run(a, "cat", "/etc/machine-id") == run(b, "cat", "/etc/machine-id") {
		t.Error("two hosts have one machine ID")
	}
	for _, path := range []string{"/etc/cni/net.d/x", "/etc/resolv.conf", "/run/x", "/var/lib/flatdhcp/x", "/opt/cni/bin/x"} {
		if err := a.WriteFile(ctx, path, 0o640, "of node1\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := a.ReadFile(ctx, path); err != nil || got != "of node1\n" {
			t.Errorf("%s reads %q, %v after writing it", path, got, err)
		}
		if got, err := b.ReadFile(ctx, path); err == nil && got == "of node1\n" {
			t.Errorf("%s of node1 is there on node2", path)
		}
		if got, err := os.ReadFile(path); err == nil && string(got) == "of node1\n" {
			t.Errorf("%s was written on the machine", path)
		}
	}
	if got := run(a, "stat", "-c", "%a", "/run/x"); got != "640\n" {
		t.Errorf("mode is %q", got)
	}
	if err := l.Link(ctx, a, "eth1", b, "eth1"); err != nil {
		t.Fatal(err)
	}
	run(a, "ip", "address", "add", "192.0.2.1/24", "dev", "eth1")
	run(b, "ip", "address", "add", "192.0.2.2/24", "dev", "eth1")
	run(a, "ping", "-c", "1", "-W", "20", "192.0.2.2")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if after := machine(t); after != before {
		t.Errorf("the machine changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

func TestCloseEndsWhatRunsInTheHost(t *testing.T) {
	l := labtest.New(t, lab.Options{})
	h := labtest.AddHost(t, l, "node1")
	ctx := labtest.Within(t, patience)
	c, err := h.Container(ctx, "inner")
	if err != nil {
		t.Fatal(err)
	}
	var ns []string
	for _, start := range []func(...string) (*lab.Process, error){h.Start, c.Start} {
		p, err := start("sh", "-c", "trap '' TERM INT HUP; echo up; sleep 600 & wait")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.WaitLine(ctx, 0, "up"); err != nil {
			t.Fatal(err)
		}
		more, err := namespaces(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, more...)
	}
	if found := inNamespaces(t, ns); len(found) < 3 {
		t.Fatalf("the control: %q run in the host", found)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if found := inNamespaces(t, ns); len(found) > 0 {
		t.Errorf("still running after Close: %q", found)
	}
}

func TestNothingOutlivesAKilledUser(t *testing.T) {
	labtest.RequireRoot(t)
	before := machine(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asHelper+"=killed")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ns []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "ready" {
		rest, ok := strings.CutPrefix(lines.Text(), "process ")
		if !ok {
			t.Fatalf("the helper says %q", lines.Text())
		}
		ns = append(ns, strings.Fields(rest)...)
	}
	if found := inNamespaces(t, ns); len(found) < 4 {
		t.Fatalf("the control: %q run in the lab of the helper", found)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	eventually(t, "processes of a killed user's lab go on", func() bool { return len(inNamespaces(t, ns)) == 0 })
	if after := machine(t); after != before {
		t.Errorf("the machine changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

func TestWorksWithoutRoot(t *testing.T) {
	labtest.RequireRoot(t) // to become nobody
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary may be where nobody cannot reach it.
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, data, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), asHelper+"=unprivileged")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "needs root here") && os.Getenv("FLATDHCP_REQUIRE_ROOT") == "" {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	labtest.RequireRoot(t)
	_, err := lab.Start(t.Context(), lab.Options{Bin: "/nonexistent/bin"})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent") || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error is %v", err)
	}
	l := labtest.New(t, lab.Options{})
	for _, name := range []string{"", "../x", "a b", "-x"} {
		if _, err := l.AddHost(t.Context(), name); err == nil {
			t.Errorf("a host named %q was made", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.AddHost(ctx, "late"); !errors.Is(err, context.Canceled) {
		t.Errorf("adding a host after the end: %v", err)
	}
}

func TestRunErrorTellsWhatWasSaid(t *testing.T) {
	l := labtest.New(t, lab.Options{})
	h := labtest.AddHost(t, l, "node1")
	_, _, err := h.Run(labtest.Within(t, patience), "sh", "-c", "echo out; echo no such thing >&2; exit 3")
	var run *lab.RunError
	if !errors.As(err, &run) {
		t.Fatalf("error is %v", err)
	}
	want := `running "sh -c echo out; echo no such thing >&2; exit 3" on node1: exit status 3: no such thing`
	if err.Error() != want || run.Stdout != "out\n" {
		t.Errorf("error is %q, output %q", err, run.Stdout)
	}
}

func TestPersistentLabIsFoundAgain(t *testing.T) {
	labtest.RequireRoot(t)
	dir := filepath.Join(t.TempDir(), "state")
	ctx := labtest.Within(t, patience)
	if _, err := lab.Open(ctx, dir); !errors.Is(err, lab.ErrNoLab) {
		t.Fatalf("opening what is not up: %v", err)
	}
	l, err := lab.Start(ctx, lab.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.AddHost(ctx, "node1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := h.Container(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	again, err := lab.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := again.Host("node1").Find("web").Run(ctx, "ip", "-br", "link")
	if err != nil || !strings.HasPrefix(out, "lo") {
		t.Fatalf("links of the container: %q, %v", out, err)
	}
	ns, err := os.Readlink(again.Host("node1").NetNS())
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := lab.HolderPID(dir, "node1"); err != nil || fmt.Sprintf("/proc/%d/ns/net", pid) != h.NetNS() {
		t.Errorf("holder is %d, %v; network is %s", pid, err, h.NetNS())
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	// The holder is still our child, and a zombie has no namespaces.
	if found := inNamespaces(t, []string{ns}); len(found) > 0 {
		t.Errorf("still running: %q", found)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory is still there: %v", err)
	}
}
