package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/flatdhcp/flatdhcp/dhcpd/names"
	"github.com/flatdhcp/flatdhcp/dhcpd/names/upstream"
	"github.com/flatdhcp/flatdhcp/dhcpd/snapshot"
	"github.com/flatdhcp/flatdhcp/ipam"
)

const dnsPort = 53

// resolvers runs one DNS server for each network that is served and wants one. It is
// used by one goroutine, but for isSelf.
//
// Nothing about DNS ever keeps DHCP from being served: where the port is taken, clients
// are told of the servers that would have been asked, and it is tried again.
type resolvers struct {
	listen     func(netip.AddrPort) (*names.Sockets, error)
	resolvConf string // the node's
	now        func() time.Time
	log        *slog.Logger

	serving map[string]*resolving // by bridge
	gateway atomic.Pointer[[]netip.Addr]
	tallies tallies
}

// resolving is one network's.
type resolving struct {
	network *snapshot.Network
	index   int // of the bridge
	addr    netip.Addr
	up      *upstream.Resolver
	tally   *tally
	told    complaint

	server *names.Server // nil: the port could not be had
	cancel context.CancelFunc
	done   chan struct{}
}

// reconcile makes DNS servers fit what is wanted, and notes in it what DHCP is to say of
// them.
func (r *resolvers) reconcile(ctx context.Context, wanted map[string]served) {
	if r == nil {
		return
	}
	if r.serving == nil {
		r.serving = map[string]*resolving{}
	}
	var gateways []netip.Addr
	for _, w := range wanted {
		if w.copy.Network.ServesDNS() {
			gateways = append(gateways, w.copy.Network.Pool.Gateway)
		}
	}
	r.gateway.Store(&gateways)
	for bridge, v := range r.serving {
		w, ok := wanted[bridge]
		if ok && w.copy.Network.ServesDNS() && w.network == v.network && w.binding.Index == v.index && w.copy.Network.Pool.Gateway == v.addr {
			continue
		}
		v.stop()
		delete(r.serving, bridge)
		r.log.Info(fmt.Sprintf("DNS on %s stopped", v.addr), "network", v.network.Name())
	}
	for bridge, w := range wanted {
		n := &w.copy.Network
		if !n.ServesDNS() {
			continue
		}
		v := r.serving[bridge]
		if v == nil {
			v = &resolving{network: w.network, index: w.binding.Index, addr: n.Pool.Gateway}
			v.up = upstream.New(n.Bridge.DNS.Forwarders, r.resolvConf, r.isSelf, r.log.With("network", w.network.Name()))
			v.tally = r.tallies.of(keyOf(w.network))
			v.up.Counters = &v.tally.upstream
			v.tally.cache.Store(v.up)
			r.serving[bridge] = v
		}
		if v.server == nil {
			r.start(ctx, v, n)
		}
		if len(n.Bridge.DNS.Nameservers) == 0 {
			w.binding.Nameservers = v.offered()
			wanted[bridge] = w
		}
	}
}

// start serves a network if its port can be had.
func (r *resolvers) start(ctx context.Context, v *resolving, n *ipam.Network) {
	v.up.Configure(n.Bridge.DNS.Forwarders) // a server does so itself
	sockets, err := r.listen(netip.AddrPortFrom(v.addr, dnsPort))
	if err != nil {
		text := fmt.Sprintf("network %s has no DNS: %v; its clients are told of %s instead", n.Name, err, list(v.offered()))
		if v.told.text != text || r.now().Sub(v.told.at) >= repeatAfter {
			v.told = complaint{text, r.now()}
			r.log.Error(text, "network", n.Name)
		}
		return
	}
	ctx, v.cancel = context.WithCancel(ctx)
	v.server = names.New(v.network, sockets, v.index, v.up, r.log.With("network", n.Name))
	v.server.Counters = &v.tally.server
	v.tally.served.Store(true)
	v.done = make(chan struct{})
	go func(s *names.Server, done chan<- struct{}) {
		defer close(done)
		s.Run(ctx)
	}(v.server, v.done)
	r.log.Info(fmt.Sprintf("DNS on %s, domain %s", v.addr, n.Zone()), "network", n.Name)
	for _, s := range v.up.Servers() {
		r.log.Info(fmt.Sprintf("using nameserver %s#%d", s.Addr(), s.Port()), "network", n.Name)
	}
}

// offered returns the servers for option 6: the gateway, or those it would ask, as far
// as workloads can ask them: on the usual port, and not on this node's own loopback.
func (v *resolving) offered() []netip.Addr {
	if v.server != nil {
		return []netip.Addr{v.addr}
	}
	servers := []netip.Addr{} // not nil, which means the network's own
	for _, s := range v.up.Servers() {
		if s.Port() == dnsPort && s.Addr().Is4() && !s.Addr().IsLoopback() {
			servers = append(servers, s.Addr())
		}
	}
	return servers
}

// isSelf reports whether s is one of this daemon's own servers, or would be if its port
// were free: it is never asked, as a question would go round for ever.
func (r *resolvers) isSelf(s netip.AddrPort) bool {
	gateways := r.gateway.Load()
	return gateways != nil && s.Port() == dnsPort && slices.Contains(*gateways, s.Addr())
}

// stop ends every server.
func (r *resolvers) stop() {
	if r == nil {
		return
	}
	for _, v := range r.serving {
		v.stop()
	}
	clear(r.serving)
}

// stop returns when the sockets are closed.
func (v *resolving) stop() {
	if v.server != nil {
		v.cancel()
		<-v.done
		v.tally.served.Store(false)
	}
}

func list(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "no name server"
	}
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

var _ names.Source = (*snapshot.Network)(nil)
