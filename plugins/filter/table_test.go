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
	return network("flat", "10.0.0.0/24", "br100", closed,
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
		wide := network("wide", "172.16.0.0/12", "br1", func(n *ipam.Network) { n.Bridge.Fallback = ipam.FallbackReject })
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
		reads := map[string]int{BackendNFT: 0, BackendLegacy: 1}[k.backend]
		counted := func(what string, want int, f func()) {
			t.Helper()
			before := table.Runs()
			f()
			if got := table.Runs() - before; got != want {
				t.Errorf("%s ran %d programs, not %d", what, got, want)
			}
		}
		for i, r := range rowsOf("10.0.0.2", "10.0.0.3", "10.200.0.2") {
			counted("attach "+r.Addr.String(), reads+1, func() { k.attach(table, networksOf(flat), flat, r) })
			if i > 0 {
				counted("detach "+r.Addr.String(), reads+1, func() { k.detach(table, flat, r) })
				counted("detach again", reads, func() { k.detach(table, flat, r) })
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
}

func TestForeignRulesStay(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		for _, rule := range foreignRules {
			k.ipt(rule)
		}
		_, before := ours(k.save())
		flat, table := everything(), k.table()
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

func TestAttachAfterOthersFlushed(t *testing.T) {
	flat, other := everything(), network("other", "172.16.0.0/24", "br1")
	for name, flush := range map[string][]string{
		"everything":         {"-F", "-X"},
		"rules only":         {"-F"},
		"forward only":       {"-F FORWARD"},
		"dispatch only":      {"-F FLAT-FORWARD"},
		"fallback only":      {"-F FLAT-DROP"},
		"deny only":          {"-F FLAT-PROVIDER"},
		"a node":             {"-F FLAT-T-0a000000-24"},
		"a rule of dispatch": {"-D FLAT-FORWARD 1"},
		"foreign in a node":  {"-I FLAT-T-0a000000-28 1 -s 192.0.2.1 -j ACCEPT", "-A FLAT-T-0a000000-24 -d 10.0.0.0/28 -j ACCEPT"},
		"foreign in forward": {"-I FLAT-FORWARD 1 -j ACCEPT"},
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, k kernel) {
				table := k.table()
				nets := networksOf(flat, other)
				rows := rowsOf("10.0.0.2", "10.0.0.3")
				k.attach(table, nets, flat, rows[0])
				for _, args := range flush {
					k.ipt(args)
				}
				k.attach(table, nets, flat, rows[1])
				own, _ := ours(k.save())
				for _, line := range strings.SplitAfter(planned(Held{flat, rows[1:]}, Held{other, nil}), "\n") {
					if !strings.HasPrefix(line, ":") && !strings.Contains(own, line) {
						t.Errorf("missing: %s", line)
					}
				}
				if strings.Contains(own, "192.0.2.1") || strings.Contains(own, "-d 10.0.0.0/28 -j ACCEPT") {
					t.Errorf("foreign rules in our chains:\n%s", own)
				}
				k.must(func(ctx context.Context) error {
					_, err := table.Apply(ctx, nets, "flat", aliveRows(rows...))
					return err
				})
				k.holds(Held{flat, rows}, Held{other, nil})
			})
		})
	}
}

func TestDetachAfterOthersFlushed(t *testing.T) {
	for name, flush := range map[string][]string{
		"everything":   {"-F", "-X"},
		"rules only":   {"-F"},
		"the leaf":     {"-F FLAT-T-0a000000-28"},
		"a middle one": {"-F FLAT-T-0a000000-24"},
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, k kernel) {
				flat, table := network("flat", "10.0.0.0/16", "br100"), k.table()
				rows := rowsOf("10.0.0.2", "10.0.0.3")
				k.attach(table, networksOf(flat), flat, rows...)
				for _, args := range flush {
					k.ipt(args)
				}
				k.detach(table, flat, rows[0])
				k.detach(table, flat, rows[0])
				if strings.Contains(k.save(), dispatchTo(flat, rows[0]).Chain) {
					t.Errorf("the chain is still there:\n%s", k.save())
				}
			})
		})
	}
}

// A flush between reading and writing must cost a second try, not the rules.
func TestFlushUnderAttachAndDetach(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := network("flat", "10.0.0.0/24", "br100")
		flushed := false
		table, err := New(Options{Iptables: []string{k.iptables()}, LockPath: k.lock,
			Exec: func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
				if strings.HasSuffix(path, "-restore") && !flushed {
					flushed = true
					for _, arg := range []string{"-F", "-X"} {
						if _, err := k.exec(ctx, k.iptables(), []string{arg}, nil); err != nil {
							return nil, err
						}
					}
				}
				return k.exec(ctx, path, args, stdin)
			}})
		if err != nil {
			t.Fatal(err)
		}
		rows := rowsOf("10.0.0.2", "10.0.0.3")
		k.attach(k.table(), networksOf(flat), flat, rows[0])
		k.attach(table, networksOf(flat), flat, rows[1])
		k.holds(Held{flat, rows[1:]})
		if !flushed {
			t.Error("nothing was flushed")
		}
		flushed = false
		k.detach(table, flat, rows[1])
		if own, _ := ours(k.save()); own != "" || !flushed {
			t.Errorf("flushed: %v; left:\n%s", flushed, own)
		}
	})
}

func TestRefusedTransactionChangesNothing(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat := everything()
		good := k.table()
		bad, err := New(Options{Iptables: []string{k.iptables()}, LockPath: k.lock,
			Exec: func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
				if strings.HasSuffix(path, "-restore") {
					stdin = []byte(strings.Replace(string(stdin), "COMMIT", "-A FLAT-DROP -j NO-SUCH-CHAIN\nCOMMIT", 1))
				}
				return k.exec(ctx, path, args, stdin)
			}})
		if err != nil {
			t.Fatal(err)
		}
		k.attach(good, networksOf(flat), flat, row("10.0.0.2"))
		before := k.save()
		open := network("flat", "10.0.0.0/24", "br100")
		for name, f := range map[string]func(context.Context) error{
			"attach": func(ctx context.Context) error { return bad.Attach(ctx, networksOf(flat), flat, row("10.0.0.3")) },
			"detach": func(ctx context.Context) error { return bad.Detach(ctx, flat, row("10.0.0.2")) },
			"apply": func(ctx context.Context) error {
				_, err := bad.Apply(ctx, networksOf(open), "flat", aliveRows(row("10.0.0.2")))
				return err
			},
			"remove": func(ctx context.Context) error { return bad.Remove(ctx, networksOf(), flat) },
		} {
			err := k.try(f)
			var failed *ProgramError
			if !errors.As(err, &failed) {
				t.Errorf("%s: error %v", name, err)
				continue
			}
			if !strings.Contains(err.Error(), "NO-SUCH-CHAIN") || !strings.Contains(err.Error(), "flat") {
				t.Errorf("%s: the error names neither rule nor network: %v", name, err)
			}
			if after := k.save(); after != before {
				t.Errorf("%s changed:\n%s", name, cmp.Diff(before, after))
			}
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

func TestApplyChangesOnlyWhatDiffers(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		open, shut := network("flat", "10.0.0.0/24", "br100"), network("flat", "10.0.0.0/24", "br100", closed)
		table := k.table()
		rows := rowsOf("10.0.0.2", "10.0.0.3", "10.0.0.40")
		apply := func(n ipam.Network, rows ...ipam.Reservation) (changed []string) {
			t.Helper()
			k.must(func(ctx context.Context) (err error) {
				changed, err = table.Apply(ctx, networksOf(n), "flat", aliveRows(rows...))
				return err
			})
			return changed
		}
		apply(open, rows...)
		k.holds(Held{open, rows})
		if again := apply(open, rows...); again != nil {
			t.Errorf("nothing had changed, but %q", again)
		}
		if got := apply(shut, rows...); len(got) != len(rows) {
			t.Errorf("the toggle is in the workloads' chains alone, but %q", got)
		}
		k.holds(Held{shut, rows})
		apply(shut, rows[1:]...)
		k.holds(Held{shut, rows[1:]})

		tampered := dispatchTo(shut, rows[1]).Chain
		k.ipt("-D " + tampered + " 4")
		if diff := cmp.Diff([]string{tampered + ": written"}, apply(shut, rows[1:]...)); diff != "" {
			t.Error(diff)
		}
		unheld := row("10.0.0.9")
		unheld.Holder = nil
		if got := apply(shut, append(rowsOf("10.0.0.3", "10.0.0.40"), unheld)...); got != nil {
			t.Errorf("an administrator's reservation changed %q", got)
		}
		k.holds(Held{shut, rows[1:]})
	})
}

func TestLinesOfNetworksUnknownToTheCallerStay(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, other := network("flat", "10.0.0.0/24", "br100"), network("elsewhere", "172.16.0.0/24", "br1", deny(ipam.Rule{Protocol: "icmp"}))
		third := network("third", "192.0.2.0/24", "br2")
		table := k.table()
		k.attach(table, networksOf(other), other, row("172.16.0.2"))
		k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
		both := []Held{{flat, rowsOf("10.0.0.2")}, {other, rowsOf("172.16.0.2")}}
		own, _ := ours(k.save())
		if diff := cmp.Diff(sortedLines(planned(both...)), sortedLines(own)); diff != "" {
			t.Errorf("after attaching with one network known:\n%s", diff)
		}
		k.attach(table, networksOf(flat, third), flat, row("10.0.0.3"))
		dispatching := true
		for line := range strings.Lines(k.save()) {
			if !strings.HasPrefix(line, "-A FLAT-FORWARD") {
				continue
			}
			isDispatch := strings.Contains(line, "-j "+treePrefix)
			if isDispatch && !dispatching {
				t.Errorf("FLAT-FORWARD accepts before it dispatches:\n%s", k.save())
			}
			dispatching = isDispatch
		}
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(third), flat) })
		k.must(func(ctx context.Context) error { return table.Remove(ctx, networksOf(), third) })
		own, _ = ours(k.save())
		if diff := cmp.Diff(planned(Held{other, rowsOf("172.16.0.2")}), own); diff != "" {
			t.Errorf("after removing the known ones:\n%s", diff)
		}
	})
}

func sortedLines(s string) []string {
	m := map[string]bool{}
	for line := range strings.Lines(s) {
		m[line] = true
	}
	return sortedKeys(m)
}

func TestRemoveTakesOneNetworkOnly(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, other := network("flat", "10.0.0.0/24", "br100"), network("other", "10.0.1.0/24", "br1")
		table := k.table()
		nets := networksOf(flat, other)
		k.attach(table, nets, flat, rowsOf("10.0.0.2", "10.0.0.3")...)
		k.attach(table, nets, other, row("10.0.1.2"))
		k.must(func(ctx context.Context) error { return table.Remove(ctx, nets, flat) })
		k.holds(Held{other, rowsOf("10.0.1.2")})
		k.must(func(ctx context.Context) error { return table.Remove(ctx, nets, flat) })
		k.holds(Held{other, rowsOf("10.0.1.2")})
	})
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
