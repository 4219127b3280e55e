package seed

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// flow watches the whole network while something is done on it, and tells which frame was
// seen where, and which rules have counted.
type flow struct {
	*scene
	names map[string]string // of chains and ports, as a reader knows them
}

// column is a point of docs/packet-flow.md's tables.
type column struct {
	host, name string
	at         lab.Point
}

// columns are NIC, bridge and ports of all three hosts.
func (f *flow) columns() []column {
	var all []column
	for _, n := range f.nodes() {
		for _, nic := range []string{"eth1", "eth2", "br100"} {
			all = append(all, column{n.Name(), nic, n.At(nic)})
		}
		for _, w := range []*workload{f.vm1, f.vm2, f.vm3} {
			if w.n == n {
				all = append(all, column{n.Name(), w.name, n.At(w.port())})
			}
		}
	}
	return all
}

// end is where what ends a capture is sent from: after everything that was sent there before.
type end struct {
	tap  *lab.Tap
	from lab.Endpoint
}

func (f *flow) endAt(w *workload) end { return end{f.tap(w, "eth0"), w.endpoint()} }

func (f *flow) endAtController() end {
	tap := f.tap(f.controller, "br100")
	return end{tap, lab.Endpoint{MAC: tap.MAC(), Addr: gateway}}
}

// seen does something and returns its listing. What is left out is what keep does not want;
// nothing that does not belong to the scenario is on the network by then.
func (f *flow) seen(e end, act func(), keep func(frame string) bool) string {
	f.t.Helper()
	for _, n := range f.nodes() {
		n.run("ip", "neighbour", "flush", "all")
		n.run("conntrack", "-F")
	}
	for _, w := range []*workload{f.vm1, f.vm2, f.vm3} {
		f.inside(w, "ip", "neighbour", "flush", "all")
	}
	columns := f.columns()
	var flat, management []lab.Point
	for _, c := range columns {
		if c.name == "eth1" {
			management = append(management, c.at)
		} else {
			flat = append(flat, c.at)
		}
	}
	outside := f.tap(f.outside, "eth1")
	frames, beside := f.watch(flat...), f.watch(management...)
	before := f.counters()
	act()
	var markers []func([]byte) bool
	until := func(c *lab.Capture, e end) []lab.Sighting {
		f.t.Helper()
		marker, is := lab.Marker(e.from, lab.Endpoint{MAC: lab.Broadcast, Addr: e.from.Addr})
		markers = append(markers, is)
		if err := e.tap.Send(marker); err != nil {
			f.t.Fatal(err)
		}
		all, err := c.Until(f.within(), is)
		if err != nil {
			f.t.Fatal(err)
		}
		return all
	}
	all := until(frames, e)
	all = append(all, until(beside, end{outside, lab.Endpoint{MAC: outside.MAC(), Addr: outsideAddr}})...)
	slices.SortStableFunc(all, func(a, b lab.Sighting) int { return a.At.Compare(b.At) })
	after := f.counters()

	all = slices.DeleteFunc(all, func(s lab.Sighting) bool {
		if slices.ContainsFunc(markers, func(is func([]byte) bool) bool { return is(s.Frame) }) {
			return true
		}
		text := lab.Describe(s.Frame)
		// Who knows a neighbour asks it, and nobody else, whether it is still there.
		again := strings.HasPrefix(text, "ARP, Request") && s.Frame[0]&1 == 0
		return again || strings.Contains(text, "ARP, Request who-has 192.168.") || strings.Contains(text, "ARP, Reply 192.168.") || !keep(text)
	})
	return sightingsTable(columns, all) + "\n" + f.moved(before, after)
}

var ephemeral = regexp.MustCompile(`\.(3[2-9]|[4-6]\d)\d{3}\b`)

// sightingsTable has a line for each kind of frame, and a column for each point.
func sightingsTable(columns []column, seen []lab.Sighting) string {
	const first = 62
	var texts []string
	at := map[string]map[string]string{}
	for _, s := range seen {
		text := ephemeral.ReplaceAllString(lab.Describe(s.Frame), ".PORT")
		if at[text] == nil {
			texts, at[text] = append(texts, text), map[string]string{}
		}
		at[text][s.Point] = word(s.Sent, "out", "in")
	}
	hosts, names := strings.Repeat(" ", first), fmt.Sprintf("%-*s", first, "frame")
	for i, c := range columns {
		if i > 0 && columns[i-1].host != c.host {
			names += "  "
			hosts = fmt.Sprintf("%-*s", len(names), hosts)
		}
		if i == 0 || columns[i-1].host != c.host {
			hosts += c.host
		}
		names += fmt.Sprintf("%-6s", c.name)
	}
	lines := []string{hosts, names}
	for _, text := range texts {
		line := fmt.Sprintf("%-*s", first, text)
		for i, c := range columns {
			if i > 0 && columns[i-1].host != c.host {
				line += "  "
			}
			where := at[text][c.at.Name]
			line += fmt.Sprintf("%-6s", word(where == "", ".", where))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n"
}

// counted is a rule and its packets.
type counted struct {
	table, chain, rule string
	packets            string
}

// counters are those of the rules of each host in their order, and of the guard.
func (f *flow) counters() map[string][]counted {
	f.t.Helper()
	all := map[string][]counted{}
	for _, n := range f.nodes() {
		table := ""
		for line := range strings.Lines(n.run("iptables-save", "-c")) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "*") {
				table = line[1:]
			}
			if found := savedRule.FindStringSubmatch(line); found != nil {
				chain, rule, _ := strings.Cut(comment.ReplaceAllString(found[2], ""), " ")
				all[n.Name()] = append(all[n.Name()], counted{table, chain, rule, found[1]})
			}
		}
		counts := n.counts()
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			if reason, ok := strings.CutPrefix(name, "guard "); ok {
				all[n.Name()] = append(all[n.Name()], counted{"guard", "drops", reason, fmt.Sprint(counts[name])})
			}
		}
	}
	return all
}

var target = regexp.MustCompile(`-j (\S+)`)

// moved lists the rules that have counted, by host, in the order in which a packet meets them.
func (f *flow) moved(before, after map[string][]counted) string {
	f.t.Helper()
	var b strings.Builder
	for _, n := range f.nodes() {
		var lines []string
		was := map[string]string{}
		for _, c := range before[n.Name()] {
			was[c.table+" "+c.chain+" "+c.rule] = c.packets
		}
		done := map[string]bool{}
		var visit func(table, chain string)
		visit = func(table, chain string) {
			if done[table+chain] {
				return
			}
			done[table+chain] = true
			for _, c := range after[n.Name()] {
				if c.table != table || c.chain != chain || was[c.table+" "+c.chain+" "+c.rule] == c.packets {
					continue
				}
				text := c.chain + " " + c.rule
				for name, as := range f.names {
					text = strings.ReplaceAll(text, name, as)
				}
				lines = append(lines, fmt.Sprintf("  %-7s%s", c.table, text))
				if to := target.FindStringSubmatch(c.rule); to != nil {
					visit(table, to[1])
				}
			}
		}
		for _, start := range []string{"nat PREROUTING", "filter INPUT", "filter FORWARD", "filter OUTPUT", "nat POSTROUTING", "guard drops"} {
			table, chain, _ := strings.Cut(start, " ")
			visit(table, chain)
		}
		if len(lines) > 0 {
			b.WriteString(n.Name() + "\n" + strings.Join(lines, "\n") + "\n")
		}
	}
	return b.String()
}

// about keeps frames that say one of these.
func about(texts ...string) func(string) bool {
	return func(frame string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(frame, text) })
	}
}

// TestPacketFlow: docs/packet-flow.md says of each scenario of the seed which frame was seen
// where and which rules decided, as it is seen here.
func TestPacketFlow(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := openPage(t, "packet-flow.md")
	s := newHosts(t, shapes[0], true, lab.Seed(2))
	for _, h := range append([]*lab.Host{s.outside}, s.controller.Host, s.compute1.Host, s.compute2.Host) {
		// The hosts' own IPv6 is no part of it, and would be seen now and then.
		s.run(h, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	s.vm1 = s.compute1.attach("vm1", lab.CNIOptions{})
	s.vm2 = s.compute1.attach("vm2", lab.CNIOptions{})
	s.vm3 = s.compute2.attach("vm3", lab.CNIOptions{})
	f := &flow{scene: s, names: map[string]string{}}
	for _, w := range []*workload{s.vm1, s.vm2, s.vm3} {
		f.names[w.chain()] = "FLAT-WL-(" + w.name + ")"
		w.boot()
	}
	for file, text := range metadataFiles {
		if err := s.controller.WriteFile(s.within(), file, 0o644, text); err != nil {
			t.Fatal(err)
		}
	}
	httpd, err := s.controller.Start("busybox", "httpd", "-f", "-p", s.controller.metadata(), "-h", "/run/metadata")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = httpd.Kill() })
	pings := func(from place, to netip.Addr, answered bool) func() {
		return func() {
			t.Helper()
			if got := s.ping(from, to, answered); got != answered {
				t.Errorf("a ping to %s: answered %t, want %t", to, got, answered)
			}
		}
	}
	everything := func(string) bool { return true }

	p.set("dhcp", f.seen(f.endAt(s.vm1), func() { s.vm1.boot() }, about("DHCP")))
	p.set("from-controller", f.seen(f.endAtController(), pings(s.controller, s.vm1.addr, true), everything))
	p.set("from-compute", f.seen(f.endAt(s.vm1), func() {
		if err := s.compute1.send(netip.Addr{}, s.vm1.addr, "from its host"); !errors.Is(err, unix.EPERM) {
			t.Errorf("sendto: %v, want %v", err, unix.EPERM)
		}
	}, everything))
	p.set("from-other-compute", f.seen(f.endAt(s.vm1), func() {
		if err := s.compute2.send(netip.Addr{}, s.vm1.addr, "from another host"); err != nil {
			t.Errorf("sendto: %v", err)
		}
	}, about("192.168.56.203")))
	p.set("same-host", f.seen(f.endAt(s.vm2), pings(s.vm2, s.vm1.addr, true), everything))
	p.set("two-hosts", f.seen(f.endAt(s.vm3), pings(s.vm3, s.vm1.addr, true), everything))
	p.set("outside", f.seen(f.endAt(s.vm1), pings(s.vm1, outsideAddr, true), everything))
	p.set("metadata", f.seen(f.endAt(s.vm1), func() {
		s.inside(s.vm1, "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/latest/meta-data/instance-id")
	}, about("TCP [S]", "TCP [S.]", "ARP")))

	// The toggle is turned off.
	for _, n := range s.nodes() {
		n.apply(keys{"allowSameNetTraffic": false})
	}
	p.set("closed-from-controller", f.seen(f.endAtController(), pings(s.controller, s.vm1.addr, true), everything))
	p.set("closed-same-host", f.seen(f.endAt(s.vm2), pings(s.vm2, s.vm1.addr, false), everything))
	p.set("closed-two-hosts", f.seen(f.endAt(s.vm3), pings(s.vm3, s.vm1.addr, false), everything))
	p.set("closed-broadcast", f.seen(f.endAt(s.vm2), func() {
		datagram := lab.UDP(netip.AddrPortFrom(s.vm2.addr, 5000), netip.MustParseAddrPort("10.0.0.255:6000"), []byte("to all"))
		if err := s.tap(s.vm2, "eth0").Send(lab.Ethernet(lab.Broadcast, s.vm2.mac, 0x0800, datagram)); err != nil {
			t.Fatal(err)
		}
	}, everything))
	p.set("closed-dhcp", f.seen(f.endAt(s.vm1), func() { s.vm1.boot() }, about("DHCP")))

	// What stays possible.
	send := func(from, to *workload, source, destination uint16) {
		t.Helper()
		datagram := lab.UDP(netip.AddrPortFrom(from.addr, source), netip.AddrPortFrom(to.addr, destination), []byte("datagram"))
		if err := s.tap(from, "eth0").Send(lab.Ethernet(to.mac, from.mac, 0x0800, datagram)); err != nil {
			t.Fatal(err)
		}
	}
	p.set("exception-udp", f.seen(f.endAt(s.vm3), func() {
		arrives := s.watch(s.compute2.At("eth2"))
		wait := func(text string) {
			t.Helper()
			if _, err := arrives.Until(s.within(), described("IP "+s.vm1.addr.String()+text)); err != nil {
				t.Fatal(err)
			}
		}
		// One after the other: the answer is none before compute-1 has seen the question off.
		send(s.vm1, s.vm3, 5000, 6000)
		wait(".5000 > ")
		send(s.vm3, s.vm1, 6000, 5000)
		wait(" > " + s.vm3.addr.String() + ": ICMP unreachable") // nobody listens in vm1
		send(s.vm3, s.vm1, 6001, 5000)
	}, about("UDP", "ICMP")))
	p.set("exception-udp-same-host", f.seen(f.endAt(s.vm2), func() {
		asks := s.watch(s.compute1.At(s.vm1.port()))
		send(s.vm1, s.vm2, 5000, 6000)
		if _, err := asks.Until(s.within(), described("IP "+s.vm1.addr.String()+".5000 > ")); err != nil {
			t.Fatal(err)
		}
		send(s.vm2, s.vm1, 6000, 5000)
	}, about("UDP", "ICMP")))
	s.tells(s.vm1)
	relay := netip.AddrPortFrom(gateway, 8080)
	s.relays(s.controller, relay, netip.AddrPortFrom(s.vm1.addr, 80))
	p.set("exception-service", f.seen(f.endAt(s.vm3), func() {
		if as := s.seenAs(s.vm3, relay, true); as != gateway {
			t.Errorf("vm1 was reached by %s, want %s", as, gateway)
		}
	}, about("TCP [S]", "TCP [S.]")))
	p.set("exception-service-control", f.seen(f.endAt(s.vm3), func() {
		if as := s.seenAs(s.vm3, netip.AddrPortFrom(s.vm1.addr, 80), false); as.IsValid() {
			t.Errorf("vm3 has reached vm1 directly, as %s", as)
		}
	}, about("TCP [S]", "TCP [S.]")))
	p.close()
}

// relays has a node take connections and pass on what another address says.
func (s *scene) relays(on *node, at, to netip.AddrPort) {
	s.t.Helper()
	var l net.Listener
	if err := on.Do(func() (err error) {
		l, err = net.Listen("tcp4", at.String())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			// Whatever fails here ends the connection without an answer, which is seen.
			_ = on.Do(func() error {
				behind, err := net.DialTimeout("tcp4", to.String(), patience)
				if err != nil {
					return err
				}
				_, err = io.Copy(c, behind)
				return errors.Join(err, behind.Close())
			})
			_ = c.Close()
		}
	}()
}
