package lease

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	start = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	two   = netip.MustParseAddr("10.0.0.2")
	nine  = netip.MustParseAddr("10.0.0.9")
	mac   = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}
)

func event(kind Kind, after time.Duration, change ...func(*Event)) Event {
	e := Event{Kind: kind, Time: start.Add(after), Network: "flat", MAC: mac, IP: two, Hostname: "cirros"}
	if kind == Offered || kind == Bound || kind == Renewed {
		e.Seconds = 120
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func TestStates(t *testing.T) {
	guest := func(e *Event) { e.ClientHostname, e.VendorClass = "guest", "udhcp" }
	ever := func(e *Event) { e.Seconds = 0 }
	at := func(ip netip.Addr) func(*Event) { return func(e *Event) { e.IP = ip } }
	for _, tc := range []struct {
		name   string
		events []Event
		now    time.Duration
		want   string
	}{
		{"offered", []Event{event(Offered, 0, guest)}, time.Hour, "10.0.0.2 offered 0s 0s - guest udhcp"},
		{"bound", []Event{event(Offered, 0, guest), event(Bound, time.Second)}, time.Minute, "10.0.0.2 bound 0s 1s 2m1s guest udhcp"},
		{"renewed", []Event{event(Bound, 0), event(Renewed, time.Minute)}, 2 * time.Minute, "10.0.0.2 bound 0s 1m0s 3m0s  "},
		{"expired", []Event{event(Bound, 0)}, 2 * time.Minute, "10.0.0.2 expired 0s 0s 2m0s  "},
		{"for ever", []Event{event(Bound, 0, ever)}, 1e6 * time.Hour, "10.0.0.2 bound 0s 0s -  "},
		{"released", []Event{event(Bound, 0), event(Released, time.Second)}, time.Hour, "10.0.0.2 released 0s 1s -  "},
		{"declined", []Event{event(Bound, 0), event(Declined, time.Second)}, time.Hour, "10.0.0.2 declined 0s 1s -  "},
		{"a client that boots again has its lease", []Event{event(Bound, 0), event(Offered, time.Second)}, time.Minute, "10.0.0.2 bound 0s 1s 2m0s  "},
		{"unless it was over", []Event{event(Bound, 0), event(Offered, time.Hour)}, time.Hour, "10.0.0.2 offered 0s 1h0m0s -  "},
		{"or of another address", []Event{event(Bound, 0), event(Offered, time.Second, at(nine))}, time.Minute, "10.0.0.9 offered 0s 1s -  "},
		{"refused: still bound, and seen", []Event{event(Bound, 0), event(Refused, time.Second, at(nine))}, time.Minute, "10.0.0.2 bound 0s 1s 2m0s  "},
		{"refused and never seen", []Event{event(Refused, 0, at(nine))}, 0, ""},
		{"reserved", []Event{event(Reserved, 0)}, 0, ""},
		{"moved", []Event{event(Bound, 0), event(Refused, 1), event(Bound, time.Second, at(nine))}, time.Minute, "10.0.0.9 bound 0s 1s 2m1s  "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tab := table{leases: map[ipam.MAC]Lease{}}
			for _, e := range tc.events {
				tab.note(e)
			}
			var got []string
			for _, l := range tab.list(start.Add(tc.now)) {
				expires := "-"
				if !l.Expires.IsZero() {
					expires = l.Expires.Sub(start).String()
				}
				got = append(got, fmt.Sprintf("%s %s %s %s %s %s %s", l.IP, l.State, l.FirstSeen.Sub(start), l.LastSeen.Sub(start), expires, l.ClientHostname, l.VendorClass))
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestTableIsBounded(t *testing.T) {
	tab := table{leases: map[ipam.MAC]Lease{}}
	for i := range maxLeases + 3 {
		tab.note(event(Bound, time.Duration(i)*time.Second, func(e *Event) { e.MAC = ipam.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)} }))
	}
	if len(tab.leases) != maxLeases {
		t.Fatalf("%d leases", len(tab.leases))
	}
	for i := range 4 {
		if _, ok := tab.leases[ipam.MAC{2, 0, 0, 0, 0, byte(i)}]; ok != (i == 3) {
			t.Errorf("client %d is known: %v", i, ok)
		}
	}
}

// book returns a Book on a directory with a store, and what it logs.
func book(t *testing.T, dir string) (*Book, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	b := NewBook(func() time.Time { return start.Add(time.Minute) }, slog.New(slog.NewTextHandler(&log, nil)))
	b.after = time.Millisecond
	return b, &log
}

func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flat.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func in(dir string) func(*Event) { return func(e *Event) { e.DataDir = dir } }

func TestKeptOverARestart(t *testing.T) {
	dir := dataDir(t)
	b, _ := book(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	b.Note(event(Bound, 0, in(dir)))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if all, err := ReadDir(dir, start.Add(time.Minute)); err == nil && len(all) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
	}
	b.Note(event(Bound, 0, in(dir), func(e *Event) { e.MAC[5], e.IP = 9, nine }))
	cancel() // what was not written yet is at the end
	<-done

	again, log := book(t, dir)
	again.Open(dir, "flat")
	want := b.List()
	if diff := cmp.Diff(want, again.List(), cmpopts.EquateComparable(netip.Addr{})); diff != "" || len(want) != 2 || log.Len() > 0 {
		t.Errorf("%d leases, said %q (-before +after)\n%s", len(want), log, diff)
	}
	if diff := cmp.Diff(map[string]map[State]int{"flat": {StateBound: 2, StateOffered: 0, StateExpired: 0, StateReleased: 0, StateDeclined: 0}}, again.Count()); diff != "" {
		t.Errorf("counts:\n%s", diff)
	}
	info, err := os.Stat(path(dir, "flat"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestDamage: whatever the file holds, the daemon begins anew and can write again.
func TestDamage(t *testing.T) {
	many := strings.Repeat(`{"mac":"fa:16:3e:00:00:02"},`, maxLeases+1)
	for name, text := range map[string]string{
		"empty": "", "half": `{"version":1,"leases":[{"net`, "garbage": "\x00\xff", "a later version": `{"version":2,"leases":[]}`,
		"a foreign MAC":   `{"version":1,"leases":[{"mac":"hello"}]}`,
		"too many leases": `{"version":1,"leases":[` + strings.TrimSuffix(many, ",") + `]}`,
		"too long":        strings.Repeat(" ", maxFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := dataDir(t)
			if err := os.WriteFile(path(dir, "flat"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadDir(dir, start); err == nil || !strings.Contains(err.Error(), "reading lease state from "+path(dir, "flat")) {
				t.Errorf("error %v", err)
			}
			b, log := book(t, dir)
			b.Note(event(Bound, 0, in(dir)))
			if !strings.Contains(log.String(), "begun anew, which changes no answer") {
				t.Errorf("said %q", log)
			}
			b.write()
			if all, err := ReadDir(dir, start); err != nil || len(all) != 1 {
				t.Errorf("%v, %v", all, err)
			}
		})
	}
}

func TestRemovedNetworkLeavesNothing(t *testing.T) {
	dir := dataDir(t)
	b, log := book(t, dir)
	b.Note(event(Bound, 0, in(dir)))
	b.write()
	b.Note(event(Renewed, time.Second, in(dir)))
	if err := os.Remove(filepath.Join(dir, "flat.db")); err != nil {
		t.Fatal(err)
	}
	b.Forget(dir, "flat")
	b.write()
	b.Note(event(Renewed, 2*time.Second, in(dir))) // one that was under way
	b.write()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || log.Len() > 0 {
		t.Errorf("left %v, %v; said %q", left, err, log)
	}
}

func TestUnwritableDirectoryIsSaidOnce(t *testing.T) {
	dir := dataDir(t)
	// A directory in its place cannot be written over, by root either.
	if err := os.Mkdir(path(dir, "flat"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, log := book(t, dir)
	for i := range 3 {
		b.Note(event(Renewed, time.Duration(i)*time.Second, in(dir)))
		b.write()
	}
	if n := strings.Count(log.String(), "the daemon serves on without it"); n != 1 || len(b.List()) != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
}
