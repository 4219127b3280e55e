package filter

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flatdhcp/flatdhcp/ipam"
)

func (k kernel) check(table *Table, networks Networks, n ipam.Network, r ipam.Reservation) (defects []string) {
	k.t.Helper()
	k.must(func(ctx context.Context) (err error) {
		defects, err = table.Check(ctx, networks, n, r)
		return err
	})
	return defects
}

// TestCheckNamesEachDefect damages, checks, and sees that the next attach mends it.
func TestCheckNamesEachDefect(t *testing.T) {
	flat := everything()
	r := row("10.0.0.2")
	chain := dispatchTo(flat, r).Chain
	cases := []struct {
		name   string
		damage []string
		want   []string
	}{
		{"none", nil, nil},
		{"a plugin that ran after us put its NAT first", []string{"-t nat -N CNI-HOSTPORT-MASQ", "-t nat -I POSTROUTING 1 -j CNI-HOSTPORT-MASQ"}, nil},
		{"plugin firewall came first, and the network has deny rules", []string{"-N CNI-FORWARD", "-I FORWARD 1 -m comment --comment firewall -j CNI-FORWARD"},
			[]string{"chain FORWARD of table filter jumps to FLAT-FORWARD, but something else comes first"}},
		{"foreign rules behind ours", []string{"-A FORWARD -s 192.0.2.1 -j ACCEPT", "-A FLAT-PROVIDER-USER -s 192.0.2.1 -j DROP"}, nil},
		{"jump", []string{"-D FORWARD -j FLAT-FORWARD"}, []string{"chain FORWARD of table filter does not jump to FLAT-FORWARD"}},
		{"conditional jump", []string{"-D INPUT 1", "-A INPUT -i lo -j FLAT-INPUT"}, []string{"chain INPUT of table filter does not jump to FLAT-INPUT"}},
		{"jump not first", []string{"-I OUTPUT 1 -s 192.0.2.1 -j ACCEPT"},
			[]string{"chain OUTPUT of table filter jumps to FLAT-OUTPUT, but something else comes first"}},
		{"NAT jump", []string{"-t nat -D POSTROUTING -j FLAT-POSTROUTING"}, []string{"chain POSTROUTING of table nat does not jump to FLAT-POSTROUTING"}},
		{"NAT chain", []string{"-t nat -F FLAT-POSTROUTING"}, []string{"chain FLAT-POSTROUTING is not as planned (0 rules, 8 planned)"}},
		{"NAT gone", []string{"-t nat -F", "-t nat -X"}, []string{
			"chain PREROUTING of table nat does not jump to FLAT-PREROUTING", "chain POSTROUTING of table nat does not jump to FLAT-POSTROUTING",
			"chain FLAT-PREROUTING is missing", "chain FLAT-POSTROUTING is missing"}},
		{"shared chain", []string{"-D FLAT-FORWARD 1", "-F FLAT-DROP"}, []string{
			"chain FLAT-DROP is not as planned (0 rules, 1 planned)", "chain FLAT-FORWARD is not as planned (3 rules, 4 planned)"}},
		{"rule of another's in a shared chain", []string{"-I FLAT-INPUT 1 -j ACCEPT"}, []string{"chain FLAT-INPUT is not as planned (8 rules, 7 planned)"}},
		{"two at once", []string{"-D INPUT 1", "-F " + chain}, []string{
			"chain INPUT of table filter does not jump to FLAT-INPUT", "chain " + chain + " is empty"}},
		{"tree", []string{"-F FLAT-T-0a000000-24"}, []string{
			"chain FLAT-T-0a000000-24, on the way to " + chain + ", does not lead 10.0.0.0/28 to FLAT-T-0a000000-28"}},
		{"tree, missing", []string{"-D FLAT-T-0a000000-24 1", "-F FLAT-T-0a000000-28", "-X FLAT-T-0a000000-28"}, []string{
			"chain FLAT-T-0a000000-24, on the way to " + chain + ", does not lead 10.0.0.0/28 to FLAT-T-0a000000-28",
			"chain FLAT-T-0a000000-28, on the way to " + chain + ", is missing"}},
		{"tree, led astray", []string{"-I FLAT-T-0a000000-28 1 -d 10.0.0.2 -j FLAT-DROP"}, []string{
			"chain FLAT-T-0a000000-28, on the way to " + chain + ", leads 10.0.0.2/32 to FLAT-DROP"}},
		{"tree, foreign", []string{"-I FLAT-T-0a000000-28 1 -s 192.0.2.1 -j ACCEPT"}, []string{
			"chain FLAT-T-0a000000-28, on the way to " + chain + ", has a rule that is not ours"}},
		{"rule taken away", []string{"-D " + chain + " 5"}, []string{"chain " + chain + " has 18 rules, 19 are planned"}},
		{"rule put in front", []string{"-I " + chain + " 1 -j ACCEPT"}, []string{"chain " + chain + " begins with a rule that is not ours"}},
		{"gone", []string{"-F", "-X"}, []string{
			"chain INPUT of table filter does not jump to FLAT-INPUT", "chain FORWARD of table filter does not jump to FLAT-FORWARD",
			"chain OUTPUT of table filter does not jump to FLAT-OUTPUT", "chain FLAT-DROP is missing", "chain FLAT-REJECT is missing", "chain FLAT-MIDSTREAM is missing",
			"chain FLAT-PROVIDER is missing", "chain FLAT-PROVIDER-USER is missing", "chain FLAT-INPUT is missing", "chain FLAT-FORWARD is missing",
			"chain FLAT-OUTPUT is missing",
			"chain FLAT-T-0a000000-24, on the way to " + chain + ", is missing", "chain FLAT-T-0a000000-28, on the way to " + chain + ", is missing",
			"chain " + chain + " is missing"}},
	}
	onBothBackends(t, func(t *testing.T, k kernel) {
		table := k.table()
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				k.t = t
				for _, table := range tables {
					k.ipt("-t " + table + " -F")
					k.ipt("-t " + table + " -X")
				}
				k.attach(table, networksOf(flat), flat, row("10.0.0.3"), r)
				for _, args := range c.damage {
					k.ipt(args)
				}
				before := k.save()
				if diff := cmp.Diff(c.want, k.check(table, networksOf(flat), flat, r)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if after := k.save(); after != before {
					t.Errorf("the check changed:\n%s", cmp.Diff(before, after))
				}
				k.attach(table, networksOf(flat), flat, r)
				if left := k.check(table, networksOf(flat), flat, r); left != nil {
					t.Errorf("after attaching again: %q", left)
				}
			})
		}
	})
}

func TestCheckSeesAnotherPolicyAndAnotherAddress(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		open, shut := network("flat", "10.0.0.0/24", "br100"), network("flat", "10.0.0.0/24", "br100", closed)
		table, r := k.table(), row("10.0.0.2")
		chain := dispatchTo(open, r).Chain
		k.attach(table, networksOf(open), open, r)
		if diff := cmp.Diff([]string{"chain " + chain + " follows another policy than the network's"}, k.check(table, networksOf(shut), open, r)); diff != "" {
			t.Error(diff)
		}
		moved := row("10.0.0.3")
		moved.Holder = r.Holder
		want := []string{
			"chain FLAT-T-0a000000-28, on the way to " + chain + ", does not lead 10.0.0.3/32 to " + chain,
			"chain " + chain + " is of 10.0.0.2 on network flat, not of 10.0.0.3 on flat",
		}
		if diff := cmp.Diff(want, k.check(table, networksOf(open), open, moved)); diff != "" {
			t.Error(diff)
		}
		none := network("flat", "10.0.0.0/24", "br100", unfiltered)
		want = []string{
			"chain FLAT-FORWARD is not as planned (4 rules, 2 planned)", "chain FLAT-OUTPUT is not as planned (1 rules, 0 planned)",
			"chain FLAT-POSTROUTING is not as planned (2 rules, 1 planned)", "chain FLAT-INPUT is not as planned (1 rules, 1 planned)",
		}
		got := k.check(table, networksOf(none), none, r)
		if diff := cmp.Diff(sortedStrings(want), sortedStrings(got)); diff != "" {
			t.Error(diff)
		}
	})
}

// Plugin firewall, chained behind flat-bridge, puts its jump in front of ours when it runs
// for the first time. CHECK passes all the same where neighbours may reach the workload.
func TestCheckAfterPluginFirewall(t *testing.T) {
	const first = "chain FORWARD of table filter jumps to FLAT-FORWARD, but something else comes first"
	firewall := []string{"-N CNI-FORWARD", "-I FORWARD 1 -m comment --comment firewall -j CNI-FORWARD"}
	cases := []struct {
		name   string
		closed bool
		before []string
		want   []string
	}{
		{"open", false, firewall, nil},
		{"closed", true, firewall, []string{first}},
		{"open, and it asks for more", false, []string{"-N CNI-FORWARD", "-I FORWARD 1 -s 192.0.2.1 -j CNI-FORWARD"}, []string{first}},
		{"open, and something else is first", false, []string{"-N OTHER", "-I FORWARD 1 -j OTHER"}, []string{first}},
		{"open, and something else is between", false, append([]string{"-I FORWARD 1 -s 192.0.2.1 -j DROP"}, firewall...), []string{first}},
	}
	onBothBackends(t, func(t *testing.T, k kernel) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				k.t = t
				k.ipt("-F")
				k.ipt("-X")
				flat := network("flat", "10.0.0.0/24", "br100")
				if c.closed {
					flat = network("flat", "10.0.0.0/24", "br100", closed)
				}
				r, table := row("10.0.0.2"), k.table()
				k.attach(table, networksOf(flat), flat, r)
				for _, args := range c.before {
					k.ipt(args)
				}
				if diff := cmp.Diff(c.want, k.check(table, networksOf(flat), flat, r)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				k.attach(table, networksOf(flat), flat, r)
				if got := k.save(); !strings.Contains(got, "-A FORWARD -j FLAT-FORWARD\n-A FORWARD ") {
					t.Errorf("the next attach does not put ours first:\n%s", got)
				}
			})
		}
	})
}

func sortedStrings(s []string) []string {
	keys := map[string]bool{}
	for _, text := range s {
		keys[text] = true
	}
	return sortedKeys(keys)
}

func TestCheckSeesTheOtherBackEnd(t *testing.T) {
	onBothBackends(t, func(t *testing.T, k kernel) {
		flat, r := network("flat", "10.0.0.0/24", "br100"), row("10.0.0.2")
		k.attach(k.table(), networksOf(flat), flat, r)
		now := k.switched()
		want := []string{fmt.Sprintf("the rules are in the %s back end of iptables, but %s is %s now", k.backend, now.iptables(), now.backend)}
		if diff := cmp.Diff(want, k.check(now.table(), networksOf(flat), flat, r)); diff != "" {
			t.Error(diff)
		}
		k.attach(now.table(), networksOf(flat), flat, r)
		if got := k.check(now.table(), networksOf(flat), flat, r); got != nil {
			t.Errorf("after attaching again: %q", got)
		}

		// Somebody fed the one's save to the other's restore.
		saved := PlanAll([]Held{{flat, []ipam.Reservation{r}}}).String()
		k.must(func(ctx context.Context) error {
			_, err := k.exec(ctx, k.iptables()+"-restore", []string{"--noflush"}, []byte(saved))
			return err
		})
		want = []string{fmt.Sprintf("chain FLAT-FORWARD is in the %s back end of iptables as well, and in force there", k.backend)}
		if diff := cmp.Diff(want, k.check(now.table(), networksOf(flat), flat, r)); diff != "" {
			t.Error(diff)
		}
		k.must(func(ctx context.Context) error {
			changed, err := now.table().Apply(ctx, networksOf(flat), "flat", aliveRows(r))
			if len(changed) == 0 {
				t.Error("apply says that it changed nothing")
			}
			return err
		})
		k.oursIs("")
		now.holds(Held{flat, []ipam.Reservation{r}})
		if got := k.check(now.table(), networksOf(flat), flat, r); got != nil {
			t.Errorf("after applying: %q", got)
		}
	})
}

// What is asked of the kernel does not grow with the number of workloads, nothing is
// changed and no program runs.
func TestCheckCostsTheSameWithManyWorkloads(t *testing.T) { onBothBackends(t, checkCostsTheSame) }

func checkCostsTheSame(t *testing.T, k kernel) {
	flat, table := network("flat", "10.0.0.0/16", "br100"), k.table()
	var asked [][]string
	read := table.readKernel
	table.readKernel = func(ctx context.Context, chains []string, later *closers) (*seen, error) {
		asked = append(asked, chains)
		return read(ctx, chains, later)
	}
	count := func() [][]string {
		asked = nil
		runs := table.Runs()
		if got := k.check(table, networksOf(flat), flat, row("10.0.0.2")); got != nil {
			t.Errorf("%q", got)
		}
		if table.Runs() != runs {
			t.Errorf("%d programs ran", table.Runs()-runs)
		}
		return asked
	}
	k.attach(table, networksOf(flat), flat, row("10.0.0.2"))
	alone := count()
	var many []Attached
	for i := range 300 {
		many = append(many, Attached{flat, row(fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200))})
	}
	k.must(func(ctx context.Context) error { return table.AttachAll(ctx, networksOf(flat), many) })
	// The nft back end is asked for the same chains, or for the one that must not be there.
	if diff := cmp.Diff(alone, count()); diff != "" || len(alone) != 1 {
		t.Errorf("with 300 neighbours other chains are asked for:\n%s", diff)
	}
}
