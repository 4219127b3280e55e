package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// unit is the [Service] section of deploy/flat-dhcpd.service: values by directive.
type unit map[string][]string

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for line := range strings.Lines(string(b)) {
		switch line = strings.TrimSpace(line); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		case section == "[Service]":
			key, value, _ := strings.Cut(line, "=")
			u[key] = append(u[key], value)
		}
	}
	return u
}

// bySystemd are the directives that unit.command does not stand in for: what the service
// manager does when a program starts and ends, and what only it can do (filters of system calls; a
// /dev of its own). What a directive restricts must be here or there.
var bySystemd = []string{
	"Type", "WatchdogSec", "Restart", "RestartSec", "RestartPreventExitStatus", "RuntimeDirectoryPreserve",
	"PrivateDevices", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
	"RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
	"MemoryDenyWriteExecute", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
}

// prepare does on the host what precedes the program: directories, ExecStartPre.
func (u unit) prepare(n *node) {
	n.t.Helper()
	for kind, below := range map[string]string{"StateDirectory": "/var/lib/", "RuntimeDirectory": "/run/"} {
		n.run("install", "-d", "-m", u[kind+"Mode"][0], below+u[kind][0])
	}
	for _, line := range u["ExecStartPre"] {
		line, full := strings.CutPrefix(line, "+")
		if !full {
			n.t.Fatalf("ExecStartPre=%s runs confined: the test does not", line)
		}
		n.run("sh", "-c", line)
	}
}

// command is the program under the unit's restrictions, as far as there is something
// beside systemd to make them: a mount namespace in which all is read-only but what the
// unit names, the bounding set, no new privileges.
func (u unit) command(t *testing.T) []string {
	t.Helper()
	var unknown []string
	for key := range u {
		if !slices.Contains(bySystemd, key) && !slices.Contains([]string{
			"ExecStart", "ExecStartPre", "StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode", "UMask",
			"CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp",
		}, key) {
			unknown = append(unknown, key)
		}
	}
	if unknown != nil {
		t.Fatalf("say here what the test does for %v", unknown)
	}
	for key, want := range map[string]string{"ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "NoNewPrivileges": "yes"} {
		if diff := cmp.Diff([]string{want}, u[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	writable := []string{"/var/lib/" + u["StateDirectory"][0], "/run/" + u["RuntimeDirectory"][0]}
	caps := "-all"
	for c := range strings.FieldsSeq(u["CapabilityBoundingSet"][0]) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	program, args, _ := strings.Cut(u["ExecStart"][0], " ")
	script := fmt.Sprintf(`set -e; umask %[1]s
for p in %[2]s; do mount --bind $p $p; done
while read -r _ _ _ _ m _; do
	[ -e "$m" ] || continue # hidden by another mount
	case " %[2]s " in *" $m "*) continue ;; esac
	case $m/ in /proc/*|/sys/*|/dev/*) ;; *) mount -o remount,bind,ro "$m" ;; esac
done </proc/self/mountinfo
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o ro tmpfs /root
exec setpriv --bounding-set=%[3]s --no-new-privs %[4]s %[5]s`, u["UMask"][0], strings.Join(writable, " "), caps, filepath.Base(program), args)
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script}
}

// The daemon does all it has to under deploy/flat-dhcpd.service, with either back end of
// iptables: from a conflist alone it makes a bridge and serves, and an edit of the policy
// reaches the chain of a workload that lives.
func TestDaemonUnderItsUnit(t *testing.T) {
	t.Parallel()
	u := readUnit(t, filepath.Join(labtest.Repository(t), "deploy", "flat-dhcpd.service"))
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, leaseKeys)
			n.alternatives(backend)
			u.prepare(n)
			d, err := n.Start(u.command(t)...)
			if err != nil {
				t.Fatal(err)
			}
			n.serving(d)
			w, vm := n.vm("vm1", lab.CNIOptions{})
			wantLease(t, w, w.boot(vm))
			n.protected(w, "under its unit")
			const subnet = "-s 10.0.0.0/24 -j ACCEPT"
			if rules := n.run("iptables", "-S", w.chain()); !strings.Contains(rules, subnet) {
				t.Fatalf("no %q in\n%s", subnet, rules)
			}
			n.configure(keys{"allowSameNetTraffic": false})
			n.eventually("the edit in the workload's chain", func() bool {
				return !strings.Contains(n.run("iptables", "-S", w.chain()), subnet)
			})
			for _, line := range d.Lines() {
				if strings.Contains(line, "flat-dhcpd: error:") || strings.Contains(line, "flat-dhcpd: warn:") {
					t.Errorf("it complains: %s", line)
				}
			}
			n.confinement(d)
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// confinement shows that a daemon is confined, by what its own namespace and privileges
// refuse and allow.
func (n *node) confinement(d *lab.Process) {
	n.t.Helper()
	pid := strconv.Itoa(d.PID())
	status := n.run("cat", "/proc/"+pid+"/status")
	for _, want := range []string{"CapPrm:\t0000000000003400\n", "CapEff:\t0000000000003400\n", "CapBnd:\t0000000000003400\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			n.t.Errorf("no %q in its status", want)
		}
	}
	inside := func(script string) error {
		return n.exec("nsenter", "--mount=/proc/"+pid+"/ns/mnt", "sh", "-c", script)
	}
	for _, path := range []string{"/usr/x", "/etc/cni/net.d/x", "/var/lib/x", "/run/x", "/opt/cni/bin/x"} {
		if err := inside(": >" + path); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
			n.t.Errorf("writing %s as the daemon sees it: %v", path, err)
		}
	}
	for _, path := range []string{"/var/lib/flatdhcp/x", "/run/flatdhcp/x", "/tmp/x"} {
		if err := inside(": >>" + path); err != nil {
			n.t.Errorf("writing %s: %v", path, err)
		}
	}
	// The lock of iptables' legacy back end, which is there only by ExecStartPre.
	if got := strings.TrimSpace(n.run("stat", "-c", "%a", "/run/xtables.lock")); got != "600" {
		n.t.Errorf("/run/xtables.lock has mode %s: whoever can open it can lock it", got)
	}
	const list = "iptables-legacy -w -S"
	if err := inside(list); err != nil {
		n.t.Error(err)
	}
	n.run("rm", "/run/xtables.lock")
	if err := inside(list); err == nil || !strings.Contains(err.Error(), "xtables.lock") {
		n.t.Errorf("the control: without the lock's file: %v", err)
	}
}

// systemd reads the unit without a complaint, and finds it hardened.
func TestUnitIsVerified(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatalf("%v: hack/deps test installs it", err)
		}
		t.Skipf("%v: hack/deps test installs it", err)
	}
	b, err := os.ReadFile(filepath.Join(labtest.Repository(t), "deploy", "flat-dhcpd.service"))
	if err != nil {
		t.Fatal(err)
	}
	// The program that it starts must be there.
	text := strings.Replace(string(b), "ExecStart=/usr/local/sbin/flat-dhcpd", "ExecStart=/bin/true", 1)
	verify := func(text string) (string, error) {
		path := filepath.Join(t.TempDir(), "flat-dhcpd.service")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(labtest.Within(t, patience), program, "verify", "--man=no", path).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(text); err != nil || out != "" {
		t.Errorf("%v: %s", err, out)
	}
	if out, _ := verify(strings.Replace(text, "ProtectHome=yes", "ProtectHomes=yes", 1)); !strings.Contains(out, "ProtectHomes") {
		t.Errorf("the control: a directive that is none is not found: %s", out)
	}
	path := filepath.Join(t.TempDir(), "flat-dhcpd.service")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// 30: systemd's measure times ten, which calls up to 4.9 "OK" and 9.6 what has no
	// hardening at all. Of the rest half is what the daemon is for.
	if out, err := exec.CommandContext(labtest.Within(t, patience), program, "security", "--no-pager", "--offline=yes", "--threshold=30", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// make install puts the programs, the unit and what completes commands below a prefix, and
// make uninstall takes them away.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	run := func(target string) {
		t.Helper()
		cmd := exec.CommandContext(labtest.Within(t, imagePatience), "make", "--no-print-directory", target, "DESTDIR="+root, "PREFIX=/usr")
		cmd.Dir = labtest.Repository(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	files := func() (list []string) {
		t.Helper()
		if err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			list = append(list, fmt.Sprintf("%o %s", info.Mode().Perm(), strings.TrimPrefix(path, root)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	run("install")
	if diff := cmp.Diff([]string{
		"755 /opt/cni/bin/flat-bridge", "755 /opt/cni/bin/flat-ipam", "644 /usr/lib/systemd/system/flat-dhcpd.service",
		"755 /usr/sbin/flat-dhcpd", "755 /usr/sbin/flatctl", "644 /usr/share/bash-completion/completions/flatctl",
	}, files()); diff != "" {
		t.Errorf("installed (-want +got):\n%s", diff)
	}
	u := readUnit(t, filepath.Join(root, "usr/lib/systemd/system/flat-dhcpd.service"))
	if diff := cmp.Diff([]string{"/usr/sbin/flat-dhcpd --conf-dir /etc/cni/net.d"}, u["ExecStart"]); diff != "" {
		t.Errorf("the unit's program (-want +got):\n%s", diff)
	}
	run("uninstall")
	if left := files(); left != nil {
		t.Errorf("left: %v", left)
	}
}
