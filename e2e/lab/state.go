package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// State is everything on a host that the programs under test could have changed, as text
// that a person can read. Two states of a host are compared with Diff.
type State struct {
	sections []section
}

type section struct{ name, text string }

// source is how a section is read, and what is taken out of it. Taken out is only what
// changes by itself, without anybody's doing; each says why.
type source struct {
	name      string
	argv      []string
	normalise func(line string) (string, bool) // false: leave the line out
}

var (
	chainCounter = regexp.MustCompile(`\[\d+:\d+\]`)
	bridgeTimer  = regexp.MustCompile(`(hello_timer|tcn_timer|topology_change_timer|gc_timer|hold_timer|message_age_timer|forward_delay_timer) +[\d.]+ `)
	lifetime     = regexp.MustCompile(`(valid_lft|preferred_lft|expires) \d+sec`)
	nudState     = regexp.MustCompile(`\b(REACHABLE|STALE|DELAY|PROBE)\b`)
	ctTimeout    = regexp.MustCompile(`^(\w+ +\d+) \d+ `)
	ctGroup      = regexp.MustCompile(`^\S+ +\d+ src=\S+ dst=(255\.255\.255\.255|22[4-9]\.|23\d\.)`)
	ctUse        = regexp.MustCompile(` use=\d+`)
)

var sources = []source{
	// Policies' packet counters count any traffic; the comment tells the time.
	{"iptables", []string{"iptables-save"}, iptablesLine},
	{"ip6tables", []string{"ip6tables-save"}, iptablesLine},
	// -s leaves out counters and the time left of set elements.
	{"nft", []string{"nft", "-s", "list", "ruleset"}, nil},
	// The timers of a bridge run.
	{"links", []string{"ip", "-details", "link", "show"}, func(line string) (string, bool) {
		return bridgeTimer.ReplaceAllString(line, ""), true
	}},
	// A dynamic address's time runs.
	{"addresses", []string{"ip", "address", "show"}, expiring},
	{"routes", []string{"ip", "route", "show", "table", "all"}, expiring},
	{"routes6", []string{"ip", "-6", "route", "show", "table", "all"}, expiring},
	{"rules", []string{"ip", "rule", "show"}, nil},
	// Learned entries come with traffic and age; set ones (permanent, static) do neither.
	{"fdb", []string{"bridge", "fdb", "show"}, func(line string) (string, bool) {
		return line, strings.Contains(line, "permanent") || strings.Contains(line, "static")
	}},
	// Of a neighbour entry the state changes with time; a failed one goes by itself.
	{"neighbours", []string{"ip", "neighbour", "show"}, func(line string) (string, bool) {
		return nudState.ReplaceAllString(line, "known"), !strings.Contains(line, "FAILED") && !strings.Contains(line, "INCOMPLETE")
	}},
	// Of a flow the time left and the reference count change. One to a group (a DHCP
	// client's broadcast, the kernel's IGMP) has no other end: nobody can cut it, and it
	// expires in seconds.
	{"conntrack", []string{"conntrack", "-L"}, func(line string) (string, bool) {
		line = ctUse.ReplaceAllString(ctTimeout.ReplaceAllString(line, "$1 "), "")
		return line, !ctGroup.MatchString(line)
	}},
	{"sysctl", []string{"sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}, nil},
	// Content by checksum, but for a store: bbolt's pages differ after a change and its
	// undoing. What a store says is in its own section. Left out is the daemon's record of
	// what clients did, which it writes seconds later and keeps when they go.
	{"files", []string{"sh", "-c", `cd / && for dir in run/flatdhcp var/lib/flatdhcp var/lib/cni etc/cni; do
		[ ! -e $dir ] || find $dir ! -name '*.leases' -printf '%M %p\n' \( ! -type f -o -name '*.db' -o -exec sha256sum {} \; \)
	done | sort -k 2`}, nil},
	{"store", []string{"sh", "-c", storeScript}, nil},
}

// storeScript prints what every network's store says.
const storeScript = `command -v flatctl >/dev/null || exit 0
[ ! -d /var/lib/flatdhcp ] || for db in /var/lib/flatdhcp/*.db; do
	[ -e "$db" ] || continue
	network=${db##*/}
	network=${network%.db}
	echo "network $network"
	flatctl reservations -o json "$network"
done`

func iptablesLine(line string) (string, bool) {
	return chainCounter.ReplaceAllString(line, "[-]"), !strings.HasPrefix(line, "#")
}

func expiring(line string) (string, bool) {
	return lifetime.ReplaceAllString(line, "$1 Nsec"), true
}

// State reads the host's state, once the kernel has ended its duplicate checks of new IPv6
// addresses, which add routes when they end. A program that is not installed makes its
// section say so; one that fails is an error.
func (h *Host) State(ctx context.Context) (State, error) {
	if err := h.settle(ctx); err != nil {
		return State{}, fmt.Errorf("reading the state of %s: %w", h.name, err)
	}
	s := State{sections: make([]section, len(sources))}
	errs := make([]error, len(sources))
	var wg sync.WaitGroup
	for i, src := range sources {
		wg.Go(func() {
			s.sections[i].name = src.name
			s.sections[i].text, errs[i] = h.read(ctx, src)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return State{}, fmt.Errorf("reading the state of %s: %w", h.name, err)
	}
	processes, err := h.processes()
	if err != nil {
		return State{}, fmt.Errorf("reading the state of %s: %w", h.name, err)
	}
	mounts, err := h.mounts()
	if err != nil {
		return State{}, fmt.Errorf("reading the state of %s: %w", h.name, err)
	}
	s.sections = append(s.sections, section{"processes", processes}, section{"mounts", mounts})
	return s, nil
}

// settle waits until no IPv6 address is tentative, which takes the kernel some 2 s.
func (h *Host) settle(ctx context.Context) error {
	for {
		out, _, err := h.Run(ctx, "ip", "-6", "-oneline", "address", "show", "tentative")
		if err != nil {
			return err
		}
		waiting := false
		for line := range strings.Lines(out) {
			// An address that failed its check stays tentative.
			waiting = waiting || !strings.Contains(line, "dadfailed")
		}
		if !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the duplicate checks of IPv6 addresses: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (h *Host) read(ctx context.Context, src source) (string, error) {
	out, _, err := h.Run(ctx, src.argv...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 127 { // nsenter's and sh's word for it
		return "(" + src.argv[0] + " is not installed)\n", nil
	}
	if err != nil {
		return "", err
	}
	if src.normalise == nil {
		return out, nil
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		if line, keep := src.normalise(strings.TrimSuffix(line, "\n")); keep {
			b.WriteString(line + "\n")
		}
	}
	return b.String(), nil
}

// processes names what runs in the host's mount namespace, the holder aside. Process IDs
// are left out: a daemon that was restarted is the same daemon.
func (h *Host) processes() (string, error) {
	links, err := os.ReadDir("/proc")
	if err != nil {
		return "", err
	}
	var names []string
	for _, l := range links {
		dir := "/proc/" + l.Name()
		// Not a process, of another user, or gone by now: none of ours either way.
		if ns, err := os.Readlink(dir + "/ns/mnt"); err != nil || ns != h.holder.mntNS || l.Name() == fmt.Sprint(h.holder.pid) ||
			l.Name() == "self" || l.Name() == "thread-self" {
			continue
		}
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue
		}
		names = append(names, strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")+"\n")
	}
	slices.Sort(names)
	return strings.Join(names, ""), nil
}

// mounts lists the host's mount points with their file system: a namespace that was not
// unmounted shows here.
func (h *Host) mounts() (string, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.holder.pid))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(info)) {
		// ID parent major:minor root mountpoint options [optional]... - type source options.
		// IDs are handed out anew; the rest says what is mounted where.
		f := strings.Fields(line)
		sep := slices.Index(f, "-")
		if sep < 5 || len(f) < sep+2 {
			return "", errors.New("reading mountinfo: unexpected line " + line)
		}
		fmt.Fprintf(&b, "%s %s %s\n", f[4], f[sep+1], f[3])
	}
	return b.String(), nil
}

// Section returns one part: iptables, ip6tables, nft, links, addresses, routes, routes6,
// rules, fdb, neighbours, conntrack, sysctl, files, store, processes or mounts.
func (s State) Section(name string) string {
	for _, sec := range s.sections {
		if sec.name == name {
			return sec.text
		}
	}
	return ""
}

// String returns the whole state.
func (s State) String() string {
	var b strings.Builder
	for _, sec := range s.sections {
		fmt.Fprintf(&b, "== %s\n%s", sec.name, sec.text)
	}
	return b.String()
}

// Diff tells how the host got from s to after: "" if nothing changed, else the lines that
// went (-) and came (+), by section.
func (s State) Diff(after State) string {
	var b strings.Builder
	for _, sec := range after.sections {
		if d := diffLines(s.Section(sec.name), sec.text); d != "" {
			fmt.Fprintf(&b, "%s:\n%s", sec.name, d)
		}
	}
	return b.String()
}
