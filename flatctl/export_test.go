package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// peered configures network flat with a range of its own and what else stands in ipam.
func (s *session) peered(start, end, more string) {
	s.t.Helper()
	s.run("apply", s.write("flat.conflist", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "flat", "plugins": [{"type": "flat-bridge",
 "ipam": {"type": "flat-ipam", "subnet": "10.0.0.0/24", "rangeStart": %q, "rangeEnd": %q, "dataDir": %q%s}}]}`, start, end, s.data(), more)))
}

// TestExportAndImport carries reservations of a compute node to the controller: at first,
// again, changed, and what cannot be.
func TestExportAndImport(t *testing.T) {
	compute := newSession(t)
	compute.peered("10.0.0.64", "10.0.0.127", "")
	compute.attach("flat", pod("default", "plain"), compute.alive("c1")) // derived: not the controller's affair
	compute.run("reserve", "flat", "--workload", "default/vm", "--ip", "10.0.0.66", "--mac", "52:54:00:00:00:66", "--hostname", "vm")
	compute.run("reserve", "flat", "--workload", "named", "--ip", "10.0.0.67", "--hostname", "named", "--lease-time", "12h", "--option", "42=10.0.0.9")
	compute.run("reserve", "flat", "--workload", "default/plain-too", "--ip", "10.0.0.68")
	_, first := compute.run("export", "flat")
	compute.run("export", "flat", "--node", "elsewhere")
	compute.run("export", "flt")
	// The two change places, one goes, one comes.
	compute.run("release", "10.0.0.67")
	compute.run("reserve", "flat", "--workload", "default/vm", "--ip", "10.0.0.67")
	compute.run("reserve", "flat", "--workload", "default/new", "--ip", "10.0.0.66", "--mac", "52:54:00:00:00:99")
	_, second := compute.run("export", "flat")
	compute.golden("export.txt")

	s := newSession(t)
	s.runWith(first, "import", "-") // no network yet
	s.peered("10.0.0.2", "10.0.0.63", `, "peers": [{"node": "compute-1", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127"},
   {"node": "compute-2", "rangeStart": "10.0.0.128", "rangeEnd": "10.0.0.191"}]`)
	s.run("reserve", "flat", "--workload", "default/vm", "--mac", "52:54:00:00:00:02") // a namesake, and no other's
	s.runWith(first, "import", "--dry-run", "-")
	s.run("reservations")
	s.runWith(first, "import", "-")
	s.runWith(first, "import", "-") // again: the same
	s.run("reservations")
	s.runWith(second, "import", "-o", "json", "-")
	theirs := []string{"compute-1", "compute-2", `"rangeStart": "10.0.0.64"`, `"rangeStart": "10.0.0.128"`, `"rangeEnd": "10.0.0.127"`, `"rangeEnd": "10.0.0.191"`}
	other := strings.NewReplacer(append(theirs, "10.0.0.6", "10.0.0.13")...)
	for _, bad := range []string{
		strings.NewReplacer(theirs...).Replace(second),       // in another's range
		other.Replace(second),                                // the MACs of compute-1's
		strings.ReplaceAll(second, "compute-1", "compute-2"), // another's range itself
		strings.Replace(second, `"addr": "10.0.0.66",`, "", 1),
		strings.Replace(second, "52:54:00:00:00:99", "52:54:00:00:00:02", 1),                      // of ours
		strings.Replace(second, "52:54:00:00:00:99", "fa:16:3e:00:00:01", 1),                      // the gateway's
		strings.Replace(second, "52:54:00:00:00:99", "fa:16:3e:00:00:90", 1),                      // names compute-2's address
		strings.Replace(second, "52:54:00:00:00:99", "52:54:00:00:00:66", 1),                      // twice in the file
		strings.Replace(second, `"10.0.0.66"`, `"10.0.0.67"`, 1),                                  // the same
		strings.Replace(second, "default/pod:new", "default/pod:vm", 1),                           // the same
		strings.Replace(second, "default/pod:new", "default/peer:compute-3:pod:new", 1),           // itself imported
		strings.ReplaceAll(second, "compute-1", "compute-3"),                                      // no peer
		strings.Replace(second, "10.0.0.0/24", "10.0.0.0/16", 1),                                  // another network
		strings.Replace(second, "fa:16:3e", "02:16:3e", 1),                                        // another prefix
		strings.Replace(second, `"rangeEnd": "10.0.0.127"`, `"rangeEnd": "10.0.0.128"`, 1),        // a range that is compute-2's as well
		strings.Replace(second, `"rangeStart": "10.0.0.64",`, "", 1),                              // no range
		strings.Replace(second, `"network": "flat"`, `"network": "flt"`, 1),                       // none
		strings.Replace(second, `"hostname": "host-10-0-0-66"`, `"hostname": "a_b"`, 1),           // no name
		strings.Replace(second, `"hostname": "host-10-0-0-66"`, `"hostnam": "host-10-0-0-66"`, 1), // misspelt
		second + second, "[]", "{}", "",
	} {
		if code, _ := s.runWith(bad, "import", "-"); code != exitFailed {
			t.Errorf("exit %d of\n%s", code, bad)
		}
	}
	s.run("import", filepath.Join(s.dir, "none"))
	s.run("reservations") // nothing of the refused came in
	s.run("rules", "10.0.0.66")
	s.run("release", "10.0.0.66")
	s.runWith(second, "import", "-") // mends it
	s.runWith(strings.Replace(first, first[strings.Index(first, `"reservations"`):], `"reservations": []}`, 1), "import", "-")
	s.run("check")
	s.golden("import-node.txt")
	if rows, err := s.stores().Store("flat").Snapshot(t.Context()); err != nil || len(rows.Rows) != 1 || rows.Rows[0].Workload != pod("default", "vm") {
		t.Errorf("in the end there are %v, %v", rows, err)
	}
}

// FuzzReadExported: any text is what export prints, or an error; and what was read is
// written as it was.
func FuzzReadExported(f *testing.F) {
	f.Add(`{"network": "flat", "node": "compute-1", "subnet": "10.0.0.0/24", "macPrefix": "fa:16:3e", "rangeStart": "10.0.0.64", "rangeEnd": "10.0.0.127", "reservations": [
 {"addr": "10.0.0.67", "mac": "fa:16:3e:00:00:43", "hostname": "named", "workload": "/name:named/eth0", "options": {"42": ["10.0.0.9"]}, "leaseTime": "12h", "since": "2026-01-02T03:04:05Z"}]}`)
	f.Add(`{"network": "a", "node": "b", "reservations": null}`)
	f.Add(`{"network": 1}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := readExported([]byte(text))
		if err != nil {
			return
		}
		written, err := json.Marshal(e)
		if err != nil {
			return // a time that JSON has no form for
		}
		again, err := readExported(written)
		if err != nil {
			t.Fatalf("%s, written as %s: %v", text, written, err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(written) {
			t.Errorf("%s became %s, %v", written, twice, err)
		}
	})
}
