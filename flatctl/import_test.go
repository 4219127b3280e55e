package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// novaHosts is nova-network's file for dnsmasq, as its controller had it.
const novaHosts = "fa:16:3e:2c:e8:ec,cirros.novalocal,10.0.0.2\n"

// TestImport: nova's file, dnsmasq's other forms, and what cannot be taken over.
func TestImport(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("apply", s.file("other", "10.1.0.0/24", ""))
	put := func(text string) string {
		t.Helper()
		path := filepath.Join(s.dir, "hosts")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.run("import", "--from", "dnsmasq", "--dry-run", put(novaHosts))
	s.run("reservations")
	s.run("import", "--from", "dnsmasq", put(novaHosts))
	s.run("import", "--from", "dnsmasq", put(novaHosts)) // again: the same
	s.run("reservations", "-o", "dnsmasq")
	s.runWith("# a comment\n\ndhcp-host=02:00:00:00:00:20,set:red, db ,10.0.0.20,12h # rack 7\ndhcp-host = 02:00:00:00:00:21,10.0.0.21,infinite\n"+
		"02:00:00:00:00:22,net:NW-1,10.0.0.22,web.example.org,600\n", "import", "--from", "dnsmasq", "-", "-o", "json")
	s.run("reservations", "flat", "-o", "dnsmasq")
	for _, bad := range []string{
		"10.0.0.30,02:00:00:00:00:30\n02:00:00:00:00:31\nweb,10.0.0.32\nid:01:02,10.0.0.33\n02:00:00:00:00:34,02:00:00:00:00:35,10.0.0.34\n" +
			"02:00:00:00:00:36,10.0.0.36,ignore\n02:00:00:00:00:*,10.0.0.37\n02:00:00:00:00:38,a,b,10.0.0.38\nfd00::1,02:00:00:00:00:39,10.0.0.39\n" +
			"server=9.9.9.9\n02:00:00:00:00:3g,10.0.0.40\n# workload nobody\n",
		"02:00:00:00:00:30,10.0.0.30\n02:00:00:00:00:31,10.0.0.2\n", // taken
		"02:00:00:00:00:30,10.0.0.30\n02:00:00:00:00:31,10.0.0.1\n", // the gateway's
		"02:00:00:00:00:30,10.0.0.30,a_b\n",
		"02:00:00:00:00:30,10.0.0.30\n02:00:00:00:00:31,10.1.0.31\n", // two networks
		"02:00:00:00:00:30,192.0.2.1\n",
		"02:00:00:00:00:30,10.0.0.30,5\n", // seconds
		"# nothing\n",
	} {
		if code, _ := s.run("import", "--from", "dnsmasq", put(bad)); code != exitFailed {
			t.Errorf("%q: exit %d", bad, code)
		}
	}
	s.run("import", "--from", "dnsmasq", filepath.Join(s.dir, "none"))
	s.run("reservations") // nothing of the refused came in
	s.run("check")
	s.golden("import.txt")
}

// TestHostsFileBothWays: what reservations prints, import makes in another data
// directory: the same addresses, MACs, names and lease times for the same workloads.
func TestHostsFileBothWays(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("reserve", "flat", "--workload", "default/db-0", "--ip", "10.0.0.20", "--mac", "02:00:00:00:00:20", "--hostname", "db", "--lease-time", "12h")
	s.run("reserve", "flat", "--workload", "default/mac:FA-16-3E-AA-00-01")
	s.run("reserve", "flat", "--workload", "vm7", "--ifname", "net1", "--hostname", "vm7.example.org")
	s.attach("flat", pod("default", "web-0"), dead("c1"))
	_, file := s.run("reservations", "flat", "-o", "dnsmasq")

	to := newSession(t)
	to.run("apply", to.file("flat", "10.0.0.0/24", ""))
	if code, out := to.runWith(file, "import", "--from", "dnsmasq", "-"); code != exitDone {
		t.Fatalf("exit %d: %s", code, out)
	}
	rows := func(s *session) (list []ipam.Reservation) {
		t.Helper()
		snap, err := s.stores().Store("flat").Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range snap.Rows {
			r.Holder, r.Admin = nil, true // what a file cannot say
			list = append(list, r)
		}
		return list
	}
	if diff := cmp.Diff(rows(s), rows(to), cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(ipam.Reservation{}, "Since")); diff != "" || len(rows(to)) != 4 {
		t.Errorf("(-exported +imported)\n%s", diff)
	}
	if _, again := to.run("reservations", "flat", "-o", "dnsmasq"); again != file {
		t.Errorf("exported again (-first +second):\n%s", cmp.Diff(file, again))
	}
}

// FuzzParseHosts: any text gives lines or an error, and what a line says survives being
// written and read again.
func FuzzParseHosts(f *testing.F) {
	f.Add(novaHosts)
	f.Add("dhcp-host=02:00:00:00:00:20,set:red, db ,10.0.0.20,12h # x\n# workload default/pod:w/eth0\n02:00:00:00:00:21,10.0.0.21,infinite\n")
	f.Add("a=b,\x00\n[::1],*,id:x,ignore,1w,99999999999999999999d\n,,,\n=")
	n := ipam.Network{Name: "flat", Pool: ipam.Pool{Domain: "novalocal"}}
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseHosts(text)
		if err != nil {
			return
		}
		for _, l := range lines {
			req := l.request(n)
			if strings.ContainsAny(req.Hostname, ", #\n=") || req.Hostname == "" {
				continue // refused by the store, or left to it
			}
			row := ipam.Reservation{Addr: req.Addr, MAC: req.MAC, Hostname: req.Hostname, Workload: req.Workload}
			if req.LeaseTime != nil {
				row.LeaseTime = *req.LeaseTime
			}
			again, err := parseHosts(hostsFile(n, []ipam.Reservation{row}))
			if err != nil || len(again) != 1 || again[0].addr != l.addr || again[0].mac != l.mac || again[0].lease != l.lease {
				t.Fatalf("%+v became %+v, %v", l, again, err)
			}
		}
	})
}
