package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// disk is one of the directories in which flatdhcp keeps something, on a small file system
// of its own, and what has become of that.
type disk struct {
	dir        string
	full       bool // else read-only
	says       string
	failing    []string // verbs that must fail; others may
	succeeding []string // verbs that must not
}

var disks = []disk{
	{dir: "/var/lib/flatdhcp", full: true, says: "no space left on device: nothing was changed: make room", succeeding: []string{"CHECK", "STATUS"}},
	{dir: "/var/lib/flatdhcp", says: "read-only file system: the data directory must be writable", failing: []string{"ADD", "DEL", "GC", "STATUS"}, succeeding: []string{"CHECK"}},
	{dir: "/run/flatdhcp", full: true, says: "no space left on device", failing: []string{"ADD", "DEL", "GC"}, succeeding: []string{"CHECK", "STATUS"}},
	{dir: "/run/flatdhcp", says: "read-only file system", failing: []string{"ADD", "DEL", "GC", "STATUS"}, succeeding: []string{"CHECK"}},
}

func (d disk) String() string {
	if d.full {
		return "full " + d.dir
	}
	return "read-only " + d.dir
}

func (n *node) small(dir string) {
	n.t.Helper()
	n.run("sh", "-ec", `mkdir -p "$1"; mount -t tmpfs -o mode=0700,size=256k small "$1"`, "sh", dir)
}

// breaks makes the disk full or read-only, mends makes it what it was.
func (d disk) breaks(n *node) {
	n.t.Helper()
	if d.full {
		n.run("sh", "-c", `dd if=/dev/zero of="$1/filler" bs=4096 2>/dev/null; [ "$(stat -f -c %a "$1")" = 0 ]`, "sh", d.dir)
	} else {
		n.run("mount", "-o", "remount,ro", d.dir)
	}
}

func (d disk) mends(n *node) {
	n.t.Helper()
	if d.full {
		n.run("rm", d.dir+"/filler")
	} else {
		n.run("mount", "-o", "remount,rw", d.dir)
	}
}

// A full or read-only disk stops verbs with an error that says so, or does not stop them;
// nothing is open, lost or left, and the same verb succeeds once the disk is mended. Who
// only looks is not stopped, and STATUS tells what only a person can mend.
func TestDisksThatAreFullOrReadOnly(t *testing.T) {
	for _, d := range disks {
		t.Run(strings.ReplaceAll(d.String(), "/", "_"), func(t *testing.T) {
			t.Parallel()
			s := newSubjectOn(t, func(n *node) { n.small(d.dir) })
			for _, verb := range []string{"ADD", "DEL", "GC", "CHECK", "STATUS"} {
				t.Run(verb, func(t *testing.T) { s.on(t).meetsDisk(verb, d) })
			}
			s.finish()
		})
	}
}

func (s *subject) meetsDisk(verb string, d disk) {
	s.n.t.Helper()
	what := verb + " with " + d.String()
	s.during(what)
	if verb != "ADD" {
		s.must("ADD")
	}
	d.breaks(s.n)
	out, err := s.try(verb)
	s.closed(what)
	d.mends(s.n)
	has := func(verbs []string) bool { return strings.Contains(strings.Join(verbs, " "), verb) }
	if err == nil && has(d.failing) || err != nil && has(d.succeeding) {
		s.n.t.Errorf("%s: %v, %s", what, err, out)
	}
	if err != nil {
		s.refusal(what, out, d)
	}
	switch verb {
	case "ADD":
		if err != nil {
			s.gone(what)
			s.must("ADD")
		}
		s.there(what)
	case "DEL", "GC":
		s.must(verb)
		s.gone(what)
		return
	default:
		s.there(what)
	}
	s.must("DEL")
	s.gone(what + " and DEL")
}

// refusal fails the test unless out is a CNI error that says what is wrong with the disk.
func (s *subject) refusal(what, out string, d disk) {
	s.n.t.Helper()
	var answer struct {
		Code uint
		Msg  string
	}
	// What was logged comes before it.
	_, text, _ := strings.Cut(out, "{")
	if err := json.Unmarshal([]byte("{"+text), &answer); err != nil {
		s.n.t.Errorf("%s answered %q: %v", what, out, err)
		return
	}
	code, says := uint(5), d.says
	if strings.HasPrefix(what, "STATUS") {
		code, says = 50, d.dir+" cannot be written: read-only file system"
	}
	if answer.Code != code || !strings.Contains(answer.Msg, says) {
		s.n.t.Errorf("%s answered %d, %q; want %d, %q", what, answer.Code, answer.Msg, code, says)
	}
}

// A store that must grow, or has to be made, on a full disk is a refusal, too, and is as it
// was.
func TestStoreThatCannotGrow(t *testing.T) {
	d := disks[0]
	t.Run("grow", func(t *testing.T) {
		t.Parallel()
		s := newSubjectOn(t, func(n *node) { n.small(d.dir) })
		d.breaks(s.n)
		refused := s.n.run("sh", "-c", `for i in $(seq 200); do
			flatctl reserve flat --workload shop/some-workload-with-a-long-name-$i >/dev/null 2>/run/lab/said || { cat /run/lab/said; exit; }
		done`)
		if !strings.Contains(refused, d.says) {
			t.Fatalf("two hundred reservations on a full disk: %q", refused)
		}
		s.n.run("flatctl", "check")
		reserved := s.n.run("flatctl", "reservations", "flat")
		if out, err := s.try("ADD"); err != nil {
			s.refusal("ADD with a store that cannot grow", out, d)
		} else {
			s.must("DEL")
		}
		if after := s.n.run("flatctl", "reservations", "flat"); after != reserved {
			t.Errorf("the reservations were\n%sand are\n%s", reserved, after)
		}
		s.n.run("flatctl", "check")
		d.mends(s.n)
		s.must("ADD")
		s.closed("an ADD once there is room")
		s.must("DEL")
	})
	t.Run("be made", func(t *testing.T) {
		t.Parallel()
		s := newContainer(t, nil)
		n := s.n
		n.small(d.dir)
		d.breaks(n)
		s.before = n.state()
		out, err := s.try("ADD")
		if err == nil {
			t.Fatalf("ADD succeeded: %s", out)
		}
		s.refusal("the first ADD of all", out, d)
		n.run("rm", "-f", d.dir+"/lock") // of no consequence
		for _, section := range []string{"links", "iptables", "nft", "store"} {
			if after := n.state().Section(section); after != s.before.Section(section) {
				t.Errorf("it left, in section %s:\n%s", section, after)
			}
		}
		if left := n.run("ls", d.dir); left != "filler\n" {
			t.Errorf("it left %q", left)
		}
		d.mends(n)
		s.must("ADD")
	})
}
