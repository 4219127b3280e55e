package seed

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
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
