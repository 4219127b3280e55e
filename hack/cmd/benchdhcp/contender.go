package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// Names of the contenders, as they are reported.
const (
	ours         = "flat-dhcpd"
	dnsmasq      = "dnsmasq"
	dnsmasqLease = "dnsmasq, lease file"
	kea          = "kea-dhcp4"
	iscDHCPD     = "isc dhcpd"
	floor        = "echo"
)

// setup is a server and its configuration.
type setup struct {
	name    string // as it is reported
	host    string // and as it is chosen on the command line
	program string // what must be installed
	// prepare writes its configuration for n reservations and returns its command line.
	prepare func(ctx context.Context, h *lab.Host, n int) ([]string, error)
}

// setups are all contenders, ours first.
func setups() []setup {
	return []setup{
		{name: ours, host: "flat-dhcpd", prepare: prepareOurs},
		{name: dnsmasq, host: "dnsmasq", program: "dnsmasq", prepare: prepareDnsmasq("--leasefile-ro")},
		{name: dnsmasqLease, host: "dnsmasq-lf", program: "dnsmasq", prepare: prepareDnsmasq("--dhcp-leasefile=" + work + "/leases")},
		{name: kea, host: "kea", program: "kea-dhcp4", prepare: prepareKea},
		{name: iscDHCPD, host: "isc", program: "dhcpd", prepare: prepareISC},
		{name: floor, host: "echo", prepare: prepareEcho},
	}
}

// work is the directory of configuration and lease files on a contender's host: in
// memory, which favours those that write leases.
const work = "/var/lib/bench"

// self is this program as a host sees it: see package lab.
const self = "/run/lab/bin/benchdhcp"

func prepareOurs(ctx context.Context, h *lab.Host, n int) ([]string, error) {
	dir := fmt.Sprintf("%s/store-%d", work, n)
	if _, _, err := h.Run(ctx, self, "-fill", strconv.Itoa(n), "-data", dir); err != nil {
		return nil, err
	}
	return []string{"flat-dhcpd", "--data-dir", dir, "--log-level", "warn"}, nil
}

func prepareEcho(context.Context, *lab.Host, int) ([]string, error) {
	return []string{self, "-echo"}, nil
}

func prepareDnsmasq(leases string) func(context.Context, *lab.Host, int) ([]string, error) {
	return func(ctx context.Context, h *lab.Host, n int) ([]string, error) {
		hosts := lines(n, func(i int, a netip.Addr, m ipam.MAC) string { return fmt.Sprintf("%s,%s,h%d\n", m, a, i) })
		if err := h.WriteFile(ctx, work+"/hosts", 0o644, hosts); err != nil {
			return nil, err
		}
		return []string{
			"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-hosts", "--no-resolv",
			"--interface=" + bridge, "--bind-interfaces", "--dhcp-authoritative", "--no-ping", "--quiet-dhcp",
			"--log-facility=-", "--pid-file=", "--dhcp-range=10.0.0.0,static,255.255.0.0,1h", "--dhcp-lease-max=100000",
			"--dhcp-option=option:dns-server,9.9.9.9", "--domain=novalocal", "--dhcp-hostsfile=" + work + "/hosts", leases,
		}, nil
	}
}

func prepareKea(ctx context.Context, h *lab.Host, n int) ([]string, error) {
	hosts := lines(n, func(i int, a netip.Addr, m ipam.MAC) string {
		return fmt.Sprintf(`{"hw-address": "%s", "ip-address": "%s", "hostname": "h%d"},`+"\n", m, a, i)
	})
	// No pool, addresses outside of it, one kind of identifier: all that makes it fast.
	conf := fmt.Sprintf(`{"Dhcp4": {
		"interfaces-config": {"interfaces": ["%s"], "dhcp-socket-type": "raw"},
		"lease-database": {"type": "memfile", "persist": true, "name": "%s/leases.csv", "lfc-interval": 0},
		"valid-lifetime": 3600, "match-client-id": false, "authoritative": true,
		"host-reservation-identifiers": ["hw-address"],
		"option-data": [{"name": "domain-name-servers", "data": "9.9.9.9"}, {"name": "domain-name", "data": "novalocal"}],
		"subnet4": [{"subnet": "%s", "reservations-global": false, "reservations-in-subnet": true, "reservations-out-of-pool": true,
			"option-data": [{"name": "routers", "data": "%s"}],
			"reservations": [%s]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": "stderr"}]}]
	}}`, bridge, work, subnet, gateway, strings.TrimSuffix(hosts, ",\n"))
	if err := h.WriteFile(ctx, work+"/kea.conf", 0o644, conf); err != nil {
		return nil, err
	}
	return []string{"env", "KEA_PIDFILE_DIR=" + work, "KEA_LOCKFILE_DIR=" + work, "kea-dhcp4", "-c", work + "/kea.conf"}, nil
}

func prepareISC(ctx context.Context, h *lab.Host, n int) ([]string, error) {
	conf := fmt.Sprintf(`authoritative; ping-check off; ddns-update-style none; default-lease-time 3600; max-lease-time 3600;
option domain-name-servers 9.9.9.9; option domain-name "novalocal";
subnet 10.0.0.0 netmask 255.255.0.0 { option routers %s; }
`, gateway) + lines(n, func(i int, a netip.Addr, m ipam.MAC) string {
		return fmt.Sprintf("host h%d { hardware ethernet %s; fixed-address %s; option host-name \"h%d\"; }\n", i, m, a, i)
	})
	if err := errors.Join(h.WriteFile(ctx, work+"/dhcpd.conf", 0o644, conf), h.WriteFile(ctx, work+"/dhcpd.leases", 0o644, "")); err != nil {
		return nil, err
	}
	return []string{"dhcpd", "-4", "-f", "-q", "--no-pid", "-cf", work + "/dhcpd.conf", "-lf", work + "/dhcpd.leases", bridge}, nil
}

// contender is a setup on a host of its own, with its clients' interface behind a port of
// the bridge.
type contender struct {
	setup
	node    *lab.Host
	clients *lab.Container
	server  *lab.Process
	cpu     int // of the clients
}

// newContender makes the host.
func newContender(ctx context.Context, l *lab.Lab, s setup) (*contender, error) {
	h, err := l.AddHost(ctx, s.host)
	if err != nil {
		return nil, err
	}
	if s.program != "" {
		if _, _, err := h.Run(ctx, "sh", "-c", `command -v "$1"`, "sh", s.program); err != nil {
			return nil, fmt.Errorf("%s is not installed (hack/deps bench-dhcp installs it): %w", s.program, err)
		}
	}
	c := &contender{setup: s, node: h, cpu: none}
	if runtime.NumCPU() > 1 {
		c.cpu = 1
	}
	if c.clients, err = h.Container(ctx, clientsNS); err != nil {
		return nil, err
	}
	// The relay's address is the only one of the clients' side. No IPv6: its own messages
	// would be noise.
	const script = `set -e
mkdir -p "$6"
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add "$1" address "$2" type bridge
ip addr add "$3/16" dev "$1"
ip link set "$1" up
ip netns exec clients sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add p0 type veth peer name eth0 address "$4" netns clients
ip link set p0 master "$1" up
ip -n clients addr add "$5/16" dev eth0
ip -n clients link set eth0 up
`
	_, _, err = h.Run(ctx, "sh", "-c", script, "sh", bridge, bridgeMAC.String(), gateway.String(), relayMAC.String(), relay.String(), work)
	return c, err
}

// begin starts the server with n reservations and returns when it serves. The server keeps
// to one CPU and the clients to another, where there are two.
func (c *contender) begin(ctx context.Context, n int) error {
	argv, err := c.prepare(ctx, c.node, n)
	if err != nil {
		return fmt.Errorf("configuring %s: %w", c.name, err)
	}
	if c.cpu != none {
		argv = append([]string{"taskset", "-c", "0"}, argv...)
	}
	if c.server, err = c.node.Start(argv...); err != nil {
		return err
	}
	// Its first lease says that it is there.
	l := load{mode: unicast, clients: []int{0}, window: 1, patience: patience, wait: constant(50 * time.Millisecond)}
	out, err := c.run(l)
	if err == nil && out.exchanges == 0 {
		err = errors.New("it gives no lease")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("waiting for %s to serve %d hosts: %w; it said:\n%s", c.name, n, err, strings.Join(c.server.Lines(), "\n")), c.end())
	}
	return nil
}

// patience is the time that a server may take to start, in which Kea reads 10,000 hosts.
const patience = time.Minute

// end ends the server.
func (c *contender) end() error {
	if c.server == nil {
		return nil
	}
	err := c.server.Kill()
	c.server = nil
	return err
}

// run runs a load against the server.
func (c *contender) run(l load) (out outcome, err error) {
	if l.link, err = openLink(c.clients.NetNS(), "eth0"); err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, l.link.close()) }()
	err = onCPU(c.cpu, func() (err error) {
		out, err = l.run()
		return err
	})
	if err != nil {
		err = fmt.Errorf("leasing from %s: %w", c.name, err)
	}
	return out, err
}

// forget empties the node's table of neighbours: dnsmasq makes an entry for each client,
// the table is the whole machine's and takes about a thousand.
func (c *contender) forget(ctx context.Context) error {
	_, _, err := c.node.Run(ctx, "ip", "neigh", "flush", "dev", bridge)
	return err
}

// usage is what a process has used.
type usage struct {
	cpu time.Duration // user and system, of all its threads
	rss int           // bytes that are in memory now
}

// used reads the server's.
func (c *contender) used() (usage, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.server.PID()), "stat"))
	if err != nil {
		return usage{}, fmt.Errorf("reading what %s has used: %w", c.name, err)
	}
	return parseStat(string(text))
}

// parseStat reads /proc/PID/stat (proc(5)). The name of the program may contain anything.
func parseStat(text string) (usage, error) {
	const state, utime, stime, rss = 3, 14, 15, 24 // numbers of the fields, from 1
	words := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(words) <= rss-state {
		return usage{}, fmt.Errorf("%q is no /proc/PID/stat", text)
	}
	var n [3]int
	for i, field := range []int{utime, stime, rss} {
		var err error
		if n[i], err = strconv.Atoi(words[field-state]); err != nil {
			return usage{}, fmt.Errorf("reading field %d of %q: %w", field, text, err)
		}
	}
	// USER_HZ is 100 on every architecture that Go knows.
	return usage{cpu: time.Duration(n[0]+n[1]) * time.Second / 100, rss: n[2] * os.Getpagesize()}, nil
}
