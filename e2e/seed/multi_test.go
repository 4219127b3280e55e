package seed

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatdhcp/flatdhcp/e2e/lab"
	"github.com/flatdhcp/flatdhcp/e2e/lab/labtest"
)

// uplinked is a host's part of a network that the product itself extends over eth2.
func uplinked(gateway, first, last string, more keys) keys {
	return with(with(pool(gateway, first, last), keys{"flatInterface": "eth2"}), more)
}

// Multi-host in its two kinds: each host has a gateway address of its own, or all have the
// same. A node's own is the address that it has itself.
var (
	ownGateways = shape{
		name: "own gateways", multi: true,
		keys: map[string]keys{
			"controller": uplinked("10.0.0.128", "10.0.0.129", "10.0.0.191", nil),
			"compute-1":  uplinked("10.0.0.1", "10.0.0.2", "10.0.0.63", nil),
			"compute-2":  uplinked("10.0.0.64", "10.0.0.65", "10.0.0.127", nil),
		},
	}
	sharedGateway = shape{
		name: "shared gateway", multi: true,
		keys: map[string]keys{
			"controller": uplinked("10.0.0.1", "10.0.0.129", "10.0.0.191", shares("10.0.0.253")),
			"compute-1":  uplinked("10.0.0.1", "10.0.0.2", "10.0.0.63", shares("10.0.0.251")),
			"compute-2":  uplinked("10.0.0.1", "10.0.0.65", "10.0.0.127", shares("10.0.0.252")),
		},
	}
)

func shares(node string) keys {
	return keys{"gatewayShared": true, "nodeAddress": node, "ipam.exclude": []string{"10.0.0.248/29"}}
}

// own is the address that the node has of the subnet for itself.
func (n *node) own() netip.Addr {
	if a, ok := n.keys["nodeAddress"].(string); ok {
		return netip.MustParseAddr(a)
	}
	return netip.MustParseAddr(n.keys["ipam.gateway"].(string))
}

// tells listens on port 80 and tells each who connects its address.
func (s *scene) tells(in labtest.Place) {
	s.t.Helper()
	labtest.Serve(s.t, in, ":80", func(c net.Conn) { _, _ = fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP) })
}

// seenAs connects and returns as whom the other side sees it; zero = it did not come through.
func (s *scene) seenAs(from interface{ Do(func() error) error }, to netip.AddrPort, expected bool) netip.Addr {
	s.t.Helper()
	wait := time.Second
	if expected {
		wait = patience
	}
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", to.String(), wait)
		return err
	}); err != nil {
		if expected {
			s.t.Logf("connecting to %s: %v", to, err)
		}
		return netip.Addr{}
	}
	text, err := io.ReadAll(c)
	if err := errors.Join(err, c.Close()); err != nil {
		s.t.Fatal(err)
	}
	a, _ := netip.ParseAddr(string(text))
	return a
}

// eachMultiHost runs a test in both kinds, with the toggle on and off.
func eachMultiHost(t *testing.T, test func(t *testing.T, s *scene)) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{ownGateways, sharedGateway} {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/sameNet=%t", sh.name, open), func(t *testing.T) {
				t.Parallel()
				test(t, newScene(t, sh, open))
			})
		}
	}
}

// Who reaches whom: workloads each other across nodes, as the toggle says; each host its own
// workloads always, and those of others as neighbours do, or always where gatewayAddresses
// names it, also by what it redirects.
func TestMultiHostReaches(t *testing.T) {
	eachMultiHost(t, func(t *testing.T, s *scene) {
		for _, w := range []*workload{s.vm1, s.vm2, s.vm3} {
			s.tells(w)
		}
		at := func(w *workload) netip.AddrPort { return netip.AddrPortFrom(w.addr, 80) }
		check := func(what string, from interface {
			place
			Do(func() error) error
		}, to *workload, as netip.Addr, passes bool) {
			t.Helper()
			before := to.fallback().count()
			if answered := s.ping(from, to.addr, passes); answered != passes {
				t.Errorf("ping, %s: answered %t, want %t", what, answered, passes)
			}
			want := netip.Addr{}
			if passes {
				want = as
			}
			if got := s.seenAs(from, at(to), passes); got != want {
				t.Errorf("TCP, %s: seen as %s, want %s", what, got, want)
			}
			if dropped := to.fallback().count() > before; dropped == passes {
				t.Errorf("%s: the end of %s's chain counted %t, want %t", what, to.name, dropped, !passes)
			}
		}
		check("vm1 to vm3, on another host", s.vm1, s.vm3, s.vm1.addr, s.open)
		check("vm3 to vm1, on another host", s.vm3, s.vm1, s.vm3.addr, s.open)
		check("vm2 to vm1, on the same host", s.vm2, s.vm1, s.vm2.addr, s.open)
		check("compute-1 to its own vm1", s.compute1, s.vm1, s.compute1.own(), true)
		check("compute-1 to vm3 of compute-2", s.compute1, s.vm3, s.compute1.own(), s.open)
		check("the controller to vm1 of compute-1", s.controller, s.vm1, s.controller.own(), s.open)
		for _, n := range s.nodes() {
			if !s.ping(s.vm1, n.own(), true) {
				t.Errorf("vm1 does not reach %s at %s", n.Name(), n.own())
			}
		}
		for _, w := range []*workload{s.vm1, s.vm3} {
			if gw := netip.MustParseAddr(w.n.keys["ipam.gateway"].(string)); !s.ping(w, gw, true) {
				t.Errorf("%s does not reach its gateway %s", w.name, gw)
			}
			w.checked()
		}

		// As kube-proxy redirects: what compute-1 sends on to another node's workload is from
		// compute-1 itself.
		entry := netip.AddrPortFrom(management["compute-1"], 8080)
		for _, hook := range []string{"OUTPUT", "PREROUTING"} {
			s.compute1.run("iptables", "-t", "nat", "-A", hook, "-d", entry.Addr().String(), "-p", "tcp", "--dport", "8080",
				"-j", "DNAT", "--to-destination", at(s.vm3).String())
		}
		s.compute1.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "br100", "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE")
		redirected := func(when string, passes bool) {
			t.Helper()
			want := netip.Addr{}
			if passes {
				want = s.compute1.own()
			}
			for name, from := range map[string]interface{ Do(func() error) error }{"compute-1": s.compute1, "outside": s.outside} {
				before := s.vm3.fallback().count()
				if got := s.seenAs(from, entry, passes); got != want {
					t.Errorf("%s, redirected by compute-1 to vm3, %s: seen as %s, want %s", name, when, got, want)
				}
				if dropped := s.vm3.fallback().count() > before; dropped == passes {
					t.Errorf("%s, redirected by compute-1 to vm3, %s: the end of its chain counted %t", name, when, dropped)
				}
			}
		}
		redirected("not listed", s.open)

		var all []string
		for _, n := range s.nodes() {
			all = append(all, n.own().String())
		}
		s.compute2.apply(keys{"gatewayAddresses": all[:1]}) // the controller alone
		check("compute-1, not listed, to vm3", s.compute1, s.vm3, s.compute1.own(), s.open)
		check("the controller, listed, to vm3", s.controller, s.vm3, s.controller.own(), true)
		s.compute2.apply(keys{"gatewayAddresses": all})
		check("compute-1, listed, to vm3", s.compute1, s.vm3, s.compute1.own(), true)
		check("vm1 to vm3, with all hosts listed", s.vm1, s.vm3, s.vm1.addr, s.open)
		redirected("listed", true)

		// No node's address is given on another node, not by request.
		for _, addr := range all {
			c, err := s.compute2.VM(s.within(), "thief-"+strings.ReplaceAll(addr, ".", "-"))
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.compute2.CNI(s.within(), "add", network, c.Container, lab.CNIOptions{Args: "IP=" + addr})
			if err == nil {
				t.Errorf("compute-2 gave %s: %s", addr, out)
			}
		}
	})
}

// checked fails the test unless CHECK passes.
func (w *workload) checked() {
	w.n.s.t.Helper()
	if _, err := w.n.CNI(w.n.s.within(), "check", network, w.Container, w.o); err != nil {
		w.n.s.t.Errorf("CHECK of %s: %v", w.name, err)
	}
}

// Each host serves its own workloads, and its DHCP is not even heard elsewhere.
func TestDHCPStaysOnTheHostThatServesIt(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sh, true)
			port := s.compute1.At(s.vm1.port())
			here := []string{port.Name, s.compute1.At("br100").Name}
			beyond := []lab.Point{s.compute1.At("eth2"), s.lab.Host("flat").At("compute-1-eth2"), s.compute2.At("eth2"), s.compute2.At("br100")}
			isDHCP := func(f []byte) bool { return strings.Contains(lab.Describe(f), ": DHCP ") }
			boot := func() []string {
				t.Helper()
				capture := s.watch(append([]lab.Point{port, s.compute1.At("br100")}, beyond...)...)
				lease := s.vm1.boot()
				want := netip.MustParseAddr(s.compute1.keys["ipam.gateway"].(string))
				if lease.Server != want || lease.Router != want || !slices.Equal(lease.DNS, []netip.Addr{want}) || lease.Addr.Addr() != s.vm1.addr {
					t.Errorf("vm1's lease is %+v, want all from %s", lease, want)
				}
				// The client's last message is followed by this, by the same way and further.
				marker, is := lab.Marker(s.vm1.endpoint(), lab.Endpoint{MAC: lab.Broadcast, Addr: netip.MustParseAddr("10.0.0.200")})
				if err := s.tap(s.vm1, "eth0").Send(marker); err != nil {
					t.Fatal(err)
				}
				seen, err := capture.Until(s.within(), is)
				if err != nil {
					t.Fatal(err)
				}
				return lab.Where(seen, isDHCP)
			}
			out := s.compute1.guardCounter("uplink_out_dhcp")
			before := out.count()
			if got := boot(); !slices.Equal(sorted(got), sorted(here)) {
				t.Errorf("DHCP was seen at %q, want %q", got, here)
			}
			if out.count() == before {
				t.Errorf("the counter of %s did not move", out.name)
			}
			lease := s.vm3.boot()
			if want := netip.MustParseAddr(s.compute2.keys["ipam.gateway"].(string)); lease.Server != want || lease.Addr.Addr() != s.vm3.addr {
				t.Errorf("vm3's lease is %+v, want one of %s", lease, want)
			}
			for n, foreign := range map[*node]*workload{s.compute1: s.vm3, s.compute2: s.vm1} {
				for _, line := range n.dhcpd.Lines() {
					if strings.Contains(line, foreign.mac.String()) {
						t.Errorf("flat-dhcpd on %s speaks of %s, which is another's: %s", n.Name(), foreign.name, line)
					}
				}
			}

			// The control: without that rule the same messages get as far as the other NIC, whose
			// own guard keeps them from its bridge.
			defer s.compute1.paused()()
			s.compute1.run("nft", "delete", "element", "bridge", "flatdhcp", "uplink_dhcp", "{", `"eth2"`, "}")
			in := s.compute2.guardCounter("uplink_in_dhcp")
			before = in.count()
			// (The daemon is stopped: the client asks, and nobody answers.)
			capture := s.watch(beyond...)
			if s.vm1.booted() {
				t.Error("somebody else answered vm1")
			}
			got := lab.Where(s.sightings(capture), isDHCP)
			if want := []string{beyond[0].Name, beyond[1].Name, beyond[2].Name}; !slices.Equal(sorted(got), sorted(want)) {
				t.Errorf("the control: DHCP was seen at %q, want %q", got, want)
			}
			if in.count() == before {
				t.Errorf("the control: the counter of %s did not move", in.name)
			}
		})
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// Two hosts that are given the same address of their own: the second finds it out on the
// wire and does not come up, and nothing is left of its trying. The shared address itself
// is nobody's to be asked for.
func TestHostRefusesAnotherHostsAddress(t *testing.T) {
	labtest.RequireRoot(t)
	for _, sh := range []shape{ownGateways, sharedGateway} {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			s := &scene{t: t, whole: t, shape: sh, open: true, lab: labtest.New(t, labtest.Options(t))}
			if err := s.lab.Build(s.within(), lab.Seed(2)); err != nil {
				t.Fatal(err)
			}
			s.compute1 = s.node("compute-1")
			second := &node{Host: s.lab.Host("compute-2"), s: s, keys: keys{"allowSameNetTraffic": true, "flatInterface": "eth2"}}
			second.configure(with(sh.keys["compute-1"], keys{"ipam.rangeStart": "10.0.0.65", "ipam.rangeEnd": "10.0.0.127"}))
			before := second.run("ip", "-brief", "link")
			c, err := second.Container(s.within(), "first")
			if err != nil {
				t.Fatal(err)
			}
			_, err = second.CNI(s.within(), "add", network, c, lab.CNIOptions{})
			mac := s.tap(s.compute1, "br100").MAC().String()
			for _, word := range []string{s.compute1.own().String(), mac, "give one of the two another address"} {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("ADD does not say %q: %v", word, err)
				}
			}
			if after := second.run("ip", "-brief", "link"); after != before {
				t.Errorf("the refused ADD left\n%s\nwhere\n%s was", after, before)
			}
			second.configure(sh.keys["compute-2"])
			if out, err := second.CNI(s.within(), "add", network, c, lab.CNIOptions{}); err != nil {
				t.Errorf("ADD with an address of its own: %v, %s", err, out)
			}
		})
	}
}
