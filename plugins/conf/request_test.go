package conf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func TestParseCNIArgs(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want cniArgs
		err  string
	}{
		"nothing":   {"", cniArgs{}, ""},
		"a request": {"IP=10.0.0.5;MAC=fa:16:3e:00:00:05", cniArgs{asked: Asked{IPs: []string{"10.0.0.5"}, MAC: "fa:16:3e:00:00:05"}}, ""},
		"every request": {"IP=10.0.0.5, fd00::5;HOSTNAME=web;IDENTITY=vm-1;ALLOW_SAME_NET_TRAFFIC=false",
			cniArgs{asked: Asked{IPs: []string{"10.0.0.5", "fd00::5"}, Hostname: "web", Identity: "vm-1", AllowSameNetTraffic: "false"}}, ""},
		"containerd": {"K8S_POD_NAME=web-0;K8S_POD_UID=u;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_INFRA_CONTAINER_ID=c",
			cniArgs{namespace: "default", pod: "web-0"}, ""},
		"unknown keys, told so last":            {"FOO=bar;IgnoreUnknown=true", cniArgs{}, ""},
		"empty pairs":                           {";IP=10.0.0.5;;", cniArgs{asked: Asked{IPs: []string{"10.0.0.5"}}}, ""},
		"equals sign in a value":                {"X=a=b;IgnoreUnknown=1", cniArgs{}, ""},
		"the same twice":                        {"IP=10.0.0.5;IP=10.0.0.5", cniArgs{asked: Asked{IPs: []string{"10.0.0.5"}}}, ""},
		"an empty namespace is none (ocicni)":   {"K8S_POD_NAMESPACE=;K8S_POD_NAME=web", cniArgs{pod: "web"}, ""},
		"two values":                            {"IP=10.0.0.5;IP=10.0.0.6", cniArgs{}, `4: CNI_ARGS "IP=10.0.0.6": IP is given twice, first as "10.0.0.5"`},
		"no pair":                               {"IP=10.0.0.5;MAC", cniArgs{}, `4: CNI_ARGS "MAC": KEY=VALUE is wanted`},
		"no key":                                {"=5", cniArgs{}, `4: CNI_ARGS "=5": KEY=VALUE is wanted`},
		"unknown key":                           {"FOO=bar", cniArgs{}, `4: CNI_ARGS "FOO=bar": no such key (IP, MAC, HOSTNAME, IDENTITY, ALLOW_SAME_NET_TRAFFIC, ALLOWED_ADDRESSES and K8S_POD_* are read, IgnoreUnknown=1 accepts others)`},
		"misspelt key":                          {"HOST_NAME=web", cniArgs{}, `4: CNI_ARGS "HOST_NAME=web": no such key: did you mean HOSTNAME? (IP, MAC, HOSTNAME, IDENTITY, ALLOW_SAME_NET_TRAFFIC, ALLOWED_ADDRESSES and K8S_POD_* are read, IgnoreUnknown=1 accepts others)`},
		"unknown key that is not to be ignored": {"IgnoreUnknown=0;ip=10.0.0.5", cniArgs{}, `4: CNI_ARGS "ip=10.0.0.5": no such key: did you mean IP? (IP, MAC, HOSTNAME, IDENTITY, ALLOW_SAME_NET_TRAFFIC, ALLOWED_ADDRESSES and K8S_POD_* are read, IgnoreUnknown=1 accepts others)`},
		"IgnoreUnknown":                         {"IgnoreUnknown=yes", cniArgs{}, `4: CNI_ARGS "IgnoreUnknown=yes": 1, true, 0 or false is wanted`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCNIArgs(tc.in)
			if tc.err != "" {
				if err == nil || cniText(t, err) != tc.err {
					t.Fatalf("got %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(cniArgs{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// request parses keys and asks with CNI_ARGS args.
func request(t *testing.T, keys map[string]any, args string) (ipam.Request, []string, error) {
	t.Helper()
	c, err := Parse(with(keys), FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	return c.Request(Env{ContainerID: "c1", IfName: "eth0", NetNS: "/run/netns/x", NetNSInode: 7, BootID: "b", Args: args})
}

func TestRequestNamesTheWorkload(t *testing.T) {
	type keys = map[string]any
	runtimeMAC := keys{"runtimeConfig": keys{"mac": "02:00:00:00:00:09"}}
	for name, tc := range map[string]struct {
		keys           map[string]any
		args           string
		want, hostname string
		named          string // the workload's other names
	}{
		"container ID":              {nil, "", "/cid:c1/eth0", "", ""},
		"name alone (podman)":       {nil, "IgnoreUnknown=1;K8S_POD_NAME=web", "/name:web/eth0", "web", ""},
		"pod":                       {nil, "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", "default/pod:web-0/eth0", "web-0", ""},
		"namespace without name":    {nil, "K8S_POD_NAMESPACE=default", "default/cid:c1/eth0", "", ""},
		"MAC of the operator":       {nil, "MAC=FA-16-3E-00-00-05", "/mac:fa:16:3e:00:00:05/eth0", "", ""},
		"MAC of a tenant is scoped": {runtimeMAC, "K8S_POD_NAMESPACE=evil;K8S_POD_NAME=web", "evil/mac:02:00:00:00:00:09/eth0", "web", "evil/pod:web/eth0"},
		"identity before MAC and name": {keys{"runtimeConfig": keys{"mac": "02:00:00:00:00:09"}, "args": keys{"cni": keys{"identity": "vm-1"}}},
			"K8S_POD_NAME=web", "/id:vm-1/eth0", "web", "/mac:02:00:00:00:00:09/eth0 /name:web/eth0"},
		"identity of a tenant is scoped": {keys{"annotations": []string{"identity"}},
			"K8S_POD_NAMESPACE=evil;K8S_POD_NAME=web;IDENTITY=db", "evil/id:db/eth0", "web", "evil/pod:web/eth0"},
		"hostname is cleaned": {nil, "K8S_POD_NAME=My_Pod.1-", "/name:My_Pod.1-/eth0", "my-pod-1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			req, _, err := request(t, tc.keys, tc.args)
			if err != nil {
				t.Fatal(err)
			}
			if req.Workload.String() != tc.want || req.HostnameHint != tc.hostname || req.Hostname != "" {
				t.Errorf("got %s, host name %q; want %s, %q", req.Workload, req.HostnameHint, tc.want, tc.hostname)
			}
			if got := strings.Trim(fmt.Sprint(req.Named), "[]"); got != tc.named {
				t.Errorf("its other names are %s, want %q", got, tc.named)
			}
			back, err := ipam.ParseWorkload(req.Workload.String())
			if err != nil || back != req.Workload {
				t.Errorf("the stored key does not read back: %v, %v", back, err)
			}
			want := ipam.Holder{ContainerID: "c1", IfName: "eth0", NetNS: "/run/netns/x", NetNSInode: 7, BootID: "b", Ported: true}
			if diff := cmp.Diff(want, req.Holder); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestOfFlatIPAMHasNoPort(t *testing.T) {
	c, err := Parse(with(nil), FlatIPAM)
	if err != nil {
		t.Fatal(err)
	}
	req, _, err := c.Request(Env{ContainerID: "c1", IfName: "eth0"})
	if err != nil || req.Holder.Ported {
		t.Errorf("got %+v, %v", req.Holder, err)
	}
}

func TestRequestPrecedence(t *testing.T) {
	type keys = map[string]any
	all := keys{
		"runtimeConfig": keys{"ips": []string{"10.0.0.11"}, "mac": "02:00:00:00:00:11"},
		"args":          keys{"cni": keys{"ips": []string{"10.0.0.12"}, "mac": "02:00:00:00:00:12"}},
	}
	for name, tc := range map[string]struct {
		keys         keys
		args         string
		addr, mac    string
		notices, err string
	}{
		"none":                     {nil, "", "invalid IP", "00:00:00:00:00:00", "", ""},
		"CNI_ARGS":                 {nil, "IP=10.0.0.13;MAC=02:00:00:00:00:13", "10.0.0.13", "02:00:00:00:00:13", "", ""},
		"args.cni before CNI_ARGS": {keys{"args": all["args"]}, "IP=10.0.0.13;MAC=02:00:00:00:00:13", "10.0.0.12", "02:00:00:00:00:12", "", ""},
		"runtimeConfig first":      {all, "IP=10.0.0.13;MAC=02:00:00:00:00:13", "10.0.0.11", "02:00:00:00:00:11", "", ""},
		"each on its own":          {keys{"runtimeConfig": keys{"mac": "02:00:00:00:00:11"}}, "IP=10.0.0.13", "10.0.0.13", "02:00:00:00:00:11", "", ""},

		"CIDR of the subnet":  {nil, "IP=10.0.0.13/24", "10.0.0.13", "00:00:00:00:00:00", "", ""},
		"CIDR of the address": {nil, "IP=10.0.0.13/32", "10.0.0.13", "00:00:00:00:00:00", "", ""},
		"IPv4 mapped":         {nil, "IP=::ffff:10.0.0.13", "10.0.0.13", "00:00:00:00:00:00", "", ""},
		"the one in the subnet": {nil, "IP=192.0.2.5, 10.0.0.13/24,fd00::5", "10.0.0.13", "00:00:00:00:00:00",
			`ignoring CNI_ARGS IP with value "192.0.2.5": it is outside subnet 10.0.0.0/24 of network flat` + "\n" +
				`ignoring CNI_ARGS IP with value "fd00::5": it is outside subnet 10.0.0.0/24 of network flat`, ""},
		"the same twice": {nil, "IP=10.0.0.13,10.0.0.13/24", "10.0.0.13", "00:00:00:00:00:00", "", ""},

		"wrong prefix length": {nil, "IP=10.0.0.13/16", "", "", "", `4: CNI_ARGS IP with value "10.0.0.13/16": the prefix length is wrong: network flat has /24`},
		"outside":             {nil, "IP=192.0.2.5", "", "", "", `100: CNI_ARGS IP with value "192.0.2.5": it is outside subnet 10.0.0.0/24 of network flat`},
		"two":                 {nil, "IP=10.0.0.13,10.0.0.14", "", "", "", `100: CNI_ARGS IP with value "10.0.0.14": 10.0.0.13 is asked for too: a workload has one address in network flat`},
		"no address":          {nil, "IP=ten", "", "", "", `4: CNI_ARGS IP with value "ten": an address is wanted, such as 10.0.0.2`},
		"no address in runtimeConfig": {keys{"runtimeConfig": keys{"ips": []string{""}}}, "", "", "", "",
			`7: key runtimeConfig.ips with value "": an address is wanted, such as 10.0.0.2`},
		"no MAC":             {nil, "MAC=fa:16:3e", "", "", "", `4: CNI_ARGS MAC with value "fa:16:3e": six octets are wanted, such as fa:16:3e:00:00:02`},
		"no MAC in args.cni": {keys{"args": keys{"cni": keys{"mac": "x"}}}, "", "", "", "", `7: key args.cni.mac with value "x": six octets are wanted, such as fa:16:3e:00:00:02`},
		"multicast MAC":      {nil, "MAC=ff:ff:ff:ff:ff:ff", "", "", "", `100: CNI_ARGS MAC with value "ff:ff:ff:ff:ff:ff": it is multicast: the lowest bit of its first octet must be 0`},
		"host side MAC":      {nil, "MAC=fe:16:3e:00:00:02", "", "", "", `100: CNI_ARGS MAC with value "fe:16:3e:00:00:02": MACs that begin with fe are those of the ports' host sides`},
		"zero MAC":           {nil, "MAC=00:00:00:00:00:00", "", "", "", `100: CNI_ARGS MAC with value "00:00:00:00:00:00": all octets are zero`},
		"namespace that poses as another's identity": {nil, "K8S_POD_NAMESPACE=a/pod:b", "", "", "",
			`4: CNI_ARGS "K8S_POD_NAMESPACE=a/pod:b": a name without slashes, spaces and control characters is wanted`},
		"pod name with a line break": {nil, "K8S_POD_NAME=a\nb", "", "", "",
			`4: CNI_ARGS "K8S_POD_NAME=a\nb": a name without slashes, spaces and control characters is wanted`},
	} {
		t.Run(name, func(t *testing.T) {
			req, notices, err := request(t, tc.keys, tc.args)
			if tc.err != "" {
				if err == nil || cniText(t, err) != tc.err {
					t.Fatalf("got %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if req.Addr.String() != tc.addr || req.MAC.String() != tc.mac {
				t.Errorf("got %s and %s, want %s and %s", req.Addr, req.MAC, tc.addr, tc.mac)
			}
			if got := strings.Join(notices, "\n"); got != tc.notices {
				t.Errorf("notices %q, want %q", got, tc.notices)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 40) + strings.Repeat("b", 40)
	for in, want := range map[string]string{
		"":          "",
		"web-0":     "web-0",
		"Web.0_x":   "web-0-x",
		"--x--":     "x",
		"été":       "t",
		"___":       "",
		long:        "aa-" + strings.Repeat("a", 20) + strings.Repeat("b", 40),
		long[:63]:   long[:63],
		"1.2.3.4":   "1-2-3-4",
		"a b\x00/c": "a-b--c",
	} {
		if got := Hostname(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzCNIArgs(f *testing.F) {
	for _, s := range []string{"", "IP=10.0.0.5;MAC=fa:16:3e:00:00:05", "IgnoreUnknown=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p;X=y=z;", "IP=10.0.0.5/24,fd00::1;IP", ";;=;",
		"K8S_POD_NAMESPACE=n;IDENTITY=a/b;HOSTNAME=A.b;ALLOW_SAME_NET_TRAFFIC=false"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	all, err := Parse(with(map[string]any{"annotations": wishWords}), FlatBridge)
	if err != nil {
		f.Fatal(err)
	}
	some, err := Parse(with(nil), FlatBridge)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string, listed bool) {
		c := some
		if listed {
			c = all
		}
		req, _, err := c.Request(Env{ContainerID: "c1", IfName: "eth0", Args: s})
		if err != nil {
			cniText(t, err)
		} else if args, err := parseCNIArgs(s); err != nil {
			t.Error(err)
		} else {
			checkAsked(t, c, req, args.namespace)
		}
		// Whatever else is in it, a runtime's namespace holds.
		if req, _, err = c.Request(Env{ContainerID: "c1", IfName: "eth0", Args: s + ";K8S_POD_NAMESPACE=n;K8S_POD_NAME=p"}); err != nil {
			cniText(t, err)
		} else {
			checkTenants(t, c, req)
		}
	})
}
