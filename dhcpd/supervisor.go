package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/dhcpd/holder"
	"github.com/flatdhcp/flatdhcp/dhcpd/report"
	"github.com/flatdhcp/flatdhcp/dhcpd/server"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
)

// repeatAfter is when a reason for not serving is logged again.
const repeatAfter = time.Minute

// supervisor runs one server for each bridge that is to be served. It is used by
// one goroutine.
type supervisor struct {
	networks func() []*snapshot.Network
	look     func(bridge string) (server.Binding, error) // absentError: it is known not to be there
	open     func(server.Binding) (server.Transport, error)
	holder   func(server.Binding) string // who has the bridge's port 67
	now      func() time.Time
	log      *slog.Logger
	seen     *seen
	dns      *resolvers // nil = none

	serving map[string]*served   // by bridge
	foreign error                // of the last reconcile: a bridge that another daemon serves
	waiting int                  // likewise: networks whose bridge is not here yet
	told    map[string]complaint // by network: why it is not served

	states atomic.Pointer[[]report.NetworkState] // of the last reconcile; nil before
	doing  []report.NetworkState                 // of the one that runs
}

type served struct {
	network *snapshot.Network
	copy    *snapshot.Copy // until service begins
	binding server.Binding
	server  *server.Server
	cancel  context.CancelFunc
	done    chan struct{}
}

type complaint struct {
	text string
	at   time.Time
}

// reconcile starts, changes and stops servers so that they fit what networks and
// bridges there are now. It is to be called after every change and from time to
// time: what could not be opened is tried again then.
func (s *supervisor) reconcile(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if s.serving == nil {
		s.serving, s.told = map[string]*served{}, map[string]complaint{}
	}
	s.doing, s.foreign, s.waiting = nil, nil, 0
	defer func() {
		done := s.doing
		s.states.Store(&done)
	}()
	wanted := s.wanted()
	s.dns.reconcile(ctx, wanted)
	for bridge, v := range s.serving {
		w, ok := wanted[bridge]
		if ok && w.network == v.network && w.binding.Index == v.binding.Index {
			continue
		}
		v.stop()
		delete(s.serving, bridge)
		s.log.Info(fmt.Sprintf("DHCP on %s stopped: network, bridge or gateway address is gone or another one", bridge),
			"network", v.network.Name())
	}
	for bridge, w := range wanted {
		if v, ok := s.serving[bridge]; ok {
			s.state(w.network, report.NetworkState{Served: true})
			if !equal(v.binding, w.binding) {
				v.binding = w.binding
				v.server.SetBinding(w.binding)
			}
			continue
		}
		s.start(ctx, w)
	}
}

// refusal returns why nothing is served, nor waits to be, if that is because of another
// daemon.
func (s *supervisor) refusal() error {
	if len(s.serving)+s.waiting > 0 {
		return nil
	}
	return s.foreign
}

// wanted returns what can be served now, by bridge. It says why of the rest.
func (s *supervisor) wanted() map[string]served {
	list := map[string]served{}
	for _, n := range s.networks() {
		c := n.Copy()
		if c == nil || c.Network.Bridge == nil || !c.Network.Bridge.IsGateway {
			continue
		}
		name := c.Network.Bridge.Name
		if other, ok := list[name]; ok {
			s.tell(slog.LevelError, n, fmt.Sprintf("network %s (%s) is not served: bridge %s carries network %s (%s) already",
				n.Name(), n.Dir(), name, other.network.Name(), other.network.Dir()))
			continue
		}
		b, err := s.look(name)
		if v, ok := s.serving[name]; ok && err != nil && !errors.As(err, new(absentError)) {
			// Trouble with asking is no reason to stop what works.
			s.log.Warn(fmt.Sprintf("%v; serving on as before", err), "network", n.Name())
			b, err = v.binding, nil
		}
		if err == nil && !slices.Contains(b.Addrs, c.Network.Pool.Gateway) {
			err = fmt.Errorf("gateway address %s is not on bridge %s", c.Network.Pool.Gateway, name)
			if c.Network.SharesGateway() {
				err = fmt.Errorf("shared gateway address %s is not on the leg of bridge %s", c.Network.Pool.Gateway, name)
			}
		}
		if err != nil {
			s.waiting++
			s.tell(slog.LevelInfo, n, fmt.Sprintf("network %s waits to be served: %v", n.Name(), err))
			continue
		}
		b.Metadata = c.Network.ServesMetadata()
		list[name] = served{network: n, copy: c, binding: b}
	}
	return list
}

// start serves a network.
func (s *supervisor) start(ctx context.Context, w served) {
	n, b := w.network, w.binding
	transport, err := s.open(b)
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w (it is %s)", err, s.holder(b))
	}
	if err != nil {
		if errors.As(err, new(*holder.DaemonError)) {
			s.foreign = err
		}
		s.tell(slog.LevelError, n, fmt.Sprintf("network %s is not served: %v", n.Name(), err))
		return
	}
	delete(s.told, n.Dir()+"/"+n.Name())
	ctx, w.cancel = context.WithCancel(ctx)
	w.server = server.New(n, transport, b, s.log)
	w.server.Counters = s.seen.countersOf(keyOf(n))
	w.server.Hook = listener{s.seen, n.Dir()}
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		w.server.Run(ctx)
	}()
	s.announce(w.copy, b)
	w.copy = nil // a copy may be large, and this one grows old
	s.serving[b.Bridge] = &w
	s.state(n, report.NetworkState{Served: true})
}

// announce says what is served, in dnsmasq's words: it names the start of its range, which
// nova-network set to the first address that a workload could have.
func (s *supervisor) announce(c *snapshot.Copy, b server.Binding) {
	s.log.Info(fmt.Sprintf("DHCP, static leases only on %s, lease time %s",
		c.Network.Pool.First(), short(time.Duration(c.Network.Bridge.LeaseTime))),
		slog.Group(server.LogGroup, "network", c.Network.Name, "bridge", b.Bridge, "reservations", c.Len()))
	s.log.Info(fmt.Sprintf("DHCP, sockets bound exclusively to interface %s", b.Bridge), "network", c.Network.Name)
}

// short writes a duration as dnsmasq does: 2m, 1h30m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// tell logs why a network is not served, once and then every minute.
func (s *supervisor) tell(level slog.Level, n *snapshot.Network, text string) {
	s.state(n, report.NetworkState{Trouble: level >= slog.LevelError, Why: text})
	key, now := n.Dir()+"/"+n.Name(), s.now()
	if old := s.told[key]; old.text == text && now.Sub(old.at) < repeatAfter {
		return
	}
	s.told[key] = complaint{text, now}
	s.log.Log(context.Background(), level, text, "network", n.Name())
}

// state notes for reports whether a network is served.
func (s *supervisor) state(n *snapshot.Network, st report.NetworkState) {
	st.Network, st.DataDir = n.Name(), n.Dir()
	if c := n.Copy(); c != nil && c.Network.Bridge != nil {
		st.Bridge = c.Network.Bridge.Name
	}
	s.doing = append(s.doing, st)
}

// networkStates returns what the last reconcile found; false before the first. It is
// safe for concurrent use.
func (s *supervisor) networkStates() ([]report.NetworkState, bool) {
	list := s.states.Load()
	if list == nil {
		return nil, false
	}
	return *list, true
}

// stop ends every server.
func (s *supervisor) stop() {
	s.dns.stop()
	for _, v := range s.serving {
		v.stop()
	}
	clear(s.serving)
}

// stop returns when the sockets are closed.
func (v *served) stop() {
	v.cancel()
	<-v.done
}

func equal(a, b server.Binding) bool {
	return a.Bridge == b.Bridge && a.Index == b.Index && a.MAC == b.MAC && a.Metadata == b.Metadata &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Nameservers, b.Nameservers)
}

var _ server.Source = (*snapshot.Network)(nil)
