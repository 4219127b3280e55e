package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// TestLeases: from what the daemon last wrote, and from the daemon if it is there.
func TestLeases(t *testing.T) {
	s := newSession(t)
	s.run("leases")
	s.run("leases", "-o", "json")
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	s.run("leases")
	content := `{"version":1,"leases":[
 {"ip":"10.0.0.3","mac":"fa:16:3e:00:00:03","state":"bound","hostname":"db","firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-02T01:00:00Z","expires":"2026-01-02T02:00:00Z"},
 {"ip":"10.0.0.2","mac":"fa:16:3e:00:00:02","state":"bound","hostname":"cirros","firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-02T03:04:00Z","expires":"2026-01-02T03:06:00Z","clientHostname":"guest?[2J","vendorClass":"udhcp 1.35"},
 {"ip":"10.0.0.4","mac":"fa:16:3e:00:00:04","state":"bound","hostname":"ever","firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-02T03:04:00Z"},
 {"ip":"10.0.0.5","mac":"fa:16:3e:00:00:05","state":"declined","hostname":"odd","firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-02T03:04:00Z"},
 {"ip":"10.0.0.66","mac":"fa:16:3e:00:00:42","state":"bound","hostname":"host-10-0-0-66","node":"compute-1","firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-02T03:04:00Z"}]}`
	path := filepath.Join(s.data(), "flat.leases")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("leases")
	s.run("leases", "flat", "-o", "json")
	s.run("leases", "flt")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("leases")

	s.live = true
	s.run("events")
	defer s.daemon(lease.Lease{Network: "flat", IP: netip.MustParseAddr("10.0.0.9"), MAC: ipam.MAC{2, 0, 0, 0, 0, 9}, State: lease.StateBound, Hostname: "live",
		FirstSeen: s.now, LastSeen: s.now, Expires: s.now.Add(time.Hour)})()
	s.run("leases")
	s.golden("leases.txt")
}

// daemon answers on the session's socket; the stream of events has one of each kind and
// ends.
func (s *session) daemon(leases ...lease.Lease) (stop func()) {
	s.t.Helper()
	l, err := report.ListenUnix(s.t.Context(), filepath.Join(s.dir, "flat-dhcpd.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	stream := new(report.Stream)
	r := report.Report{Leases: func() []lease.Lease { return leases }, Events: stream, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Serve(ctx, l) })
	s.events = func(list ...lease.Event) {
		for stream.Readers() == 0 {
			time.Sleep(time.Millisecond)
		}
		for _, e := range list {
			stream.Send(e)
		}
	}
	return func() { cancel(); wg.Wait() }
}

// TestEvents: a line an event, until the daemon stops.
func TestEvents(t *testing.T) {
	s := newSession(t)
	s.live = true
	e := lease.Event{
		Kind: lease.Bound, Time: s.now, Network: "flat", Bridge: "br100", MAC: ipam.MAC{2, 0, 0, 0, 0, 9}, IP: netip.MustParseAddr("10.0.0.9"), Hostname: "db",
		Workload: pod("default", "db-0"), Seconds: 120, ClientHostname: "guest", VendorClass: "udhcp 1.35",
	}
	refused := e
	refused.Kind, refused.Seconds, refused.ClientHostname, refused.VendorClass, refused.Reason = lease.Refused, 0, "", "", "wrong address"
	theirs := e
	theirs.Workload, theirs.Node, theirs.IP, theirs.MAC = ipam.Workload{Kind: ipam.KindPeer, Value: "compute-1", IfName: "derived"}, "compute-1", netip.MustParseAddr("10.0.0.66"), ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 66}
	s.running = make(chan *transcript, 1)
	for _, output := range []string{"table", "json"} {
		stop := s.daemon()
		done := make(chan struct{})
		go func() {
			defer close(done)
			out := <-s.running
			s.events(e, refused, theirs)
			// What was sent waits for its reader; the end must not overtake it.
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && strings.Count(out.String(), "\n") < 3; {
				time.Sleep(time.Millisecond)
			}
			stop()
		}()
		s.run("events", "-o", output)
		<-done
	}
	s.golden("events.txt")
	if line, err := eventLine([]byte(`{"event":"lost","count":7}`)); err != nil || line != "(7 events missed: this reader is too slow)\n" {
		t.Errorf("%q, %v", line, err)
	}
}
