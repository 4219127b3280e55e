package hook

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/ipam"
)

var (
	at   = time.Unix(1764064800, 0)
	two  = netip.MustParseAddr("10.0.0.2")
	nine = netip.MustParseAddr("10.0.0.9")
	mac  = ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}
)

func event(kind lease.Kind, ip netip.Addr) lease.Event {
	return lease.Event{Kind: kind, Time: at, Network: "flat", Bridge: "br100", MAC: mac, IP: ip, Hostname: "cirros", Seconds: 120}
}

// recorder stands for the program.
type recorder struct {
	mu   sync.Mutex
	runs []Run
	err  error
	gate chan struct{}
}

func (r *recorder) exec(ctx context.Context, run Run) (string, error) {
	if r.gate != nil {
		select {
		case <-r.gate:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs = append(r.runs, run)
	return "what it said", r.err
}

func (r *recorder) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, run := range r.runs {
		list = append(list, strings.Join(run.Args, " "))
	}
	return list
}

// running starts a Hook with leases that are there already.
func running(t *testing.T, r *recorder, leases ...lease.Lease) (*Hook, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	h := newHook(r.exec, slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx, leases) }()
	t.Cleanup(func() { cancel(); <-done })
	return h, &log
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// TestActions: dnsmasq's words in dnsmasq's order.
func TestActions(t *testing.T) {
	r := &recorder{}
	h, _ := running(t, r,
		lease.Lease{Network: "flat", IP: nine, MAC: ipam.MAC{2, 0, 0, 0, 0, 9}, State: lease.StateBound, Hostname: "old.example.org"},
		lease.Lease{Network: "flat", IP: nine, MAC: ipam.MAC{2, 0, 0, 0, 0, 8}, State: lease.StateReleased, Hostname: "gone"})
	for _, e := range []lease.Event{
		event(lease.Released, two), // not known to have one: dnsmasq says nothing
		event(lease.Reserved, two), event(lease.Offered, two),
		event(lease.Bound, two), event(lease.Renewed, two), event(lease.Refused, nine),
		event(lease.Bound, nine), // moved
		event(lease.Declined, nine), event(lease.Renewed, nine), event(lease.Released, nine),
	} {
		h.Note(e)
	}
	want := []string{
		"old 02:00:00:00:00:09 10.0.0.9 old",
		"add fa:16:3e:00:00:02 10.0.0.2 cirros",
		"old fa:16:3e:00:00:02 10.0.0.2 cirros",
		"del fa:16:3e:00:00:02 10.0.0.2 cirros",
		"add fa:16:3e:00:00:02 10.0.0.9 cirros",
		"del fa:16:3e:00:00:02 10.0.0.9 cirros",
		"add fa:16:3e:00:00:02 10.0.0.9 cirros",
		"del fa:16:3e:00:00:02 10.0.0.9 cirros",
	}
	await(t, "all runs", func() bool { return len(r.told()) >= len(want) })
	if diff := cmp.Diff(want, r.told()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if n := h.Counters.Done.Load(); n != uint64(len(want)) {
		t.Errorf("counted %d", n)
	}
}

func TestEnvironment(t *testing.T) {
	e := event(lease.Bound, two)
	e.Hostname, e.ClientHostname, e.VendorClass = "cirros.novalocal", "$(reboot)", "udhcp 1.35"
	for _, tc := range []struct {
		name, action string
		change       func(*lease.Event)
		want         Run
	}{
		{"add", "add", func(*lease.Event) {}, Run{
			Args: []string{"add", "fa:16:3e:00:00:02", "10.0.0.2", "cirros"},
			Env: []string{"DNSMASQ_INTERFACE=br100", "DNSMASQ_DOMAIN=novalocal", "DNSMASQ_SUPPLIED_HOSTNAME=$(reboot)", "DNSMASQ_VENDOR_CLASS=udhcp 1.35",
				"DNSMASQ_TIME_REMAINING=120", "DNSMASQ_LEASE_EXPIRES=1764064920", "FLATDHCP_NETWORK=flat"},
		}},
		{"for ever, no name", "old", func(e *lease.Event) { *e = lease.Event{MAC: mac, IP: two, Time: at, Network: "flat"} }, Run{
			Args: []string{"old", "fa:16:3e:00:00:02", "10.0.0.2"}, Env: []string{"DNSMASQ_LEASE_EXPIRES=0", "FLATDHCP_NETWORK=flat"},
		}},
		{"del", "del", func(e *lease.Event) { e.Hostname, e.ClientHostname, e.VendorClass = "cirros", "", "" }, Run{
			Args: []string{"del", "fa:16:3e:00:00:02", "10.0.0.2", "cirros"}, Env: []string{"DNSMASQ_INTERFACE=br100", "FLATDHCP_NETWORK=flat"},
		}},
	} {
		e := e
		tc.change(&e)
		if diff := cmp.Diff(tc.want, run(tc.action, e)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, diff)
		}
	}
}

// TestQueueIsBounded: a program that hangs costs events, never a packet's time.
func TestQueueIsBounded(t *testing.T) {
	r := &recorder{gate: make(chan struct{})}
	h, _ := running(t, r)
	const more = 50
	for range queueLength + more + 1 { // one may be in the program's hands
		h.Note(event(lease.Renewed, two))
	}
	if n := h.Counters.Lost.Load(); n < more || n > more+1 {
		t.Errorf("%d lost, want %d or one more", n, more)
	}
	close(r.gate)
	await(t, "the queue to be told", func() bool { return len(r.told()) >= queueLength })
}

func TestFailureIsSaidWithinARate(t *testing.T) {
	r := &recorder{err: errors.New("exit status 3")}
	h, log := running(t, r)
	for range 5 {
		h.Note(event(lease.Renewed, two))
	}
	await(t, "five failures", func() bool { return h.Counters.Failed.Load() == 5 })
	if n := strings.Count(log.String(), "exit status 3"); n != 1 || !strings.Contains(log.String(), `what it said`) {
		t.Errorf("said %d times: %s", n, log)
	}
}

// TestNoRunWithoutConfinement: where no_new_privs is not set a program executed by root
// would have capabilities again.
func TestNoRunWithoutConfinement(t *testing.T) {
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || set == 1 {
		t.Skipf("this test is confined itself (%d, %v)", set, err)
	}
	if _, err := execute(t.Context(), "/bin/true", Run{}); err == nil || !strings.Contains(err.Error(), "no_new_privs is not set") {
		t.Errorf("error %v", err)
	}
}
