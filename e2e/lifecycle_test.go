package e2e

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// neighbours attaches three workloads and makes one of them talk with another and the third
// with the node: what must not change while others come and go.
func (n *node) neighbours() []*workload {
	n.t.Helper()
	var list []*workload
	for _, name := range []string{"n1", "n2", "n3"} {
		list = append(list, n.attach(name, lab.CNIOptions{}))
	}
	n.talk(list[1].Start, list[0])
	n.talk(n.Start, list[2]) // the toggle does not cut this one
	return list
}

// talk opens a connection to a server in the workload and leaves it open: TCP keeps its
// conntrack entry for days, a ping's goes in seconds.
func (n *node) talk(from func(argv ...string) (*lab.Process, error), to *workload) {
	n.t.Helper()
	server, err := to.Start("busybox", "nc", "-l", "-p", "7", "-e", "cat")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = server.Kill() })
	// The server takes one connection and no second try: a client that came too early would
	// be refused.
	n.eventually("the server to listen", func() bool {
		out, _, err := to.Run(n.within(), "ss", "-Htln", "sport = :7")
		return err == nil && out != ""
	})
	client, err := from("bash", "-c", "exec busybox nc "+to.addr.String()+" 7 < <(exec 2>/dev/null; echo hello; exec sleep 1000)")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = client.Kill() })
	if _, _, err := client.WaitLine(n.within(), 0, "hello"); err != nil {
		n.t.Fatal(err)
	}
}

// G1 and G2: a workload's coming changes what is its own, and after its going nothing
// is left, its lease neither, and nobody else's anything has changed.
func TestComingAndGoingLeavesNothing(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, open bool) {
		if !open { // the neighbours connect first
			n.configure(keys{"allowSameNetTraffic": true})
		}
		neighbours := n.neighbours()
		if !open {
			n.apply(keys{"allowSameNetTraffic": false})
		}
		n.serving(n.daemon())
		before := n.state()
		for _, talker := range []string{neighbours[0].addr.String(), neighbours[2].addr.String()} {
			if has := strings.Contains(before.Section("conntrack"), talker+" "); has != (open || talker != neighbours[0].addr.String()) {
				t.Errorf("a connection of neighbour %s is tracked: %t", talker, has)
			}
		}
		w := n.attach("w", lab.CNIOptions{})
		after := n.state()
		for _, section := range []string{"links", "iptables", "nft", "fdb", "files", "store", "mounts"} {
			if after.Section(section) == before.Section(section) {
				t.Errorf("ADD changed nothing in section %s", section)
			}
		}
		for _, line := range wentMissing(before.Diff(after)) {
			t.Errorf("ADD took away: %s", line)
		}
		// A lease and traffic, so that there are connections and neighbour entries to forget.
		if lease := w.boot(&lab.VM{Container: w.Container}); lease.Addr.Addr() != w.addr {
			t.Errorf("a client in the workload got %s, not %s", lease.Addr, w.addr)
		}
		if !answered(n, n.exec, w.addr) || !answered(n, w.exec, gateway) {
			t.Error("the workload and the gateway do not reach each other")
		}
		if !strings.Contains(n.state().Section("conntrack"), w.addr.String()) {
			t.Error("no connection of the workload is tracked, so that its forgetting would prove nothing")
		}
		w.detach()
		n.unchanged(before, "a workload that came and went")
		if !answered(n, neighbours[2].exec, gateway) {
			t.Error("a neighbour does not reach the gateway any more")
		}
	})
}

// wentMissing returns what a difference takes away. Of a set that grows nft prints the
// same elements with other punctuation.
func wentMissing(diff string) []string {
	var missing []string
	came := map[string]bool{}
	for line := range strings.Lines(diff) {
		element := strings.Trim(strings.TrimPrefix(line[1:], " \t"), " \t\n,{}")
		element = strings.TrimPrefix(element, "elements = { ")
		if line[0] == '+' {
			came[element] = true
		} else if line[0] == '-' {
			missing = append(missing, element)
		}
	}
	return slices.DeleteFunc(missing, func(e string) bool { return came[e] })
}

// I1: a port with a lower MAC does not change the bridge's.
func TestBridgeKeepsItsMAC(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, _ bool) {
		w := n.attach("vm1", lab.CNIOptions{})
		before := n.run("ip", "-br", "link", "show", "br100")
		n.run("ip", "link", "add", "low0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "low1")
		n.run("ip", "link", "set", "low0", "up", "master", "br100")
		n.run("ip", "link", "set", "low1", "up")
		n.eventually("the new port to forward", func() bool {
			return strings.Contains(n.run("bridge", "link", "show", "dev", "low0"), "state forwarding")
		})
		if after := n.run("ip", "-br", "link", "show", "br100"); after != before {
			t.Errorf("br100 was\n%sand is\n%s", before, after)
		}
		if !answered(n, w.exec, gateway) {
			t.Error("the workload does not reach the gateway any more")
		}
	})
}

// I2: the two ends of a pair have different MACs, and a peer reaches the workload.
func TestBothEndsHaveTheirOwnMAC(t *testing.T) {
	combinations(t, nil, func(t *testing.T, n *node, open bool) {
		vm1, vm2 := n.attach("vm1", lab.CNIOptions{}), n.attach("vm2", lab.CNIOptions{})
		host := n.run("ip", "-br", "link", "show", "dev", vm1.port())
		if !strings.Contains(host, "fe"+vm1.mac.String()[2:]) {
			t.Errorf("the host's end is %s, the container's %s", host, vm1.mac)
		}
		if open && !answered(n, vm2.exec, vm1.addr) {
			t.Error("a peer does not reach the workload")
		}
		// With the toggle off a peer gets no answer; that it is heard shows its ARP.
		if !open {
			if out, _, err := vm2.Run(n.within(), "arping", "-c", "1", "-w", "20", "-I", "eth0", vm1.addr.String()); err != nil {
				t.Errorf("a peer's ARP is not answered: %v\n%s", err, out)
			}
		}
	})
}

// A named workload that comes back, in another container, has its address and MAC
// again; one that still lives keeps them.
func TestNamedWorkloadKeepsItsAddress(t *testing.T) {
	n := newNode(t, nil)
	pod := lab.CNIOptions{Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"}
	first := n.attach("c1", pod)
	n.attach("other", lab.CNIOptions{})

	second := n.container("c2")
	_, err := n.tryAttach(second, pod)
	if err == nil || !strings.Contains(err.Error(), first.ID()) || !strings.Contains(err.Error(), "alive") {
		t.Fatalf("a second container of a living workload: %v, want an error that names %s", err, first.ID())
	}
	if got := n.errorCode("ADD", second, pod.Args); got != 11 {
		t.Errorf("CNI code %d, want 11: it may succeed later", got)
	}

	// The container dies without a DEL, as in a crash of the runtime.
	if err := first.Delete(n.within()); err != nil {
		t.Fatal(err)
	}
	n.eventually("the port to go with its namespace", func() bool {
		return n.exec("ip", "link", "show", "dev", first.port()) != nil
	})
	took := n.attachTo(second, pod)
	if took.addr != first.addr || took.mac.String() != first.mac.String() {
		t.Errorf("took over %s %s, want %s %s", took.addr, took.mac, first.addr, first.mac)
	}
	for _, left := range []string{first.chain(), first.port()} {
		if s := n.state(); strings.Contains(s.Section("iptables")+s.Section("nft"), left) {
			t.Errorf("%s of the dead holder is left", left)
		}
	}
	// Its late DEL finds nothing of its own.
	before := n.state()
	if _, err := n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: "DEL", ContainerID: first.ID(), Stdin: n.plain("1.1.0")}); err != nil {
		t.Fatal(err)
	}
	n.unchanged(before, "the late DEL of a replaced container")
	if !answered(n, n.exec, took.addr) {
		t.Error("the workload is not reached any more")
	}

	// Deleted by the book and made again: the same address.
	took.detach()
	if again := n.attach("c3", pod); again.addr != first.addr || again.mac.String() != first.mac.String() {
		t.Errorf("came back as %s %s, was %s %s", again.addr, again.mac, first.addr, first.mac)
	}
}

// DEL may come often, late, without namespace and without anything there.
func TestDELBearsRepetition(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	before := n.state()
	w := n.attach("w", lab.CNIOptions{})
	for i := range 3 {
		call := lab.PluginCall{Plugin: "flat-bridge", Command: "DEL", ContainerID: w.ID(), Stdin: n.plain("0.4.0")}
		if out, err := n.Plugin(n.within(), call); err != nil || out != "" {
			t.Fatalf("DEL %d without namespace: %v, output %q", i+1, err, out)
		}
	}
	w.detach() // cnitool's cache
	n.unchanged(before, "ADD and four DELs")
	call := lab.PluginCall{Plugin: "flat-bridge", Command: "DEL", ContainerID: "never-seen", Stdin: n.plain("1.0.0")}
	if _, err := n.Plugin(n.within(), call); err != nil {
		t.Error(err)
	}
	n.unchanged(before, "DEL of a container that never was")
}

// A late DEL of a network from which a container was disconnected leaves the interface
// of the same name alone that it has on another network by now.
func TestLateDELOfAnotherNetwork(t *testing.T) {
	n := newNode(t, nil)
	w := n.attach("w", lab.CNIOptions{})
	before := n.state()
	call := lab.PluginCall{Plugin: "flat-bridge", Command: "DEL", ContainerID: w.ID(), NetNS: w.Path(),
		Stdin: `{"cniVersion":"1.1.0","name":"former","type":"flat-bridge","ipam":{"type":"flat-ipam","subnet":"10.9.0.0/24"}}`}
	if _, err := n.Plugin(n.within(), call); err != nil {
		t.Fatal(err)
	}
	n.unchanged(before, "a late DEL of another network")
	if !answered(n, n.exec, w.addr) {
		t.Error("the workload is not reached any more")
	}
}

// plain is what a runtime sends flat-bridge.
func (n *node) plain(version string) string {
	n.t.Helper()
	plugin := n.plugin()
	plugin["cniVersion"], plugin["name"] = version, n.network
	b, err := json.Marshal(plugin)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// errorCode calls the plugin, which must fail, and returns the CNI code it answers.
func (n *node) errorCode(verb string, c *lab.Container, args string) uint {
	n.t.Helper()
	out, err := n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: verb, ContainerID: c.ID(),
		NetNS: c.Path(), Args: args, Stdin: n.plain("1.1.0")})
	var answer struct {
		Code uint
		Msg  string
	}
	if err == nil || json.Unmarshal([]byte(out), &answer) != nil || answer.Msg == "" {
		n.t.Fatalf("%s answered %q, error %v; want a CNI error", verb, out, err)
	}
	return answer.Code
}

// Results are by the book in every version of the specification.
func TestResultInEveryVersion(t *testing.T) {
	n := newNode(t, keys{"mtu": 1400, "dns": keys{"nameservers": []string{"10.0.0.9"}, "domain": "example.org"}})
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			c := n.container("c" + strings.ReplaceAll(v, ".", "-"))
			call := lab.PluginCall{Plugin: "flat-bridge", Command: "ADD", ContainerID: c.ID(), NetNS: c.Path(), Stdin: n.plain(v)}
			out, err := n.Plugin(n.within(), call)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := cniversion.NewResult(v, []byte(out))
			if err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if parsed.Version() != v {
				t.Errorf("the result is of version %s", parsed.Version())
			}
			r, err := types100.NewResultFromResult(parsed)
			if err != nil {
				t.Fatal(err)
			}
			type summary struct {
				Bridge, Port, Inside, Sandbox, Address, Gateway, Route, DNS, Domain string
				Place                                                               int
			}
			got := summary{
				Bridge: r.Interfaces[0].Name, Port: r.Interfaces[1].Name, Inside: r.Interfaces[2].Name,
				Sandbox: r.Interfaces[2].Sandbox, Address: r.IPs[0].Address.String(), Gateway: r.IPs[0].Gateway.String(),
				Route: r.Routes[0].Dst.String() + " " + r.Routes[0].GW.String(),
				DNS:   strings.Join(r.DNS.Nameservers, " "), Domain: r.DNS.Domain, Place: *r.IPs[0].Interface,
			}
			want := got
			want.Bridge, want.Inside, want.Sandbox, want.Gateway = "br100", "eth0", c.Path(), "10.0.0.1"
			want.Route, want.DNS, want.Domain, want.Place = "0.0.0.0/0 10.0.0.1", "10.0.0.9", "example.org", 2
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if mac := r.Interfaces[2].Mac; !strings.HasPrefix(mac, "fa:16:3e:00:00:") {
				t.Errorf("MAC %s does not derive from %s", mac, got.Address)
			}
			if v == "1.1.0" && r.Interfaces[2].Mtu != 1400 {
				t.Errorf("MTU %d, want 1400", r.Interfaces[2].Mtu)
			}
			call.Command, call.NetNS = "DEL", ""
			if _, err := n.Plugin(n.within(), call); err != nil {
				t.Error(err)
			}
		})
	}
	out, err := n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: "VERSION", Stdin: `{"cniVersion": "1.1.0"}`})
	if err != nil {
		t.Fatal(err)
	}
	info, err := (&cniversion.PluginDecoder{}).Decode([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, info.SupportedVersions()); diff != "" {
		t.Errorf("supported versions (-want +got):\n%s", diff)
	}
}

var _, _ = types020.ImplementedSpecVersion, types040.ImplementedSpecVersion // registers their decoders

// What cannot be is refused before anything is touched.
func TestRefusalsTouchNothing(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	taken := n.attach("taken", lab.CNIOptions{})
	free := n.container("free")
	occupied := n.container("occupied")
	if _, _, err := occupied.Run(n.within(), "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x"); err != nil {
		t.Fatal(err)
	}
	before := n.state()
	tests := []struct {
		name string
		call lab.PluginCall
		code string
		want []string // in the message
	}{
		{"the same interface again", lab.PluginCall{NetNS: taken.Path(), ContainerID: taken.ID()}, "4", []string{"eth0", taken.Path()}},
		{"an interface of that name", lab.PluginCall{NetNS: occupied.Path(), ContainerID: "c"}, "4", []string{"eth0", occupied.Path()}},
		{"a namespace that is none", lab.PluginCall{NetNS: "/run/netns/none", ContainerID: "c"}, "8", []string{"/run/netns/none"}},
		{"the node's own namespace", lab.PluginCall{NetNS: "/proc/1/ns/net", ContainerID: "c"}, "", nil},
		{"the gateway's address", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Args: "IP=10.0.0.1"}, "100", []string{"10.0.0.1"}},
		{"a taken address", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Args: "IP=" + taken.addr.String()}, "100", []string{taken.addr.String()}},
		{"a taken MAC", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Args: "MAC=" + taken.mac.String()}, "100", []string{taken.mac.String()}},
		{"a MAC of the host's side", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Args: "MAC=fe:16:3e:00:00:99"}, "100", []string{"fe:16:3e:00:00:99"}},
		{"a misspelt key", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Stdin: with(n.plain("1.1.0"), `"allowSameNetTrafic":true`)}, "7", []string{"allowSameNetTrafic", "allowSameNetTraffic"}},
		{"another IPAM", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Stdin: `{"cniVersion":"1.1.0","name":"flat","type":"flat-bridge","ipam":{"type":"host-local"}}`}, "7", []string{"host-local", "flat-ipam"}},
		{"a change that strands", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Stdin: `{"cniVersion":"1.1.0","name":"flat","type":"flat-bridge","ipam":{"type":"flat-ipam","subnet":"10.9.0.0/24"}}`}, "7", []string{"strand", "4"}},
		{"a resolv.conf that is missing", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Stdin: `{"cniVersion":"1.1.0","name":"flat","type":"flat-bridge","ipam":{"type":"flat-ipam","subnet":"10.0.0.0/24","resolvConf":"/run/none"}}`}, "5", []string{"resolvConf", "/run/none"}},
		{"a second network on the bridge", lab.PluginCall{NetNS: free.Path(), ContainerID: "c", Stdin: `{"cniVersion":"1.1.0","name":"two","type":"flat-bridge","ipam":{"type":"flat-ipam","subnet":"10.9.0.0/24"}}`}, "7", []string{"br100", "flat"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := tt.call
			call.Plugin, call.Command = "flat-bridge", "ADD"
			if call.Stdin == "" {
				call.Stdin = n.plain("1.1.0")
			}
			if call.NetNS == "/proc/1/ns/net" {
				call.NetNS = "/proc/thread-self/ns/net" // of the plugin itself
				tt.code, tt.want = "8", []string{"share"}
			}
			out, err := n.Plugin(n.within(), call)
			if err == nil {
				t.Fatalf("succeeded: %s", out)
			}
			if !strings.Contains(out, `"code": `+tt.code+",") {
				t.Errorf("want code %s: %s", tt.code, out)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("the message does not say %q: %s", w, out)
				}
			}
			n.unchanged(before, tt.name)
		})
	}
}

// Without br_netfilter no chain would see what neighbours send: ADD fails closed, and
// undoes itself.
func TestADDNeedsBridgeNetfilter(t *testing.T) {
	n := newNode(t, nil)
	c := n.container("c")
	n.run("mount", "-t", "tmpfs", "none", "/proc/sys/net/bridge") // as where the module is not loaded
	links := n.run("ip", "-br", "link")
	if got := n.errorCode("ADD", c, ""); got != 101 {
		t.Errorf("CNI code %d, want 101", got)
	}
	if after := n.run("ip", "-br", "link"); after != links {
		t.Errorf("links were\n%sand are\n%s", links, after)
	}
	n.run("umount", "/proc/sys/net/bridge")
	if w := n.attachTo(c, lab.CNIOptions{}); !answered(n, n.exec, w.addr) {
		t.Error("the control: with br_netfilter the workload is not reached")
	}
}

// A damaged store is its own network's trouble: workloads of others come and go, and a
// change of their policy is put in force.
func TestDamagedStoreStopsNobodyElse(t *testing.T) {
	n := newNode(t, nil)
	n.neighbours()
	n.run("sh", "-c", "head -c 40000 /dev/urandom > /var/lib/flatdhcp/broken.db")
	if err := n.exec("flatctl", "check"); err == nil {
		t.Fatal("the store is not damaged, so that the rest would prove nothing")
	}
	before := n.state()
	w := n.attach("w", lab.CNIOptions{})
	n.protected(w, "beside a damaged store")
	if !answered(n, n.exec, w.addr) {
		t.Error("the workload is not reached")
	}
	w.detach()
	n.unchanged(before, "a workload beside a damaged store")
	n.apply(keys{"allowSameNetTraffic": false})
}

// Networks of two data directories share the node's one guard: putting one in force, or
// removing it, leaves the other's workloads alone.
func TestApplyLeavesOtherDataDirectories(t *testing.T) {
	n := newNode(t, keys{"allowSameNetTraffic": false})
	w := n.attach("w", lab.CNIOptions{})
	second := `{"cniVersion":"1.1.0","name":"second","type":"flat-bridge","bridge":"br200",` +
		`"ipam":{"type":"flat-ipam","subnet":"10.9.0.0/24","dataDir":"/var/lib/flatdhcp/second"}}`
	c := n.container("c2")
	call := lab.PluginCall{Plugin: "flat-bridge", Command: "ADD", ContainerID: c.ID(), NetNS: c.Path(), Stdin: second}
	if _, err := n.Plugin(n.within(), call); err != nil {
		t.Fatal(err)
	}
	both := n.state()
	n.apply(keys{"allowSameNetTraffic": true})
	n.apply(keys{"allowSameNetTraffic": false})
	// Whose lines come first in the shared chains is of no matter.
	sorted := func(s lab.State, section string) []string {
		return slices.Sorted(strings.Lines(s.Section(section)))
	}
	now := n.state()
	for _, section := range []string{"nft", "iptables"} {
		if diff := cmp.Diff(sorted(both, section), sorted(now, section)); diff != "" {
			t.Errorf("opening and closing the toggle changed %s (-was +is):\n%s", section, diff)
		}
	}
	for what, try := range map[string]func(...string) error{"the node": n.exec, "c2": func(argv ...string) error {
		_, _, err := c.Run(n.within(), argv...)
		return err
	}} {
		to := netip.MustParseAddr("10.9.0.2")
		if what == "c2" {
			to = netip.MustParseAddr("10.9.0.1")
		}
		if !answered(n, try, to) {
			t.Errorf("%s gets no answer from %s after flatctl apply of the other network", what, to)
		}
	}
	call.Command = "DEL"
	if _, err := n.Plugin(n.within(), call); err != nil {
		t.Fatal(err)
	}
	n.run("flatctl", "network", "rm", "second", "--data-dir", "/var/lib/flatdhcp/second")
	if !answered(n, n.exec, w.addr) {
		t.Error("the workload is not reached after the other network's removal")
	}
}

// with adds a key to a JSON object.
func with(object, key string) string { return strings.TrimSuffix(object, "}") + "," + key + "}" }
