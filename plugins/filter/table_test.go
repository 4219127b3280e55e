package filter

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// everything is a network that uses every kind of rule.
func everything() ipam.Network {
	return network("flat", "10.0.0.0/24", "br100", closed, ipMasq, natKeys, logDrops,
		servesDNS, servicesOnly, metadataAt("203.0.113.9:8775"),
		ingress(
			ipam.Rule{Protocol: "tcp", Ports: ports(80, 0, 443, 0, 8000, 8100), From: prefixes("192.0.2.0/24")},
			ipam.Rule{Protocol: "tcp", Ports: ports(22, 0)}, ipam.Rule{Protocol: "udp", Ports: ports(5000, 5010)},
			ipam.Rule{Protocol: "sctp", Ports: ports(5060, 0)}, ipam.Rule{Protocol: "icmp"},
			ipam.Rule{Protocol: "any", From: prefixes("203.0.113.0/24")}),
		deny(
			ipam.Rule{Protocol: "any", From: prefixes("198.51.100.7/32")},
			ipam.Rule{Protocol: "udp", Ports: manyPorts(17), From: prefixes("198.51.100.0/24")}))
}

func TestAttachAndDetachAreThePlan(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := everything()
		wide := network("wide", "172.16.0.0/12", "br1", metadataAt("127.0.0.1:8775"), func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject })
		nets := networksOf(flat, wide)
		table := k.table()
		rows := rowsOf("10.0.0.3", "10.0.0.2", "10.0.0.18")

		k.attach(table, nets, flat, rows...)
		k.holds(Held{flat, rows}, Held{wide, nil})
		k.attach(table, nets, flat, rows...)
		k.holds(Held{flat, rows}, Held{wide, nil})
		far := row("172.31.255.254")
		k.attach(table, nets, wide, far)
		k.holds(Held{flat, rows}, Held{wide, []ipam.Reservation{far}})
		k.detach(table, flat, rows[1], rows[2])
		k.holds(Held{flat, rows[:1]}, Held{wide, []ipam.Reservation{far}})
		k.detach(table, flat, rows...)
		k.detach(table, wide, far)
		k.holds(Held{flat, nil}, Held{wide, nil})
	})
}

func TestProgramsPerAttachAndDetach(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/8", "br100")
		table := k.table()
		if table.Runs() != 0 {
			t.Errorf("finding the back end ran %d programs", table.Runs())
		}
		counted := func(what string, want int, f func()) {
			t.Helper()
			before := table.Runs()
			f()
			if got := table.Runs() - before; got != want {
				t.Errorf("%s ran %d programs, not %d", what, got, want)
			}
		}
		for i, r := range rowsOf("10.0.0.2", "10.0.0.3", "10.200.0.2") {
			counted("attach "+r.Addr.String(), 1, func() { k.attach(table, networksOf(flat), flat, r) })
			if i > 0 {
				counted("detach "+r.Addr.String(), 1, func() { k.detach(table, flat, r) })
				counted("detach again", 0, func() { k.detach(table, flat, r) })
			}
		}
		k.holds(Held{flat, rowsOf("10.0.0.2")})
	})
}

// foreignRules are of the kinds that other tools put in.
var foreignRules = []string{
	"-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER",
	"-A FORWARD -s 10.0.0.0/24 -d 10.0.0.0/24 -m comment --comment neighbour -j ACCEPT",
	"-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT", "-A INPUT -i lo -j ACCEPT",
	"-A OUTPUT -d 10.0.0.2/32 -p udp -m multiport --dports 53,67:68 -j ACCEPT", "-P FORWARD DROP",
	"-N FLATTERY", "-A FLATTERY -d 10.0.0.2/32 -j DROP",
	"-t nat -N FLATTERY", "-t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE", "-t nat -A OUTPUT -d 192.0.2.9/32 -j FLATTERY",
	"-t nat -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
}

func TestForeignRulesStay(t *testing.T) {
	for name, flat := range map[string]ipam.Network{
		"everything": everything(), "unfiltered": network("flat", "10.0.0.0/24", "br100", ipMasq, unfiltered),
	} {
		t.Run(name, func(t *testing.T) { foreignRulesStay(t, flat) })
	}
}

func foreignRulesStay(t *testing.T, flat ipam.Network) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		for _, rule := range foreignRules {
			k.ipt(rule)
		}
		_, before := ours(k.save())
		table := k.table()
		unchanged := func(after string) {
			t.Helper()
			if _, rest := ours(k.save()); rest != before {
				t.Errorf("after %s:\n%s", after, cmp.Diff(before, rest))
			}
		}
		rows := rowsOf("10.0.0.2", "10.0.0.3")
		k.attach(table, networksOf(flat), flat, rows...)
		unchanged("attach")
		k.detach(table, flat, rows[0])
		unchanged("detach")
		k.must(func(ctx context.Context) error {
			_, err := table.Apply(ctx, networksOf(flat), "flat", aliveRows(rows...))
			return err
		})
		unchanged("apply")
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), flat) })
		if own, rest := ours(k.save()); own != "" || rest != before {
			t.Errorf("after remove, ours:\n%s\nrest:\n%s", own, cmp.Diff(before, rest))
		}
	})
}

func TestJumpsAreFirstAgainAfterOthersPutTheirsInFront(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, table := network("flat", "10.0.0.0/24", "br100"), k.table()
		k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
		k.ipt("-I FORWARD 1 -s 192.0.2.1 -j ACCEPT")
		k.ipt("-I INPUT 1 -s 192.0.2.1 -j ACCEPT")
		k.ipt("-A INPUT -j FLAT-INPUT") // and one of ours doubled
		k.ipt("-D OUTPUT -j FLAT-OUTPUT")
		k.ipt("-t nat -I POSTROUTING 1 -s 10.0.0.0/8 -j MASQUERADE")
		runs := table.Runs()
		k.attach(table, networksOf(flat), flat, row("10.0.0.3"))
		if got := table.Runs() - runs; got > 2 {
			t.Errorf("attach ran %d programs", got)
		}
		var got []string
		for line := range strings.Lines(k.save()) {
			if fields := strings.Fields(line); fields[0] == "-A" && !strings.HasPrefix(fields[1], ourPrefix) {
				got = append(got, strings.TrimSpace(line))
			}
		}
		want := []string{
			"-A PREROUTING -j FLAT-PREROUTING", "-A POSTROUTING -j FLAT-POSTROUTING", "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",
			"-A INPUT -j FLAT-INPUT", "-A INPUT -s 192.0.2.1/32 -j ACCEPT",
			"-A FORWARD -j FLAT-FORWARD", "-A FORWARD -s 192.0.2.1/32 -j ACCEPT",
			"-A OUTPUT -j FLAT-OUTPUT",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOperatorsChainSurvives(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, table := network("flat", "10.0.0.0/24", "br100"), k.table()
		k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
		k.ipt("-A FLAT-PROVIDER-USER -s 192.0.2.66/32 -j FLAT-DROP")
		check := func(after string) {
			t.Helper()
			if !strings.Contains(k.save(), "-A FLAT-PROVIDER-USER -s 192.0.2.66/32 -j FLAT-DROP\n") {
				t.Errorf("the operator's rule is gone after %s:\n%s", after, k.save())
			}
		}
		k.attach(table, networksOf(flat), flat, row("10.0.0.3"))
		check("attach")
		k.ipt("-F FLAT-FORWARD")
		k.attach(table, networksOf(flat), flat, row("10.0.0.3"))
		check("rebuild")
		k.must(func(ctx context.Context) error {
			_, err := table.Apply(ctx, networksOf(everything()), "flat", aliveRows())
			return err
		})
		check("apply")
		k.detach(table, flat, rowsOf("10.0.0.2", "10.0.0.3")...)
		check("detach")
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), flat) })
		check("remove")
		if saved := k.save(); strings.Contains(saved, "-j FLAT-FORWARD") || strings.Contains(saved, treePrefix) {
			t.Errorf("remove left:\n%s", saved)
		}
		k.ipt("-F FLAT-PROVIDER-USER")
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), flat) })
		if own, _ := ours(k.save()); own != "" {
			t.Errorf("remove left:\n%s", own)
		}
	})
}

func TestAnAddressChangesHands(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, table := network("flat", "10.0.0.0/24", "br100"), k.table()
		old, heir := row("10.0.0.2"), row("10.0.0.2")
		heir.Holder = &ipam.Holder{ContainerID: "heir", IfName: "eth0"}
		k.attach(table, networksOf(flat), flat, old, heir)
		k.detach(table, flat, old) // the late DEL of a container long replaced
		k.holds(Held{flat, []ipam.Reservation{heir}})
	})
}

func TestAnAttachmentChangesItsAddress(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, table := network("flat", "10.0.0.0/24", "br100"), k.table()
		first, second := row("10.0.0.2"), row("10.0.0.200")
		second.Holder = first.Holder
		k.attach(table, networksOf(flat), flat, row("10.0.0.3"), first, second)
		k.holds(Held{flat, []ipam.Reservation{row("10.0.0.3"), second}})
		k.attach(table, networksOf(flat), flat, first)
		k.detach(table, flat, second) // by what the caller remembers
		k.holds(Held{flat, []ipam.Reservation{row("10.0.0.3")}})
	})
}

func TestSubnetGrowsUnderLivingWorkloads(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		small, table := network("flat", "10.0.0.0/30", "br100"), k.table()
		k.attach(table, networksOf(small), small, row("10.0.0.2"))
		for _, subnet := range []string{"10.0.0.0/24", "10.0.0.0/23", "10.0.0.0/8", "10.0.0.0/22"} {
			n := network("flat", subnet, "br100")
			own := row("10.0.0.77")
			k.attach(table, networksOf(n), n, own)
			own2, _ := ours(k.save())
			// The neighbour's chain is Apply's to renew; the way to it must be there now.
			want := planned(Held{n, []ipam.Reservation{row("10.0.0.2"), own}})
			gotTree, wantTree := treeLines(own2), treeLines(want)
			if diff := cmp.Diff(wantTree, gotTree); diff != "" {
				t.Errorf("%s:\n%s", subnet, diff)
			}
			k.must(func(ctx context.Context) error {
				_, err := table.Apply(ctx, networksOf(n), "flat", aliveRows(row("10.0.0.2")))
				return err
			})
			k.holds(Held{n, rowsOf("10.0.0.2")})
		}
	})
}

func treeLines(saved string) (lines []string) {
	for line := range strings.Lines(saved) {
		if strings.Contains(line, treePrefix) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestAttachUsesTheNetworkAsItIsNow(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		stale, now := network("flat", "10.0.0.0/24", "br100"), network("flat", "10.0.0.0/24", "br100", closed)
		k.attach(k.table(), networksOf(now), stale, row("10.0.0.2"))
		k.holds(Held{now, rowsOf("10.0.0.2")})
	})
}

func TestRefusals(t *testing.T) {
	k := newKernel(t, BackendNFT)
	table := k.table()
	flat := network("flat", "10.0.0.0/24", "br100")
	unheld := row("10.0.0.2")
	unheld.Holder = nil
	broken := func(context.Context) ([]ipam.Network, error) { return nil, ipam.ErrDamaged }
	cases := []struct {
		name string
		f    func(ctx context.Context) error
		want string
	}{
		{"no holder", func(ctx context.Context) error { return table.Attach(ctx, networksOf(flat), flat, unheld) }, "nobody holds it"},
		{"no holder, detach", func(ctx context.Context) error { return table.Detach(ctx, flat, unheld) }, "nobody holds it"},
		{"outside", func(ctx context.Context) error { return table.Attach(ctx, networksOf(flat), flat, row("10.0.1.2")) },
			"address 10.0.1.2 is not in 10.0.0.0/24"},
		{"no bridge", func(ctx context.Context) error {
			_, err := table.Apply(ctx, networksOf(), "flat", aliveRows())
			return err
		}, "network flat has no bridge of ours"},
		{"bridge that is a wildcard", func(ctx context.Context) error {
			n := network("flat", "10.0.0.0/24", "br+")
			return table.Attach(ctx, networksOf(n), n, row("10.0.0.2"))
		}, `no rules can name bridge "br+"`},
		{"IPv6", func(ctx context.Context) error {
			n := network("flat", "10.0.0.0/24", "br100")
			n.Pool.Subnet = netip.MustParsePrefix("2001:db8::/64")
			return table.Attach(ctx, networksOf(n), n, row("10.0.0.2"))
		}, "an IPv4 prefix is wanted"},
		{"unreadable networks", func(ctx context.Context) error { return table.Attach(ctx, broken, flat, row("10.0.0.2")) }, ipam.ErrDamaged.Error()},
		{"unreadable rows", func(ctx context.Context) error {
			_, err := table.Apply(ctx, networksOf(flat), "flat", func(context.Context) ([]ipam.Reservation, error) { return nil, ipam.ErrLocked })
			return err
		}, ipam.ErrLocked.Error()},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := k.try(c.f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
	if table.Runs() != 0 {
		t.Errorf("%d programs ran", table.Runs())
	}
}

func TestFilterLockIsWaitedForUntilTheDeadline(t *testing.T) {
	k := newKernel(t, BackendNFT)
	flat := network("flat", "10.0.0.0/24", "br100")
	inside, release := make(chan struct{}), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		held <- k.try(func(ctx context.Context) error {
			return k.table().Attach(ctx, func(context.Context) ([]ipam.Network, error) {
				close(inside)
				<-release
				return []ipam.Network{flat}, nil
			}, flat, row("10.0.0.2"))
		})
	}()
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := k.ns.do(func() error { return k.table().Attach(ctx, networksOf(flat), flat, row("10.0.0.3")) })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "filter lock") {
		t.Errorf("error %v", err)
	}
	close(release)
	if err := <-held; err != nil {
		t.Error(err)
	}
	k.holds(Held{flat, rowsOf("10.0.0.2")})
}
