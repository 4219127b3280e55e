package ipam

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// model is what a directory of networks does, said as plainly as possible: maps
// and linear scans, no index, no interval, no counter.
type model struct {
	now  time.Time
	nets map[string]*modelNet
	// clockPutBack: releases in the future left no address to choose.
	clockPutBack bool
}

type modelNet struct {
	net  Network
	rows map[netip.Addr]Reservation
	hist map[netip.Addr]past
}

func (m *model) clone(name string) (*modelNet, *model) {
	c := &model{now: m.now, nets: make(map[string]*modelNet)}
	for k, n := range m.nets {
		nn := &modelNet{net: n.net, rows: make(map[netip.Addr]Reservation), hist: make(map[netip.Addr]past)}
		for a, r := range n.rows {
			nn.rows[a] = r
		}
		for a, p := range n.hist {
			nn.hist[a] = p
		}
		c.nets[k] = nn
	}
	return c.nets[name], c
}

// pool returns every address the network gives, ascending.
func (n *modelNet) pool() []netip.Addr {
	var all []netip.Addr
	for a := n.net.Pool.Subnet.Addr(); n.net.Pool.Subnet.Contains(a); a = a.Next() {
		if n.allowed(a) && a.Compare(n.net.Pool.RangeStart) >= 0 && a.Compare(n.net.Pool.RangeEnd) <= 0 {
			all = append(all, a)
		}
	}
	return all
}

func (n *modelNet) allowed(a netip.Addr) bool {
	p := n.net.Pool
	if !p.Subnet.Contains(a) || a == p.Gateway || a == p.Subnet.Addr() || !p.Subnet.Contains(a.Next()) {
		return false
	}
	for _, r := range p.Exclude {
		if r.Start.Compare(a) <= 0 && a.Compare(r.End) <= 0 {
			return false
		}
	}
	return true
}

func (n *modelNet) gives(a netip.Addr) bool {
	return n.allowed(a) && a.Compare(n.net.Pool.RangeStart) >= 0 && a.Compare(n.net.Pool.RangeEnd) <= 0
}

func (n *modelNet) derive(a netip.Addr) MAC {
	b := a.As4()
	p := n.net.Pool.MACPrefix
	return MAC{p[0], p[1], p[2], b[1], b[2], b[3]}
}

func (n *modelNet) rowOf(w Workload) (Reservation, bool) {
	for _, r := range n.rows {
		if r.Workload == w {
			return r, true
		}
	}
	return Reservation{}, false
}

func (n *modelNet) heldBy(cid, ifName string) (Reservation, bool) {
	for _, r := range n.rows {
		if r.HeldBy(cid, ifName) {
			return r, true
		}
	}
	return Reservation{}, false
}

func (n *modelNet) claimOf(w Workload) (netip.Addr, past, bool) {
	for a, p := range n.hist {
		if p.Workload != nil && *p.Workload == w {
			return a, p, true
		}
	}
	return netip.Addr{}, past{}, false
}

// foreign reports whether the MAC names an address that another node may give, so that a
// tenant's workload may not ask for it.
func (n *modelNet) foreign(mac MAC, w Workload) bool {
	for a := n.net.Pool.Subnet.Addr(); w.Namespace != "" && n.net.Pool.Subnet.Contains(a); a = a.Next() {
		if n.derive(a) == mac {
			return !n.gives(a)
		}
	}
	return false
}

// macTaken reports whether any row but w's own, or any gateway, has the MAC.
func (m *model) macTaken(n *modelNet, mac MAC, w Workload) bool {
	for _, o := range m.nets {
		if o.derive(o.net.Pool.Gateway) == mac {
			return true
		}
		for _, r := range o.rows {
			if r.MAC == mac && (o != n || r.Workload != w) {
				return true
			}
		}
	}
	return false
}

func (m *model) macRefused(n *modelNet, mac MAC, w Workload) bool {
	if mac.IsMulticast() || mac.IsHostSide() || mac.IsZero() || m.macTaken(n, mac, w) {
		return true
	}
	for a, r := range n.rows {
		if n.derive(a) == mac && r.Workload != w {
			return true
		}
	}
	return false
}

// released returns history's addresses, the one released longest ago first.
func (n *modelNet) released() []netip.Addr {
	var all []netip.Addr
	for a := range n.hist {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b netip.Addr) int {
		return cmp.Or(n.hist[a].Released.Compare(n.hist[b].Released), a.Compare(b))
	})
	return all
}

func (n *modelNet) vacate(r Reservation, claim bool, now time.Time) {
	delete(n.rows, r.Addr)
	if !n.gives(r.Addr) {
		return
	}
	p := past{MAC: r.MAC, MACRequested: r.MACRequested, Hostname: r.Hostname, Released: now}
	if claim {
		p.Workload = &r.Workload
	}
	n.hist[r.Addr] = p
}

func (n *modelNet) letGo(r Reservation, now time.Time) {
	if r.Admin {
		r.Holder = nil
		n.rows[r.Addr] = r
		return
	}
	n.vacate(r, true, now)
}

func (m *model) choose(n *modelNet, derived bool) (netip.Addr, error) {
	usable := func(a netip.Addr) bool { return !derived || !m.macTaken(n, n.derive(a), Workload{}) }
	for _, a := range n.pool() {
		_, row := n.rows[a]
		_, hist := n.hist[a]
		if !row && !hist && usable(a) {
			return a, nil
		}
	}
	e := &ExhaustedError{Network: n.net.Name}
	for _, a := range n.released() {
		free := n.hist[a].Released.Add(time.Duration(n.net.Pool.ReuseDelay))
		if m.now.Before(free) {
			if e.Quarantined == 0 {
				e.Until = free
				if n.hist[a].Released.After(m.now) {
					m.clockPutBack = true
					e.Until = m.now.Add(time.Duration(n.net.Pool.ReuseDelay))
				}
			}
			e.Quarantined++
			continue
		}
		if usable(a) {
			return a, nil
		}
	}
	return netip.Addr{}, e
}

func (m *model) place(n *modelNet, r Reservation, want wish, g *Grant) error {
	if !want.mac.IsZero() && (m.macRefused(n, want.mac, r.Workload) || !r.Admin && n.foreign(want.mac, r.Workload)) {
		return ErrRefused
	}
	if kept, was, ok := n.claimOf(r.Workload); ok {
		keep := !want.addr.IsValid() || want.addr == kept
		if keep && want.mac.IsZero() {
			switch {
			case !m.macRefused(n, was.MAC, r.Workload):
				want.mac = was.MAC
			case !m.macRefused(n, n.derive(kept), r.Workload):
				want.mac = n.derive(kept)
			default:
				keep = false
			}
		}
		if keep {
			want.addr = kept
		} else {
			was.Workload = nil
			n.hist[kept] = was
		}
		if want.hostname == "" && was.Hostname != DefaultHostname(kept) {
			want.hostname = was.Hostname
		}
	}
	if !want.addr.IsValid() {
		a, err := m.choose(n, want.mac.IsZero())
		if err != nil {
			return err
		}
		want.addr = a
	} else {
		if !n.allowed(want.addr) {
			return ErrRefused
		}
		if row, ok := n.rows[want.addr]; ok {
			if r.Admin && row.Holder != nil {
				return &HeldError{Row: row}
			}
			return ErrRefused
		}
		p, ok := n.hist[want.addr]
		own := ok && p.Workload != nil && *p.Workload == r.Workload
		quarantined := ok && !own && m.now.Sub(p.Released) < time.Duration(n.net.Pool.ReuseDelay)
		if !r.Admin && (!n.gives(want.addr) || quarantined) {
			return ErrRefused
		}
	}
	if want.mac.IsZero() {
		if want.mac = n.derive(want.addr); m.macRefused(n, want.mac, r.Workload) {
			return ErrRefused
		}
	}
	last := n.hist[want.addr]
	delete(n.hist, want.addr)
	r.Addr, r.MAC, r.MACRequested, r.Hostname = want.addr, want.mac, want.mac != n.derive(want.addr), want.hostname
	if r.Hostname == "" {
		r.Hostname = want.hint
	}
	if r.Hostname == "" {
		r.Hostname = DefaultHostname(r.Addr)
	}
	if last.MAC != r.MAC {
		r.PreviousMAC = last.MAC
	}
	if last.Workload != nil && *last.Workload != r.Workload && m.now.Sub(last.Released) < time.Duration(n.net.Pool.Retain) {
		g.FromRetained = last.Workload
	}
	g.Unproven = last.MAC.IsZero() || m.now.Sub(last.Released) >= time.Duration(n.net.Pool.Retain)
	n.rows[r.Addr] = r
	g.Reservation = r
	return nil
}

func (m *model) reserve(n *modelNet, req Request) (g Grant, err error) {
	contradicts := func(r Reservation) bool {
		return req.Addr.IsValid() && req.Addr != r.Addr || !req.MAC.IsZero() && req.MAC != r.MAC
	}
	if r, ok := n.heldBy(req.Holder.ContainerID, req.Holder.IfName); ok && r.Workload != req.Workload {
		if req.Dead == nil || *req.Dead != *r.Holder {
			return g, &HeldError{Row: r}
		}
		n.letGo(r, m.now)
		g.TookOver = r.Holder
	}
	r, ok := n.rowOf(req.Workload)
	if !ok {
		return g, m.place(n, Reservation{Workload: req.Workload, Holder: &req.Holder, Since: m.now},
			wish{req.Addr, req.MAC, req.Hostname, req.HostnameHint}, &g)
	}
	adminSays := r.Admin && (contradicts(r) || req.Hostname != "" && req.Hostname != r.Hostname)
	if r.Holder != nil && sameAttachment(*r.Holder, req.Holder) {
		if contradicts(r) || adminSays {
			return g, ErrRefused
		}
		r.Holder = &req.Holder
		if req.Hostname != "" {
			r.Hostname = req.Hostname
		}
		n.rows[r.Addr] = r
		return Grant{Reservation: r, Reused: true}, nil
	}
	if r.Holder != nil {
		if req.Dead == nil || *req.Dead != *r.Holder {
			return g, &HeldError{Row: r}
		}
		g.TookOver = r.Holder
	}
	if adminSays {
		return g, ErrRefused
	}
	if req.Addr.IsValid() && req.Addr != r.Addr {
		n.vacate(r, true, m.now)
		return g, m.place(n, Reservation{Workload: req.Workload, Holder: &req.Holder, Since: m.now},
			wish{req.Addr, req.MAC, req.Hostname, req.HostnameHint}, &g)
	}
	if !req.MAC.IsZero() && req.MAC != r.MAC {
		if m.macRefused(n, req.MAC, req.Workload) || n.foreign(req.MAC, req.Workload) {
			return g, ErrRefused
		}
		r.PreviousMAC, r.MAC, r.MACRequested = r.MAC, req.MAC, req.MAC != n.derive(r.Addr)
	}
	if req.Hostname != "" {
		r.Hostname = req.Hostname
	} else if req.HostnameHint != "" && r.Hostname == DefaultHostname(r.Addr) {
		r.Hostname = req.HostnameHint
	}
	g.Unproven = r.Holder == nil
	r.Holder, r.Since = &req.Holder, m.now
	n.rows[r.Addr] = r
	g.Reservation = r
	return g, nil
}

func (m *model) reserveAdmin(n *modelNet, req AdminRequest) (Reservation, error) {
	var g Grant
	want := wish{req.Addr, req.MAC, req.Hostname, ""}
	r, ok := n.rowOf(req.Workload)
	moves := ok && req.Addr.IsValid() && req.Addr != r.Addr
	remac := ok && !req.MAC.IsZero() && req.MAC != r.MAC
	switch {
	case ok && r.Holder != nil && (moves || remac):
		return r, &HeldError{Row: r}
	case moves:
		if want.mac.IsZero() && r.MACRequested {
			want.mac = r.MAC
		}
		if want.hostname == "" && r.Hostname != DefaultHostname(r.Addr) {
			want.hostname = r.Hostname
		}
		n.vacate(r, false, m.now)
		fallthrough
	case !ok:
		err := m.place(n, Reservation{Workload: req.Workload, Admin: true, Since: m.now}, want, &g)
		return g.Reservation, err
	}
	if remac {
		if m.macRefused(n, req.MAC, req.Workload) {
			return r, ErrRefused
		}
		r.PreviousMAC, r.MAC, r.MACRequested = r.MAC, req.MAC, req.MAC != n.derive(r.Addr)
	}
	if req.Hostname != "" {
		r.Hostname = req.Hostname
	}
	r.Admin = true
	n.rows[r.Addr] = r
	return r, nil
}

func (m *model) releaseAdmin(n *modelNet, a netip.Addr) (Reservation, error) {
	if r, ok := n.rows[a]; ok {
		if r.Holder != nil {
			return r, &HeldError{Row: r}
		}
		n.vacate(r, false, m.now)
		return r, nil
	}
	p, ok := n.hist[a]
	if !ok || p.Workload == nil {
		return Reservation{}, ErrNotFound
	}
	r := Reservation{Addr: a, MAC: p.MAC, MACRequested: p.MACRequested, Hostname: p.Hostname, Workload: *p.Workload, Since: p.Released}
	p.Workload = nil
	n.hist[a] = p
	return r, nil
}

func (m *model) configure(n *modelNet, to Network) error {
	old := n.net
	n.net = to
	stranded := 0
	for a := range n.rows {
		if !n.allowed(a) {
			stranded++
		}
	}
	if stranded > 0 {
		n.net = old
		return &StrandedError{Network: to.Name, Count: stranded}
	}
	for _, r := range n.rows {
		if r.MAC == n.derive(to.Pool.Gateway) {
			n.net = old
			return ErrConfig
		}
	}
	for a := range n.hist {
		if !n.gives(a) {
			delete(n.hist, a)
		}
	}
	return nil
}

// prune is what a transaction that changes something does at its end.
func (m *model) prune(n *modelNet) {
	for i, a := range n.released() {
		if i == pruneStep {
			break
		}
		if age := m.now.Sub(n.hist[a].Released); age >= HistoryAge && age >= time.Duration(n.net.Pool.Retain) &&
			age >= time.Duration(n.net.Pool.ReuseDelay) {
			delete(n.hist, a)
		}
	}
	all := n.released()
	slices.Reverse(all)
	for i, a := range all {
		if p := n.hist[a]; i < pruneStep && p.Released.After(m.now) {
			p.Released = m.now
			n.hist[a] = p
		}
	}
}

// sameError reports whether two errors mean the same to a caller.
func sameError(a, b error) bool {
	for _, sentinel := range []error{ErrRefused, ErrNotFound, ErrConfig} {
		if errors.Is(a, sentinel) != errors.Is(b, sentinel) {
			return false
		}
	}
	var ha, hb *HeldError
	if errors.As(a, &ha) != errors.As(b, &hb) || ha != nil && !gocmp.Equal(ha.Row, hb.Row, equal) {
		return false
	}
	var ea, eb *ExhaustedError
	if errors.As(a, &ea) != errors.As(b, &eb) || ea != nil && *ea != *eb {
		return false
	}
	var sa, sb *StrandedError
	if errors.As(a, &sa) != errors.As(b, &sb) || sa != nil && sa.Count != sb.Count {
		return false
	}
	return (a == nil) == (b == nil)
}

// modelRun is one random history against both.
type modelRun struct {
	t     *testing.T
	rnd   *rand.Rand
	clock *clock
	dir   *Dir
	model *model
	names []string
	seen  map[string]int // outcomes, to see that the history reached them
}

func (x *modelRun) pick(n int) int { return x.rnd.Intn(n) }

func (x *modelRun) maybeAddr(n *modelNet) netip.Addr {
	if x.pick(4) > 0 {
		return netip.Addr{}
	}
	a := n.net.Pool.Subnet.Addr()
	for range x.pick(34) { // beyond the /27, too
		a = a.Next()
	}
	return a
}

func (x *modelRun) maybeMAC() MAC {
	switch x.pick(8) {
	case 0: // often one that some address derives
		return MAC{0xfa, 0x16, 0x3e, 16, 0, byte(x.pick(32))}
	case 1:
		return MAC{0x02, 0, 0, 0, 0, byte(1 + x.pick(6))}
	case 2:
		return [...]MAC{{0x01, 0, 0x5e, 0, 0, 1}, {0xfe, 0x16, 0x3e, 0, 0, 1}}[x.pick(2)]
	}
	return MAC{}
}

func (x *modelRun) workload() Workload { return pod(fmt.Sprintf("w%d", x.pick(40))) }

// someRow returns a random row.
func (x *modelRun) someRow(n *modelNet) (Reservation, bool) {
	var all []Reservation
	for _, r := range n.rows {
		all = append(all, r)
	}
	if len(all) == 0 {
		return Reservation{}, false
	}
	slices.SortFunc(all, func(a, b Reservation) int { return a.Addr.Compare(b.Addr) })
	return all[x.pick(len(all))], true
}

func (x *modelRun) holder() Holder {
	h := holder(fmt.Sprintf("c%d", x.pick(60)))
	h.NetNSInode += uint64(x.pick(20) / 19)
	if x.pick(20) == 0 {
		h.BootID = "boot-2"
	}
	return h
}

// step does one random operation on both and compares what came of it.
func (x *modelRun) step(i int) {
	ctx := context.Background()
	name := x.names[x.pick(len(x.names))]
	s := x.dir.Store(name)
	x.clock.advance([...]time.Duration{0, time.Nanosecond, time.Second, 20 * time.Second, time.Minute}[x.pick(5)])
	if x.pick(60) == 0 {
		x.clock.advance([...]time.Duration{24 * time.Hour, 31 * 24 * time.Hour, -2 * time.Hour}[x.pick(3)])
	}
	x.model.now = x.clock.now()
	n, after := x.model.clone(name) // a refused operation leaves no trace
	var got, want any
	var gotErr, wantErr error
	what, changed := "", true
	switch k := x.pick(100); {
	case k < 50:
		req := Request{Workload: x.workload(), Holder: x.holder(), Addr: x.maybeAddr(n), MAC: x.maybeMAC()}
		if row, ok := x.someRow(n); ok && row.Holder != nil && x.pick(6) == 0 { // the same once more
			req.Workload, req.Holder, req.Addr = row.Workload, *row.Holder, netip.Addr{}
			if x.pick(3) == 0 {
				req.Holder.NetNS = "/var" + req.Holder.NetNS
			}
		}
		if x.pick(5) == 0 {
			req.Hostname = fmt.Sprintf("h%d", x.pick(5))
		}
		if x.pick(3) == 0 {
			req.HostnameHint = req.Workload.Value
		}
		if x.pick(3) > 0 { // mostly the truth about whom it would replace, sometimes not
			r, ok := n.rowOf(req.Workload)
			if h, held := n.heldBy(req.Holder.ContainerID, "eth0"); held && (!ok || x.pick(2) == 0) {
				r, ok = h, true
			}
			if ok && r.Holder != nil {
				dead := *r.Holder
				if x.pick(10) == 0 {
					dead.NetNS += "x"
				}
				req.Dead = &dead
			}
		}
		what = fmt.Sprintf("Reserve(%+v)", req)
		got, gotErr = s.Reserve(ctx, nil, req)
		before, _ := n.rowOf(req.Workload)
		var g Grant
		g, wantErr = after.reserve(n, req)
		want, changed = g, !g.Reused || !gocmp.Equal(before, g.Reservation, equal)
	case k < 80:
		cid := fmt.Sprintf("c%d", x.pick(60))
		what = "Release " + cid
		r, ok, err := s.Release(ctx, cid, "eth0")
		got, gotErr = r, err
		row, held := n.heldBy(cid, "eth0")
		if held {
			n.letGo(row, after.now)
		}
		if ok != held {
			x.t.Fatalf("step %d: %s: held %v, model says %v", i, what, ok, held)
		}
		want, changed = row, held
	case k < 88:
		req := AdminRequest{Workload: x.workload(), Addr: x.maybeAddr(n), MAC: x.maybeMAC()}
		what = fmt.Sprintf("ReserveAdmin(%+v)", req)
		got, gotErr = s.ReserveAdmin(ctx, req)
		want, wantErr = after.reserveAdmin(n, req)
	case k < 94:
		a := n.net.Pool.Subnet.Addr()
		for range x.pick(32) {
			a = a.Next()
		}
		what = fmt.Sprintf("ReleaseAdmin(%s)", a)
		got, gotErr = s.ReleaseAdmin(ctx, a)
		want, wantErr = after.releaseAdmin(n, a)
	case k < 97:
		part := byte(x.pick(3))
		what = "GC"
		keep := func(r Reservation) bool { return r.Addr.As4()[3]%3 != part }
		var gone []Reservation
		for _, r := range n.rows {
			if r.Holder != nil && !keep(r) {
				gone = append(gone, r)
			}
		}
		slices.SortFunc(gone, func(a, b Reservation) int { return a.Addr.Compare(b.Addr) })
		for _, r := range gone {
			n.letGo(r, after.now)
		}
		want, changed = gone, len(gone) > 0
		got, gotErr = s.GC(ctx, keep)
	default:
		to := n.net
		base := to.Pool.Subnet.Addr()
		at := func(i int) netip.Addr {
			a := base
			for range i {
				a = a.Next()
			}
			return a
		}
		to.Pool.RangeStart, to.Pool.RangeEnd = at(x.pick(10)), at(16+x.pick(16))
		to.Pool.Exclude = nil
		if x.pick(2) == 0 {
			from := x.pick(28)
			to.Pool.Exclude = []Range{{at(from), at(from + x.pick(4))}}
		}
		to.Pool.Gateway = at([...]int{1, 1, 1, 30}[x.pick(4)])
		to.Pool.ReuseDelay = Duration(x.pick(3)) * Duration(time.Minute)
		to.Pool.Retain = Duration(x.pick(3)) * Duration(time.Hour)
		what = fmt.Sprintf("Configure(%+v)", to.Pool)
		changed, gotErr = s.Configure(ctx, to)
		wantErr = after.configure(n, to)
	}
	if !sameError(gotErr, wantErr) {
		x.t.Fatalf("step %d: %s:\n got error %v\nwant error %v", i, what, gotErr, wantErr)
	}
	x.seen[outcome(got, gotErr)]++
	if gotErr == nil {
		if diff := gocmp.Diff(want, got, equal); diff != "" {
			x.t.Fatalf("step %d: %s (-want +got):\n%s", i, what, diff)
		}
		*x.model = *after
	}
	// The model prunes whenever it changes; a call without effect changes nothing,
	// and prunes nothing. But a refusal that comes of a clock put back corrects that.
	if gotErr == nil && changed || after.clockPutBack {
		x.model.prune(x.model.nets[name])
	}
}

// outcome classifies what a step came to.
func outcome(got any, err error) string {
	for what, sentinel := range map[string]error{"refused": ErrRefused, "not found": ErrNotFound, "config": ErrConfig} {
		if errors.Is(err, sentinel) {
			return what
		}
	}
	var h *HeldError
	var e *ExhaustedError
	var s *StrandedError
	switch {
	case errors.As(err, &h):
		return "held"
	case errors.As(err, &e):
		return "exhausted"
	case errors.As(err, &s):
		return "stranded"
	}
	if g, ok := got.(Grant); ok {
		switch {
		case g.Reused:
			return "reused"
		case g.TookOver != nil:
			return "taken over"
		case g.FromRetained != nil:
			return "from retained"
		case !g.PreviousMAC.IsZero():
			return "announced"
		}
	}
	return "done"
}

// compare holds rows and history of a store against the model's.
func (x *modelRun) compare(i int, name string) {
	n := x.model.nets[name]
	rows := make(map[netip.Addr]Reservation)
	hist := make(map[netip.Addr]past)
	var stats Stats
	err := x.dir.Store(name).View(context.Background(), func(v *View) (err error) {
		for r, err := range v.All() {
			if err != nil {
				return err
			}
			rows[r.Addr] = r
		}
		c := v.bucket(bucketHistory).cursor()
		for k, value := c.First(); k != nil; k, value = c.Next() {
			a, err := parseAddrKey(k)
			if err != nil {
				return err
			}
			if hist[a], err = decodePast(k, value); err != nil {
				return err
			}
		}
		stats, err = v.Stats()
		return err
	})
	if err != nil {
		x.t.Fatalf("step %d: %v", i, err)
	}
	if diff := gocmp.Diff(n.rows, rows, equal); diff != "" {
		x.t.Fatalf("step %d: rows of %s (-want +got):\n%s", i, name, diff)
	}
	if diff := gocmp.Diff(n.hist, hist, equal); diff != "" {
		x.t.Fatalf("step %d: history of %s (-want +got):\n%s", i, name, diff)
	}
	var want Stats
	outside := 0
	for a, r := range rows {
		if r.Holder != nil {
			want.Used++
		} else {
			want.Reserved++
		}
		if !n.gives(a) {
			outside++
		}
	}
	want.Retained = uint64(len(hist))
	want.Size = uint64(len(n.pool()) + outside)
	want.Free = want.Size - want.Used - want.Reserved - want.Retained
	if stats != want {
		x.t.Fatalf("step %d: Stats of %s = %+v, want %+v", i, name, stats, want)
	}
}

// modelSeeds lets a person look further than CI does.
var modelSeeds = flag.Int64("model.seeds", 4, "random histories to compare with the model")

func TestRandomOperationsAgreeWithModel(t *testing.T) {
	const steps = 2000
	for seed := range *modelSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := newClock()
			d := testDir(t, WithClock(c.now))
			d.noSync = true
			x := &modelRun{t: t, rnd: rand.New(rand.NewSource(seed)), clock: c, dir: d, seen: make(map[string]int),
				model: &model{nets: make(map[string]*modelNet)}}
			// The two derive the same MACs.
			for name, subnet := range map[string]string{"a": "10.16.0.0/27", "b": "172.16.0.0/27"} {
				n := testNet(name, subnet)
				mustConfigure(t, d, n)
				x.names = append(x.names, name)
				x.model.nets[name] = &modelNet{net: n, rows: make(map[netip.Addr]Reservation), hist: make(map[netip.Addr]past)}
			}
			slices.Sort(x.names)
			for i := range steps {
				x.step(i)
				if i%20 == 0 || i == steps-1 {
					for _, name := range x.names {
						x.compare(i, name)
					}
				}
			}
			for _, what := range []string{"done", "refused", "not found", "held", "exhausted", "stranded", "reused",
				"taken over", "from retained", "announced"} {
				if x.seen[what] == 0 {
					t.Errorf("no step came to %q: %v", what, x.seen)
				}
			}
			t.Log(x.seen)
		})
	}
}
