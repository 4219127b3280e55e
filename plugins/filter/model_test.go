package filter

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// model is what should be in: networks, and for each who holds which address.
type model struct {
	networks []ipam.Network
	held     map[string]map[netip.Addr]ipam.Reservation
	gone     []ipam.Reservation // DELs yet to come, for addresses that have an heir
	foreign  []string           // other rules of FORWARD and POSTROUTING
}

func (m *model) plan() (held []Held) {
	for _, n := range m.networks {
		held = append(held, Held{n, m.rows(n)})
	}
	return held
}

// bare is a saved table without the lines that frame it.
func bare(saved string) string {
	return strings.NewReplacer("*filter\n", "", "*nat\n", "", "COMMIT\n", "").Replace(saved)
}

func (m *model) rows(n ipam.Network) []ipam.Reservation {
	return ruled(slices.Collect(maps.Values(m.held[n.Name])))
}

// TestRandomVerbsAndRandomDamage compares, after each verb, the whole of what is
// ours with the plan; after damage by others, first that the verb put its own in,
// and that reconciling mends the rest.
func TestRandomVerbsAndRandomDamage(t *testing.T) {
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		t.Run(backend, func(t *testing.T) {
			for seed := range uint64(12) {
				randomRun(t, backend, seed)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

func randomRun(t *testing.T, backend string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	f := newFakeKernel()
	table := f.table(t, backend)
	ctx := context.Background()
	m := &model{networks: []ipam.Network{
		network("a", "10.0.0.0/22", "br1"), network("b", "172.16.0.0/12", "br2", closed, ipMasq), network("c", "192.0.2.0/30", "br3"),
	}, held: map[string]map[netip.Addr]ipam.Reservation{"a": {}, "b": {}, "c": {}}}
	nets := func(context.Context) ([]ipam.Network, error) { return m.networks, nil }
	applyAll := func() {
		for _, n := range m.networks {
			if _, err := table.Apply(ctx, nets, n.Name, aliveRows(m.rows(n)...)); err != nil {
				t.Fatalf("apply: %v\n%s", err, f.save())
			}
		}
	}
	check := func(what string) {
		own, rest := ours(bare(f.save()))
		if diff := cmp.Diff(planned(m.plan()...), own); diff != "" {
			t.Fatalf("after %s (-plan +kernel):\n%s", what, diff)
		}
		for _, rule := range m.foreign {
			if !strings.Contains(rest, rule) {
				t.Fatalf("after %s: %q is gone", what, rule)
			}
		}
	}
	container := 0
	for step := range 60 {
		n := m.networks[random.IntN(len(m.networks))]
		addr := n.Pool.Subnet.Addr().Next().Next()
		for range random.IntN(min(40, 1<<(32-n.Pool.Subnet.Bits())-2)) {
			addr = addr.Next()
		}
		damaged := random.IntN(4) == 0
		if damaged {
			m.damage(f, random)
		}
		r := row(addr.String())
		what := fmt.Sprintf("step %d, %s", step, addr)
		old, taken := m.held[n.Name][addr]
		switch verb := random.IntN(10); {
		case verb < 5: // ADD, sometimes by an heir while the old one's DEL is yet to come
			if taken {
				m.gone = append(m.gone, old)
			}
			container++
			r.Holder = &ipam.Holder{ContainerID: fmt.Sprint("c", container), IfName: "eth0"}
			if err := table.Attach(ctx, nets, n, r); err != nil {
				t.Fatalf("%s: %v\n%s", what, err, f.save())
			}
			m.held[n.Name][addr] = r
			if n.Filtered() {
				assertOwn(t, f, n, r)
			}
		case verb < 8 && taken:
			if err := table.Detach(ctx, n, old); err != nil {
				t.Fatalf("%s: %v\n%s", what, err, f.save())
			}
			delete(m.held[n.Name], addr)
			if f.has(dispatchTo(n, old).Chain) {
				t.Fatalf("%s: the chain is still there:\n%s", what, f.save())
			}
		case verb == 8:
			n.Bridge = &ipam.Bridge{
				Name: n.Bridge.Name, AllowSameNetTraffic: !n.Bridge.AllowSameNetTraffic, Fallback: ipam.FallbackReject,
				IsGateway: random.IntN(2) == 0, IPMasq: random.IntN(2) == 0, LogDrops: random.IntN(2) == 0,
				Filter: []string{ipam.FilterOn, ipam.FilterNone}[random.IntN(2)],
			}
			m.networks[slices.IndexFunc(m.networks, func(o ipam.Network) bool { return o.Name == n.Name })] = n
			applyAll()
		default:
			damaged = damaged || len(m.gone) > 0
		}
		// Late DELs: whatever else happened, they take their own only.
		for _, r := range m.gone {
			for _, n := range m.networks {
				if n.Pool.Subnet.Contains(r.Addr) {
					if err := table.Detach(ctx, n, r); err != nil {
						t.Fatalf("%s: late: %v\n%s", what, err, f.save())
					}
				}
			}
		}
		m.gone = nil
		if damaged || step == 0 {
			applyAll()
		}
		check(what)
	}
	for _, n := range m.networks {
		if err := table.Remove(ctx, nets, n); err != nil {
			t.Fatal(err)
		}
		m.networks = slices.DeleteFunc(slices.Clone(m.networks), func(o ipam.Network) bool { return o.Name == n.Name })
	}
	if own, _ := ours(bare(f.save())); own != "" {
		t.Fatalf("left:\n%s", own)
	}
}

// assertOwn fails unless dispatch leads to r's chain and nothing judges earlier.
func assertOwn(t *testing.T, f fakeKernel, n ipam.Network, r ipam.Reservation) {
	t.Helper()
	s, err := parseSave([]byte(f.save()))
	if err != nil {
		t.Fatal(err)
	}
	want := WorkloadChain(n, r)
	for _, from := range []string{"FORWARD", "OUTPUT"} {
		at, steps := from, 0
		for at != want.Name {
			steps++
			i := slices.IndexFunc(s.chains[at], func(rule seenRule) bool {
				// What begins a connection passes FLAT-MIDSTREAM by.
				return rule.jump != chainMidstream && (!rule.plain || !rule.dst.IsValid() || rule.dst.Contains(r.Addr))
			})
			if i < 0 || !s.chains[at][i].plain && s.chains[at][i].comment == "" || s.chains[at][i].jump == "" || steps > 10 {
				t.Fatalf("%s does not lead to %s, but to %s:\n%s", from, want.Name, at, f.save())
			}
			at = s.chains[at][i].jump
		}
	}
	if diff := cmp.Diff(want.specs(), f[want.Name]); diff != "" {
		t.Fatalf("chain %s:\n%s", want.Name, diff)
	}
}

// damage is what administrators and other programs do to a table.
func (m *model) damage(f fakeKernel, random *rand.Rand) {
	chains := slices.DeleteFunc(sortedKeys(f), func(c string) bool { return c == chainProviderUser })
	chain := chains[random.IntN(len(chains))]
	switch random.IntN(6) {
	case 0: // iptables -F; iptables -X
		clear(f)
		maps.Copy(f, newFakeKernel())
		m.foreign = nil
	case 1: // iptables -F
		for name := range f {
			f[name] = nil
		}
		m.foreign = nil
	case 2:
		if strings.HasPrefix(chain, ourPrefix) {
			f[chain] = nil
		}
	case 3:
		if len(f[chain]) > 0 && strings.HasPrefix(chain, ourPrefix) {
			i := random.IntN(len(f[chain]))
			f[chain] = slices.Delete(f[chain], i, i+1)
		}
	case 4: // somebody else's jump in front of ours
		rule := fmt.Sprintf("-s 198.51.100.%d/32 -j RETURN", random.IntN(250))
		builtin := []string{"FORWARD", "POSTROUTING"}[random.IntN(2)]
		f[builtin] = slices.Insert(f[builtin], 0, rule)
		m.foreign = append(m.foreign, rule)
	case 5: // a rule in a chain of ours
		if strings.HasPrefix(chain, ourPrefix) {
			f[chain] = slices.Insert(f[chain], random.IntN(len(f[chain])+1), "-s 203.0.113.1/32 -j ACCEPT")
		}
	}
}

// An iptables-restore that is carried out late, when the plugin that started it is
// dead and others have worked meanwhile, costs nobody else a rule.
func TestLateTransactionTakesNothingFromNeighbours(t *testing.T) {
	flat := network("flat", "10.0.0.0/24", "br100")
	first, late, between := row("10.0.0.2"), row("10.0.0.3"), row("10.0.0.4")
	lonely, besides := row("10.0.0.30"), row("10.0.0.29") // in a node that is not there at first
	for _, backend := range []string{BackendNFT, BackendLegacy} {
		for name, verb := range map[string]func(*Table) error{
			"attach": func(table *Table) error { return table.Attach(context.Background(), networksOf(flat), flat, late) },
			"detach": func(table *Table) error { return table.Detach(context.Background(), flat, first) },
			"attach to a new node": func(table *Table) error {
				return table.Attach(context.Background(), networksOf(flat), flat, lonely)
			},
		} {
			t.Run(backend+" "+name, func(t *testing.T) {
				f := newFakeKernel()
				table, slow := f.table(t, backend), f.table(t, backend)
				attach := func(r ipam.Reservation) {
					t.Helper()
					if err := table.Attach(context.Background(), networksOf(flat), flat, r); err != nil {
						t.Fatal(err)
					}
				}
				attach(first)
				carryOut := slow.exec
				slow.exec = func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
					if strings.HasSuffix(path, "-restore") {
						attach(between)
						attach(besides)
						_, _ = carryOut(ctx, path, args, stdin) // nobody waits for its answer
						return nil, context.Canceled
					}
					return carryOut(ctx, path, args, stdin)
				}
				if err := verb(slow); err == nil {
					t.Fatal("no error")
				}
				assertOwn(t, f, flat, between)
				assertOwn(t, f, flat, besides)
				if name == "attach" {
					assertOwn(t, f, flat, first)
				}
			})
		}
	}
}
