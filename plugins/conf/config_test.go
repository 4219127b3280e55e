package conf

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// with returns a flat-bridge configuration with keys added or replaced; an "ipam."
// prefix puts them there, and a nil value takes them out.
func with(keys map[string]any) []byte {
	inside := map[string]any{"type": "flat-ipam", "subnet": "10.0.0.0/24"}
	root := map[string]any{"cniVersion": "1.1.0", "name": "flat", "type": "flat-bridge", "ipam": inside}
	for k, v := range keys {
		m := root
		if name, ok := strings.CutPrefix(k, "ipam."); ok {
			m, k = inside, name
		}
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	text, err := json.Marshal(root)
	if err != nil {
		panic(err)
	}
	return text
}

// cniText returns an error's code and text, and fails if it is no CNI error.
func cniText(t *testing.T, err error) string {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Msg == "" || e.Code == 0 {
		t.Fatalf("error %v (%T) is no CNI error with code and text", err, err)
	}
	return fmt.Sprintf("%d: %s", e.Code, e.Error())
}

func indented(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

func TestParseFillsInDefaults(t *testing.T) {
	c, err := Parse([]byte(`{"cniVersion": "1.1.0", "name": "flat", "type": "flat-bridge",
		"ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}`), FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "shortest.json", indented(t, c.Network))
	if c.DataDir != DefaultDataDir || c.PrevResult != nil || c.ValidAttachments != nil {
		t.Errorf("data directory %s, previous result %v, attachments %v", c.DataDir, c.PrevResult, c.ValidAttachments)
	}
}

func TestParseReadsEveryKey(t *testing.T) {
	text, err := os.ReadFile("testdata/every-key.conf")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text, FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "every-key.json", indented(t, c.Network))
	if c.DataDir != "/srv/flat" {
		t.Errorf("data directory %s", c.DataDir)
	}
	// Those that need a gateway.
	more, err := os.ReadFile("testdata/gateway-keys.conf")
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Parse(more, FlatBridge); err != nil {
		t.Fatal(err)
	}
	golden(t, "gateway-keys.json", indented(t, c.Network))
	for _, k := range append(acceptedNames(bridgeKeys), acceptedNames(ipamKeys)...) {
		if k != "ranges" && !bytes.Contains(append(text, more...), []byte(`"`+k+`"`)) {
			t.Errorf("key %s is neither in testdata/every-key.conf nor in testdata/gateway-keys.conf", k)
		}
	}
}

// A record in the store must survive its way through JSON unchanged, or every ADD
// would find a changed network.
func TestParsedNetworkSurvivesTheStore(t *testing.T) {
	text, err := os.ReadFile("testdata/every-key.conf")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text, FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	var back ipam.Network
	if err := json.Unmarshal([]byte(indented(t, c.Network)), &back); err != nil {
		t.Fatal(err)
	}
	if indented(t, back) != indented(t, c.Network) {
		t.Error("the record changes on its way through JSON")
	}
	if err := c.Network.Validate(); err != nil {
		t.Errorf("the store would refuse it: %v", err)
	}
}

// bridge + host-local with only the two types changed.
func TestParseReadsHostLocalsRanges(t *testing.T) {
	for name, sub := range map[string]string{
		"keys in ipam": `"subnet": "10.22.0.0/16", "rangeStart": "10.22.1.20", "rangeEnd": "10.22.3.50", "gateway": "10.22.0.254"`,
		"one range set": `"ranges": [[{"subnet": "10.22.0.0/16", "rangeStart": "10.22.1.20", "rangeEnd": "10.22.3.50",
			"gateway": "10.22.0.254"}]]`,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(`{"cniVersion": "0.3.1", "name": "n", "type": "flat-bridge", "bridge": "cni0", "isGateway": true, "mtu": 0,
				"capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": []}, "args": null, "cni.dev/anything": 1,
				"ipam": {"type": "flat-ipam", "routes": [{"dst": "0.0.0.0/0"}], `+sub+`}}`), FlatBridge)
			if err != nil {
				t.Fatal(err)
			}
			p := c.Network.Pool
			got := fmt.Sprint(p.Subnet, p.RangeStart, p.RangeEnd, p.Gateway, len(p.Routes), p.Routes[0].Dst, p.Routes[0].GW)
			if want := "10.22.0.0/16 10.22.1.20 10.22.3.50 10.22.0.254 1 0.0.0.0/0 invalid IP"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestParseRangeNeverIncludesNetworkAndBroadcast(t *testing.T) {
	c, err := Parse(with(map[string]any{"ipam.rangeStart": "10.0.0.0", "ipam.rangeEnd": "10.0.0.255"}), FlatBridge)
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Network.Pool; p.RangeStart.String() != "10.0.0.1" || p.RangeEnd.String() != "10.0.0.254" {
		t.Errorf("range %s to %s", p.RangeStart, p.RangeEnd)
	}
}

func TestParseForFlatIPAMLeavesTheMainPluginsKeysAlone(t *testing.T) {
	c, err := Parse(with(map[string]any{"type": "bridge", "ipMasq": true, "promiscMode": 5, "dns": map[string]any{"nameservers": 1}}), FlatIPAM)
	if err != nil {
		t.Fatal(err)
	}
	if c.Network.Bridge != nil || c.Type != "bridge" || c.Network.Pool.MACPrefix != ipam.DefaultMACPrefix {
		t.Errorf("got %+v", c)
	}
}

// What the reference plugin's keys come to mean, and what is said of those that come to
// nothing.
func TestParseReadsTheReferencePluginsKeys(t *testing.T) {
	type keys = map[string]any
	for name, tc := range map[string]struct {
		keys    keys
		change  func(*ipam.Bridge) // of the defaults
		notices string
	}{
		"ipMasq follows isGateway": {keys{"isGateway": false}, func(b *ipam.Bridge) { b.IsGateway, b.IPMasq, b.DNS.Enabled, b.UplinkDHCP = false, false, false, "pass" }, ""},
		"ipMasq without isGateway": {keys{"isGateway": false, "ipMasq": true}, func(b *ipam.Bridge) { b.IsGateway, b.DNS.Enabled, b.UplinkDHCP = false, false, "pass" }, ""},
		"ipMasq false":             {keys{"ipMasq": false}, func(b *ipam.Bridge) { b.IPMasq = false }, ""},
		"ipMasqBackend":            {keys{"ipMasqBackend": "iptables"}, nil, ""},
		"hairpinMode":              {keys{"hairpinMode": true}, func(b *ipam.Bridge) { b.HairpinMode = true }, ""},
		"macspoofchk":              {keys{"macspoofchk": true}, func(b *ipam.Bridge) { b.MACSpoofCheck = true }, ""},
		"macspoofchk instead of antiSpoofing": {keys{"macspoofchk": true, "antiSpoofing": false},
			func(b *ipam.Bridge) { b.MACSpoofCheck, b.AntiSpoofing = true, false }, ""},
		"macspoofchk false alone": {keys{"macspoofchk": false}, nil,
			"key macspoofchk with value false has no effect: antiSpoofing, which is true, checks MACs too"},
		"macspoofchk false with antiSpoofing false": {keys{"macspoofchk": false, "antiSpoofing": false}, func(b *ipam.Bridge) { b.AntiSpoofing = false }, ""},
		"portIsolation":                       {keys{"portIsolation": true}, func(b *ipam.Bridge) { b.AllowSameNetTraffic = false }, ""},
		"portIsolation false":                 {keys{"portIsolation": false}, nil, ""},
		"portIsolation and toggle that agree": {keys{"portIsolation": true, "allowSameNetTraffic": false}, func(b *ipam.Bridge) { b.AllowSameNetTraffic = false }, ""},
		"without effect": {keys{"promiscMode": true, "forceAddress": true, "enabledad": true, "preserveDefaultVlan": true}, nil,
			"key promiscMode with value true has no effect: hairpinMode is what lets a workload reach itself\n" +
				"key forceAddress with value true has no effect: a bridge keeps the addresses it has, and gets the gateway's beside them\n" +
				"key enabledad with value true has no effect: it detects duplicates of IPv6 addresses, and the network has no IPv6\n" +
				"key preserveDefaultVlan with value true has no effect: the bridge's ports are in no VLAN"},
		"what asks for nothing": {keys{"promiscMode": false, "forceAddress": false, "enabledad": false, "preserveDefaultVlan": false,
			"vlan": 0, "vlanTrunk": []int{}, "disableContainerInterface": false}, nil, ""},
		"filter none": {keys{"filter": "none", "logDrops": true}, func(b *ipam.Bridge) { b.Filter, b.LogDrops = ipam.FilterNone, true },
			`key logDrops with value true has no effect: "filter": "none" leaves out the chains that drop`},
		"annotations":    {keys{"annotations": []string{"identity", "ip", "identity"}}, func(b *ipam.Bridge) { b.Annotations = []string{"identity", "ip"} }, ""},
		"no annotations": {keys{"annotations": []string{}}, func(b *ipam.Bridge) { b.Annotations = nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse(with(tc.keys), FlatBridge)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := Parse(with(nil), FlatBridge)
			if err != nil {
				t.Fatal(err)
			}
			want := plain.Network
			if tc.change != nil {
				tc.change(want.Bridge)
			}
			if diff := cmp.Diff(indented(t, want), indented(t, c.Network)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := strings.Join(c.Notices, "\n"); got != tc.notices {
				t.Errorf("notices:\n%s\nwant:\n%s", got, tc.notices)
			}
		})
	}
}

func TestParseAcceptsEverySupportedVersion(t *testing.T) {
	if diff := cmp.Diff([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, Versions()); diff != "" {
		t.Error(diff)
	}
	for _, v := range Versions() {
		if _, err := Parse(with(map[string]any{"cniVersion": v}), FlatBridge); err != nil {
			t.Errorf("%s: %v", v, err)
		}
	}
}

func TestParseTellsAbsentAttachmentsFromNone(t *testing.T) {
	for name, tc := range map[string]struct {
		key  string
		want *[]types.GCAttachment
	}{
		"absent": {"", nil},
		"null":   {`"cni.dev/valid-attachments": null,`, &[]types.GCAttachment{}},
		"empty":  {`"cni.dev/valid-attachments": [],`, &[]types.GCAttachment{}},
		"one": {`"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],`,
			&[]types.GCAttachment{{ContainerID: "a", IfName: "eth0"}}},
		"the misspelt twin alone": {`"cni.dev/attachments": [],`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte(`{"cniVersion": "1.1.0", "name": "flat", ` + tc.key + ` "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24"}}`)
			for verb, parse := range map[string]func() (*Config, error){
				"Parse":        func() (*Config, error) { return Parse(text, FlatIPAM) },
				"ParseRelease": func() (*Config, error) { return ParseRelease(text) },
			} {
				c, err := parse()
				if err != nil {
					t.Fatalf("%s: %v", verb, err)
				}
				if diff := cmp.Diff(tc.want, c.ValidAttachments); diff != "" {
					t.Errorf("%s (-want +got):\n%s", verb, diff)
				}
			}
		})
	}
}

func TestParseReadsPrevResultOfItsVersion(t *testing.T) {
	for version, result := range map[string]string{
		"0.4.0": `{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1"}]}`,
		"1.1.0": `{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]}`,
	} {
		c, err := Parse(with(map[string]any{"cniVersion": version, "prevResult": json.RawMessage(result)}), FlatBridge)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		if c.PrevResult == nil || len(c.PrevResult.IPs) != 1 || !c.PrevResult.IPs[0].Address.IP.Equal(net.IPv4(10, 0, 0, 2)) {
			t.Errorf("%s: got %v", version, c.PrevResult)
		}
	}
}

// Runtimes send DEL the file as it is now: a mistake made in it since must not matter.
func TestParseReleaseReadsOnlyWhatItNeeds(t *testing.T) {
	c, err := ParseRelease([]byte(`{"cniVersion": "0.4.0", "name": "flat", "type": "flat-bridge", "isGatway": "no", "vlan": 7,
		"runtimeConfig": {"mac": 5}, "prevResult": "?", "ipam": {"type": "host-local", "subnet": "10.0.0.5/24", "dataDir": "/srv/x/"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "flat" || c.Network.Name != "flat" || c.DataDir != "/srv/x" || c.CNIVersion != "0.4.0" {
		t.Errorf("got %+v", c)
	}
	if c, err = ParseRelease([]byte(`{"cniVersion": "0.4.0", "name": "flat"}`)); err != nil || c.DataDir != DefaultDataDir {
		t.Errorf("without ipam: %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		`{"cniVersion": "0.2.0", "name": "flat"}`:                              "1: ",
		`{"cniVersion": "1.1.0"}`:                                              "7: key name is missing",
		`{"cniVersion": "1.1.0", "name": "flat", "ipam": {"dataDir": "../x"}}`: "7: key ipam.dataDir",
		`{"cniVersion": "1.1.0", "name": "flat", "ipam": {"dataDir": true}}`:   "7: key ipam.dataDir",
		`{`: "6: ",
		`{"cniVersion": "1.1.0", "name": "f", "cni.dev/valid-attachments": {}}`: "6: ",
	} {
		if _, err := ParseRelease([]byte(text)); err == nil || !strings.HasPrefix(cniText(t, err), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestResultDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# resolv.conf\nnameserver 192.0.2.53\n ;x\nsearch a.example b.example\ndomain d.example\noptions ndots:2 edns0\nnameserver\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ofFile := types.DNS{Nameservers: []string{"192.0.2.53"}, Search: []string{"a.example", "b.example"}, Domain: "d.example", Options: []string{"ndots:2", "edns0"}}
	gateway := types.DNS{Nameservers: []string{"10.0.0.1"}, Domain: "novalocal", Search: []string{"novalocal"}}
	for name, tc := range map[string]struct {
		keys        map[string]any
		want, alive types.DNS // without and with a daemon
	}{
		"nothing given": {nil, types.DNS{}, gateway},
		"dns": {map[string]any{"dns": map[string]any{"nameservers": []string{"10.0.0.1", "2001:db8::1"}}, "ipam.resolvConf": file},
			types.DNS{Nameservers: []string{"10.0.0.1", "2001:db8::1"}}, types.DNS{Nameservers: []string{"10.0.0.1", "2001:db8::1"}}},
		"resolvConf":   {map[string]any{"ipam.resolvConf": file}, ofFile, ofFile},
		"an empty dns": {map[string]any{"dns": map[string]any{}, "ipam.resolvConf": file}, ofFile, ofFile},
		"no server of it": {map[string]any{"dns": map[string]any{"domain": "x.example", "search": []string{"y.example"}, "options": []string{"ndots:2"}}, "ipam.resolvConf": file},
			types.DNS{Domain: "x.example", Search: []string{"y.example"}, Options: []string{"ndots:2"}},
			types.DNS{Nameservers: []string{"10.0.0.1"}, Domain: "x.example", Search: []string{"y.example"}, Options: []string{"ndots:2"}}},
		"another zone": {map[string]any{"ipam.domain": "z.example"}, types.DNS{}, types.DNS{Nameservers: []string{"10.0.0.1"}, Domain: "z.example", Search: []string{"z.example"}}},
		"turned off":   {map[string]any{"dns": map[string]any{"enabled": false}}, types.DNS{}, types.DNS{}},
		"no gateway":   {map[string]any{"isGateway": false}, types.DNS{}, types.DNS{}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse(with(tc.keys), FlatBridge)
			if err != nil {
				t.Fatal(err)
			}
			for alive, want := range map[bool]types.DNS{false: tc.want, true: tc.alive} {
				got, err := ResultDNS(c.Network, alive)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("daemon %v: %s", alive, diff)
				}
			}
		})
	}
	n := ipam.Network{Pool: ipam.Pool{ResolvConf: filepath.Join(t.TempDir(), "none")}}
	if _, err := ResultDNS(n, true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
