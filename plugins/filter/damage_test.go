package filter

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
		"nat":                {"-t nat -F", "-t nat -X"},
		"nat, rules only":    {"-t nat -F"},
		"nat, our chain":     {"-t nat -F FLAT-POSTROUTING"},
		"nat, a rule":        {"-t nat -D FLAT-POSTROUTING 2"},
		"nat, the jump":      {"-t nat -D POSTROUTING 1"},
		"nat, out of place":  {"-t nat -I POSTROUTING 1 -s 203.0.113.1 -j MASQUERADE"},
		"nat, no metadata":   {"-t nat -D PREROUTING 1"},
		"foreign in nat":     {"-t nat -I FLAT-POSTROUTING 1 -s 192.0.2.1 -j ACCEPT"},
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
		table := k.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
			if strings.HasSuffix(path, "-restore") && !flushed {
				flushed = true
				for _, args := range [][]string{{"-F"}, {"-X"}, {"-t", "nat", "-F"}, {"-t", "nat", "-X"}} {
					if _, err := k.exec(ctx, k.iptables(), args, nil); err != nil {
						return nil, err
					}
				}
			}
			return k.exec(ctx, path, args, stdin)
		})
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
		bad := k.with(func(ctx context.Context, path string, args []string, stdin []byte) ([]byte, error) {
			if strings.HasSuffix(path, "-restore") {
				stdin = []byte(strings.Replace(string(stdin), "COMMIT", "-A FLAT-DROP -j NO-SUCH-CHAIN\nCOMMIT", 1))
			}
			return k.exec(ctx, path, args, stdin)
		})
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
