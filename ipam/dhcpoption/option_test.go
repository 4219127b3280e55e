package dhcpoption

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseJSON(t *testing.T) {
	for _, tc := range []struct {
		number, value string
		want          string // hex, or the error
		plain         string // what it is written as; empty = as given
	}{
		{"42", `["10.0.0.9", "10.0.0.10"]`, "0a0000090a00000a", ""},
		{"42", `"10.0.0.9"`, "0a000009", `["10.0.0.9"]`},
		{"6", `["9.9.9.9"]`, "09090909", ""},
		{"224", `"hex:0a0b"`, "0a0b", ""},
		{"224", `"hex:0a:0b"`, "0a0b", `"hex:0a0b"`},
		{"224", `"hello"`, "68656c6c6f", `"hex:68656c6c6f"`},
		{"224", `["10.0.0.9"]`, "0a000009", `"hex:0a000009"`},
		{"66", `"boot.example.org"`, "626f6f742e6578616d706c652e6f7267", ""},
		{"67", `"pxelinux.0"`, "7078656c696e75782e30", ""},
		{"60", `"HTTPClient"`, "48545450436c69656e74", ""},
		{"26", `1400`, "0578", ""},
		{"26", `"1400"`, "0578", `1400`},
		{"2", `3600`, "00000e10", ""},
		{"23", `64`, "40", ""},
		{"19", `true`, "01", ""},
		{"27", `false`, "00", ""},
		{"25", `[68, 296]`, "00440128", ""},
		{"28", `"10.0.0.255"`, "0a0000ff", ""},
		{"33", `["10.1.0.1", "10.0.0.9"]`, "0a0100010a000009", ""},
		{"15", `"example.org"`, "6578616d706c652e6f7267", ""},
		{"119", `["a.example.org", "b."]`, "0161076578616d706c65036f7267000162" + "00", `["a.example.org","b"]`},
		{"121", `["10.8.0.0/13 via 10.0.0.9", "0.0.0.0/0 10.0.0.1"]`, "0d0a080a000009000a000001", `["10.8.0.0/13 via 10.0.0.9","0.0.0.0/0 via 10.0.0.1"]`},
		{"121", `"hex:000a000001"`, "000a000001", `["0.0.0.0/0 via 10.0.0.1"]`},
		{"3", `[]`, "", ""},
		{"3", `null`, "", `[]`},
		{"43", `"hex:010400000000ff"`, "010400000000ff", ""},

		{"0", `"x"`, "option 0 cannot be configured: it is padding, not an option", ""},
		{"51", `3600`, "option 51 cannot be configured: it is set by leaseTime, or by `flatctl reserve --lease-time`", ""},
		{"54", `"10.0.0.1"`, "option 54 cannot be configured: it is the gateway's address in every message", ""},
		{"61", `"hex:00"`, "option 61 cannot be configured: it goes back to the client as the client sent it", ""},
		{"82", `"hex:00"`, "option 82 cannot be configured: it goes back to the relay as the relay sent it", ""},
		{"255", `"hex:00"`, "option 255 cannot be configured: it is the end of a message, not an option", ""},
		{"12", `"x"`, "option 12 cannot be configured: each workload has a host name of its own: `flatctl reserve --hostname` sets one", ""},
		{"256", `"x"`, `"256" is no option's number: 2 to 254 are, without leading zeros`, ""},
		{"042", `"10.0.0.9"`, `"042" is no option's number: 2 to 254 are, without leading zeros`, ""},
		{"ntp", `"10.0.0.9"`, `"ntp" is no option's number: 2 to 254 are, without leading zeros`, ""},
		{"42", `"ntp.example.org"`, `option 42 (NTP servers): "ntp.example.org": a list of IPv4 addresses such as ["10.0.0.9"] is wanted`, ""},
		{"42", `["2001:db8::1"]`, `option 42 (NTP servers): "2001:db8::1": a list of IPv4 addresses such as ["10.0.0.9"] is wanted`, ""},
		{"42", `{}`, `option 42 (NTP servers): a list of IPv4 addresses such as ["10.0.0.9"] is wanted`, ""},
		{"42", `"hex:0a00"`, "option 42 (NTP servers) has 2 bytes: 4 to 252 are accepted", ""},
		{"42", `"hex:0a0000090a"`, "option 42 (NTP servers) has 5 bytes: a multiple of 4 is wanted", ""},
		{"26", `67`, "option 26 (MTU): at least 68 is accepted", ""},
		{"26", `65536`, `option 26 (MTU): "65536": a number from 0 to 65535 is wanted`, ""},
		{"19", `2`, `option 19: "2": true or false is wanted`, ""},
		{"19", `"hex:02"`, `option 19: true or false is wanted`, ""},
		{"33", `["10.1.0.1"]`, "option 33 has 4 bytes: 8 to 248 are accepted", ""},
		{"119", `["a..b"]`, `option 119 (search list): "a..b": a list of DNS domains such as ["example.org"] is wanted`, ""},
		{"121", `["10.8.0.1/16 via 10.0.0.9"]`, `option 121 (classless routes): "10.8.0.1/16 via 10.0.0.9": a list of routes such as ["10.8.0.0/16 via 10.0.0.9"], "via 0.0.0.0" for what is on the link is wanted`, ""},
		{"121", `"hex:210a000001"`, `option 121 (classless routes): a list of routes such as ["10.8.0.0/16 via 10.0.0.9"], "via 0.0.0.0" for what is on the link is wanted`, ""},
		{"67", `"a\nb"`, `option 67 (boot file): "a\nb": a text of 1 to 255 printable characters is wanted`, ""},
		{"67", `""`, `option 67 (boot file): "": a text of 1 to 255 printable characters is wanted`, ""},
		{"67", `["a", "b"]`, `option 67 (boot file): a text of 1 to 255 printable characters is wanted`, ""},
		{"224", `"hex:0"`, `option 224: "hex:0": after hex: pairs of hexadecimal digits are wanted`, ""},
		{"15", `"no domain"`, `option 15 (domain): "no domain": a DNS domain is wanted`, ""},
	} {
		t.Run(tc.number+"="+tc.value, func(t *testing.T) {
			o, err := ParseJSON(tc.number, json.RawMessage(tc.value))
			got := fmt.Sprintf("%x", o.Value)
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Fatalf("got  %s\nwant %s", got, tc.want)
			}
			if err != nil {
				return
			}
			b, err := json.Marshal(Set{o})
			if err != nil {
				t.Fatal(err)
			}
			plain := tc.plain
			if plain == "" {
				plain = strings.ReplaceAll(tc.value, ", ", ",")
			}
			if want := fmt.Sprintf(`{%q:%s}`, tc.number, plain); string(b) != want {
				t.Errorf("written as %s, want %s", b, want)
			}
			var again Set
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Set{o}, again); diff != "" {
				t.Errorf("read again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseArgument(t *testing.T) {
	for arg, want := range map[string]string{
		"42=10.0.0.9,10.0.0.10":    "42 0a0000090a00000a",
		"224=hex:0a0b":             "224 0a0b",
		"224=a,b":                  "224 612c62",
		"224=10.0.0.9,10.0.0.10":   "224 0a0000090a00000a",
		"67=a,b":                   "67 612c62",
		"3=":                       "3 ",
		"119=a.org, b.org":         "119 0161036f7267000162036f726700",
		"121=10.8.0.0/16 10.0.0.9": "121 100a080a000009",
		"42":                       "NUMBER=VALUE is wanted, such as 42=10.0.0.9",
		"53=1":                     "option 53 cannot be configured: the server sets it in every message",
	} {
		o, err := Parse(arg)
		got := fmt.Sprintf("%d %x", o.Code, o.Value)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", arg, got, want)
		}
	}
}

func TestSetWith(t *testing.T) {
	a := Set{{3, []byte{1}}, {42, []byte{2}}}
	b := a.With(Option{3, nil}).With(Option{6, []byte{3}})
	if diff := cmp.Diff(Set{{3, nil}, {6, []byte{3}}, {42, []byte{2}}}, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if a[0].Value[0] != 1 || len(a) != 2 {
		t.Errorf("the original changed: %v", a)
	}
	if o, ok := b.Get(3); !ok || o.Value != nil {
		t.Errorf("Get(3) = %v, %v", o, ok)
	}
	if _, ok := b.Get(7); ok {
		t.Error("Get(7) finds something")
	}
}

func TestRoutes(t *testing.T) {
	list := []Route{
		{netip.MustParsePrefix("10.8.0.0/13"), netip.MustParseAddr("10.0.0.9")},
		{netip.MustParsePrefix("169.254.169.254/32"), netip.MustParseAddr("10.0.0.1")},
		{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")},
	}
	var b []byte
	for _, r := range list {
		b = AppendRoute(b, r)
	}
	if diff := cmp.Diff(list, Routes(b), cmp.Comparer(func(a, b Route) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if Routes(b[:len(b)-1]) != nil {
		t.Error("half a route is read")
	}
}

// FuzzSet: whatever is accepted is written such that reading it gives the same.
func FuzzSet(f *testing.F) {
	for _, s := range []string{
		`{"42":["10.0.0.9"],"224":"hex:0a0b"}`, `{"119":["a.b"],"121":["0.0.0.0/0 via 10.0.0.1"]}`, `{"3":[]}`,
		`{"119":"hex:03612e6200"}`, `{"67":"hex:ff"}`, `{"67":" x"}`, `{"67":"<\u2028>"}`, `{"25":[1,2]}`, `{"26":1e3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Set
		if json.Unmarshal(b, &s) != nil {
			return
		}
		written, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again Set
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Errorf("%s (-want +got):\n%s", written, diff)
		}
		for _, o := range s {
			if len(o.Value) > 510 || forbidden[o.Code] != "" {
				t.Errorf("option %d with %d bytes was accepted", o.Code, len(o.Value))
			}
		}
	})
}
