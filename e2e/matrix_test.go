package e2e

import (
	"encoding/json"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/ipam"
)

// subject is a workload whose verbs are to fail, on a node with neighbours that must not
// notice: three, with a connection between two and one that never rests with the node. The
// toggle is off.
type subject struct {
	*workload
	probe      *prober
	neighbours []*workload
	restless   *lab.Process
	before     lab.State // without the subject
	attached   string    // with it, after an ADD that nothing disturbed
	coming     []string  // what that ADD added to iptables and nft
	standing   []string  // what is there with and without it
	plugin     string    // flat-bridge, unless the test is of another
	result     string    // of the last ADD, as printed
	reset      string    // run after each DEL, where there are no neighbours and no prober
}

// subjectArgs name the subject, so that it has the same address whenever it comes.
const subjectArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;IP=10.0.0.77"

func newSubject(t *testing.T) *subject {
	t.Helper()
	return newSubjectOn(t, func(*node) {})
}

// newSubjectOn is newSubject on a node that is prepared before it has anything.
func newSubjectOn(t *testing.T, prepare func(*node)) *subject {
	t.Helper()
	s := newContainer(t, keys{"allowSameNetTraffic": true})
	n := s.n
	prepare(n)
	s.neighbours = n.neighbours()
	n.apply(keys{"allowSameNetTraffic": false})
	var err error
	if s.restless, err = n.Start("ping", "-i", "0.1", s.neighbours[2].addr.String()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.restless.WaitLine(n.within(), 0, "bytes from"); err != nil {
		t.Fatal(err)
	}
	s.probe = newProber(n, s.Container, s.addr, s.mac, s.neighbours[0])
	s.probe.during("nothing is attached", false)
	s.before = n.state()
	s.learn()
	return s
}

// newLonelySubject is a subject on a node without neighbours, on which script removes what
// a DEL leaves: the bridge, or its address.
func newLonelySubject(t *testing.T, script string, extra keys) *subject {
	t.Helper()
	s := newContainer(t, keys{"allowSameNetTraffic": false})
	s.n.configure(extra)
	s.reset = script
	s.must("ADD") // leaves store and base rules
	s.must("DEL")
	s.before = s.n.state()
	s.learn()
	return s
}

func newContainer(t *testing.T, extra keys) *subject {
	t.Helper()
	n := newNode(t, keys{"ipam.retain": "0s", "ipam.reuseDelay": "0s"})
	n.configure(extra)
	addr := netip.MustParseAddr("10.0.0.77")
	mac := ipam.DeriveMAC(ipam.MACPrefix{0xfa, 0x16, 0x3e}, addr)
	return &subject{plugin: "/opt/cni/bin/flat-bridge", workload: &workload{Container: n.container("subject"), n: n, ifName: "eth0", addr: addr, mac: net.HardwareAddr(mac[:])}}
}

// learn notes what an ADD does that nothing disturbs.
func (s *subject) learn() {
	s.n.t.Helper()
	t := s.n.t
	s.must("ADD")
	after := s.n.state()
	s.attached = s.text(after)
	if !strings.Contains(s.attached, s.addr.String()) {
		t.Fatalf("the subject has not its address %s:\n%s", s.addr, s.attached)
	}
	had := ruleLines(s.before.Section("iptables") + s.before.Section("nft"))
	for _, line := range ruleLines(after.Section("iptables") + after.Section("nft")) {
		if slices.Contains(had, line) {
			s.standing = append(s.standing, line)
		} else {
			s.coming = append(s.coming, line)
		}
	}
	if len(s.coming) < 10 || len(s.standing) < 10 {
		t.Fatalf("an ADD adds these rules: %q, beside: %q", s.coming, s.standing)
	}
	s.must("DEL")
	s.gone("an ADD and a DEL that nothing disturbed")
}

// finish ends a test of the subject: with the control of the prober, and a look at the
// neighbours.
func (s *subject) finish() {
	s.n.t.Helper()
	// Before the control, for in that the spoofing works.
	if _, _, err := s.restless.WaitLine(s.n.within(), s.restless.Mark(), "bytes from"); err != nil {
		s.n.t.Error(err)
	}
	if gaps := unanswered(s.restless.Lines()); len(gaps) > 0 {
		s.n.t.Errorf("a neighbour's connection with the node lost %d packets in a row", gaps)
	}
	s.must("ADD")
	s.probe.silent()
	s.must("DEL")
	s.n.run("flatctl", "check")
}

// try runs a verb of the subject's without a fault, and returns what it printed.
func (s *subject) try(verb string) (string, error) {
	s.n.t.Helper()
	out, err := s.command(verb).CombinedOutput()
	return string(out), err
}

// command is a verb of the subject's, not yet started. GC gets it as valid, or not.
func (s *subject) command(verb string) *exec.Cmd {
	s.n.t.Helper()
	cmd := s.n.verb(verb, s.Container, "", subjectArgs)
	switch verb {
	case "GC":
		cmd = s.n.gc("", s.neighbours...)
	case gcValid:
		cmd = s.n.gc("", append(slices.Clone(s.neighbours), s.workload)...)
	case "CHECK":
		cmd.Stdin = strings.NewReader(strings.TrimSuffix(s.n.plain("1.1.0"), "}") + `,"prevResult":` + s.result + "}")
	}
	cmd.Args[len(cmd.Args)-1] = s.plugin
	return cmd
}

const gcValid = "GC with it valid"

func (s *subject) must(verb string) {
	s.n.t.Helper()
	out, err := s.try(verb)
	if err != nil {
		s.n.t.Fatalf("%s: %v, %s", verb, err, out)
	}
	if verb == "ADD" {
		s.result = out
	}
	if s.reset != "" && verb == "DEL" {
		s.n.run("sh", "-c", s.reset)
	}
}

// gone fails the test unless the node is as it was without the subject.
func (s *subject) gone(what string) {
	s.n.t.Helper()
	if s.reset != "" {
		// The kernel tells a bridge that it has lost its last carrier within a second.
		s.n.eventually("the bridge to be without carrier", func() bool {
			return s.n.exec("sh", "-c", "! ip link show dev br100 up | grep -q 'state UP'") == nil
		})
	}
	s.n.unchanged(s.before, what)
}

// there fails the test unless the node and the container are as after an ADD that nothing
// disturbed.
func (s *subject) there(what string) {
	s.n.t.Helper()
	if diff := cmp.Diff(strings.Split(s.attached, "\n"), strings.Split(s.text(s.n.state()), "\n")); diff != "" {
		s.n.t.Errorf("%s: not as after an undisturbed ADD (-want +got):\n%s", what, diff)
	}
}

// newIndex is the number of an interface, which every pair, or a new bridge, gets anew.
var newIndex = regexp.MustCompile(`(?m)^\d+: (fdp\w+|fgw\w+|fgp\w+|eth0|br100)(?:@\w+)?:`)

func (s *subject) text(state lab.State) string {
	s.n.t.Helper()
	inside, _, err := s.Run(s.n.within(), "sh", "-c", "ip -details address show; ip route show table all; ip neighbour show")
	if err != nil {
		s.n.t.Fatal(err)
	}
	return since.ReplaceAllString(newIndex.ReplaceAllString(state.String()+"== inside\n"+inside, "N: $1:"), "")
}

// since is when a row came to be.
var since = regexp.MustCompile(`(?m)^ *"since": .*\n`)

// ruleLines are the lines of iptables and nft, and an element a line of the sets.
func ruleLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(strings.TrimSpace(line), ","); strings.HasPrefix(line, ":") || strings.HasPrefix(line, "#") {
			continue // a chain's counters, or a date
		}
		line = strings.Trim(strings.TrimPrefix(line, "elements = {"), " {}")
		for element := range strings.SplitSeq(line, ", ") {
			if element != "" {
				lines = append(lines, element)
			}
		}
	}
	return lines
}

// closed fails the test if the subject's port is up and any rule is not there that an
// undisturbed ADD adds, or if any rule of others has gone.
func (s *subject) closed(what string) {
	s.n.t.Helper()
	var list []struct {
		Flags []string
	}
	out, _, err := s.n.Run(s.n.within(), "ip", "-j", "link", "show", "dev", s.port())
	if err == nil {
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			s.n.t.Fatalf("decoding %s: %v", out, err)
		}
	}
	has := ruleLines(s.n.run("sh", "-c", "iptables-save; nft -s list ruleset"))
	missing := func(lines []string) (gone []string) {
		for _, line := range lines {
			if !slices.Contains(has, line) {
				gone = append(gone, line)
			}
		}
		return gone
	}
	if gone := missing(s.standing); len(gone) > 0 {
		s.n.t.Errorf("%s: of others is missing %q", what, gone)
	}
	if len(list) == 0 || !slices.Contains(list[0].Flags, "UP") {
		return
	}
	if gone := missing(s.coming); len(gone) > 0 {
		s.n.t.Errorf("%s: port %s is up and %q is missing", what, s.port(), gone)
	}
	if s.probe != nil {
		s.probe.rounds(5)
	}
}

// cell is one fault and one way to recover from it.
type cell struct {
	verb, step, when, action, recovery string
}

func (c cell) fault() string { return strings.Join([]string{c.verb, c.step, c.when, c.action}, "/") }

func (c cell) String() string { return c.fault() + ", then " + c.recovery }

// The ways to recover.
var recoveries = []string{"ADD", "DEL", "GC", gcValid, "DEL and ADD"}

// cells are all faults of a verb, with all recoveries. Every fifth of them has each fault
// once, and the recoveries in turn.
func (s *subject) cells(verb string) []cell {
	s.n.t.Helper()
	var cells []cell
	steps := s.steps(verb)
	for i, step := range steps {
		for j, point := range []string{"before/kill", "after/kill", "before/fail", "after/fail"} {
			when, action, _ := strings.Cut(point, "/")
			for k := range recoveries {
				cells = append(cells, cell{verb, step, when, action, recoveries[(4*i+j+k)%len(recoveries)]})
			}
		}
	}
	return cells
}

// steps are those of a verb of the subject's.
func (s *subject) steps(verb string) []string {
	s.n.t.Helper()
	if verb == "DEL" {
		s.must("ADD")
	}
	steps := s.n.steps(verb, func(fault string) *exec.Cmd { return s.n.verb(verb, s.Container, fault, subjectArgs) })
	if verb == "ADD" {
		s.must("DEL")
	}
	return steps
}

// during says what the prober's frames would arrive during.
func (s *subject) during(what string) {
	if s.probe != nil {
		s.probe.during(what, false)
	}
}

// fail makes the verb meet its fault, and returns what it printed.
func (s *subject) fail(c cell) {
	s.n.t.Helper()
	out, err := s.n.verb(c.verb, s.Container, c.fault(), subjectArgs).CombinedOutput()
	switch {
	case err == nil:
		s.n.t.Fatalf("%s succeeded: %s", c.fault(), out)
	case c.action == "kill" && !strings.Contains(err.Error(), "signal: killed"):
		s.n.t.Fatalf("%s was to be killed: %v, %s", c.fault(), err, out)
	case c.action == "fail" && (!strings.Contains(string(out), "fault point") || !strings.Contains(string(out), c.verb+": "+c.step)):
		s.n.t.Errorf("%s: the error does not say what was tried: %s", c.fault(), out)
	}
}

// Wherever ADD or DEL is killed or fails, and however one goes on from there: no port is
// open at any moment, nothing is left, nothing is lost, and nobody else's has changed.
func TestEveryFaultAndEveryRecovery(t *testing.T) {
	for _, backend := range sample(t, "back ends of iptables", 2, []string{"legacy", "nft"}) {
		for _, verb := range []string{"ADD", "DEL"} {
			t.Run(backend+"/"+verb, func(t *testing.T) {
				t.Parallel()
				s := newSubjectOn(t, func(n *node) { n.alternatives(backend) })
				for _, c := range sample(t, "faults and recoveries", len(recoveries), s.cells(verb)) {
					t.Run(strings.ReplaceAll(c.String(), " ", "_"), func(t *testing.T) { s.on(t).recovers(c) })
				}
				s.finish()
			})
		}
	}
}

// on is the subject for a part of its test.
func (s *subject) on(t *testing.T) *subject {
	part, n, w, p := *s, *s.n, *s.workload, s.probe
	n.t = t
	w.n = &n
	part.workload, part.probe = &w, p
	t.Cleanup(func() {
		if t.Failed() { // the next part starts from the beginning
			_, _ = s.try("DEL")
		}
	})
	return &part
}

func (s *subject) recovers(c cell) {
	s.n.t.Helper()
	s.during(c.String())
	if c.verb == "DEL" {
		s.must("ADD")
	}
	s.fail(c)
	s.closed(c.fault())
	if c.verb == "ADD" && c.action == "fail" {
		s.gone(c.fault() + ", which undoes itself")
	}
	switch c.recovery {
	case "ADD":
		s.addAgain(c.verb, c.String())
	case "DEL", "GC":
		s.must(c.recovery)
		s.gone(c.String())
		return
	case gcValid:
		held := s.n.state()
		s.must(gcValid)
		s.closed(c.String())
		s.kept(held, c.String())
		s.must("DEL")
		s.gone(c.String() + " and DEL")
		return
	case "DEL and ADD":
		s.must("DEL")
		s.closed(c.fault() + " and DEL")
		s.must("ADD")
		s.there(c.String())
	}
	s.must("DEL")
	s.gone(c.String() + " and a last DEL")
}

// addAgain lets an ADD follow a verb that was killed or failed. It is refused only where a DEL
// had not done anything yet: then the workload lives as ever.
func (s *subject) addAgain(after, what string) {
	s.n.t.Helper()
	if out, err := s.try("ADD"); err != nil && (after == "ADD" || !strings.Contains(out, `"code": 4`)) {
		s.n.t.Fatalf("%s and ADD: %v, %s", what, err, out)
	}
	s.there(what + " and ADD")
}

// kept fails the test if the store is not as it was.
func (s *subject) kept(held lab.State, what string) {
	s.n.t.Helper()
	if diff := cmp.Diff(held.Section("store"), s.n.state().Section("store")); diff != "" {
		s.n.t.Errorf("%s changed the store (-before +after):\n%s", what, diff)
	}
}
