package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// D3: somebody clears the bridge's flag and the sysctl. Then no chain sees what neighbours
// send, CHECK names it, and the next ADD sets the flag, but never the sysctl, again.
func TestClearedBridgeFlagAndSysctl(t *testing.T) {
	t.Parallel()
	n := newNode(t, keys{"allowSameNetTraffic": false})
	w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
	p, drop := newPath(peer, w), w.fallback()
	echo := func(id uint16) []byte {
		return lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, id, 1, nil))
	}
	p.mustDrop("an echo request of a neighbour", echo, drop)

	n.run("ip", "link", "set", "br100", "type", "bridge", "nf_call_iptables", "0")
	n.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
	before := drop.count()
	p.mustPass("the control: with flag and sysctl cleared an echo request of a neighbour", echo(11))
	if drop.count() != before {
		t.Errorf("%q counted what it should not see", drop.name)
	}
	_, err := n.CNI(n.within(), "check", network, w.Container, w.o)
	if err == nil || !strings.Contains(err.Error(), "bridge br100 has lost its flag nf_call_iptables") {
		t.Errorf("CHECK: %v", err)
	}
	n.attach("next", lab.CNIOptions{})
	w.checked()
	p.mustDrop("an echo request of a neighbour, after the next ADD,", echo, drop)
	if v := n.run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables"); v != "0\n" {
		t.Errorf("the sysctl, which is not ours, is %s", v)
	}
}

// A network gives its chains up, and gets them again, while its workloads live.
func TestFilterNoneUnderLivingWorkloads(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
	p := newPath(peer, w)
	echo := func(id uint16) []byte {
		return lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, id, 1, nil))
	}
	n.apply(keys{"filter": "none"})
	if rules := n.run("iptables-save"); strings.Contains(rules, "FLAT-WL-") || strings.Contains(rules, "FLAT-T-") {
		t.Errorf("without chains there are:\n%s", rules)
	}
	w.checked()
	p.mustPass("without chains an echo request of a neighbour", echo(21))
	spoofed := n.guardCount("in_ipv4")
	if p.passes(lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(gateway, w.addr, 2, 1, nil))) || n.guardCount("in_ipv4") == spoofed {
		t.Error("without chains the guard lets a spoofed source pass, or does not count it")
	}
	n.apply(keys{"filter": "on", "allowSameNetTraffic": false})
	w.checked()
	n.protected(w, "with chains again")
	p.mustDrop("with chains again an echo request of a neighbour", echo, w.fallback())
}

// status calls STATUS, as a kubelet does by way of its runtime, and returns code and
// message; 0 if the plugin is ready.
func (n *node) status() (code uint, message string) {
	n.t.Helper()
	out, err := n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: "STATUS", Stdin: n.plain("1.1.0")})
	if err == nil {
		return 0, ""
	}
	var answer struct {
		Code uint
		Msg  string
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		n.t.Fatalf("STATUS answered %q", out)
	}
	return answer.Code, answer.Msg
}

// What the node lacks ADD and STATUS name, and nothing is left of the ADD; once it is
// there the same ADD succeeds. A network that says that it does without does.
func TestMissingPartsOfTheNode(t *testing.T) {
	t.Parallel()
	const hideIPTables = `cp -a /usr/sbin /run/sbin; rm /run/sbin/*tables*; mount --bind /run/sbin /usr/sbin; ! command -v iptables`
	tests := []struct {
		name       string
		extra      keys
		hide, show func(*node)
		without    keys // what does without
		named      []string
	}{
		{
			name:    "br_netfilter",
			hide:    func(n *node) { n.run("mount", "-t", "tmpfs", "none", "/proc/sys/net/bridge") },
			show:    func(n *node) { n.run("umount", "/proc/sys/net/bridge") },
			without: keys{"filter": "none"}, named: []string{"br_netfilter", "modprobe br_netfilter"},
		},
		{
			name:    "iptables",
			hide:    func(n *node) { n.run("sh", "-ec", hideIPTables) },
			show:    func(n *node) { n.run("umount", "/usr/sbin") },
			without: keys{"filter": "none", "ipMasq": false}, named: []string{"iptables", "apt-get install iptables"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, fresh := range []bool{true, false} { // a node that never had a workload, and one that has
				n := newNode(t, nil)
				c := n.container("c")
				if !fresh {
					n.attach("neighbour", lab.CNIOptions{})
				}
				if code, msg := n.status(); code != 0 {
					t.Errorf("STATUS of a whole node is %d: %s", code, msg)
				}
				tt.hide(n)
				before := n.state()
				out, err := n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: "ADD", ContainerID: c.ID(), NetNS: c.Path(), Stdin: n.plain("1.1.0")})
				if err == nil || !strings.Contains(out, `"code": 101`) {
					t.Errorf("ADD without %s: %v, %s; want code 101", tt.name, err, out)
				}
				// STATUS says nothing once its half second is over, as on a busy machine.
				var msg string
				n.eventually("STATUS 50 without "+tt.name, func() bool {
					var code uint
					code, msg = n.status()
					return code == 50
				})
				for _, want := range tt.named {
					if !strings.Contains(out, want) || !strings.Contains(msg, want) {
						t.Errorf("ADD and STATUS should say %q:\n%s\n%s", want, out, msg)
					}
				}
				for line := range strings.Lines(before.Diff(n.state())) {
					if (line[0] == '+' || line[0] == '-') && !strings.Contains(line, "run/flatdhcp") { // the directory of locks
						t.Errorf("an ADD without %s left: %s", tt.name, line)
					}
				}
				tt.show(n)
				if code, msg := n.status(); code != 0 {
					t.Errorf("with %s STATUS is %d: %s", tt.name, code, msg)
				}
				w := n.attachTo(c, lab.CNIOptions{})
				w.checked()
				n.protected(w, "with "+tt.name)
				if !answered(n, n.exec, w.addr) {
					t.Error("the workload is not reached")
				}
			}
			n := newNode(t, tt.without)
			tt.hide(n)
			w, peer := n.attach("w", lab.CNIOptions{}), n.attach("peer", lab.CNIOptions{})
			w.checked()
			if code, msg := n.status(); code != 0 {
				t.Errorf("STATUS of a network without chains is %d: %s", code, msg)
			}
			p := newPath(peer, w)
			p.mustPass("without chains an echo request of a neighbour", lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(peer.addr, w.addr, 1, 1, nil)))
			spoofed := n.guardCount("in_ipv4")
			if p.passes(lab.Ethernet(w.mac, peer.mac, 0x0800, lab.Echo(gateway, w.addr, 2, 1, nil))) || n.guardCount("in_ipv4") == spoofed {
				t.Error("without chains the guard lets a spoofed source pass, or does not count it")
			}
			w.detach()
			peer.detach()
		})
	}
}

// A runtime without privileges (rootless, or a container with too little) is told so.
func TestWithoutPrivileges(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.neighbours()
	c := n.container("c")
	before := n.state()
	for name, setpriv := range map[string][]string{
		"root without capabilities": {"setpriv", "--bounding-set=-all", "--inh-caps=-all"},
		"root without NET_ADMIN":    {"setpriv", "--bounding-set=-net_admin"},
		"nobody":                    {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"},
	} {
		for _, verb := range []string{"ADD", "DEL", "CHECK", "STATUS", "GC"} {
			argv := append(append([]string(nil), setpriv...), "/opt/cni/bin/flat-bridge")
			cmd := n.Command(n.within(), argv...)
			cmd.Env = append(cmd.Env, "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.ID(), "CNI_NETNS="+c.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
			cmd.Stdin = strings.NewReader(with(n.plain("1.1.0"), `"prevResult":{"cniVersion":"1.1.0"},"cni.dev/valid-attachments":[]`))
			out, err := cmd.Output()
			code := map[bool]string{true: `"code": 50,`, false: `"code": 101,`}[verb == "STATUS"]
			if err == nil || !strings.Contains(string(out), code) || !strings.Contains(string(out), "CAP_NET_ADMIN") {
				t.Errorf("%s, %s: %v, %s; want %s and the capability", name, verb, err, out, code)
			}
		}
	}
	n.unchanged(before, "verbs without privileges")
}
