package conf

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// requestMistakes tells what an operator, or a runtime, gets wrong in a request. The
// store refuses what depends on others, and nothing in it changes.
func requestMistakes(t *testing.T, text *strings.Builder) {
	t.Helper()
	type keys = map[string]any
	cni := func(k, v string) keys { return keys{"args": keys{"cni": keys{k: v}}} }
	for _, tc := range []struct {
		name string
		keys keys
		args string
	}{
		{"CNI_ARGS without value", nil, "IP"},
		{"CNI_ARGS without key", nil, "=10.0.0.5"},
		{"CNI_ARGS misspelt", nil, "HOST_NAME=web"},
		{"CNI_ARGS in small letters", nil, "mac=02:00:00:00:00:05"},
		{"CNI_ARGS unknown", nil, "COLOUR=green"},
		{"CNI_ARGS twice", nil, "MAC=02:00:00:00:00:05;MAC=02:00:00:00:00:06"},
		{"CNI_ARGS IgnoreUnknown", nil, "IgnoreUnknown=perhaps"},
		{"CNI_ARGS with another separator", nil, "IP=10.0.0.5,MAC=02:00:00:00:00:05"},
		{"CNI_ARGS with a line break in a name", nil, "K8S_POD_NAME=a\nb"},

		{"address no address", nil, "IP=ten"},
		{"address outside the subnet", nil, "IP=192.0.2.5"},
		{"address IPv6", nil, "IP=2001:db8::5"},
		{"address with the wrong length", nil, "IP=10.0.0.5/16"},
		{"addresses two", keys{"runtimeConfig": keys{"ips": []string{"10.0.0.5", "10.0.0.6"}}}, ""},
		{"address the gateway's", nil, "IP=10.0.0.1"},
		{"address the network's", nil, "IP=10.0.0.0"},
		{"address the broadcast", nil, "IP=10.0.0.255"},
		{"address outside the range", nil, "IP=10.0.0.200"},
		{"address a peer's", nil, "IP=10.0.0.130"},
		{"address taken", nil, "IP=10.0.0.2"},
		{"address in quarantine", nil, "IP=10.0.0.4"},
		{"address kept for another namespace", keys{"runtimeConfig": keys{"ips": []string{"10.0.0.3"}}}, "K8S_POD_NAMESPACE=n;K8S_POD_NAME=p"},
		{"address reserved", cni("ips", ""), "IP=10.0.0.50"},

		{"MAC no MAC", cni("mac", "x"), ""},
		{"MAC of eight octets", nil, "MAC=02:00:00:00:00:00:00:05"},
		{"MAC zero", nil, "MAC=00:00:00:00:00:00"},
		{"MAC multicast", nil, "MAC=01:00:5e:00:00:05"},
		{"MAC of a host side", keys{"runtimeConfig": keys{"mac": "fe:16:3e:00:00:05"}}, ""},
		{"MAC the gateway's", nil, "MAC=fa:16:3e:00:00:01"},
		{"MAC another gateway's", nil, "MAC=fa:16:3e:09:00:01"},
		{"MAC that names a peer's address", nil, "MAC=fa:16:3e:00:00:82"},
		{"MAC taken", nil, "MAC=fa:16:3e:00:00:02"},
		{"MAC taken in another network", nil, "MAC=fa:16:3e:09:00:02"},
		{"MAC reserved", nil, "MAC=02:00:00:00:00:51"},

		{"host name with a dot", nil, "HOSTNAME=a.b"},
		{"host name with an underscore", cni("hostname", "a_b"), ""},
		{"host name too long", nil, "HOSTNAME=" + strings.Repeat("h", 64)},
		{"identity with a slash", cni("identity", "a/b"), ""},
		{"identity with a space", nil, "IDENTITY=a b"},
		{"allowed address in range", nil, "ALLOWED_ADDRESSES=10.0.0.77"},
		{"allowed address no address", nil, "ALLOWED_ADDRESSES=here"},
		{"allowed addresses no list", cni("allowedAddresses", "10.0.0.200"), ""},
		{"allowed MAC of no virtual router", nil, "ALLOWED_ADDRESSES=02:00:00:00:00:99"},
		{"toggle", nil, "ALLOW_SAME_NET_TRAFFIC=1"},
		{"toggle in quotes", cni("allowSameNetTraffic", "true"), ""},

		{"annotation that does not parse", keys{"runtimeConfig": annotated("mac", "x")}, ""},
		{"annotation that is no string", keys{"runtimeConfig": keys{podAnnotations: keys{"flatdhcp.io/mac": 5}}}, ""},
		{"annotations no object", keys{"runtimeConfig": keys{podAnnotations: "flatdhcp.io/mac"}}, ""},
	} {
		conf := keys{"bridge": "br-flat", "ipam.rangeEnd": "10.0.0.100"}
		for k, v := range tc.keys {
			conf[k] = v
		}
		if tc.name == "address reserved" { // an empty list is no request
			conf["args"] = keys{"cni": keys{"ips": []string{}}}
		}
		told := inhabit(t).add(t, with(conf), tc.args)
		if strings.Contains(told, "\tgot ") {
			t.Errorf("%s: granted: %s", tc.name, told)
		}
		fmt.Fprintf(text, "%s\n%s", tc.name, told)
	}
}

// storeMistakes tells what a configuration gets wrong that only the data directory
// knows: other networks, and reservations. Neither the record nor anything else
// changes.
func storeMistakes(t *testing.T, text *strings.Builder) {
	t.Helper()
	type keys = map[string]any
	for _, tc := range []struct {
		name string
		keys keys
	}{
		{"subnet overlaps another network's", keys{"name": "third", "ipam.subnet": "10.0.0.128/25"}},
		{"subnet around another network's", keys{"name": "third", "ipam.subnet": "10.0.0.0/8"}},
		{"bridge of another network", keys{"name": "third", "ipam.subnet": "10.7.0.0/24", "bridge": "br-other"}},
		{"subnet changed under reservations", keys{"ipam.subnet": "10.7.0.0/24"}},
		{"subnet changed into another network's", keys{"ipam.subnet": "10.9.0.0/16"}},
		{"bridge changed into another network's", keys{"bridge": "br-other"}},
		{"address in use excluded", keys{"ipam.exclude": []string{"10.0.0.2"}}},
		{"reserved addresses excluded", keys{"ipam.exclude": []string{"10.0.0.48/28"}}},
		{"addresses in use given to a peer", keys{"ipam.rangeStart": "10.0.0.128", "ipam.peers": []keys{{"node": "compute-1", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.63"}}}},
		{"gateway moved to an address in use", keys{"ipam.gateway": "10.0.0.2"}},
		{"gateway whose MAC is a reservation's", keys{"macPrefix": "02:00:00", "ipam.gateway": "10.0.0.81"}},
	} {
		h := inhabit(t)
		conf := keys{"bridge": "br-flat", "ipam.rangeEnd": nil}
		for k, v := range tc.keys {
			conf[k] = v
		}
		if tc.keys["name"] != nil && tc.keys["bridge"] == nil {
			conf["bridge"] = "br-third"
		}
		c, err := Parse(with(conf), FlatBridge)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		before := h.state(t)
		_, err = h.dir.Store(c.Name).Configure(context.Background(), c.Network)
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		if diff := cmp.Diff(indented(t, before), indented(t, h.state(t))); diff != "" {
			t.Errorf("%s: refused, and changed:\n%s", tc.name, diff)
		}
		if names, err := h.dir.Names(context.Background()); err != nil || strings.Join(names, " ") != "flat other" {
			t.Errorf("%s: there are the networks %q now, %v", tc.name, names, err)
		}
		fmt.Fprintf(text, "%s\n\t%s\n", tc.name, cniText(t, CNIError("adding c1 eth0 to network "+c.Name, err)))
	}
}
