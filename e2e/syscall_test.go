package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab/inject"
	"github.com/flatdhcp/flatdhcp/plugins/link"
)

// crisis is one way for a system call to go wrong.
type crisis struct {
	name string
	plan inject.Plan
}

// What can go wrong with each kind of call. A request that the kernel never got and an
// answer that was lost are two things: of the second the deed is done.
func crises(c inject.Call, at int) (list []crisis) {
	add := func(name string, plan inject.Plan) {
		plan.At = at
		list = append(list, crisis{fmt.Sprintf("%s at %d, %s", name, at, c), plan})
	}
	fails := func(errnos ...unix.Errno) {
		for _, e := range errnos {
			add(unix.ErrnoName(e), inject.Plan{Errno: e})
		}
	}
	switch c.Kind {
	case inject.Socket:
		fails(unix.EMFILE)
	case inject.Request:
		fails(unix.EPERM, unix.EBUSY, unix.ENOBUFS)
		add("kill", inject.Plan{})
		add("ENOBUFS for ever", inject.Plan{Errno: unix.ENOBUFS, On: true})
	case inject.Answer:
		fails(unix.ENOBUFS)
		if strings.Contains(c.What, "(dump)") {
			add("interrupted dump", inject.Plan{Interrupted: true})
		}
	case inject.Open:
		fails(unix.EROFS, unix.EACCES, unix.EMFILE)
	case inject.Write:
		fails(unix.ENOSPC, unix.EIO)
		add("kill", inject.Plan{})
		add("ENOSPC for ever", inject.Plan{Errno: unix.ENOSPC, On: true})
	case inject.Sync:
		fails(unix.EIO, unix.ENOSPC)
		add("kill", inject.Plan{})
	case inject.Name:
		fails(unix.EROFS, unix.EIO)
		add("kill", inject.Plan{})
		add("EROFS for ever", inject.Plan{Errno: unix.EROFS, On: true})
	case inject.Flock:
		fails(unix.ENOLCK)
	case inject.Execve:
	}
	return list
}

// watching is a part of a verb's calls, in which a crisis may befall it.
type watching struct {
	name  string
	kinds []inject.Kind
	only  func(inject.Call) bool
}

var watched = []watching{
	{"netlink", []inject.Kind{inject.Socket, inject.Request, inject.Answer}, nil},
	{"files", []inject.Kind{inject.Open, inject.Write, inject.Sync, inject.Name, inject.Flock}, ofOurs},
}

// ofOurs leaves out what the Go runtime and the libraries open or wake each other by, and
// the writing of sysctls: the kernel starts that anew, any number of times, while somebody
// else changes links.
func ofOurs(c inject.Call) bool {
	return (c.Kind != inject.Write || !strings.Contains(c.What, "/proc/sys")) && slices.ContainsFunc([]string{"/var/lib/flatdhcp", "/run/flatdhcp", "/run/netns", "/proc/sys", "memfd"},
		func(part string) bool { return strings.Contains(c.What, part) })
}

// Whatever system call of ADD, DEL or GC fails, and wherever it is killed: a failure names
// what was tried; a failed ADD has undone itself; a second DEL or GC finishes; and no port is
// open.
func TestEverySystemCall(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL", "GC"} {
		for _, w := range watched {
			t.Run(verb+"/"+w.name, func(t *testing.T) {
				t.Parallel()
				s := newSubject(t)
				s.meets(verb, s.crises(verb, w), 23)
				s.finish()
			})
		}
	}
}

// The same for the node's first ADD, which makes the bridge and its address, or gives one
// that it adopts the address: undone, it leaves nothing of that either.
func TestEverySystemCallOfTheFirstADD(t *testing.T) {
	for _, tt := range []struct {
		name, reset string
		extra       keys
	}{
		{"bridge made", "[ ! -e /sys/class/net/br100 ] || ip link del br100", nil},
		{"bridge adopted", "ip address flush dev br100", nil},
		{"with a shared gateway", fmt.Sprintf("for l in %s br100; do [ ! -e /sys/class/net/$l ] || ip link del $l; done", link.LegName("br100")), sharedKeys},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newLonelySubject(t, tt.reset, tt.extra)
			s.meets("ADD", s.crises("ADD", watched[0]), 37)
		})
	}
}

// The same for flat-ipam by itself, all of it: it has a store and locks, and nothing else.
func TestEverySystemCallOfFlatIPAM(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := newContainer(t, nil)
			s.plugin = "/opt/cni/bin/flat-ipam"
			s.must("ADD") // makes the store
			s.must("DEL")
			s.before = s.n.state()
			s.must("ADD")
			s.attached = s.text(s.n.state())
			s.must("DEL")
			s.gone("an ADD and a DEL that nothing disturbed")
			s.meets(verb, s.crises(verb, watched[1]), 7)
			s.n.run("flatctl", "check")
		})
	}
}

// crises are all that can befall a verb.
func (s *subject) crises(verb string, w watching) (all []crisis) {
	s.n.t.Helper()
	if verb != "ADD" {
		s.must("ADD")
	}
	report, out, err := s.injected(verb, inject.Plan{Kinds: w.kinds, Only: w.only})
	if err != nil {
		s.n.t.Fatalf("%s: %v, %s", verb, err, out)
	}
	if verb == "ADD" {
		s.must("DEL")
	}
	for i, c := range report.Calls {
		for _, crisis := range crises(c, i+1) {
			crisis.plan.Kinds, crisis.plan.Only = w.kinds, w.only
			all = append(all, crisis)
		}
	}
	if len(all) < 50 {
		s.n.t.Fatalf("calls %v", report.Calls)
	}
	return all
}

// meets runs the verb through each of the crises, or through every n-th.
func (s *subject) meets(verb string, all []crisis, n int) {
	s.n.t.Helper()
	for _, c := range sample(s.n.t, "system calls that fail", n, all) {
		s.n.t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { s.on(t).survives(verb, c) })
	}
}

// injected runs a verb of the subject's with a plan, and returns what it printed on stdout.
func (s *subject) injected(verb string, plan inject.Plan) (inject.Report, string, error) {
	s.n.t.Helper()
	program := s.command(verb)
	cmd := s.n.Command(s.n.within(), inject.Argv(s.plugin)...)
	cmd.Env, cmd.Stdin = program.Env, program.Stdin
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	report, err := inject.Run(cmd, plan)
	if err != nil && stderr.Len() > 0 {
		err = fmt.Errorf("%w; it logged %s", err, &stderr)
	}
	return report, out.String(), err
}

func (s *subject) survives(verb string, c crisis) {
	s.n.t.Helper()
	what := verb + ", " + c.name
	s.during(what)
	if verb != "ADD" {
		s.must("ADD")
	}
	report, out, err := s.injected(verb, c.plan)
	if !report.Reached {
		s.n.t.Logf("this time %s made %d such calls only", verb, len(report.Calls))
	}
	s.closed(what)
	killed := report.Reached && c.plan.Errno == 0 && !c.plan.Interrupted
	switch {
	case killed:
		if err == nil || !strings.Contains(err.Error(), "signal: killed") {
			s.n.t.Errorf("%s: it was to be killed: %v, %s", what, err, out)
		}
		if c.plan.At%2 == 0 {
			s.addAgain(verb, what)
		}
	case err != nil:
		s.explains(what, verb, c, out, err)
		// With everything failing the undoing fails, too: then it is DEL's.
		if verb == "ADD" && !c.plan.On && !ownLock(c) {
			s.gone(what)
			return
		}
	case verb == "ADD" && !strings.Contains(c.name, "disable_ipv6") && !ownLock(c):
		s.there(what + ", which it has borne,")
	}
	if verb == "ADD" || err != nil || strings.Contains(c.name, "/attach/") { // a lock that could not be removed
		s.must(cleaner(verb))
	}
	s.gone(what + " and " + cleaner(verb))
}

// cleaner is the verb that ends what verb did, or began.
func cleaner(verb string) string {
	if verb == "GC" {
		return verb
	}
	return "DEL"
}

// ownLock tells the calls that are about the attachment's own lock. A file that cannot be
// locked cannot be removed either; DEL does that.
func ownLock(c crisis) bool {
	return strings.Contains(c.name, "/attach/") && strings.Contains(c.name, ".lock")
}

// explains fails the test unless the verb answered with a CNI error that names the step and
// what the kernel said.
func (s *subject) explains(what, verb string, c crisis, out string, err error) {
	s.n.t.Helper()
	var answer struct {
		Code uint
		Msg  string
	}
	if json.Unmarshal([]byte(out), &answer) != nil || answer.Code == 0 || answer.Msg == "" {
		s.n.t.Errorf("%s: it answered %q, %v; want a CNI error", what, out, err)
		return
	}
	reason := c.plan.Errno.Error()
	if !strings.Contains(answer.Msg, reason) {
		s.n.t.Errorf("%s: %q does not say %q", what, answer.Msg, reason)
	}
	if !strings.Contains(answer.Msg, "ing ") {
		s.n.t.Errorf("%s: %q does not say what was tried", what, answer.Msg)
	}
}
