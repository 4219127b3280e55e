package conf

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/plugins/conf/dropin"
)

const conflist = `{
  "cniVersion": "1.1.0",
  "name": "flat",
  "plugins": [
    {"type": "loopback"},
    {
      "type": "flat-bridge",
      "allowSameNetTraffic": false,
      "ipam": {
        "type": "flat-ipam",
        "subnet": "10.0.0.0/24"
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`

func TestParseListFindsOurPlugin(t *testing.T) {
	for name, text := range map[string]string{
		"conflist":         conflist,
		"versions to pick": strings.Replace(conflist, `"cniVersion": "1.1.0"`, `"cniVersions": ["0.4.0", "1.1.0", "7.0.0"]`, 1),
		"single plugin":    `{"cniVersion": "1.1.0", "name": "flat", "type": "flat-bridge", "allowSameNetTraffic": false, "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseList([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if c.Name != "flat" || c.CNIVersion != "1.1.0" || c.Network.Bridge == nil || c.Network.Bridge.AllowSameNetTraffic {
				t.Errorf("got %+v", c)
			}
		})
	}
	for name, text := range map[string]string{
		"conflist":      `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "ipMasq": true, "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}]}`,
		"single plugin": `{"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "master": "eth1", "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}`,
	} {
		t.Run("flat-ipam alone, "+name, func(t *testing.T) {
			c, err := ParseList([]byte(text))
			if err != nil || c.Network.Bridge != nil || c.Name != "n" {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

// What a runtime gives the plugin and what flatctl reads from the file are one.
func TestParseListAgreesWithParse(t *testing.T) {
	fromFile, err := ParseList([]byte(conflist))
	if err != nil {
		t.Fatal(err)
	}
	fromRuntime, err := Parse(with(map[string]any{"allowSameNetTraffic": false, "cniVersion": "1.1.0"}), FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(indented(t, fromRuntime.Network), indented(t, fromFile.Network)); diff != "" {
		t.Error(diff)
	}
}

func TestParseListNamesTheChain(t *testing.T) {
	for text, want := range map[string]string{
		conflist: "loopback flat-bridge portmap",
		`{"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}`: "macvlan",
	} {
		c, err := ParseList([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Chain, " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestParseListExplainsMistakes(t *testing.T) {
	replaced := func(old, new string) string { return strings.Replace(conflist, old, new, 1) }
	for name, tc := range map[string]struct{ text, want string }{
		"value":   {replaced(`"10.0.0.0/24"`, `"10.0.0.7/24"`), `7: line 11: key ipam.subnet with value "10.0.0.7/24": host bits are set: the network is "10.0.0.0/24"`},
		"missing": {replaced(`"subnet": "10.0.0.0/24"`, `"domain": "x"`), `7: line 9: key ipam.subnet is missing: it is required, such as "10.0.0.0/24"`},
		"misspelt": {replaced(`"allowSameNetTraffic"`, `"allowSamenetTrafic"`),
			`7: line 8: key allowSamenetTrafic with value false: no such key: did you mean allowSameNetTraffic? (true or false); accepted here: ` + strings.Join(acceptedNames(bridgeKeys), ", ")},
		"later":                   {replaced(`"allowSameNetTraffic": false`, `"annotations": ["groups"]`), `2: line 8: key annotations[0] with value "groups": it is not supported by this version: take it out`},
		"twice":                   {replaced(`"allowSameNetTraffic": false,`, "\"allowSameNetTraffic\": false,\n      \"allowSameNetTraffic\": true,"), `7: line 9: key plugins[1].allowSameNetTraffic is given twice: only one of the two can count`},
		"twice in another plugin": {replaced(`{"type": "loopback"}`, `{"type": "x", "a": 1, "a": 2, "b.c": 1, "b": {"c": 2}}`), ""},
		"name":                    {replaced(`"flat"`, `"a b"`), `7: line 3: key name with value "a b": at most 128 letters, digits, '_', '.' and '-' are accepted, the first a letter or digit`},
		"chained without type":    {replaced(`"type": "portmap", `, ``), `7: line 14: key plugins[2].type is missing: every plugin has one, the name of its program, such as "portmap"`},
		"chained with no name":    {replaced(`"type": "portmap"`, `"type": 3`), `7: line 14: key plugins[2].type with value 3: a string is wanted`},
		"misplaced":               {replaced(`"name": "flat",`, "\"name\": \"flat\",\n  \"bridge\": \"br0\","), `7: line 4: key bridge with value "br0": it belongs inside the plugin's entry, not beside plugins`},
		"not ours":                {replaced(`"flat-bridge"`, `"bridge"`), ""},
		"two of ours":             {replaced(`{"type": "loopback"}`, `{"type": "flat-bridge"}`), `7: line 6: key plugins[1] with value {"type":"flat-bridge","allowSameNetTraffic":false,"ipam":{"type":"flat-ipam","su...: a second plugin of ours: one network has one`},
		"none of ours":            {`{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}`, `7: line 1: key plugins with value [{"type":"bridge","ipam":{"type":"host-local"}}]: no entry has "type": "flat-bridge" or an ipam of "type": "flat-ipam"`},
		"no plugins":              {`{"cniVersion": "1.0.0", "name": "n", "plugins": 5}`, `7: line 1: key plugins with value 5: a list of plugin configurations is wanted`},
		"no plugin":               {`{"cniVersion": "1.0.0", "name": "n", "plugins": ["flat-bridge"]}`, `7: line 1: key plugins[0] with value "flat-bridge": a JSON object is wanted`},
		"another file":            {`{"version": 3}`, `7: key plugins is missing: a conflist, or the configuration of flat-bridge or of a plugin with flat-ipam, is wanted`},
		"versions":                {replaced(`"cniVersion": "1.1.0"`, `"cniVersions": ["0.1.0"]`), `1: key cniVersions with value ["0.1.0"]: 0.3.1, 0.4.0, 1.0.0, 1.1.0 are served`},
		"no JSON":                 {"{\n\n,}", `6: decoding the network configuration: line 3, column 1: invalid character ',' looking for beginning of object key string`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseList([]byte(tc.text))
			if tc.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || cniText(t, err) != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// Depth must not cost the square of itself in paths.
func TestParseListOfADeepFile(t *testing.T) {
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	text := strings.Replace(conflist, `{"type": "loopback"}`, `{"type": "x", "deep": `+deep+`, "deep": 1}`, 1)
	if _, err := ParseList([]byte(text)); err != nil {
		t.Error(err)
	}
	_, err := ParseList([]byte(strings.Replace(text, `"10.0.0.0/24"`, `"10.0.0.7/24"`, 1)))
	if err == nil || !strings.Contains(err.Error(), "line 11: key ipam.subnet") {
		t.Errorf("got %v", err)
	}
}

// docs/configuration.md is the reference of every key, those of later versions too.
func TestEveryKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`([A-Za-z.]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	for prefix, keys := range map[string][]key{"": bridgeKeys, "ipam.": ipamKeys, "dns.": dnsKeys} {
		for _, k := range keys {
			if k.state != keyReserved && !documented[k.name] && !documented[prefix+k.name] {
				t.Errorf("key %s%s is not in docs/configuration.md", prefix, k.name)
			}
		}
	}
}

// Every JSON block of the documentation that is a conflist must be accepted.
func TestDocumentedConflistsAreAccepted(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Fatal("docs/configuration.md has no example")
	}
	for _, b := range blocks {
		if _, err := ParseList([]byte(b[1])); err != nil {
			t.Errorf("%v in\n%s", err, b[1])
		}
	}
}

func FuzzParse(f *testing.F) {
	every, err := os.ReadFile("testdata/every-key.conf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(every)
	f.Add(with(nil))
	f.Add([]byte(conflist))
	f.Add(with(map[string]any{"annotations": wishWords, "args": raw(`{"cni": {"identity": "x", "hostname": "h", "allowSameNetTraffic": true, "ips": ["10.0.0.5"]}}`),
		"runtimeConfig": annotated("identity", "a/b", "mac", "02:00:00:00:00:05")}))
	lists, err := dropin.All()
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range lists {
		f.Add(l.Converted())
	}
	f.Add(with(map[string]any{"ipam.subnet": nil, "ipam.ranges": raw(`[[{"subnet": "10.0.0.0/24"}]]`), "prevResult": raw(`{"ips": []}`), "cni.dev/valid-attachments": nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func() (*Config, error){
			func() (*Config, error) { return Parse(data, FlatBridge) },
			func() (*Config, error) { return Parse(data, FlatIPAM) },
			func() (*Config, error) { return ParseList(data) },
		} {
			c, err := parse()
			if err != nil {
				cniText(t, err)
				continue
			}
			// What is accepted is whole, and stays the same in the store.
			p := c.Network.Pool
			if !p.Subnet.Contains(p.Gateway) || !p.Subnet.Contains(p.RangeStart) || !p.Subnet.Contains(p.RangeEnd) || p.RangeEnd.Less(p.RangeStart) {
				t.Errorf("impossible pool %+v", p)
			}
			if err := c.Network.Validate(); err != nil {
				t.Errorf("the store would refuse %s: %v", data, err)
			}
			req, _, err := c.Request(Env{ContainerID: "c1", IfName: "eth0", Args: "K8S_POD_NAMESPACE=n;K8S_POD_NAME=p"})
			if err != nil {
				cniText(t, err)
			} else {
				checkTenants(t, c, req)
			}
			var back map[string]any
			if err := json.Unmarshal([]byte(indented(t, c.Network)), &back); err != nil {
				t.Error(err)
			}
		}
		if c, err := ParseRelease(data); err != nil {
			cniText(t, err)
		} else if c.Name == "" || c.DataDir == "" {
			t.Errorf("released without name or directory: %+v", c)
		}
	})
}
