package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

const chained = `{
  "cniVersion": "1.0.0",
  "name": "flat",
  "plugins": [
    {
      "type": "flat-bridge",
      "allowSameNetTraffic": false,
      "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "dataDir": "/srv/flat"}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "tuning", "mtu": 1400}
  ]
}
`

// write puts a file into the session's directory and returns its path.
func (s *session) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func TestConfigValidateShowsEffectiveValues(t *testing.T) {
	s := newSession(t)
	file := s.write("10-flat.conflist", chained)
	code, out := s.run("config", "validate", file)
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, s.text.String())
	}
	lines := regexp.MustCompile(` {2,}`).ReplaceAllString(out, "  ")
	for _, want := range []string{
		file + ": network flat is valid (cniVersion 1.0.0, plugins: flat-bridge, portmap, tuning)\n",
		"\n  KEY  VALUE\n",
		"\n  allowSameNetTraffic  false\n", // given
		"\n  bridge  br100\n",              // defaults
		"\n  ipam.rangeStart  10.0.0.1\n",
		"\n  ipam.retain  24h0m0s\n",
		"\n  macPrefix  fa:16:3e\n",
		"\n  ipam.dataDir  /srv/flat\n",
		"\n  mtu  -\n", // neither
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}

	// A key without effect is no error, and no secret.
	withoutEffect := strings.Replace(chained, `"allowSameNetTraffic"`, `"promiscMode": true, "allowSameNetTraffic"`, 1)
	if code, out := s.runWith(withoutEffect, "config", "validate", "-"); code != exitDone || !strings.Contains(out, "\n  notice: ") || !strings.Contains(out, "promiscMode") {
		t.Errorf("exit %d: %s", code, out)
	}
	var infos []configInfo
	if _, out = s.runWith(withoutEffect, "config", "validate", "-", "-o", "json"); json.Unmarshal([]byte(out), &infos) != nil ||
		len(infos[0].Notices) != 1 || !strings.Contains(infos[0].Notices[0], "promiscMode") {
		t.Errorf("got %s", out)
	}

	s.runWith(strings.Replace(withoutEffect, "/srv/flat", s.data(), 1), "apply", "-")
	if !strings.Contains(s.text.String(), "\nflatctl: -: key promiscMode with value true has no effect") {
		t.Errorf("apply says nothing of it: %s", s.text.String())
	}
	if err := os.RemoveAll(s.data()); err != nil {
		t.Fatal(err)
	}
	s.node.did = nil

	// Standard input, and the same for programs.
	_, out = s.runWith(chained, "config", "validate", "-", "-o", "json")
	if err := json.Unmarshal([]byte(out), &infos); err != nil || len(infos) != 1 {
		t.Fatalf("%v in %s", err, out)
	}
	i := infos[0]
	if i.File != "-" || !i.Valid || i.Error != nil || i.Name != "flat" || i.DataDir != "/srv/flat" ||
		i.Pool.Subnet.String() != "10.0.0.0/24" || i.Bridge.Name != "br100" || i.Bridge.AllowSameNetTraffic || i.Notices == nil || len(i.Notices) > 0 {
		t.Errorf("got %s", out)
	}
	if diff := cmp.Diff([]string{"flat-bridge", "portmap", "tuning"}, i.Plugins); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(s.data()); !os.IsNotExist(err) {
		t.Errorf("validating made a store: %v", err)
	}
	if len(s.node.did) != 0 {
		t.Errorf("the node was told %v", s.node.did)
	}
}

// What validate prints is what apply stores.
func TestConfigValidateAgreesWithApply(t *testing.T) {
	s := newSession(t)
	file := s.file("flat", "10.0.0.0/24", `"allowSameNetTraffic": false, "leaseTime": "2h",`)
	_, out := s.run("config", "validate", "-o", "json", file)
	var infos []configInfo
	if err := json.Unmarshal([]byte(out), &infos); err != nil {
		t.Fatal(err)
	}
	if code, _ := s.run("apply", file); code != exitDone {
		t.Fatal(s.text.String())
	}
	var stored ipam.Network
	if err := s.stores().Store("flat").View(t.Context(), func(v *ipam.View) (err error) {
		stored, err = v.Network()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	i := infos[0]
	if diff := cmp.Diff(asJSON(t, stored), asJSON(t, ipam.Network{Name: i.Name, Pool: *i.Pool, Bridge: i.Bridge})); diff != "" {
		t.Error(diff)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigValidateOfOtherFiles(t *testing.T) {
	s := newSession(t)
	good := s.write("good.conf", `{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "eth1",
		"ipam": {"type": "flat-ipam", "subnet": "10.3.0.0/16"}}`)
	misspelt := s.write("misspelt.conflist", strings.Replace(chained, "subnet", "subnett", 1))
	cut := s.write("cut.conflist", chained[:len(chained)/2])
	typeless := s.write("typeless.conflist", strings.Replace(chained, `"type": "tuning", `, "", 1))
	none := filepath.Join(s.dir, "none.conflist")
	for _, tc := range []struct {
		want int
		args []string
	}{
		{exitFailed, []string{misspelt, good, cut, typeless, none}},
		{exitFailed, []string{misspelt, none, "-o", "json"}},
		{exitUsage, nil},
		{exitUsage, []string{"-", good, "-"}},
		{exitDone, []string{"--help"}},
	} {
		code, out := s.run(append([]string{"config", "validate"}, tc.args...)...)
		if code != tc.want {
			t.Errorf("config validate %v: exit %d", tc.args, code)
		}
		if good := strings.Contains(out, "network lan is valid"); good != (len(tc.args) == 5) {
			t.Errorf("config validate %v: the good one is %t in %s", tc.args, good, out)
		}
	}
	for _, args := range [][]string{{"config"}, {"config", "check"}} {
		if code, _ := s.run(args...); code != exitUsage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	// Each new key would change the good one's values, and what a misspelt one is told.
	text := regexp.MustCompile(`(?m)^  [A-Za-z.]+ {2,}.*\n`).ReplaceAllString(s.text.String(), "")
	text = regexp.MustCompile(`accepted here: [A-Za-z, ]*`).ReplaceAllString(text, "accepted here: ...")
	s.text.Reset()
	s.text.WriteString(text)
	s.golden("config.txt")
}
