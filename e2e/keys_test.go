package e2e

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/plugins/conf/dropin"
)

// Every key of the reference plugins means what it means there: with the same keys, and
// only the types changed, there is nothing to tell the two by.
func TestKeysOfTheReferencePlugins(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		bridge, ipam keys
		o            lab.CNIOptions // of the workload
		logged       []string       // as without effect
		shows        func(meaning) bool
	}{
		{
			name: "much",
			bridge: keys{"isGateway": true, "isDefaultGateway": true, "ipMasq": true, "mtu": 1400, "hairpinMode": true,
				"dns": keys{"nameservers": []string{"10.20.0.9"}, "domain": "example.org", "search": []string{"a.example"}, "options": []string{"ndots:2"}}},
			ipam: keys{"rangeStart": "10.20.0.50", "rangeEnd": "10.20.0.60", "gateway": "10.20.0.254",
				"routes": []keys{{"dst": "198.51.100.0/24", "gw": "10.20.0.9", "priority": 7}, {"dst": "203.0.113.0/24"}}},
			shows: func(m meaning) bool {
				return m.Hairpin && strings.Contains(m.Inside, "10.20.0.50/24 mtu 1400") && m.Outside == "the node" && m.Addresses == "10.20.0.254/24" &&
					strings.Contains(m.Routes, "198.51.100.0/24 via 10.20.0.9") && strings.Contains(m.Routes, "default via 10.20.0.254") && strings.Contains(m.DNS, "ndots:2")
			},
		},
		{
			name:   "no masquerade, no default route",
			bridge: keys{"isGateway": true, "isDefaultGateway": false, "ipMasq": false},
			ipam:   keys{"resolvConf": "/run/resolv", "dataDir": "/run/elsewhere", "routes": []keys{{"dst": "192.0.2.0/24"}}},
			shows: func(m meaning) bool {
				return m.Outside == "itself" && !strings.Contains(m.Routes, "default") && strings.Contains(m.DNS, "192.0.2.53")
			},
		},
		{
			name:   "a bridge and no more",
			bridge: keys{"isGateway": false, "isDefaultGateway": false, "ipMasq": false},
			shows:  func(m meaning) bool { return m.Addresses == "" && m.Neighbour == "itself" && !m.Node },
		},
		{
			name:   "isolated",
			bridge: keys{"isGateway": true, "isDefaultGateway": true, "ipMasq": true, "portIsolation": true},
			shows:  func(m meaning) bool { return m.Neighbour == nobody && m.Gateway && m.Outside == "the node" },
		},
		{
			name: "checked, and asked for what has no effect",
			bridge: keys{"isGateway": true, "isDefaultGateway": true, "macspoofchk": true, "promiscMode": true, "forceAddress": true, "enabledad": true,
				"preserveDefaultVlan": true, "vlan": 0, "disableContainerInterface": false, "ipMasqBackend": "iptables", "ipMasq": false},
			logged: []string{"promiscMode", "forceAddress", "enabledad", "preserveDefaultVlan"},
			shows:  func(m meaning) bool { return !m.ForeignMAC && m.Neighbour == "itself" },
		},
		{
			name:   "address and MAC by CNI_ARGS",
			bridge: keys{"isGateway": true, "isDefaultGateway": true, "ipMasq": true},
			o:      lab.CNIOptions{Args: "IgnoreUnknown=1;IP=10.20.0.77;MAC=02:00:00:00:00:77"},
			shows: func(m meaning) bool {
				return strings.Contains(m.Inside, "10.20.0.77/24") && m.MAC == "02:00:00:00:00:77"
			},
		},
		{
			name:   "address and MAC by capability",
			bridge: keys{"isGateway": true, "isDefaultGateway": true, "ipMasq": true, "capabilities": keys{"ips": true, "mac": true}},
			o:      lab.CNIOptions{CapArgs: `{"ips": ["10.20.0.78/24"], "mac": "02:00:00:00:00:78"}`},
			shows: func(m meaning) bool {
				return strings.Contains(m.Inside, "10.20.0.78/24") && m.MAC == "02:00:00:00:00:78"
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			published := dropin.List{Text: referenceList(t, tt.bridge, tt.ipam)}
			measure := func(text []byte, o lab.CNIOptions) (meaning, *list) {
				t.Helper()
				l := newList(t, "net.conflist", text)
				if err := l.WriteFile(l.within(), "/run/resolv", 0o644, "nameserver 192.0.2.53\nsearch b.example\noptions rotate\n"); err != nil {
					t.Fatal(err)
				}
				w := l.attach("w", o)
				m := l.measure(w, l.attach("neighbour", lab.CNIOptions{}))
				if o.Args+o.CapArgs != "" {
					m.MAC = w.mac.String()
				}
				return m, l
			}
			want, theirs := measure(published.Text, tt.o)
			var logged string
			tt.o.Log = &logged
			got, ours := measure(published.Converted(), tt.o)
			if tt.bridge["macspoofchk"] == nil && want.Neighbour != nobody {
				if !want.ForeignMAC {
					t.Error("the control: a foreign MAC does not pass the reference plugin, which does not look")
				}
				want.ForeignMAC = false // antiSpoofing is our default
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ours differs from the reference plugins' (-theirs +ours):\n%s", diff)
			}
			if !tt.shows(got) {
				t.Errorf("the keys do not show: %+v", got)
			}
			for _, key := range tt.logged {
				if !strings.Contains(logged, "key "+key+" with value true has no effect") {
					t.Errorf("that %s is without effect is not logged: %s", key, logged)
				}
			}
			if dir, ok := tt.ipam["dataDir"]; ok {
				theirs.run("test", "-e", dir.(string)+"/net/10.20.0.2")
				ours.run("test", "-e", dir.(string)+"/net.db")
				ours.run("test", "!", "-e", "/var/lib/flatdhcp")
			}
		})
	}
}

// referenceList is a list for the reference plugins.
func referenceList(t *testing.T, bridge, ipam keys) []byte {
	t.Helper()
	plugin, pool := keys{"type": "bridge", "bridge": "br9"}, keys{"type": "host-local", "subnet": "10.20.0.0/24"}
	maps.Copy(plugin, bridge)
	maps.Copy(pool, ipam)
	plugin["ipam"] = pool
	text, err := json.MarshalIndent(keys{"cniVersion": "1.0.0", "name": "net", "plugins": []keys{plugin}}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return text
}
