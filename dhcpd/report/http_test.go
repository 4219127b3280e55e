package report

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/ipam"
)

var sample = lease.Event{
	Kind: lease.Bound, Time: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC), Network: "flat", Bridge: "br100",
	MAC: ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 2}, IP: netip.MustParseAddr("10.0.0.2"), Hostname: "cirros",
	Workload: ipam.Workload{Namespace: "default", Kind: ipam.KindPod, Value: "web", IfName: "eth0"}, Seconds: 120,
}

// serve runs r on a unix socket and returns a client for it.
func serve(t *testing.T, r *Report) (client *http.Client, stop func()) {
	t.Helper()
	r.Log = slog.New(slog.DiscardHandler)
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Serve(ctx, l) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}, stop
}

func get(t *testing.T, c *http.Client, path string) (code int, body string) {
	t.Helper()
	r, err := c.Get("http://flat-dhcpd" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestPaths(t *testing.T) {
	var (
		alive error
		nets  []NetworkState
		ok    bool
	)
	c, _ := serve(t, &Report{
		Leases:   func() []lease.Lease { return []lease.Lease{} },
		Events:   new(Stream),
		Sources:  []Source{func(m *Metrics) { m.Gauge("flatdhcp_x", "X.", 1) }},
		Networks: func() ([]NetworkState, bool) { return nets, ok },
		Alive:    func() error { return alive },
	})
	flat := NetworkState{Network: "flat", DataDir: "/d", Bridge: "br100", Served: true}
	for _, tc := range []struct {
		name, path string
		change     func()
		code       int
		want       string
	}{
		{"metrics", "/metrics", func() {}, 200, "# HELP flatdhcp_x X.\n# TYPE flatdhcp_x gauge\nflatdhcp_x 1\n"},
		{"no leases", "/leases", func() {}, 200, "[]\n"},
		{"alive", "/healthz", func() {}, 200, "ok\n"},
		{"hanging", "/healthz", func() { alive = errors.New("it hangs") }, 503, "it hangs\n"},
		{"before the first look", "/readyz", func() {}, 503, `{"ready":false,"networks":[]}` + "\n"},
		{"nothing to serve", "/readyz", func() { ok = true }, 200, `{"ready":true,"networks":[]}` + "\n"},
		{"served", "/readyz", func() { nets = []NetworkState{flat} }, 200,
			`{"ready":true,"networks":[{"network":"flat","dataDir":"/d","bridge":"br100","served":true}]}` + "\n"},
		{"waiting for its bridge", "/readyz", func() { nets[0].Served, nets[0].Why = false, "no bridge" }, 200,
			`{"ready":true,"networks":[{"network":"flat","dataDir":"/d","bridge":"br100","served":false,"why":"no bridge"}]}` + "\n"},
		{"in trouble", "/readyz", func() { nets[0].Trouble, nets[0].Why = true, "port 67 is taken" }, 503,
			`{"ready":false,"networks":[{"network":"flat","dataDir":"/d","bridge":"br100","served":false,"trouble":true,"why":"port 67 is taken"}]}` + "\n"},
		{"no such path", "/secrets", func() {}, 404, "404 page not found\n"},
	} {
		tc.change()
		if code, body := get(t, c, tc.path); code != tc.code || body != tc.want {
			t.Errorf("%s: %d %q, want %d %q", tc.name, code, body, tc.code, tc.want)
		}
	}
	r, err := c.Post("http://flat-dhcpd/leases", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s, %v", r.Status, err)
	}
}

// TestStream: what is sent after the header comes, in order and as lines, and ends with
// the daemon.
func TestStream(t *testing.T) {
	s := new(Stream)
	c, stop := serve(t, &Report{Events: s})
	r, err := c.Get("http://flat-dhcpd/events")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	s.Send(sample)
	second := sample
	second.Kind, second.Reason = lease.Refused, "wrong address"
	s.Send(second)
	in := bufio.NewScanner(r.Body)
	for _, want := range []string{
		`{"event":"bound","time":"2026-11-25T10:00:00Z","network":"flat","bridge":"br100","mac":"fa:16:3e:00:00:02","ip":"10.0.0.2","hostname":"cirros","workload":"default/pod:web/eth0","leaseSeconds":120}`,
		`{"event":"refused","time":"2026-11-25T10:00:00Z","network":"flat","bridge":"br100","mac":"fa:16:3e:00:00:02","ip":"10.0.0.2","hostname":"cirros","workload":"default/pod:web/eth0","leaseSeconds":120,"reason":"wrong address"}`,
	} {
		if !in.Scan() || in.Text() != want {
			t.Errorf("got  %s\nwant %s", in.Text(), want)
		}
	}
	stop()
	if in.Scan() {
		t.Errorf("after the end: %s", in.Text())
	}
	if n := s.Readers(); n != 0 {
		t.Errorf("%d readers after the end", n)
	}
}

// TestSlowReaderIsToldWhatItMissed: the stream goes on for others meanwhile.
func TestSlowReaderIsToldWhatItMissed(t *testing.T) {
	s := new(Stream)
	slow, _ := s.join()
	const missed = 7
	for range readerQueue + missed {
		s.Send(sample)
	}
	quick, _ := s.join()
	s.Send(sample)
	if len(quick.events) != 1 || len(slow.events) != readerQueue || s.Lost() != missed+1 {
		t.Fatalf("%d and %d wait, %d lost", len(quick.events), len(slow.events), s.Lost())
	}
	b, err := slow.lines(<-slow.events)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(b), "\n")
	if first != fmt.Sprintf(`{"event":"lost","count":%d}`, missed+1) || !json.Valid([]byte(rest)) {
		t.Errorf("got %s", b)
	}
	if b, _ := slow.lines(<-slow.events); strings.Contains(string(b), "lost") {
		t.Errorf("said twice: %s", b)
	}
}

func TestReadersAreBounded(t *testing.T) {
	s := new(Stream)
	for range maxReaders {
		if _, ok := s.join(); !ok {
			t.Fatal("refused too early")
		}
	}
	c, _ := serve(t, &Report{Events: s})
	if code, body := get(t, c, "/events"); code != http.StatusServiceUnavailable || !strings.Contains(body, "64 readers of events already") {
		t.Errorf("%d %s", code, body)
	}
}

func TestListenTCP(t *testing.T) {
	l, err := ListenTCP(t.Context(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if host, _, _ := net.SplitHostPort(l.Addr().String()); host != "127.0.0.1" {
		t.Errorf("without a host it listens on %s", l.Addr())
	}
	if _, err := ListenTCP(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "listening for requests: listen tcp "+l.Addr().String()) {
		t.Errorf("taken: %v", err)
	}
}

// TestListenUnix: what an earlier daemon left is replaced; what cannot be is an error.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := listenUnix(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ListenUnix(t.Context(), filepath.Join(path, "x")); err == nil || !strings.Contains(err.Error(), "making the socket "+path+"/x") {
		t.Errorf("error %v", err)
	}
}
