package filter

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// removal is Removal in the kernel's namespace.
func (k kernel) removal(table *Table, rows ...Attached) (messages []netlink.Message, ok bool) {
	k.t.Helper()
	k.must(func(ctx context.Context) error {
		messages, ok = table.Removal(ctx, rows)
		return nil
	})
	return messages, ok
}

// transact sends messages to nf_tables as one transaction.
func (k kernel) transact(messages []netlink.Message) error {
	return k.try(func(context.Context) error {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		edge := func(kind netlink.HeaderType) netlink.Message {
			return netlink.Message{
				Header: netlink.Header{Type: kind, Flags: netlink.Request},
				Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
			}
		}
		messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
		all := append(append([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}, messages...), edge(unix.NFNL_MSG_BATCH_END))
		if _, err := c.SendMessages(all); err != nil {
			return err
		}
		_, err = c.Receive()
		return err
	})
}

// A removal leaves what DetachAll would, in the shared node, in one that is empty then, and
// on another network, and runs no program.
func TestRemovalLeavesThePlan(t *testing.T) {
	k := newKernel(t, BackendNFT)
	flat, other := network("flat", "10.0.0.0/16", "br100"), network("other", "10.1.0.0/24", "br101")
	rows, elsewhere := append(leaf(16), row("10.0.200.200")), row("10.1.0.2")
	table := k.table()
	k.attach(table, networksOf(flat, other), flat, rows...)
	k.attach(table, networksOf(flat, other), other, elsewhere)
	k.ipt("-A FORWARD -s 192.0.2.1 -j ACCEPT")
	_, foreign := ours(k.save())
	runs := table.Runs()
	for _, step := range []struct{ gone, left []ipam.Reservation }{
		{rows[:1], rows[1:]}, {rows[1:15], rows[15:]}, {rows[16:], rows[15:16]}, {rows[15:16], nil},
	} {
		var gone []Attached
		for _, r := range step.gone {
			gone = append(gone, Attached{flat, r})
		}
		messages, ok := k.removal(table, gone...)
		if !ok {
			t.Fatal("it takes the program")
		}
		if err := k.transact(messages); err != nil {
			t.Fatal(err)
		}
		k.holds(Held{flat, step.left}, Held{other, []ipam.Reservation{elsewhere}})
	}
	if _, rest := ours(k.save()); rest != foreign {
		t.Errorf("foreign rules have changed:\n%s", cmp.Diff(foreign, rest))
	}
	if messages, ok := k.removal(table, Attached{flat, rows[0]}); !ok || len(messages) > 0 {
		t.Errorf("of a row that is gone: %d messages, %t", len(messages), ok)
	}
	if got := table.Runs() - runs; got != 0 {
		t.Errorf("%d programs ran", got)
	}
}

// The kernel refuses a removal as a whole if what was read has changed, and DetachAll does
// it then.
func TestRemovalOfWhatHasChangedIsRefused(t *testing.T) {
	k := newKernel(t, BackendNFT)
	flat := network("flat", "10.0.0.0/16", "br100")
	rows, table := rowsOf("10.0.1.16", "10.0.1.17"), k.table()
	for name, meanwhile := range map[string]func(){
		"a node that is empty no more": func() { k.attach(table, networksOf(flat), flat, rows[1]) },
		"a rule that is gone":          func() { k.detach(table, flat, rows[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			k.attach(table, networksOf(flat), flat, rows[0])
			messages, ok := k.removal(table, Attached{flat, rows[0]})
			meanwhile()
			before := k.save()
			if err := k.transact(messages); !ok || !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("error %v, %t", err, ok)
			}
			if after := k.save(); after != before {
				t.Errorf("refused, it has changed:\n%s", cmp.Diff(before, after))
			}
			k.detach(table, flat, rows...)
			k.holds(Held{flat, nil})
		})
	}
}

func TestRemovalsThatTakeTheProgram(t *testing.T) {
	flat := network("flat", "10.0.0.0/24", "br100")
	unheld := row("10.0.0.2")
	unheld.Holder = nil
	for _, c := range []struct {
		name, backend string
		spoil         func(k kernel, table *Table) *Table
		row           ipam.Reservation
		want          bool
	}{
		{name: "the control", backend: BackendNFT, row: row("10.0.0.2"), want: true},
		{name: "legacy", backend: BackendLegacy, row: row("10.0.0.2")},
		{name: "nobody's row", backend: BackendNFT, row: unheld},
		{name: "foreign rule in a node", backend: BackendNFT, row: row("10.0.0.2"), spoil: func(k kernel, table *Table) *Table {
			k.ipt("-I FLAT-T-0a000000-28 1 -s 192.0.2.1 -j ACCEPT")
			return table
		}},
		{name: "no program", backend: BackendNFT, row: row("10.0.0.2"), spoil: func(k kernel, _ *Table) *Table {
			return New(Options{Iptables: []string{filepath.Join(k.t.TempDir(), "iptables")}, RecordPath: k.record})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t, c.backend)
			table := k.table()
			k.attach(table, networksOf(flat), flat, row("10.0.0.2"), row("10.0.0.3"))
			if c.spoil != nil {
				table = c.spoil(k, table)
			}
			if messages, ok := k.removal(table, Attached{flat, c.row}); ok != c.want || ok != (len(messages) > 0) {
				t.Errorf("%d messages, %t", len(messages), ok)
			}
		})
	}
	if messages, ok := New(Options{}).Removal(t.Context(), nil); !ok || len(messages) > 0 {
		t.Errorf("of nothing: %d messages, %t", len(messages), ok)
	}
}
