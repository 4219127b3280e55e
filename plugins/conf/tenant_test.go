package conf

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// inhabited is a data directory whose networks flat and other have workloads.
type inhabited struct {
	dir *ipam.Dir
	now time.Time
}

// inhabit makes it: 10.0.0.2 is shop/db's, 10.0.0.3 was shop/gone's an hour ago and is
// kept for it, 10.0.0.4 was shop/late's just now, 10.0.0.50 is reserved for shop/vip and
// 10.0.0.51 with a MAC for evil/own; 10.0.0.220 to 229 are excluded, 210 with a MAC is allowed
// to all, 200, 201 and two MACs to who asks; of network other 10.9.0.2 is shop/far's.
func inhabit(t *testing.T) *inhabited {
	t.Helper()
	h := &inhabited{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	h.dir = ipam.OpenDir(t.TempDir(), ipam.WithClock(func() time.Time { return h.now }))
	for name, subnet := range map[string]string{"flat": "10.0.0.0/24", "other": "10.9.0.0/24"} {
		in := func(host string) string { return strings.Replace(subnet, "0/24", host, 1) }
		h.configure(t, with(map[string]any{"name": name, "bridge": "br-" + name, "ipam.subnet": subnet, "ipam.rangeEnd": in("100"),
			"ipam.exclude": []string{in("220") + "-" + in("229")},
			"allowedAddresses": []map[string]any{{"ip": in("210"), "mac": "52:54:00:00:00:01"}, {"ip": in("200"), "onRequest": true},
				{"ip": in("201"), "mac": "00:00:5e:00:01:07", "onRequest": true}, {"mac": "00:00:5e:00:01:08", "onRequest": true}},
			"ipam.peers": []map[string]any{{"node": "compute-1", "rangeStart": in("128"), "rangeEnd": in("191")}}}))
	}
	for _, pod := range []string{"db", "gone", "late"} {
		h.reserve(t, "flat", pod)
	}
	h.reserve(t, "other", "far")
	h.release(t, "gone")
	h.now = h.now.Add(time.Hour)
	h.release(t, "late")
	for w, r := range map[ipam.Workload]ipam.AdminRequest{
		{Namespace: "shop", Kind: ipam.KindPod, Value: "vip", IfName: "eth0"}: {Addr: mustAddr("10.0.0.50")},
		{Namespace: "evil", Kind: ipam.KindPod, Value: "own", IfName: "eth0"}: {Addr: mustAddr("10.0.0.51"), MAC: ipam.MAC{2, 0, 0, 0, 0, 0x51}, Hostname: "own"},
	} {
		r.Workload = w
		if _, err := h.dir.Store("flat").ReserveAdmin(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *inhabited) configure(t *testing.T, text []byte) {
	t.Helper()
	c, err := Parse(text, FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.dir.Store(c.Name).Configure(context.Background(), c.Network); err != nil {
		t.Fatal(err)
	}
}

func (h *inhabited) reserve(t *testing.T, network, pod string) {
	t.Helper()
	_, err := h.dir.Store(network).Reserve(context.Background(), nil, ipam.Request{
		Workload: ipam.Workload{Namespace: "shop", Kind: ipam.KindPod, Value: pod, IfName: "eth0"},
		Holder:   ipam.Holder{ContainerID: pod, IfName: "eth0", Ported: true},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (h *inhabited) release(t *testing.T, containerID string) {
	t.Helper()
	if _, _, err := h.dir.Store("flat").Release(context.Background(), containerID, "eth0"); err != nil {
		t.Fatal(err)
	}
}

// state is all that must not change under a refused request, commits included.
func (h *inhabited) state(t *testing.T) []*ipam.Snapshot {
	t.Helper()
	var all []*ipam.Snapshot
	for _, name := range []string{"flat", "other"} {
		s, err := h.dir.Store(name).Snapshot(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// add does what ADD does up to the reservation, and tells it as text.
func (h *inhabited) add(t *testing.T, text []byte, args string) string {
	t.Helper()
	var told strings.Builder
	before := h.state(t)
	req, err := func() (ipam.Request, error) {
		c, err := Parse(text, FlatBridge)
		if err != nil {
			return ipam.Request{}, err
		}
		req, notices, err := c.Request(Env{ContainerID: "mallory", IfName: "eth0", Args: args})
		for _, n := range notices {
			fmt.Fprintf(&told, "\t%s\n", n)
		}
		if err != nil {
			return req, err
		}
		grant, err := h.dir.Store(c.Name).Reserve(context.Background(), nil, req)
		if err == nil {
			fmt.Fprintf(&told, "\tgot %s, %s, %s as %s\n", grant.Addr, grant.MAC, grant.Hostname, grant.Workload)
			if len(grant.AllowedAddresses) > 0 {
				fmt.Fprintf(&told, "\tand may use %v\n", grant.AllowedAddresses)
			}
			return req, nil
		}
		return req, CNIError("adding mallory eth0 to network "+c.Name, err)
	}()
	if err != nil {
		fmt.Fprintf(&told, "\t%s\n", cniText(t, err))
		if diff := cmp.Diff(indented(t, before), indented(t, h.state(t))); diff != "" {
			t.Errorf("%s\nwas refused, and changed:\n%s", told.String(), diff)
		}
		return told.String()
	}
	// Whatever it got, nobody else lost anything, and it is called by its own namespace.
	for i, s := range h.state(t) {
		rows := map[string]string{}
		for _, r := range s.Rows {
			rows[r.Addr.String()] = indented(t, r)
		}
		for _, r := range before[i].Rows {
			if now := rows[r.Addr.String()]; now != indented(t, r) && (!r.Admin || r.Workload.Namespace != "evil") {
				t.Errorf("%s\nand changed %s to %s", told.String(), indented(t, r), now)
			}
		}
	}
	if ns := req.Workload.Namespace; strings.Contains(args, "K8S_POD_NAMESPACE=evil") && ns != "evil" {
		t.Errorf("%s\nit is of namespace %q", told.String(), ns)
	}
	h.release(t, "mallory")
	return told.String()
}

// annotated returns a pod's runtimeConfig.
func annotated(pairs ...string) map[string]any {
	all := map[string]string{"kubernetes.io/config.source": "api"}
	for i := 0; i < len(pairs); i += 2 {
		all[annotationPrefix+pairs[i]] = pairs[i+1]
	}
	return map[string]any{podAnnotations: all}
}

// What hostile pods ask for, and what comes of it: testdata/hostile.txt. The store
// stands as it was after each error, and after each grant but for the pod's own row.
func TestHostilePods(t *testing.T) {
	type keys = map[string]any
	const pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=evil;K8S_POD_NAME=mallory"
	all := keys{"annotations": wishWords}
	many := annotated()
	for i := range 40 {
		many[podAnnotations].(map[string]string)[fmt.Sprintf("flatdhcp.io/x%d", i)] = "x"
	}
	var manyAllowed string
	for i := range 17 {
		manyAllowed += fmt.Sprintf("10.0.0.%d,", 200+i)
	}
	manyAllowed = strings.TrimSuffix(manyAllowed, ",")
	var text strings.Builder
	for _, tc := range []struct {
		name string
		conf keys // beside runtimeConfig
		rc   keys
		args string
	}{
		{"another's address", nil, annotated("ip", "10.0.0.2"), pod},
		{"the gateway's address", nil, annotated("ip", "10.0.0.1"), pod},
		{"the network's address", nil, annotated("ip", "10.0.0.0"), pod},
		{"the broadcast address", nil, annotated("ip", "10.0.0.255"), pod},
		{"an address outside the range", nil, annotated("ip", "10.0.0.200"), pod},
		{"an address outside the subnet", nil, annotated("ip", "192.0.2.5"), pod},
		{"an address kept for another namespace", nil, annotated("ip", "10.0.0.3"), pod},
		{"an address in quarantine", nil, annotated("ip", "10.0.0.4"), pod},
		{"an address reserved for another", nil, annotated("ip", "10.0.0.50"), pod},
		{"two addresses", nil, annotated("ip", "10.0.0.7,10.0.0.8"), pod},
		{"another network's address too", nil, annotated("ip", "10.9.0.2, 10.0.0.7"), pod},
		{"no address", nil, annotated("ip", "10.0.0.2; DROP TABLE"), pod},
		{"an address with a line break", nil, annotated("ip", "10.0.0.7\n10.0.0.2"), pod},
		{"an address with a zone", nil, annotated("ip", "fe80::1%eth0"), pod},
		{"a network", nil, annotated("ip", "10.0.0.0/16"), pod},
		{"a huge list", nil, annotated("ip", strings.Repeat("10.9.0.9,", 5000)+"10.0.0.7"), pod},

		{"another's MAC", nil, annotated("mac", "fa:16:3e:00:00:02"), pod},
		{"another's MAC in another network", nil, annotated("mac", "fa:16:3e:09:00:02"), pod},
		{"the gateway's MAC, which is the bridge's", nil, annotated("mac", "fa:16:3e:00:00:01"), pod},
		{"another gateway's MAC", nil, annotated("mac", "fa:16:3e:09:00:01"), pod},
		{"the MAC of an address kept for another namespace", nil, annotated("mac", "fa:16:3e:00:00:03"), pod},
		{"the MAC of an address reserved for another", nil, annotated("mac", "fa:16:3e:00:00:32"), pod},
		{"a multicast MAC", nil, annotated("mac", "01:00:5e:00:00:01"), pod},
		{"the broadcast MAC", nil, annotated("mac", "ff-ff-ff-ff-ff-ff"), pod},
		{"a host side's MAC", nil, annotated("mac", "fe:16:3e:00:00:02"), pod},
		{"no MAC", nil, annotated("mac", "fa:16:3e:00:00"), pod},
		{"a MAC of eight octets", nil, annotated("mac", "02:00:00:00:00:00:00:01"), pod},
		{"zero as MAC", nil, annotated("mac", "00:00:00:00:00:00"), pod},

		{"identity unlisted", nil, annotated("identity", "db"), pod},
		{"another's identity is its own namespace's", all, annotated("identity", "db"), pod},
		{"identity with slashes", all, annotated("identity", "../shop/pod:db/eth0"), pod},
		{"identity of another kind", all, annotated("identity", "pod:db"), pod},
		{"identity with NUL", all, annotated("identity", "db\x00"), pod},
		{"identity with a line break", all, annotated("identity", "db\nlevel=error"), pod},
		{"identity in letters of another alphabet", all, annotated("identity", "dв"), pod},
		{"huge identity", all, annotated("identity", strings.Repeat("a", 200000)), pod},
		{"empty identity", all, annotated("identity", ""), pod},

		{"toggle unlisted", nil, annotated("allow-same-net-traffic", "true"), pod},
		{"toggle listed", all, annotated("allow-same-net-traffic", "false"), pod},
		{"toggle in other words", all, annotated("allow-same-net-traffic", "no"), pod},
		{"toggle without chains", keys{"annotations": wishWords, "filter": "none"}, annotated("allow-same-net-traffic", "false"), pod},

		{"allowed addresses unlisted", nil, annotated("allowed-addresses", "10.0.0.200"), pod},
		{"allowed addresses", all, annotated("allowed-addresses", "10.0.0.200, 10.0.0.201/00:00:5E:00:01:07,00:00:5e:00:01:08,192.0.2.5,10.0.0.200"), pod},
		{"an address that the network allows, and its MAC", all, annotated("allowed-addresses", "10.0.0.210/52:54:00:00:00:01"), pod},
		{"an allowed address as its own", all, annotated("ip", "10.0.0.210"), pod},
		{"a MAC that several may use as its own", all, annotated("mac", "52:54:00:00:00:01"), pod},
		{"a MAC that others may ask for as its own", nil, annotated("mac", "00:00:5e:00:01:07"), pod},
		{"to be allowed an excluded address", all, annotated("allowed-addresses", "10.0.0.220"), pod},
		{"to be allowed an address with another MAC", all, annotated("allowed-addresses", "10.0.0.200/00:00:5e:00:01:08"), pod},
		{"to be allowed the gateway's address", all, annotated("allowed-addresses", "10.0.0.1"), pod},
		{"to be allowed another workload's address", all, annotated("allowed-addresses", "10.0.0.2"), pod},
		{"to be allowed a free address", all, annotated("allowed-addresses", "10.0.0.90"), pod},
		{"to be allowed the broadcast address", all, annotated("allowed-addresses", "10.0.0.255"), pod},
		{"to be allowed another workload's MAC", all, annotated("allowed-addresses", "10.0.0.200/fa:16:3e:00:00:02"), pod},
		{"to be allowed another workload's chosen MAC", all, annotated("allowed-addresses", "02:00:00:00:00:51"), pod},
		{"to be allowed any MAC", all, annotated("allowed-addresses", "02:00:00:00:00:99"), pod},
		{"to be allowed all MACs", all, annotated("allowed-addresses", "ff:ff:ff:ff:ff:ff"), pod},
		{"allowed addresses in other words", all, annotated("allowed-addresses", "10.0.0.200 00:00:5e:00:01:07"), pod},
		{"too many allowed addresses", all, annotated("allowed-addresses", manyAllowed), pod},
		{"allowed addresses and a toggle of its own", all, annotated("allowed-addresses", "10.0.0.200", "allow-same-net-traffic", "false"), pod},

		{"host name with quotes", nil, annotated("hostname", `db"; reboot; "`), pod},
		{"host name with a line break", nil, annotated("hostname", "db\n10.0.0.9 db"), pod},
		{"host name of several labels", nil, annotated("hostname", "db.shop"), pod},
		{"host name too long", nil, annotated("hostname", strings.Repeat("h", 64)), pod},
		{"host name beginning with a hyphen", nil, annotated("hostname", "-x"), pod},
		{"host name in capitals", nil, annotated("hostname", "Mallory-2"), pod},

		{"unlisted by any way", keys{"annotations": []string{}, "args": keys{"cni": keys{"identity": "db", "hostname": "db", "allowSameNetTraffic": true}}},
			keys{"ips": []string{"10.0.0.7"}, "mac": "02:00:00:00:00:07"}, pod + ";IP=10.0.0.8;MAC=02:00:00:00:00:08;IDENTITY=db;HOSTNAME=db;ALLOW_SAME_NET_TRAFFIC=true"},
		{"by runtimeConfig, as under Multus", nil, keys{"ips": []string{"10.0.0.2/24"}}, pod},
		{"by args.cni", keys{"args": keys{"cni": keys{"identity": "a/b"}}, "annotations": wishWords}, nil, pod},
		{"by CNI_ARGS", all, nil, pod + ";IDENTITY=shop/db"},

		{"an unknown annotation", nil, annotated("hostnames", "db", "IP", "10.0.0.2"), pod},
		{"an annotation of a later version", nil, annotated("groups", "admin"), pod},
		{"many unknown annotations", nil, many, pod},
		{"an unknown annotation with a line break", nil, annotated("x\nlevel=error", "a\nb"), pod},
		{"annotations in a list", nil, keys{podAnnotations: []string{"flatdhcp.io/ip=10.0.0.2"}}, pod},
		{"an annotation that is no string", nil, keys{podAnnotations: keys{"flatdhcp.io/ip": []string{"10.0.0.2"}}}, pod},
		{"another's annotation that is no string", nil, keys{podAnnotations: keys{"example.com/x": 5}}, pod},
		{"no annotations", nil, keys{podAnnotations: nil}, pod},

		{"another namespace in its namespace", nil, nil, "K8S_POD_NAMESPACE=shop/pod:db/eth0;K8S_POD_NAME=x"},
		{"two namespaces", nil, nil, "K8S_POD_NAMESPACE=evil;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db"},
		{"huge namespace", nil, nil, "K8S_POD_NAMESPACE=" + strings.Repeat("n", 254)},
		{"huge name", nil, nil, "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=" + strings.Repeat("n", 5000)},

		{"reserved for itself", nil, nil, "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
		{"another address than reserved", nil, annotated("ip", "10.0.0.52"), "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
		{"another MAC than reserved", nil, annotated("mac", "02:00:00:00:00:52"), "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
		{"another host name than reserved", nil, annotated("hostname", "db"), "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
		{"identity around the reservation", all, annotated("identity", "x", "ip", "10.0.0.52"), "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
		{"just what is reserved", nil, annotated("ip", "10.0.0.51", "mac", "02:00:00:00:00:51", "hostname", "own"), "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=own"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := keys{"bridge": "br-flat", "ipam.rangeEnd": "10.0.0.100"}
			for k, v := range tc.conf {
				conf[k] = v
			}
			if tc.rc != nil {
				conf["runtimeConfig"] = tc.rc
			}
			fmt.Fprintf(&text, "%s\n%s", tc.name, inhabit(t).add(t, with(conf), tc.args))
		})
	}
	golden(t, "hostile.txt", text.String())
}

// Of several ways to ask for the same thing the first counts, each thing on its own.
func TestPrecedenceOfAnnotations(t *testing.T) {
	type keys = map[string]any
	rc := annotated("ip", "10.0.0.14", "mac", "02:00:00:00:00:14", "hostname", "d", "identity", "d", "allow-same-net-traffic", "false")
	args := "IgnoreUnknown=1;HOSTNAME=c;IDENTITY=c;ALLOW_SAME_NET_TRAFFIC=true;IP=10.0.0.13"
	cni := keys{"cni": keys{"hostname": "b", "identity": "b", "allowSameNetTraffic": false, "labels": 5}}
	for name, tc := range map[string]struct {
		keys keys
		args string
		want string
	}{
		"annotations alone": {keys{"runtimeConfig": rc}, "", "10.0.0.14 02:00:00:00:00:14 d /id:d/eth0 false"},
		"CNI_ARGS first":    {keys{"runtimeConfig": rc}, args, "10.0.0.13 02:00:00:00:00:14 c /id:c/eth0 true"},
		"args.cni first":    {keys{"runtimeConfig": rc, "args": cni}, args, "10.0.0.13 02:00:00:00:00:14 b /id:b/eth0 false"},
		"runtimeConfig first": {keys{"runtimeConfig": keys{podAnnotations: rc[podAnnotations], "ips": []string{"10.0.0.11"}, "mac": "02:00:00:00:00:11"}, "args": cni}, args,
			"10.0.0.11 02:00:00:00:00:11 b /id:b/eth0 false"},
		"of a tenant only what is listed": {keys{"runtimeConfig": rc, "args": cni, "annotations": []string{"ip", "hostname"}}, args + ";K8S_POD_NAMESPACE=n;K8S_POD_NAME=p",
			"10.0.0.13 00:00:00:00:00:00 b n/pod:p/eth0 the network's"},
	} {
		t.Run(name, func(t *testing.T) {
			req, _, err := request(t, tc.keys, tc.args)
			if err != nil {
				t.Fatal(err)
			}
			toggle := "the network's"
			if req.AllowSameNetTraffic != nil {
				toggle = fmt.Sprint(*req.AllowSameNetTraffic)
			}
			if got := fmt.Sprint(req.Addr, " ", req.MAC, " ", req.Hostname, " ", req.Workload, " ", toggle); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// Under another main plugin there is no key annotations: the default holds, and a
// toggle has nothing to switch.
func TestRequestsUnderAnotherMainPlugin(t *testing.T) {
	c, err := Parse(with(map[string]any{"type": "bridge", "annotations": "theirs",
		"runtimeConfig": annotated("hostname", "web", "identity", "db", "allow-same-net-traffic", "false")}), FlatIPAM)
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"K8S_POD_NAMESPACE=n;K8S_POD_NAME=p": "n/pod:p/eth0 web\n" +
			`ignoring annotation flatdhcp.io/identity with value "db": pods may not ask for it, for key annotations does not list "identity"` + "\n" +
			`ignoring annotation flatdhcp.io/allow-same-net-traffic with value "false": pods may not ask for it, for key annotations does not list "allow-same-net-traffic"`,
		"": "/id:db/eth0 web\n" +
			`ignoring annotation flatdhcp.io/allow-same-net-traffic with value "false": only flat-bridge makes chains, and another plugin attaches to network flat`,
	} {
		req, notices, err := c.Request(Env{ContainerID: "c1", IfName: "eth0", Args: args})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(req.Workload, " ", req.Hostname, "\n", strings.Join(notices, "\n")); got != want || req.AllowSameNetTraffic != nil {
			t.Errorf("%s: got\n%s\nwant\n%s", args, got, want)
		}
	}
}

func FuzzAnnotations(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"flatdhcp.io/ip": "10.0.0.7", "flatdhcp.io/mac": "02:00:00:00:00:07", "flatdhcp.io/hostname": "web"}`,
		`{"flatdhcp.io/identity": "a/b", "flatdhcp.io/allow-same-net-traffic": "true", "flatdhcp.io/x": "\u0000"}`, `[]`, `{"flatdhcp.io/ip": 5}`, `null`,
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, annotations string, listed bool) {
		if !json.Valid([]byte(annotations)) {
			return
		}
		keys := map[string]any{"runtimeConfig": map[string]any{podAnnotations: json.RawMessage(annotations)}}
		if listed {
			keys["annotations"] = wishWords
		}
		c, err := Parse(with(keys), FlatBridge)
		if err != nil {
			cniText(t, err)
			return
		}
		req, notices, err := c.Request(Env{ContainerID: "c1", IfName: "eth0", Args: "K8S_POD_NAMESPACE=n;K8S_POD_NAME=p"})
		if err != nil {
			cniText(t, err)
			return
		}
		if len(notices) > 2*maxNotices+2 || strings.ContainsAny(strings.Join(notices, ""), "\n\r\x00") {
			t.Errorf("notices %q", notices)
		}
		checkTenants(t, c, req)
	})
}

// checkTenants fails unless a request is one that a pod p of namespace n may make.
func checkTenants(t *testing.T, c *Config, req ipam.Request) {
	t.Helper()
	checkAsked(t, c, req, "n")
	granted := defaultAnnotations()
	if c.Network.Bridge != nil {
		granted = c.Network.Bridge.Annotations
	}
	for wish, wanted := range map[string]bool{
		wishIP: req.Addr.IsValid(), wishMAC: !req.MAC.IsZero(), wishHostname: req.Hostname != "",
		wishIdentity: req.Workload.Kind == ipam.KindID, wishToggle: req.AllowSameNetTraffic != nil, wishAllowed: len(req.AllowedAddresses) > 0,
	} {
		if listed := strings.Contains(" "+strings.Join(granted, " ")+" ", " "+wish+" "); wanted && !listed {
			t.Errorf("%s counts, which is not in %q", wish, granted)
		}
	}
}

// checkAsked fails unless a request is possible, and called by no namespace but the
// one given.
func checkAsked(t *testing.T, c *Config, req ipam.Request, namespace string) {
	t.Helper()
	for _, w := range append([]ipam.Workload{req.Workload}, req.Named...) {
		if back, err := ipam.ParseWorkload(w.String()); err != nil || back != w || w.Namespace != namespace {
			t.Errorf("workload %q reads back as %v, %v", w, back, err)
		}
	}
	if req.Addr.IsValid() && !c.Network.Pool.Subnet.Contains(req.Addr) {
		t.Errorf("address %s", req.Addr)
	}
	if req.MAC.IsMulticast() || req.MAC.IsHostSide() {
		t.Errorf("MAC %s", req.MAC)
	}
	for _, name := range []string{req.Hostname, req.HostnameHint} {
		if len(name) > 63 || Hostname(name) != name {
			t.Errorf("host name %q", name)
		}
	}
}
