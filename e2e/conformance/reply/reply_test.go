package reply

import (
	"strings"
	"testing"
)

const good = `{"cniVersion": "$V", "interfaces": [{"name": "br0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/ns"}],
	"ips": [{$FAMILY"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"}],
	"routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}], "dns": {"nameservers": ["10.0.0.1"], "search": ["a"]}}`

func result(version string) string {
	v := ""
	if !atLeast(version, "1.0.0") {
		v = `"version": "4", `
	}
	return strings.NewReplacer("$V", version, "$FAMILY", v).Replace(good)
}

func TestParseResult(t *testing.T) {
	tests := []struct {
		name, version string
		change        []string // old, new
		ipam          bool
		want          string // of the error; empty: none
	}{
		{name: "as it should be", version: "0.3.1"},
		{name: "as it should be", version: "0.4.0"},
		{name: "as it should be", version: "1.0.0"},
		{name: "as it should be", version: "1.1.0"},
		{name: "with an MTU", version: "1.1.0", change: []string{`"sandbox"`, `"mtu": 1400, "sandbox"`}},
		{name: "with an MTU too early", version: "1.0.0", change: []string{`"sandbox"`, `"mtu": 1400, "sandbox"`}, want: "interfaces[1] has keys that came with 1.1.0"},
		{name: "with a route's priority too early", version: "0.4.0", change: []string{`"dst"`, `"priority": 7, "dst"`}, want: "routes[0] has keys that came with 1.1.0"},
		{name: "of another version", version: "1.0.0", change: []string{"1.0.0", "0.4.0"}, want: `cniVersion is "0.4.0", the configuration's is "1.0.0"`},
		{name: "with the address's version too late", version: "1.0.0", change: []string{`"interface"`, `"version": "4", "interface"`}, want: "which went with 1.0.0"},
		{name: "without the address's version", version: "0.4.0", change: []string{`"version": "4", `, ""}, want: `needs version "4"`},
		{name: "of the wrong family", version: "0.4.0", change: []string{`"version": "4"`, `"version": "6"`}, want: `needs version "4"`},
		{name: "with a key of its own", version: "1.1.0", change: []string{`"dns"`, `"extra": 1, "dns"`}, want: `unknown field "extra"`},
		{name: "with an index too high", version: "1.1.0", change: []string{`"interface": 1`, `"interface": 2`}, want: "is of interface 2, and there are 2"},
		{name: "with a negative index", version: "1.1.0", change: []string{`"interface": 1`, `"interface": -1`}, want: "is of interface -1"},
		{name: "without index", version: "1.1.0", change: []string{`"interface": 1, `, ""}, want: "ips[0] names no interface"},
		{name: "with a gateway elsewhere", version: "1.1.0", change: []string{`"gateway": "10.0.0.1"`, `"gateway": "10.0.1.1"`}, want: "gateway 10.0.1.1 is outside 10.0.0.0/24"},
		{name: "with an address without length", version: "1.1.0", change: []string{"10.0.0.2/24", "10.0.0.2"}, want: "no '/'"},
		{name: "with a route to a host's address", version: "1.1.0", change: []string{"0.0.0.0/0", "10.0.0.9/24"}, want: "no network"},
		{name: "with a MAC that is none", version: "1.1.0", change: []string{"02:00:00:00:00:01", "02:00"}, want: "invalid MAC address"},
		{name: "with an interface without name", version: "1.1.0", change: []string{`"name": "br0"`, `"name": ""`}, want: "interfaces[0] has no name"},
		{name: "without address", version: "1.1.0", change: []string{`"ips"`, `"ips": [], "IPS"`}, want: "no address is named"},
		{name: "twice", version: "1.1.0", change: []string{`["a"]}}`, `["a"]}} {}`}, want: "goes on after the first document"},
		{name: "after a log line", version: "1.1.0", change: []string{`{"cniVersion"`, `hello {"cniVersion"`}, want: "stdout is no JSON"},
		{name: "of an IPAM plugin with interfaces", version: "1.1.0", ipam: true, want: "names interfaces"},
	}
	for _, tt := range tests {
		t.Run(tt.name+"/"+tt.version, func(t *testing.T) {
			text := result(tt.version)
			if tt.change != nil {
				changed := strings.Replace(text, tt.change[0], tt.change[1], 1)
				if changed == text {
					t.Fatalf("%q is not in %s", tt.change[0], text)
				}
				text = changed
			}
			if tt.name == "without address" {
				text = strings.Replace(text, `"ips": [], "IPS": [{"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"}]`, `"ips": []`, 1)
			}
			_, err := ParseResult(text, tt.version, tt.ipam)
			wants(t, err, tt.want)
		})
	}
}

func TestParseFailure(t *testing.T) {
	for text, want := range map[string]string{
		`{"cniVersion": "1.1.0", "code": 7, "msg": "no", "details": "at all"}`: "",
		`{"code": 100, "msg": "ours"}`:                                         "",
		`{"code": 999, "msg": "internal"}`:                                     "",
		`{"code": 0, "msg": "nothing"}`:                                        "code 0 is reserved",
		`{"code": 12, "msg": "reserved"}`:                                      "code 12 is reserved",
		`{"code": 7}`:                                                          "has no msg",
		`{"code": "7", "msg": "no"}`:                                           "not of the form asked for",
		``:                                                                     "stdout is empty",
		`{"code": 7, "msg": "no"}{"code": 8}`:                                  "goes on after the first document",
		`{"code": 7, "msg": "no", "message": "twice"}`:                         `unknown field "message"`,
	} {
		_, err := ParseFailure(text)
		wants(t, err, want)
	}
}

func TestParseSupport(t *testing.T) {
	s, err := ParseSupport(`{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "1.1.0"]}`)
	if err != nil || len(s.Versions) != 2 {
		t.Errorf("is read as %v, %v", s, err)
	}
	_, err = ParseSupport(`{"cniVersion": "1.1.0"}`)
	wants(t, err, "supportedVersions is missing")
}

func TestOwn(t *testing.T) {
	r := Result{Interfaces: []Interface{{Name: "eth0"}, {Name: "eth0", Sandbox: "/ns"}}}
	if at, err := r.Own("eth0", "/ns"); err != nil || at != 1 {
		t.Errorf("the container's interface is %d, %v; want 1", at, err)
	}
	_, err := r.Own("eth1", "/ns")
	wants(t, err, "no interface of the result")
	r.Interfaces[0].Sandbox = "/ns"
	_, err = r.Own("eth0", "/ns")
	wants(t, err, "two interfaces of the result")
}

// Whatever a plugin prints, what is accepted has the parts that the cases rely on.
func FuzzParseResult(f *testing.F) {
	f.Add(result("0.4.0"), "0.4.0")
	f.Add(result("1.1.0"), "1.1.0")
	f.Add(`{"ips": [{}]}`, "")
	f.Fuzz(func(t *testing.T, text, version string) {
		r, err := ParseResult(text, version, false)
		if err != nil {
			return
		}
		for _, ip := range r.IPs {
			if !ip.Address.IsValid() || *ip.Interface >= len(r.Interfaces) {
				t.Errorf("accepted an address without place: %s", text)
			}
		}
	})
}

func wants(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error is %v, want %q in it", err, want)
	}
}
