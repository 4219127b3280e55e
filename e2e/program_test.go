package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/e2e/lab/inject"
)

// brokenProgram is a program of iptables and what stands in its place.
type brokenProgram struct {
	name, script string      // no script: nothing does
	says         string      // in the error
	code         uint        // of CNI
	need         inject.Plan // without which it is not run
}

// unreadable keeps the reader of nft's tables from reading: then ADD runs iptables-save, and
// DEL, which otherwise runs no program, that and iptables-restore.
func unreadable(request string) inject.Plan {
	return inject.Plan{
		Kinds: []inject.Kind{inject.Request}, At: 1, On: true, Errno: unix.EPERM,
		Only: func(c inject.Call) bool { return c.What == request },
	}
}

func brokenPrograms(verb string) (list []brokenProgram) {
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore"} {
		p := brokenProgram{name: name, code: 5}
		switch {
		case verb == "ADD" && name == "iptables-save":
			p.need = unreadable("NFT_MSG_GETCHAIN") // no dump: the guard's is one
		case verb == "DEL" && name != "iptables":
			p.need = unreadable("NFT_MSG_GETRULE (dump)")
		}
		add := func(script, says string, code uint) {
			p := p
			p.script, p.says, p.code = script, says, code
			list = append(list, p)
		}
		if name == "iptables" {
			p.code = 0 // it is asked for the back end only, and that is recorded
		}
		// Beside it there are programs named for their back end.
		add("", "", 0)
		for status := 1; status <= 4; status++ {
			add(fmt.Sprintf("echo broken >&2; exit %d", status), fmt.Sprintf("exit status %d: broken", status), p.code)
		}
		add("kill -9 $$", "signal: killed", p.code)
		add("exec sleep 1000", "signal: killed", min(p.code*11, 11))
		if name == "iptables-restore" {
			// What it says does not matter, and what it does it does.
			add(`echo garbage; exec -a "$0" /usr/sbin/iptables-nft-restore "$@"`, "", 0)
		} else {
			add("echo garbage", "garbage", p.code)
		}
	}
	return list
}

// Whatever program of iptables is missing or fails, and however: a verb does without it, or
// fails, names it, and leaves nothing behind; the same verb succeeds once it is mended.
func TestEveryProgramThatFails(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := newSubject(t)
			s.n.alternatives("nft")
			for _, p := range sample(t, "programs that fail", 5, brokenPrograms(verb)) {
				t.Run(p.name+"/"+p.script, func(t *testing.T) { s.on(t).mends(verb, p) })
			}
			s.finish()
		})
	}
}

// With the nft back end DEL runs no program at all: each start takes milliseconds.
func TestDetachingRunsNoProgram(t *testing.T) {
	t.Parallel()
	s := newSubject(t)
	s.n.alternatives("nft")
	for verb, runs := range map[string]bool{"ADD": true, "DEL": false} {
		s.during(verb)
		if verb == "DEL" {
			s.must("ADD")
		}
		report, out, err := s.injected(verb, inject.Plan{Kinds: []inject.Kind{inject.Execve}})
		if err != nil {
			t.Fatalf("%s: %v, %s", verb, err, out)
		}
		if (len(report.Calls) > 0) != runs {
			t.Errorf("%s runs %v", verb, report.Calls)
		}
		s.must("DEL")
	}
	s.finish()
}

func (s *subject) mends(verb string, p brokenProgram) {
	s.n.t.Helper()
	what := fmt.Sprintf("%s with %s being %q", verb, p.name, p.script)
	s.during(what)
	if verb == "DEL" {
		s.must("ADD")
	}
	const place = "/run/lab/broken"
	s.n.run("rm", "-f", place)
	if p.script != "" {
		if err := s.n.WriteFile(s.n.within(), place, 0o755, "#!/bin/bash\n"+p.script+"\n"); err != nil {
			s.n.t.Fatal(err)
		}
	}
	s.n.run("ln", "-sfn", place, "/run/alternatives/"+p.name)
	_, out, err := s.injected(verb, p.need)
	s.n.alternatives("nft")
	s.closed(what)
	switch {
	case p.code == 0:
		if err != nil {
			s.n.t.Errorf("%s: %v, %s", what, err, out)
		}
	case err == nil:
		s.n.t.Errorf("%s succeeded", what)
	default:
		var answer struct {
			Code uint
			Msg  string
		}
		if json.Unmarshal([]byte(out), &answer) != nil || answer.Code != p.code ||
			!strings.Contains(answer.Msg, p.says) || !strings.Contains(answer.Msg, p.name) {
			s.n.t.Errorf("%s: it answered %s; want code %d, %q and %q", what, out, p.code, p.says, p.name)
		}
		if verb == "ADD" {
			if p.need.On { // it could not be undone either
				s.must("DEL")
			}
			s.gone(what)
			s.must("ADD")
		}
	}
	if verb == "ADD" {
		s.there(what + ", and ADD")
	}
	s.must("DEL")
	s.gone(what + ", and DEL")
}
