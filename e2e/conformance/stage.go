package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
)

// stage is a host on which cases happen, one at a time: neighbours are attached to two
// networks, a third has been used before, and an idle
// container waits. What it looks like then is what it must look
// like after every case.
type stage struct {
	lab        *lab.Lab // of this host alone
	host       *lab.Host
	neighbours []*attachment
	idle       *lab.Container // for calls that must leave nothing inside
	base       snapshot
	made       int // container IDs so far; none comes back
}

// snapshot is the whole host, and what the neighbours and the idle container have inside.
type snapshot struct {
	host   lab.State
	inside []string
}

// stages hands out hosts: a used one that is as it was, or a new one.
type stages struct {
	target Target
	// version is the one that neighbours are attached with.
	version string

	mu   sync.Mutex
	free []*stage
	labs []*lab.Lab
}

// turn is one case's, version after version, on one host as long as that stays as it was.
type turn struct {
	stages *stages
	c      Case
	stage  *stage // nil: the next version needs one
}

// try runs the case in a version.
func (u *turn) try(ctx context.Context, version string, known, last bool) error {
	if u.stage == nil {
		var err error
		if u.stage, err = u.stages.take(ctx); err != nil {
			return err
		}
	}
	t := &trial{ctx: ctx, stage: u.stage, target: u.stages.target, version: version, known: known, quiet: u.c.Quiet}
	err := u.c.run(t)
	var na notApplicable
	if u.c.Spoils || err != nil && !errors.As(err, &na) {
		return errors.Join(err, u.discard())
	}
	if u.c.Quiet && !last {
		return err
	}
	t.known = t.known || u.c.Forgives
	left := t.end()
	if left == nil {
		return err
	}
	if err == nil && !u.c.Forgives {
		err = left
	}
	return errors.Join(err, u.discard())
}

// discard ends a host that is not as it was.
func (u *turn) discard() error {
	st := u.stage
	u.stage = nil
	return st.lab.Close()
}

// end gives the host back.
func (u *turn) end() {
	if u.stage == nil {
		return
	}
	u.stages.mu.Lock()
	defer u.stages.mu.Unlock()
	u.stages.free = append(u.stages.free, u.stage)
}

func (s *stages) take(ctx context.Context) (*stage, error) {
	s.mu.Lock()
	if n := len(s.free); n > 0 {
		st := s.free[n-1]
		s.free = s.free[:n-1]
		s.mu.Unlock()
		return st, nil
	}
	s.mu.Unlock()
	return s.build(ctx)
}

// host makes a host, in a lab of its own that ends with close at the latest.
func (s *stages) host(ctx context.Context) (*lab.Lab, *lab.Host, error) {
	l, err := lab.Start(ctx, s.target.Lab)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	s.labs = append(s.labs, l)
	name := fmt.Sprintf("h%d", len(s.labs))
	s.mu.Unlock()
	h, err := l.AddHost(ctx, name)
	return l, h, err
}

// close ends every host that was made.
func (s *stages) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, l := range s.labs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// build makes a host with neighbours.
func (s *stages) build(ctx context.Context) (*stage, error) {
	l, h, err := s.host(ctx)
	if err != nil {
		return nil, err
	}
	// Without duplicate checks of IPv6 addresses no state has to wait two seconds for them.
	if _, _, err := h.Run(ctx, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"); err != nil {
		return nil, fmt.Errorf("preparing a host: %w", err)
	}
	st := &stage{lab: l, host: h}
	t := &trial{ctx: ctx, stage: st, target: s.target, version: s.version}
	where := []Network{home}
	if t.needs(other) == nil {
		where = append(where, other)
		a, err := t.attach(spare)
		if err != nil {
			return nil, fmt.Errorf("preparing a host: %w", err)
		}
		if err := errors.Join(t.del(a).silent(), t.vanish(a)); err != nil {
			return nil, fmt.Errorf("preparing a host: %w", err)
		}
	}
	for _, n := range where {
		a, err := t.attach(n)
		if err != nil {
			return nil, fmt.Errorf("preparing a host: attaching a neighbour: %w", err)
		}
		st.neighbours = append(st.neighbours, a)
	}
	if st.idle, err = h.Container(ctx, "idle"); err != nil {
		return nil, fmt.Errorf("preparing a host: %w", err)
	}
	st.base, err = st.settled(ctx)
	return st, err
}

// settled waits until two snapshots in a row are equal: operational states follow their
// causes.
func (st *stage) settled(ctx context.Context) (snapshot, error) {
	last, err := st.look(ctx)
	for err == nil {
		var next snapshot
		if next, err = st.look(ctx); err == nil && last.diff(next, nil) == "" {
			return next, nil
		}
		last = next
		select {
		case <-ctx.Done():
			err = fmt.Errorf("waiting for the host to settle: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return snapshot{}, err
}

func (st *stage) look(ctx context.Context) (snapshot, error) {
	s := snapshot{}
	var err error
	if s.host, err = st.host.State(ctx); err != nil {
		return s, err
	}
	watched := []*lab.Container{}
	for _, n := range st.neighbours {
		watched = append(watched, n.c)
	}
	if st.idle != nil {
		watched = append(watched, st.idle)
	}
	for _, c := range watched {
		text, err := inside(ctx, c)
		if err != nil {
			return s, err
		}
		s.inside = append(s.inside, c.Name()+" has inside:\n"+text)
	}
	return s, nil
}

// insideScript prints what a container has, but for what follows by itself (IPv6's
// addresses, operational states) and for lo, which is any plugin's to bring up and nobody's
// to take down again.
const insideScript = `ip -brief link show | awk '{print $1, $3}'; ip -4 -oneline address show | grep -v ' lo '
	ip -4 route show table all | grep -v ' dev lo '; :`

func inside(ctx context.Context, c *lab.Container) (string, error) {
	out, _, err := c.Run(ctx, "sh", "-c", insideScript)
	return out, err
}

// diff tells how the host got from s to after; lines that drop accepts are left out.
func (s snapshot) diff(after snapshot, drop func(line string) bool) string {
	var b strings.Builder
	heading := ""
	for line := range strings.Lines(s.host.Diff(after.host)) {
		switch {
		case line[0] != '-' && line[0] != '+':
			heading = line
		case drop == nil || !drop(strings.TrimSpace(line)):
			b.WriteString(heading + line)
			heading = ""
		}
	}
	for i := range min(len(s.inside), len(after.inside)) {
		if s.inside[i] != after.inside[i] {
			fmt.Fprintf(&b, "before, %safter, %s", s.inside[i], after.inside[i])
		}
	}
	return b.String()
}
