package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/flatdhcp/flatdhcp/dhcpd/internal/testnet"
	"github.com/flatdhcp/flatdhcp/dhcpd/lease"
	"github.com/flatdhcp/flatdhcp/ipam"
	"github.com/flatdhcp/flatdhcp/plugins/rundir"
)

// socket returns a client of the daemon's socket.
func (n *node) socket() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", rundir.Dir(n.run).DaemonSocket())
	}}}
}

// get asks the daemon; a daemon that is not there says nothing.
func (n *node) get(t testing.TB, path string) (code int, body string) {
	t.Helper()
	r, err := n.socket().Get("http://flat-dhcpd" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func (n *node) leases(t testing.TB) (list []lease.Lease) {
	t.Helper()
	code, body := n.get(t, "/leases")
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	return list
}

// TestSeen: a client's life as the daemon's socket shows it, over a restart that forgets
// nothing of it.
func TestSeen(t *testing.T) {
	t.Parallel()
	n, _, s, d := servedNode(t)
	path := rundir.Dir(n.run).DaemonSocket()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	stream, err := n.socket().Get("http://flat-dhcpd/events")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Body.Close() }()

	self := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptHostName("guest\x1b[2J")), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("udhcp 1.35")),
	}
	toServer := testnet.Envelope{From: reserved, To: gateway, ToMAC: bridgeMAC}
	exchange(t, s, message(t, known, dhcpv4.MessageTypeDiscover, self...), testnet.Envelope{})
	exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), choosing(gateway)), testnet.Envelope{})
	exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), toServer)
	exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(netip.MustParseAddr("10.0.0.77"))), testnet.Envelope{})
	silent(t, s, message(t, stranger, dhcpv4.MessageTypeDiscover), testnet.Envelope{}) // and a refusal
	n.hold(t, "second", ipam.MAC{0xfa, 0x16, 0x3e, 0, 0, 9}, netip.MustParseAddr("10.0.0.9"))
	reader := bufio.NewScanner(stream.Body)
	var got []string
	for len(got) < 6 && reader.Scan() {
		var e lease.Event
		if err := json.Unmarshal(reader.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", reader.Bytes(), err)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %s %s %q %q %s", e.Kind, e.Network, e.Bridge, e.MAC, e.IP, e.Hostname, e.ClientHostname, e.VendorClass, e.Reason))
	}
	want := []string{
		`offered flat br100 fa:16:3e:00:00:02 10.0.0.2 cirros "guest?[2J" "udhcp 1.35" `,
		`bound flat br100 fa:16:3e:00:00:02 10.0.0.2 cirros "" "" `,
		`renewed flat br100 fa:16:3e:00:00:02 10.0.0.2 cirros "" "" `,
		`refused flat br100 fa:16:3e:00:00:02 10.0.0.77 cirros "" "" wrong address`,
		`refused flat br100 fa:16:3e:00:00:02 10.0.0.250 cirros "" "" wrong address`,
		`reserved flat br100 fa:16:3e:00:00:09 10.0.0.9 second "" "" `,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}

	_, metrics := n.get(t, "/metrics")
	for _, want := range []string{
		`flatdhcp_dhcp_messages_total{network="flat",type="discover",outcome="offer"} 1`,
		`flatdhcp_dhcp_messages_total{network="flat",type="discover",outcome="unknown_client"} 1`,
		`flatdhcp_dhcp_messages_total{network="flat",type="request",outcome="ack"} 2`,
		`flatdhcp_dhcp_messages_total{network="flat",type="request",outcome="nak"} 2`,
		`flatdhcp_dhcp_client_messages_total{network="flat",client="known"} 5`,
		`flatdhcp_dhcp_client_messages_total{network="flat",client="unknown"} 1`,
		`flatdhcp_dhcp_datagrams_received_total{network="flat"} 6`,
		`flatdhcp_dhcp_reply_seconds_count{network="flat"} 5`,
		`flatdhcp_dhcp_lost_total{network="flat",where="overflow"} 0`,
		`flatdhcp_leases{network="flat",state="bound"} 1`,
		`flatdhcp_network_served{network="flat",bridge="br100"} 1`,
		`flatdhcp_reservations{network="flat"} 2`,
		`flatdhcp_event_readers 1`,
		`flatdhcp_reconciles_total{result="error"} 0`,
		`flatdhcp_config_refused_total 0`,
		`flatdhcp_store_reloads_total{network="flat",result="error"} 0`,
		`flatdhcp_build_info{version="dev"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no metric %s", want)
		}
	}
	if t.Failed() {
		t.Log(metrics)
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": `"ready":true,"networks":[{"network":"flat"`} {
		if code, body := n.get(t, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	check := func(when string, state lease.State) {
		t.Helper()
		list := n.leases(t)
		if len(list) != 1 {
			t.Fatalf("%s: leases %v", when, list)
		}
		l := list[0]
		if l.IP != reserved || l.MAC != known || l.State != state || l.ClientHostname != "guest?[2J" || l.VendorClass != "udhcp 1.35" || l.Hostname != "cirros" ||
			l.FirstSeen.After(l.LastSeen) {
			t.Errorf("%s: %+v", when, l)
		}
		if good := l.Expires.Sub(l.LastSeen); state == lease.StateBound && (good <= time.Minute || good > 2*time.Minute) {
			t.Errorf("%s: good for %v", when, good)
		}
	}
	check("before", lease.StateBound)
	d.stop(t)
	if _, err := os.Stat(filepath.Join(n.data, "flat.leases")); err != nil {
		t.Fatal(err)
	}
	d = n.start(t)
	d.serving(t, 1)
	check("after a restart", lease.StateBound)
	s.Send(t, message(t, known, dhcpv4.MessageTypeRelease, having(reserved)), toServer)
	await(t, "the release", func() bool { return n.leases(t)[0].State == lease.StateReleased })
	s.Send(t, message(t, known, dhcpv4.MessageTypeDecline, asking(reserved), choosing(gateway)), testnet.Envelope{})
	await(t, "the refusal of its address", func() bool { return n.leases(t)[0].State == lease.StateDeclined })

	// Killed, with a file that is no use: begun anew, and every answer as before.
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.done
	if err := os.WriteFile(filepath.Join(n.data, "flat.leases"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = n.start(t)
	d.serving(t, 1)
	if !strings.Contains(d.log.String(), "flat.leases: unexpected end of JSON input; it is begun anew, which changes no answer") {
		t.Error("it says nothing about its file")
	}
	if list := n.leases(t); len(list) != 0 {
		t.Errorf("leases %v", list)
	}
	if r := exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, having(reserved)), toServer); r.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("renewing: %v", r.MessageType())
	}
	await(t, "the lease", func() bool { l := n.leases(t); return len(l) == 1 && l[0].State == lease.StateBound })
	d.stop(t)
}

// TestListen: on TCP only if asked, on loopback without a host, and what is taken is
// said before anything is served.
func TestListen(t *testing.T) {
	n := newNode(t)
	n.reserve(t, "cirros", known, reserved)
	d := n.start(t, "--listen", ":9000")
	d.serving(t, 1)
	if !strings.Contains(d.log.String(), "answering requests on 127.0.0.1:9000") {
		t.Errorf("said %s", d.log)
	}
	n.Do(t, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:9000")
		if err != nil {
			return err
		}
		_, err = io.WriteString(c, "GET /healthz HTTP/1.0\r\n\r\n")
		b, e := io.ReadAll(c)
		if err != nil || e != nil || !strings.HasPrefix(string(b), "HTTP/1.0 200 OK") {
			t.Errorf("%q, %v, %v", b, err, e)
		}
		return c.Close()
	})
	d.stop(t)
	var taken net.Listener
	n.Do(t, func() (err error) {
		taken, err = net.Listen("tcp", "127.0.0.1:9000")
		return err
	})
	defer func() { _ = taken.Close() }()
	d = n.start(t, "--listen", ":9000")
	<-d.done
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(d.log.String(), "listening for requests: listen tcp 127.0.0.1:9000: bind: address already in use") {
		t.Errorf("code %d, said %s", code, d.log)
	}
}

// TestNotReadyWhileThePortIsTaken: the network's trouble is in readyz and in a metric.
func TestNotReadyWhileThePortIsTaken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.reserve(t, "cirros", known, reserved)
	var other net.PacketConn
	n.Do(t, func() (err error) {
		other, err = net.ListenPacket("udp4", "0.0.0.0:67")
		return err
	})
	defer func() { _ = other.Close() }()
	d := n.start(t)
	await(t, "the trouble", func() bool {
		code, body := n.get(t, "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "UDP port 67 on br100 is taken by another")
	})
	if _, m := n.get(t, "/metrics"); !strings.Contains(m, `flatdhcp_network_served{network="flat",bridge="br100"} 0`) {
		t.Error("the metric says that it is served")
	}
	d.stop(t)
}

// TestHook: the program gets dnsmasq's arguments and environment and no capability, what
// it leaves running or says holds up nothing, and a client's text stays text.
func TestHook(t *testing.T) {
	t.Parallel()
	n, c := newNode(t), testnet.New(t)
	n.Port(t, "br100", "tap0", c, known)
	n.reserve(t, "cirros", known, reserved)
	dir := t.TempDir()
	program, out := filepath.Join(dir, "hook"), filepath.Join(dir, "out")
	script := fmt.Sprintf(`#!/bin/sh
{ echo "args:$*"; env | grep -E '^(DNSMASQ|FLATDHCP|NOTIFY|FLAT_DHCPD)' | sort; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; echo done; } >>%s
echo said
exit 3
`, out)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d := n.start(t, "--hook", program)
	d.serving(t, 1)
	s := c.Station(t, "eth0")
	exchange(t, s, message(t, known, dhcpv4.MessageTypeRequest, asking(reserved), dhcpv4.WithOption(dhcpv4.OptHostName("$(touch "+dir+"/x)\n"))), testnet.Envelope{})
	await(t, "the hook", func() bool { return strings.HasSuffix(logFile(out).String(), "done\n") })
	var got []string
	for line := range strings.Lines(logFile(out).String()) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "DNSMASQ_LEASE_EXPIRES=") {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	want := []string{
		"args:add fa:16:3e:00:00:02 10.0.0.2 cirros",
		"DNSMASQ_INTERFACE=br100",
		("DNSMASQ_SUPPLIED_HOSTNAME=$(touch " + dir + "/x)?")[:len("DNSMASQ_SUPPLIED_HOSTNAME=")+min(64, len("$(touch "+dir+"/x)?"))],
		"DNSMASQ_TIME_REMAINING=120", "FLATDHCP_NETWORK=flat",
		"CapInh: 0000000000000000", "CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapBnd: " + wantedCapabilities, "CapAmb: 0000000000000000",
		"NoNewPrivs: 1", "done",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	await(t, "the failure in the log", func() bool {
		return strings.Contains(d.log.String(), `warn: the hook failed for "add fa:16:3e:00:00:02 10.0.0.2 cirros": exit status 3`)
	})
	await(t, "the failure in a metric", func() bool {
		_, m := n.get(t, "/metrics")
		return strings.Contains(m, `flatdhcp_hook_runs_total{result="error"} 1`)
	})
	// The threads that ran it are gone or harmless: bridges can still be made and bound to.
	n.Delete(t, "br100") // the daemon makes it again
	d.serving(t, 2)
	d.stop(t)
}

func TestHookThatCannotBeExecuted(t *testing.T) {
	n := newNode(t)
	d := n.start(t, "--hook", "/etc/passwd")
	<-d.done
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(d.log.String(), "--hook /etc/passwd cannot be executed: permission denied") {
		t.Errorf("code %d, said %s", code, d.log)
	}
}

// TestServiceManager: readiness once the networks have been looked at, the watchdog from
// the loop that serves, and the end.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.reserve(t, "cirros", known, reserved)
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	d := n.startWith(t, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"})
	next := func() string {
		t.Helper()
		b := make([]byte, 100)
		if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		k, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:k])
	}
	if got := next(); got != "READY=1" {
		t.Errorf("first it says %q", got)
	}
	for range 3 { // of which the first may be the loop's own reason to turn
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("then it says %q", got)
		}
	}
	d.serving(t, 1)
	d.stop(t)
	for got := next(); got != "STOPPING=1"; got = next() {
		if got != "WATCHDOG=1" {
			t.Fatalf("at the end it says %q", got)
		}
	}
}
