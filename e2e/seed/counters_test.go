package seed

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// counts are the packets that each rule, and each of the guard's counters, of a host has
// seen: by "CHAIN RULE" of iptables, comments left out, and "guard REASON".
type counts map[string]int

var (
	savedRule = regexp.MustCompile(`^\[(\d+):\d+\] -A (.*)$`)
	comment   = regexp.MustCompile(` -m comment --comment ("[^"]*"|\S+)`)
)

func (n *node) counts() counts {
	n.s.t.Helper()
	all := counts{}
	table := ""
	for line := range strings.Lines(n.run("iptables-save", "-c")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "*") {
			table = line[1:]
		}
		found := savedRule.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		packets, err := strconv.Atoi(found[1])
		if err != nil {
			n.s.t.Fatalf("reading the counter of %q: %v", line, err)
		}
		rule := comment.ReplaceAllString(found[2], "")
		if table != "filter" {
			rule = table + " " + rule
		}
		all[rule] += packets
	}
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name    string
				Packets int
			}
		}
	}
	out := n.run("sh", "-c", `nft -j list counters table bridge flatdhcp 2>/dev/null || echo '{}'`)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		n.s.t.Fatalf("decoding %s: %v", out, err)
	}
	for _, o := range list.Nftables {
		if o.Counter != nil {
			all["guard "+o.Counter.Name] = o.Counter.Packets
		}
	}
	return all
}

// rule is one that is to decide a case, and what counts its packets.
type rule struct {
	n       *node
	counter string // as in counts
	name    string // as the table has it
	remove  func() // puts it out of force
	// also are nodes whose guard is a second line of defence: for the control it goes, too.
	also []*node
	like func(rule string) bool // instead of counter: the rules that are counted together
}

// chainRule is a rule of a workload's chain, as iptables-save prints it.
func (w *workload) chainRule(text string) rule {
	return rule{
		n: w.n, counter: w.chain() + " " + text, name: w.n.Name() + ", chain of " + w.name + ": " + text,
		remove: func() {
			w.n.run(append([]string{"iptables", "-D", w.chain()}, strings.Fields(text)...)...)
		},
	}
}

// Rules of a workload's chain that decide much; numbers are those of docs/filter.md.
func (w *workload) established() rule {
	return w.chainRule("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
}
func (w *workload) dhcpRule() rule {
	return w.chainRule("-s 10.0.0.1/32 -p udp -m udp --sport 67 --dport 68 -j ACCEPT")
}
func (w *workload) gatewayRule() rule { return w.chainRule("-s 10.0.0.1/32 -j ACCEPT") }
func (w *workload) nodeRule() rule {
	return w.chainRule("-o br100 -m physdev ! --physdev-is-bridged -m addrtype --src-type LOCAL --limit-iface-out -j ACCEPT")
}
func (w *workload) subnetRule() rule { return w.chainRule("-s 10.0.0.0/24 -j ACCEPT") }
func (w *workload) fallback() rule   { return w.chainRule("-j FLAT-DROP") }

// ruleLike is the one of the rules that begin and end so which counts something.
func (n *node) ruleLike(begin, end string) rule {
	return rule{n: n, name: n.Name() + ": " + begin + "... " + end,
		like: func(rule string) bool { return strings.HasPrefix(rule, begin) && strings.HasSuffix(rule, end) }}
}

// guardCounter is a reason of the guard, which the guard goes with.
func (n *node) guardCounter(reason string) rule {
	return rule{
		n: n, counter: "guard " + reason, name: n.Name() + ", guard: " + reason,
		remove: func() { n.run("nft", "delete", "table", "bridge", "flatdhcp") },
	}
}

func (r rule) count() int {
	r.n.s.t.Helper()
	all := r.n.counts()
	if r.like != nil {
		sum := 0
		for rule, c := range all {
			if r.like(rule) {
				sum += c
			}
		}
		return sum
	}
	c, ok := all[r.counter]
	if !ok {
		r.n.s.t.Fatalf("%s has no counter %q", r.n.Name(), r.counter)
	}
	return c
}

// restore puts everything back in force.
func (r rule) restore() {
	r.n.s.t.Helper()
	for _, n := range append([]*node{r.n}, r.also...) {
		n.run("flatctl", "apply", lab.ConflistPath(network))
	}
}

// outcome is what came of a case.
type outcome struct {
	expected, observed string
	decided            string
	faults             []string // what was not as it must be, beside the observed
	skip               string   // why the case has no meaning here
}

func meaningless(format string, args ...any) outcome {
	return outcome{skip: fmt.Sprintf(format, args...)}
}

func (o *outcome) fault(format string, args ...any) {
	o.faults = append(o.faults, fmt.Sprintf(format, args...))
}

// decidedBy adds what a rule counted since before.
func (o *outcome) decidedBy(r rule, before int) {
	r.n.s.t.Helper()
	if moved := r.count() - before; moved > 0 {
		o.decided += word(o.decided == "", "", "; ") + fmt.Sprintf("%s (+%d)", r.name, moved)
	} else {
		o.fault("%s has counted nothing", r.name)
	}
}

// accepts is the outcome of an attempt that r is to let by.
func accepts(words [2]string, r rule, attempt func(expected bool) bool) outcome {
	r.n.s.t.Helper()
	before := r.count()
	o := outcome{expected: words[0], observed: word(attempt(true), words[0], words[1])}
	o.decidedBy(r, before)
	return o
}

// drops is the outcome of an attempt that r is to stop: it does not succeed, r counts it,
// and without r it succeeds.
func drops(words [2]string, r rule, attempt func(expected bool) bool) outcome {
	r.n.s.t.Helper()
	before := r.count()
	o := outcome{expected: words[1], observed: word(attempt(false), words[0], words[1])}
	o.decidedBy(r, before)
	r.remove()
	for _, n := range r.also {
		n.guardCounter("").remove()
	}
	if attempt(true) {
		o.decided += ", " + words[0] + " without it"
	} else {
		o.fault("the control: without %s it is not %s either", r.name, words[0])
	}
	r.restore()
	return o
}

// What an attempt comes to, if it succeeds and else.
var (
	answered  = [2]string{"answered", "dropped"}
	delivered = [2]string{"delivered", "dropped"}
)
