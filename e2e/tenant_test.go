package e2e

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// annotated is a node whose runtime sends annotations.
func annotated(t *testing.T, extra keys) *node {
	t.Helper()
	all := keys{"capabilities": keys{podAnnotations: true}}
	maps.Copy(all, extra)
	return newNode(t, all)
}

// A pod's toggle, where the operator lists it, decides for that pod alone, in a network
// that is open and in one that is closed. Where it is not listed it is ignored, and said so.
func TestPodHasAToggleOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{true, false} {
		t.Run(map[bool]string{true: "open network", false: "closed network"}[open], func(t *testing.T) {
			t.Parallel()
			n := annotated(t, keys{"allowSameNetTraffic": open, "annotations": []string{"allow-same-net-traffic"}})
			wish := func(value string) map[string]string {
				return map[string]string{"flatdhcp.io/allow-same-net-traffic": value}
			}
			neighbour := n.attach("neighbour", lab.CNIOptions{})
			closed := n.attach("closed", pod("shop", "closed", wish("false")))
			opened := n.attach("opened", pod("shop", "opened", wish("true")))
			plain := n.attach("plain", pod("shop", "plain", nil))

			n.configure(keys{"annotations": []string{}})
			o := pod("shop", "unlisted", wish(map[bool]string{true: "false", false: "true"}[open]))
			var logged string
			o.Log = &logged
			unlisted := n.attach("unlisted", o)
			for _, want := range []string{"ignoring annotation flatdhcp.io/allow-same-net-traffic", "does not list"} {
				if !strings.Contains(logged, want) {
					t.Errorf("the log does not say %q: %s", want, logged)
				}
			}
			meets := func(what string, w *workload, passes bool) {
				t.Helper()
				w.checked()
				p := newPath(neighbour, w)
				echo := func(id uint16) []byte {
					return lab.Ethernet(w.mac, neighbour.mac, 0x0800, lab.Echo(neighbour.addr, w.addr, id, 1, nil))
				}
				if passes {
					p.mustPass("an echo request to a pod "+what, echo(1))
				} else {
					p.mustDrop("an echo request to a pod "+what, echo, w.fallback())
				}
			}
			meets("that is closed", closed, false)
			meets("that is open", opened, true)
			meets("that does not say", plain, open)
			meets("that may not say", unlisted, open)
			n.apply(keys{"allowSameNetTraffic": !open})
			meets("that is closed, in the network turned round,", closed, false)
			meets("that is open, in the network turned round,", opened, true)
			meets("that does not say, in the network turned round,", plain, !open)
		})
	}
}

// What a pod is called by annotation its DHCP client is told.
func TestPodsHostnameReachesItsClient(t *testing.T) {
	t.Parallel()
	n := annotated(t, leaseKeys)
	d := n.daemon()
	w, vm := n.vm("vm1", pod("shop", "web-0", map[string]string{"flatdhcp.io/hostname": "mail", "flatdhcp.io/ip": "10.0.0.77"}))
	n.serving(d)
	if lease := w.boot(vm); lease.Hostname != "mail" || lease.Addr.Addr().String() != "10.0.0.77" {
		t.Errorf("the lease is %+v", lease)
	}
}

// Requests for what is another's are refused by their CNI code and change nothing;
// without leave they are ignored, and nothing but the pod's own comes of them.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	n := annotated(t, keys{"annotations": []string{"ip", "mac", "hostname", "identity"}})
	n.neighbours()
	victim := n.attach("victim", pod("shop", "web-0", map[string]string{"flatdhcp.io/identity": "db"}))
	gone := n.attach("gone", pod("shop", "gone-0", map[string]string{"flatdhcp.io/mac": "02:00:00:00:00:66"}))
	gone.detach() // its address is kept for it
	n.run("flatctl", "reserve", network, "--workload", "shop/kept", "--ip", "10.0.0.200", "--mac", "02:00:00:00:00:55")
	thief := n.container("thief")
	before := n.state()
	bridge := strings.Fields(n.run("ip", "-br", "link", "show", "br100"))[2]
	tests := []struct {
		name, namespace, wish, value string
		code                         uint
	}{
		{"a living pod's address", "evil", "ip", victim.addr.String(), 100},
		{"a living pod's address, its own namespace", "shop", "ip", victim.addr.String(), 100},
		{"a kept address of another namespace", "evil", "ip", gone.addr.String(), 100},
		{"a reserved address", "evil", "ip", "10.0.0.200", 100},
		{"the gateway's address", "evil", "ip", gateway.String(), 100},
		{"the network's address", "evil", "ip", "10.0.0.0", 100},
		{"the broadcast address", "evil", "ip", "10.0.0.255", 100},
		{"an address outside", "evil", "ip", "192.0.2.5", 100},
		{"no address", "evil", "ip", "$(reboot)", 100},
		{"a living pod's MAC", "evil", "mac", victim.mac.String(), 100},
		{"a kept MAC of another namespace", "evil", "mac", gone.mac.String(), 100},
		{"a reserved MAC", "evil", "mac", "02:00:00:00:00:55", 100},
		{"the bridge's MAC", "evil", "mac", bridge, 100},
		{"a host side's MAC", "evil", "mac", "fe:16:3e:00:00:99", 100},
		{"a multicast MAC", "evil", "mac", "01:00:5e:00:00:01", 100},
		{"a living pod's identity, its own namespace", "shop", "identity", "db", 11},
		{"an identity with a namespace in it", "evil", "identity", "shop/db", 100},
		{"a host name that is none", "evil", "hostname", "a.b", 100},
	}
	ask := func(namespace, wish, value string) (string, error) {
		t.Helper()
		rc, err := json.Marshal(keys{podAnnotations: map[string]string{"flatdhcp.io/" + wish: value}})
		if err != nil {
			t.Fatal(err)
		}
		return n.Plugin(n.within(), lab.PluginCall{Plugin: "flat-bridge", Command: "ADD", ContainerID: thief.ID(), NetNS: thief.Path(),
			Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=mallory", Stdin: with(n.plain("1.1.0"), `"runtimeConfig":`+string(rc))})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := ask(tt.namespace, tt.wish, tt.value)
			var answer struct {
				Code uint
				Msg  string
			}
			if err == nil || json.Unmarshal([]byte(out), &answer) != nil || answer.Code != tt.code || answer.Msg == "" {
				t.Errorf("answer %s, %v; want code %d", out, err, tt.code)
			}
			n.unchanged(before, tt.name)
		})
	}
	// The same identity in another namespace is another.
	o := pod("evil", "mallory", map[string]string{"flatdhcp.io/identity": "db"})
	stranger := n.attachTo(thief, o)
	if stranger.addr == victim.addr || n.row(stranger).Workload.Namespace != "evil" {
		t.Errorf("an identity of another namespace gave %s as %s", stranger.addr, n.row(stranger).Workload)
	}
	stranger.del()
	// Without leave: ignored, logged, and the pod gets what any pod gets.
	n.configure(keys{"annotations": []string{}})
	o = pod("evil", "mallory", map[string]string{"flatdhcp.io/ip": gone.addr.String(), "flatdhcp.io/mac": victim.mac.String(), "flatdhcp.io/identity": "db",
		"flatdhcp.io/hostname": "a.b", "flatdhcp.io/allow-same-net-traffic": "perhaps", "flatdhcp.io/unheard-of": "x", "example.org/ip": "10.0.0.1"})
	var logged string
	o.Log = &logged
	plain := n.attachTo(thief, o)
	if row := n.row(plain); row.Workload.String() != "evil/pod:mallory/eth0" || plain.addr == gone.addr || row.AllowSameNetTraffic != nil ||
		row.Hostname != "mallory" || row.MACRequested {
		t.Errorf("a pod without leave got %s as %+v", plain.addr, row)
	}
	for _, wish := range []string{"ip", "mac", "identity", "hostname", "allow-same-net-traffic", "unheard-of"} {
		if !strings.Contains(logged, "flatdhcp.io/"+wish) {
			t.Errorf("that %s is ignored is not logged: %s", wish, logged)
		}
	}
	if strings.Contains(logged, "example.org") {
		t.Errorf("others' annotations are logged: %s", logged)
	}
}
