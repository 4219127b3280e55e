package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testlog"
	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

func TestCommandLine(t *testing.T) {
	none := func(string) string { return "" }
	fromEnv := func(k string) string { return map[string]string{"FLATDHCP_RUN_DIR": "/env/run"}[k] }
	for _, tc := range []struct {
		name   string
		args   []string
		getenv func(string) string
		want   config
		err    string
	}{
		{"defaults", nil, none, config{dataDirs: []string{"/var/lib/flatdhcp"}, runDir: "/run/flatdhcp", logFormat: "text"}, ""},
		{"run directory from the environment", nil, fromEnv, config{dataDirs: []string{"/var/lib/flatdhcp"}, runDir: "/env/run", logFormat: "text"}, ""},
		{"everything", []string{"--data-dir", "/a", "--data-dir=/b", "--conf-dir", "/c", "--listen", ":80", "--hook", "/h", "--run-dir", "/r", "--log-format", "json", "--log-level", "debug"}, fromEnv,
			config{dataDirs: []string{"/a", "/b"}, confDir: "/c", listen: ":80", hook: "/h", runDir: "/r", logFormat: "json", logLevel: slog.LevelDebug}, ""},
		{"an unknown flag", []string{"--lease-file", "x"}, none, config{}, "flag provided but not defined: -lease-file"},
		{"a format that is none", []string{"--log-format", "xml"}, none, config{}, `--log-format "xml": text or json is wanted`},
		{"a level that is none", []string{"--log-level", "loud"}, none, config{}, `invalid value "loud" for flag -log-level`},
		{"an empty data directory", []string{"--data-dir", ""}, none, config{}, "a directory is wanted"},
		{"an empty run directory", []string{"--run-dir", ""}, none, config{}, "--run-dir is empty"},
		{"a hook that is no path", []string{"--hook", "notify"}, none, config{}, `--hook "notify": an absolute path is wanted`},
		{"a port alone", []string{"--listen", "80"}, none, config{}, `--listen "80": HOST:PORT or :PORT is wanted`},
		{"an argument", []string{"br100"}, none, config{}, `unexpected argument "br100": every setting is a flag`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parse(tc.args, tc.getenv, &bytes.Buffer{})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				var stderr bytes.Buffer
				if code := run(tc.args, tc.getenv, &bytes.Buffer{}, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "Try flat-dhcpd --help.") {
					t.Errorf("code %d, %q", code, stderr.String())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(config{})); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
	for _, tc := range []struct{ arg, want string }{
		{"--version", "flat-dhcpd dev\n"},
		{"--help", usage},
		{"-h", usage},
	} {
		t.Run(tc.arg, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run([]string{tc.arg}, none, &stdout, &stderr); code != exitDone || stdout.String() != tc.want || stderr.Len() > 0 {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
			}
		})
	}
}

func TestLines(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name  string
		level slog.Level
		text  string
		attrs []slog.Attr
		want  string
	}{
		{"dnsmasq's line, its parts left out", slog.LevelInfo, "DHCPACK(br100) 10.0.0.2 fa:16:3e:00:00:02 cirros",
			[]slog.Attr{slog.Group(server.LogGroup, "mac", "fa:16:3e:00:00:02")},
			"2026-11-22T10:00:00Z flat-dhcpd: DHCPACK(br100) 10.0.0.2 fa:16:3e:00:00:02 cirros\n"},
		{"a warning with attributes", slog.LevelWarn, "something", []slog.Attr{slog.String("network", "flat"), slog.String("odd", "a b\n")},
			"2026-11-22T10:00:00Z flat-dhcpd: warn: something network=flat odd=\"a b\\n\"\n"},
		{"an error", slog.LevelError, "bad", nil, "2026-11-22T10:00:00Z flat-dhcpd: error: bad\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			h := &lineHandler{w: &b, mu: &sync.Mutex{}, level: slog.LevelInfo}
			r := slog.NewRecord(at, tc.level, tc.text, 0)
			r.AddAttrs(tc.attrs...)
			if err := h.Handle(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if b.String() != tc.want {
				t.Errorf("got  %swant %s", b.String(), tc.want)
			}
		})
	}
	t.Run("level and With", func(t *testing.T) {
		var b bytes.Buffer
		log := newLogger(&b, config{logFormat: "text", logLevel: slog.LevelWarn}).With("network", "flat")
		log.Info("not shown")
		log.WithGroup("x").Warn("shown")
		if !strings.HasSuffix(b.String(), " flat-dhcpd: warn: shown network=flat\n") || strings.Contains(b.String(), "not shown") {
			t.Errorf("got %q", b.String())
		}
	})
}

func TestShort(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"2m": 2 * time.Minute, "1h": time.Hour, "1h30m": 90 * time.Minute, "45s": 45 * time.Second,
		"1m30s": 90 * time.Second, "24h": 24 * time.Hour, "1h0m5s": time.Hour + 5*time.Second, "10s": 10 * time.Second, "0s": 0,
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	n := newNode(t)
	d := n.start(t)
	await(t, "the daemon to start", func() bool { return strings.Contains(d.log.String(), "started") })
	second := n.start(t)
	<-second.done
	want := "another flat-dhcpd (process " + strconv.Itoa(d.cmd.Process.Pid) + ") holds " + rundir.Dir(n.run).DaemonLock()
	if code := second.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(second.log.String(), want) {
		t.Errorf("code %d, said %q, want %q", code, second.log, want)
	}
	d.stop(t)
	// The lock went with its holder, also with one that was killed.
	third := n.start(t)
	await(t, "a third daemon to start", func() bool { return strings.Contains(third.log.String(), "started") })
	if err := third.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-third.done
	fourth := n.start(t)
	await(t, "a fourth daemon to start", func() bool { return strings.Contains(fourth.log.String(), "started") })
	fourth.stop(t)
}

func TestSignOfLife(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.start(t)
	path := rundir.Dir(n.run).DaemonAlive()
	await(t, "the sign of life", func() bool { _, err := os.Stat(path); return err == nil })
	first := mtime(t, path)
	// The one test that waits for a period: STATUS depends on it.
	await(t, "its renewal", func() bool { return mtime(t, path).After(first) })
	d.stop(t)
}

func mtime(t testing.TB, path string) time.Time {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.ModTime()
}

// TestTwoDaemonsOnOneBridge: whatever directories it has, a second daemon that could serve
// nothing but a bridge of the first ends and says why. One that has something of its own
// serves that and complains about the rest.
func TestTwoDaemonsOnOneBridge(t *testing.T) {
	t.Parallel()
	n, _, s, first := servedNode(t)
	discover := func() {
		t.Helper()
		exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	}
	elsewhere := func() *node {
		return &node{NS: n.NS, data: filepath.Join(t.TempDir(), "data"), run: filepath.Join(t.TempDir(), "run")}
	}
	served := fmt.Sprintf("bridge br100 is served by another flat-dhcpd (process %d): two would both answer every client; stop one of them", first.cmd.Process.Pid)

	sameStore, sameBridge, more := elsewhere(), elsewhere(), elsewhere()
	sameStore.data = n.data
	for _, m := range []*node{sameBridge, more} {
		if _, err := ipam.OpenDir(m.data).Store("flat").Configure(t.Context(), network()); err != nil {
			t.Fatal(err)
		}
	}
	for name, m := range map[string]*node{"of the same stores": sameStore, "of other stores": sameBridge} {
		second := m.start(t)
		<-second.done
		if code := second.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(second.log.String(), " flat-dhcpd: error: "+served+"\n") {
			t.Errorf("%s: code %d, said %q", name, code, second.log)
		}
		discover()
	}

	// Its own bridge is still to be made, by itself.
	own := network(func(r *ipam.Network) {
		addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 3, 0, last}) }
		r.Name, r.Bridge.Name = "own", "br103"
		r.Pool.Subnet, r.Pool.Gateway = netip.PrefixFrom(addr(0), 24), addr(1)
		r.Pool.RangeStart, r.Pool.RangeEnd = addr(1), addr(254)
	})
	if _, err := ipam.OpenDir(more.data).Store("own").Configure(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	third := more.start(t)
	await(t, "both networks to be dealt with", func() bool {
		return strings.Contains(third.log.String(), "error: network flat is not served: "+served) &&
			strings.Contains(third.log.String(), "exclusively to interface br103")
	})
	discover()
	if got := ports67(t, n.NS); got != 2 {
		t.Errorf("%d sockets on port 67", got)
	}
	_, metrics := more.get(t, "/metrics")
	for _, want := range []string{`flatdhcp_network_served{network="flat",bridge="br100"} 0`, `flatdhcp_network_served{network="own",bridge="br103"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
	// It takes over what the first lets go of.
	first.stop(t)
	n.Give(t, "br100", netip.MustParsePrefix("10.0.0.200/32")) // wakes it
	third.serving(t, 2)
	third.stop(t)
}

// TestPortTaken: another DHCP server on the bridge is named as the trouble, and when it
// is gone the network is served.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	other, ended := n.occupy(t, "0.0.0.0:67")
	n.reserve(t, "cirros", known, reserved)
	d := n.start(t)
	want := fmt.Sprintf("error: network flat is not served: UDP port 67 on br100 is taken by another DHCP server: stop it (`ss -ulpn sport = :67` names it): "+
		"listen udp4 0.0.0.0:67: bind: address already in use (it is probably dnsmasq (process %d))", other.Process.Pid)
	await(t, "the trouble to be named", func() bool { return strings.Contains(d.log.String(), want) })
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	d.serving(t, 1)
	if c := strings.Count(d.log.String(), want); c != 1 {
		t.Errorf("said %d times", c)
	}
	d.stop(t)
}

func TestJSONLog(t *testing.T) {
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved)
	d := n.start(t, "--log-format", "json")
	d.serving(t, 1)
	exchange(t, c.Station(t, "eth0"), message(t, known, dhcpv4.MessageTypeRequest, asking(reserved)), testnet.Envelope{})
	d.stop(t)
	seen := false
	for line := range strings.Lines(d.log.String()) {
		var rec struct {
			Level, Msg string
			DHCP       struct{ Type, Network, Bridge, MAC, IP, Hostname string }
		}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if rec.DHCP.Type == "DHCPACK" {
			seen = true
			if rec.Msg != "DHCPACK(br100) 10.0.0.2 fa:16:3e:00:00:02 cirros" || rec.DHCP.Network != "flat" || rec.DHCP.Bridge != "br100" ||
				rec.DHCP.MAC != known.String() || rec.DHCP.IP != "10.0.0.2" || rec.DHCP.Hostname != "cirros" {
				t.Errorf("got %+v", rec)
			}
		}
	}
	if !seen {
		t.Error("no DHCPACK among the lines")
	}
}

// TestWhichNetworksAreServed: those with a bridge and a gateway here, each on its
// own, and of two on one bridge the first.
func TestWhichNetworksAreServed(t *testing.T) {
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved)
	second := filepath.Join(t.TempDir(), "second")
	configure := func(name string, octet byte, change func(*ipam.Network)) {
		r := network(func(r *ipam.Network) {
			addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, octet, 0, last}) }
			r.Name = name
			r.Pool.Subnet, r.Pool.Gateway = netip.PrefixFrom(addr(0), 24), addr(1)
			r.Pool.RangeStart, r.Pool.RangeEnd = addr(1), addr(254)
			change(r)
		})
		if _, err := ipam.OpenDir(second).Store(name).Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	configure("ipam-only", 1, func(r *ipam.Network) { r.Bridge = nil })
	configure("compute", 2, func(r *ipam.Network) { r.Bridge.Name, r.Bridge.IsGateway = "br102", false })
	configure("own", 3, func(r *ipam.Network) { r.Bridge.Name = "br103" })
	configure("same-bridge", 4, func(*ipam.Network) {})
	n.Bridge(t, "br102", ipam.MAC{2, 0, 0, 0, 0, 2}, netip.MustParsePrefix("10.2.0.1/24"))
	n.Bridge(t, "br103", ipam.MAC{2, 0, 0, 0, 0, 3}, netip.MustParsePrefix("10.3.0.1/24"))
	d := n.start(t, "--data-dir", second)
	d.serving(t, 2)
	await(t, "the second network of br100 to be refused", func() bool {
		return strings.Contains(d.log.String(), "error: network same-bridge ("+second+") is not served: bridge br100 carries network flat ("+n.data+") already")
	})
	exchange(t, c.Station(t, "eth0"), message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	for _, want := range []string{"exclusively to interface br100 network=flat\n", "exclusively to interface br103 network=own\n"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(d.log.String(), "br102") {
		t.Error("a node that is no gateway is served")
	}
	// No socket is where none has to be.
	if got := ports67(t, n.NS); got != 2 {
		t.Errorf("%d sockets on port 67, want 2", got)
	}
	d.stop(t)
	if got := ports67(t, n.NS); got != 0 {
		t.Errorf("%d sockets on port 67 after the end", got)
	}
}

// ports67 counts the UDP sockets on port 67 in a namespace.
func ports67(t testing.TB, ns *testnet.NS) int {
	t.Helper()
	cmd := exec.Command("/bin/cat", "/proc/net/udp")
	var out testlog.Buffer
	cmd.Stdout = &out
	<-ns.Start(t, cmd)
	return strings.Count(out.String(), "00000000:0043 ")
}

// TestNetworkChangesUnderClients: lease time and nameservers of the next answer are
// those of the record as last configured, without a restart.
func TestNetworkChangesUnderClients(t *testing.T) {
	n, _, s, d := servedNode(t)
	changed := network(func(r *ipam.Network) {
		r.Bridge.LeaseTime = ipam.Duration(time.Hour)
		r.Bridge.DNS.Nameservers = []netip.Addr{netip.MustParseAddr("10.0.0.53")}
	})
	if _, err := n.store.Configure(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	await(t, "the new lease time", func() bool {
		r := exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer)), testnet.Envelope{})
		return r.IPAddressLeaseTime(0) == time.Hour && cmp.Equal([]string{"10.0.0.53"}, texts(r.DNS()))
	})
	// No longer this node's to serve: the socket is closed; then it is again.
	changed.Bridge.IsGateway = false
	if _, err := n.store.Configure(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of service", func() bool { return strings.Contains(d.log.String(), "DHCP on br100 stopped") })
	// A program that the daemon starts just then has the socket too until it runs.
	await(t, "the port to be free", func() bool { return ports67(t, n.NS) == 0 })
	changed.Bridge.IsGateway = true
	if _, err := n.store.Configure(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	d.serving(t, 2)
	exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
	d.stop(t)
}

func texts(ips []net.IP) (s []string) {
	for _, ip := range ips {
		s = append(s, ip.String())
	}
	return s
}

// TestRestartLosesNothing: killed at a bad moment, started again, and every client's
// next message, whatever its state, is answered as if nothing had been.
func TestRestartLosesNothing(t *testing.T) {
	n, _, s, d := servedNode(t)
	for i := range 5 {
		exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover), testnet.Envelope{})
		if err := d.cmd.Process.Signal([]os.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT}[i%3]); err != nil {
			t.Fatal(err)
		}
		<-d.done
		d = n.start(t)
		d.serving(t, 1)
		for name, m := range map[string]*dhcpv4.DHCPv4{
			"selecting, offered before": message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)),
			"rebooting":                 message(t, known, dhcpv4.MessageTypeRequest, asking(reserved)),
			"rebinding":                 message(t, known, dhcpv4.MessageTypeRequest, having(reserved)),
		} {
			if r := exchange(t, s, m, testnet.Envelope{}); r.MessageType() != dhcpv4.MessageTypeAck {
				t.Errorf("%s: %v", name, r.MessageType())
			}
		}
		m := message(t, known, dhcpv4.MessageTypeRequest, having(reserved))
		if r := exchange(t, s, m, testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC}); r.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("renewing: %v", r.MessageType())
		}
	}
}
