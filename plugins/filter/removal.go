package filter

import (
	"context"
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flatdhcp/flatdhcp/plugins/filter/program"
)

// takenRule is a rule to be deleted, by the name that nf_tables has for it.
type takenRule struct {
	chain  string
	handle uint64
}

// Removal returns what DetachAll would do for rows as messages to nf_tables, to be sent in
// one transaction, with whatever else is to go in the same moment. To take out needs no
// translation of matches, so no program: that saves its start, and a grace period of the
// kernel's, for which each transaction that takes something out is waited for separately.
//
// false = these rows take the program, which DetachAll runs: their rules are in the legacy
// back end, the programs are missing, or nodes of the tree must be written anew. The kernel
// refuses the transaction if a chain has got other rules or references than were read; it
// has changed nothing then, and DetachAll is to be called instead.
//
// Whoever calls holds the filter lock until the transaction is made.
func (t *Table) Removal(ctx context.Context, rows []Attached) ([]netlink.Message, bool) {
	if len(rows) == 0 {
		return nil, true
	}
	var names []string
	for _, a := range rows {
		if a.Row.Holder == nil {
			return nil, false
		}
		names = append(names, pathNames(a.Network, a.Row)...)
	}
	p, err := t.place(ctx, false)
	if err != nil || p.missing != nil || p.Backend != program.NFT {
		return nil, false
	}
	s, err := t.readBackend(ctx, p.Backend, some, names, nil)
	if err != nil {
		return nil, false
	}
	b, err := planDetach(s, rows)
	if err != nil {
		return nil, false
	}
	return b.removal()
}

// removal is the batch in nf_tables' terms, if it does nothing but take out: single rules,
// chains with all their rules (declared and deleted), and empty chains.
func (b *batch) removal() ([]netlink.Message, bool) {
	if b.more {
		return nil, false
	}
	var messages []netlink.Message
	add := func(kind uint16, attrs ...netlink.Attribute) error {
		data, err := netlink.MarshalAttributes(attrs)
		// Without the flag the kernel would take out a chain's rules along with it.
		messages = append(messages, nftMessage(kind, unix.AF_INET, unix.NLM_F_NONREC, data))
		return err
	}
	for _, r := range b.taken {
		handle := netlink.Attribute{Type: unix.NFTA_RULE_HANDLE, Data: binary.BigEndian.AppendUint64(nil, r.handle)}
		err := add(unix.NFT_MSG_DELRULE, stringAttr(unix.NFTA_RULE_TABLE, tableOf(r.chain)), stringAttr(unix.NFTA_RULE_CHAIN, r.chain), handle)
		if err != nil || r.handle == 0 { // a message without a handle means all rules
			return nil, false
		}
	}
	for _, table := range tables {
		for _, chain := range b.sections[table].declared {
			if err := add(unix.NFT_MSG_DELRULE, stringAttr(unix.NFTA_RULE_TABLE, table), stringAttr(unix.NFTA_RULE_CHAIN, chain)); err != nil {
				return nil, false
			}
		}
	}
	for _, table := range tables {
		for _, chain := range b.sections[table].deleted {
			if err := add(unix.NFT_MSG_DELCHAIN, stringAttr(unix.NFTA_CHAIN_TABLE, table), stringAttr(unix.NFTA_CHAIN_NAME, chain)); err != nil {
				return nil, false
			}
		}
	}
	return messages, true
}
