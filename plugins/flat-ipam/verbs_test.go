package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// rows returns what the store holds as "address workload container".
func (r *rig) rows() []string {
	r.t.Helper()
	snapshot, err := ipam.OpenDir(r.data).Store("flat").Snapshot(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var rows []string
	for _, row := range snapshot.Rows {
		holder := "-"
		if row.Holder != nil {
			holder = row.Holder.ContainerID
		}
		rows = append(rows, fmt.Sprintf("%s %s %s", row.Addr, row.Workload, holder))
	}
	return rows
}

// sound checks the store's invariants and that no lock file is left.
func (r *rig) sound() {
	r.t.Helper()
	defects, err := ipam.OpenDir(r.data).Check(r.t.Context())
	if err != nil || len(defects) > 0 {
		r.t.Errorf("store check: %v, %v", defects, err)
	}
	left, err := filepath.Glob(filepath.Join(r.run, "attach", "*"))
	if err != nil || len(left) > 0 {
		r.t.Errorf("left in the run directory: %v, %v", left, err)
	}
}

func (r *rig) want(rows ...string) {
	r.t.Helper()
	if diff := cmp.Diff(rows, r.rows()); diff != "" {
		r.t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestVersionAndAbout(t *testing.T) {
	r := newRig(t)
	var v struct {
		CNIVersion        string
		SupportedVersions []string
	}
	decodeOne(t, r.ok(call{verb: "VERSION"}), &v)
	if diff := cmp.Diff([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, v.SupportedVersions); diff != "" || v.CNIVersion != "1.1.0" {
		t.Errorf("version %s, %s", v.CNIVersion, diff)
	}
	cmd := r.command(call{})
	cmd.Env = nil
	got := execute(t, cmd)
	want := "CNI plugin flat-ipam v1.2.3-test\nCNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
	if got.stderr != want || got.stdout != "" || got.exit != 0 {
		t.Errorf("got %+v, want %q on stderr", got, want)
	}
}

// Every verb, in every version of the specification that has it.
func TestEveryVerbInEveryVersion(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			routes := map[string]any{"routes": []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.0.0.9"}}}
			plain := call{version: version, ipam: routes}
			verb := func(v string) call { c := plain; c.verb = v; return c }

			text := r.ok(verb("ADD"))
			var res addResult
			decodeOne(t, text, &res)
			ipVersion := ""
			if version < "1" {
				ipVersion = "4"
			}
			if res.CNIVersion != version || res.Interfaces != nil || len(res.IPs) != 1 || res.IPs[0].Address != "10.0.0.2/24" ||
				res.IPs[0].Gateway != "10.0.0.1" || res.IPs[0].Interface != nil || res.IPs[0].Version != ipVersion {
				t.Errorf("result %s", text)
			}
			if want := []struct{ Dst, GW string }{{"0.0.0.0/0", ""}, {"10.8.0.0/16", "10.0.0.9"}}; !cmp.Equal(want, res.Routes) {
				t.Errorf("routes %v", res.Routes)
			}
			if again := r.ok(verb("ADD")); again != text {
				t.Errorf("the second ADD gave %s", again)
			}
			r.want("10.0.0.2 /cid:c1/eth0 c1")

			check := verb("CHECK")
			check.keys = map[string]any{"prevResult": json.RawMessage(text)}
			status, gc := verb("STATUS"), verb("GC")
			gc.keys = map[string]any{"cni.dev/valid-attachments": []map[string]string{{"containerID": "c1", "ifname": "eth0"}}}
			if version == "0.3.1" {
				r.fails(check, 1)
			} else {
				r.ok(check)
			}
			if version == "1.1.0" {
				r.ok(status)
				r.ok(gc)
			} else {
				r.fails(status, 1)
				r.fails(gc, 1)
			}
			r.want("10.0.0.2 /cid:c1/eth0 c1")

			gone := verb("DEL")
			gone.netns = "-"
			r.ok(gone)
			r.ok(verb("DEL"))
			r.ok(gone)
			r.want()
			if version != "0.3.1" {
				msg := r.fails(check, 102)
				if want := "container c1, interface eth0 holds no address of network flat; delete the container and create it again"; msg != want {
					t.Errorf("got %s, want %s", msg, want)
				}
			}
			r.sound()
		})
	}
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "1.2.0", ""} {
		t.Run("refused "+version, func(t *testing.T) {
			r := newRig(t)
			for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
				r.fails(call{verb: verb, keys: map[string]any{"cniVersion": version}}, 1)
			}
		})
	}
}

func TestMistakesAreErrorsBeforeAnythingIsTouched(t *testing.T) {
	for name, tc := range map[string]struct {
		call call
		code uint
		want string
	}{
		"misspelt key": {call{ipam: map[string]any{"subnets": 1}}, 7,
			`key ipam.subnets with value 1: no such key: did you mean subnet? (an IPv4 network such as "10.0.0.0/24"); accepted here: type, subnet, ranges, rangeStart, rangeEnd, gateway, routes, resolvConf, exclude, domain, reuseDelay, retain, dataDir, peers`},
		"CNI_ARGS":           {call{args: "IP=ten"}, 4, `CNI_ARGS IP with value "ten": an address is wanted, such as 10.0.0.2`},
		"unknown CNI_ARGS":   {call{args: "FOO=1"}, 4, `CNI_ARGS "FOO=1": no such key (IP, MAC, HOSTNAME, IDENTITY, ALLOW_SAME_NET_TRAFFIC, ALLOWED_ADDRESSES and K8S_POD_* are read, IgnoreUnknown=1 accepts others)`},
		"address outside":    {call{args: "IP=192.0.2.1"}, 100, `CNI_ARGS IP with value "192.0.2.1": it is outside subnet 10.0.0.0/24 of network flat`},
		"missing resolvConf": {call{ipam: map[string]any{"resolvConf": "/nowhere/resolv.conf"}}, 5, `preparing the result: reading the file that ipam.resolvConf names: open /nowhere/resolv.conf: no such file or directory`},
		"own namespace":      {call{netns: "/proc/self/ns/net"}, 8, `CNI_NETNS "/proc/self/ns/net" is the plugin's own network namespace; give the container a namespace of its own`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			tc.call.verb = "ADD"
			if got := r.fails(tc.call, tc.code); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if _, err := os.Stat(r.data); !os.IsNotExist(err) {
				t.Errorf("the data directory was made: %v", err)
			}
		})
	}
	t.Run("the gateway's address", func(t *testing.T) {
		r := newRig(t)
		got := r.fails(call{verb: "ADD", args: "IP=10.0.0.1"}, 100)
		if !strings.Contains(got, "10.0.0.1") || !strings.Contains(got, "gateway") {
			t.Errorf("got %s", got)
		}
		r.sound()
	})
	t.Run("another's address", func(t *testing.T) {
		r := newRig(t)
		r.add(call{})
		got := r.fails(call{verb: "ADD", container: "c2", args: "IP=10.0.0.2"}, 100)
		if !strings.Contains(got, "10.0.0.2") {
			t.Errorf("got %s", got)
		}
		r.want("10.0.0.2 /cid:c1/eth0 c1")
		r.sound()
	})
}

func TestAddKeepsTheWorkloadsAddress(t *testing.T) {
	r := newRig(t)
	pod := "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=Web.0"
	first := r.add(call{container: "c1", args: pod})
	r.add(call{container: "c2"})
	r.ok(call{verb: "DEL", container: "c1"})
	r.add(call{container: "c3"})
	if again := r.add(call{container: "c4", args: pod}); again != first {
		t.Errorf("the workload had %s and got %s", first, again)
	}
	r.want("10.0.0.2 default/pod:Web.0/eth0 c4", "10.0.0.3 /cid:c2/eth0 c2", "10.0.0.4 /cid:c3/eth0 c3")
	r.sound()
}

// The pod's name is what its administrator's reservation says only by chance; it must
// not count as a request against it.
func TestAddUnderAnAdministratorsReservation(t *testing.T) {
	for name, tc := range map[string]struct{ chosen, want string }{
		"name left to the pod": {"", "web-0"},
		"name chosen":          {"db", "db"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.add(call{container: "other"})
			store := ipam.OpenDir(r.data).Store("flat")
			workload := ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: "web-0", IfName: "eth0"}
			if _, err := store.ReserveAdmin(t.Context(), ipam.AdminRequest{Workload: workload, Hostname: tc.chosen}); err != nil {
				t.Fatal(err)
			}
			pod := "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"
			if got := r.add(call{args: pod}); got != "10.0.0.3/24" {
				t.Errorf("got %s", got)
			}
			err := store.View(t.Context(), func(v *ipam.View) error {
				row, err := v.ByWorkload(workload)
				if err == nil && row.Hostname != tc.want {
					t.Errorf("host name %s, want %s", row.Hostname, tc.want)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if got := r.fails(call{verb: "ADD", args: pod + ";IP=10.0.0.9"}, 100); !strings.Contains(got, "10.0.0.9") {
				t.Errorf("a request against it: %s", got)
			}
			r.sound()
		})
	}
}

func TestResultCarriesResolvConf(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.53\nsearch a.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var res addResult
	decodeOne(t, r.ok(call{verb: "ADD", ipam: map[string]any{"resolvConf": file}}), &res)
	want := map[string]any{"nameservers": []any{"192.0.2.53"}, "search": []any{"a.example"}}
	if diff := cmp.Diff(want, res.DNS); diff != "" {
		t.Error(diff)
	}
}

// Runtimes send DEL, CHECK, GC and STATUS the file as it is now, or an old one.
func TestOnlyAddWritesTheNetworksRecord(t *testing.T) {
	r := newRig(t)
	r.add(call{container: "c1"})
	r.add(call{container: "c2"})
	text := r.ok(call{verb: "ADD", container: "c2"})
	record := func() ipam.Network {
		snapshot, err := ipam.OpenDir(r.data).Store("flat").Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return snapshot.Network
	}
	before := record()
	changed := map[string]any{"rangeEnd": "10.0.0.99", "domain": "other.example"}
	r.ok(call{verb: "DEL", container: "c1", ipam: changed})
	r.ok(call{verb: "CHECK", container: "c2", ipam: changed, keys: map[string]any{"prevResult": json.RawMessage(text)}})
	r.ok(call{verb: "STATUS", ipam: changed})
	r.ok(call{verb: "GC", ipam: changed, keys: map[string]any{"cni.dev/valid-attachments": nil}})
	if diff := cmp.Diff(before.Pool.Domain, record().Pool.Domain); diff != "" || record().Pool.RangeEnd != before.Pool.RangeEnd {
		t.Errorf("the record changed: %+v", record().Pool)
	}
	r.add(call{container: "c3", ipam: changed})
	if got := record(); got.Pool.Domain != "other.example" {
		t.Errorf("ADD did not write the record: %+v", got.Pool)
	}
	// A mistake made in the file since does not matter to DEL.
	r.ok(call{verb: "DEL", container: "c3", ipam: map[string]any{"subnet": "10.0.0.7/24", "typo": 1}})
	r.want()
	r.sound()
}

func TestVerbsOfAnUnknownNetworkCreateNothing(t *testing.T) {
	r := newRig(t)
	r.ok(call{verb: "DEL"})
	r.ok(call{verb: "STATUS"})
	r.ok(call{verb: "GC", keys: map[string]any{"cni.dev/valid-attachments": []any{}}})
	prev := map[string]any{"prevResult": json.RawMessage(`{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}`)}
	r.fails(call{verb: "CHECK", keys: prev}, 102)
	if _, err := os.Stat(r.data); !os.IsNotExist(err) {
		t.Errorf("the data directory was made: %v", err)
	}
}

func TestCheck(t *testing.T) {
	r := newRig(t)
	r.add(call{})
	for name, tc := range map[string]struct {
		prev any
		code uint
		want string
	}{
		"the address":             {`{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}`, 0, ""},
		"with a chained plugin's": {`{"cniVersion": "1.1.0", "ips": [{"address": "fd00::2/64"}, {"address": "10.0.0.2/24"}]}`, 0, ""},
		"another":                 {`{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.7/24"}]}`, 102, `container c1, interface eth0 holds 10.0.0.2 in network flat, but its result says ["10.0.0.7"]`},
		"none":                    {`{"cniVersion": "1.1.0"}`, 102, `container c1, interface eth0 holds 10.0.0.2 in network flat, but its result says []`},
		"no result":               {`null`, 7, `key prevResult is missing: CHECK compares with it`},
	} {
		t.Run(name, func(t *testing.T) {
			sub := &rig{t: t, data: r.data, run: r.run, netns: r.netns}
			c := call{verb: "CHECK", keys: map[string]any{"prevResult": json.RawMessage(tc.prev.(string))}}
			if tc.code == 0 {
				sub.ok(c)
			} else if got := sub.fails(c, tc.code); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
