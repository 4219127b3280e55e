package guard

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// markerType is the type under which a rule's user data carries its marker; nft
	// prints comments (type 0) only.
	markerType = 0x66

	setExpr = 17 // NFTA_SET_EXPR: what every member carries

	// Values of NFTNL_UDATA_SET_KEYBYTEORDER, for nft's sake.
	byteOrderHost = 1
	byteOrderBig  = 2

	// elementsPerMessage keeps the list of elements, one attribute, well below 64 KiB.
	elementsPerMessage = 256
)

// message encodes an nf_tables request about the bridge family.
func message(typ uint16, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) (netlink.Message, error) {
	return netfilterMessage(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NFPROTO_BRIDGE, 0, flags, fill)
}

// netfilterMessage encodes a request with its nfgenmsg header.
func netfilterMessage(typ uint16, family byte, resource uint16, flags netlink.HeaderFlags,
	fill func(*netlink.AttributeEncoder)) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	if fill != nil {
		fill(ae)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("encoding netfilter message %#x: %w", typ, err)
	}
	header := append([]byte{family, unix.NFNETLINK_V0}, be16(resource)...)
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags},
		Data:   append(header, attrs...),
	}, nil
}

// nest encodes attributes inside one of type typ.
func nest(ae *netlink.AttributeEncoder, typ uint16, fill func(*netlink.AttributeEncoder)) {
	ae.Nested(typ, func(inner *netlink.AttributeEncoder) error {
		fill(inner)
		return nil
	})
}

// A batch collects the messages of one transaction. Its methods are nft's commands.
type batch struct {
	messages []netlink.Message
	err      error
}

func (b *batch) add(typ uint16, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) {
	m, err := message(typ, flags, fill)
	if err != nil && b.err == nil {
		b.err = err
	}
	b.messages = append(b.messages, m)
}

func (b *batch) addTable() {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, tableName)
	})
}

func (b *batch) deleteTable() {
	b.add(unix.NFT_MSG_DELTABLE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, tableName)
	})
}

func (b *batch) addCounter(c Counter) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, tableName)
		ae.String(unix.NFTA_OBJ_NAME, c.Name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		nest(ae, unix.NFTA_OBJ_DATA, func(ae *netlink.AttributeEncoder) {
			ae.Uint64(unix.NFTA_COUNTER_BYTES, c.Bytes)
			ae.Uint64(unix.NFTA_COUNTER_PACKETS, c.Packets)
		})
	})
}

func (b *batch) addSet(s set, id uint32) {
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, tableName)
		ae.String(unix.NFTA_SET_NAME, string(s.name))
		ae.Uint32(unix.NFTA_SET_FLAGS, 0)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.magic())
		ae.Uint32(unix.NFTA_SET_KEY_LEN, s.keyLength())
		ae.Uint32(unix.NFTA_SET_ID, id)
		order := uint32(byteOrderBig)
		if len(s.fields) == 1 && s.fields[0] == ifName {
			order = byteOrderHost
		}
		ae.Bytes(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order))
		if s.name.limited() {
			encodeLimit(ae, setExpr, unsetRate)
		}
	})
}

func (b *batch) addChain(c chain) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, tableName)
		ae.String(unix.NFTA_CHAIN_NAME, c.name)
		if c.hook == nil {
			return
		}
		nest(ae, unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.number)
			ae.Int32(unix.NFTA_HOOK_PRIORITY, c.hook.priority)
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, policyAccept)
		ae.String(unix.NFTA_CHAIN_TYPE, chainType)
	})
}

// appendRule adds a rule to the end of its chain.
func (b *batch) appendRule(chain string, exprs []byte, marker []byte) {
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, tableName)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Bytes(netlink.Nested|unix.NFTA_RULE_EXPRESSIONS, exprs)
		ae.Bytes(unix.NFTA_RULE_USERDATA, markerData(marker))
	})
}

// addElements and deleteElements take members of any sets, in any order. Adding
// one that is there already does nothing; deleting one that is not fails the batch.
func (b *batch) addElements(es []element) { b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, es) }

func (b *batch) deleteElements(es []element) { b.elements(unix.NFT_MSG_DELSETELEM, 0, es) }

func (b *batch) elements(typ uint16, flags netlink.HeaderFlags, es []element) {
	bySet := map[setName][]element{}
	for _, e := range es {
		bySet[e.set] = append(bySet[e.set], e)
	}
	for _, s := range sets() {
		for members := bySet[s.name]; len(members) > 0; {
			n := min(len(members), elementsPerMessage)
			b.add(typ, flags, func(ae *netlink.AttributeEncoder) { encodeElements(ae, s.name, members[:n]) })
			members = members[n:]
		}
	}
}

func encodeElements(ae *netlink.AttributeEncoder, set setName, es []element) {
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, string(set))
	nest(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) {
		for _, e := range es {
			nest(ae, unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) {
				nest(ae, unix.NFTA_SET_ELEM_KEY, func(ae *netlink.AttributeEncoder) {
					ae.Bytes(unix.NFTA_DATA_VALUE, []byte(e.key))
				})
				if e.comment != "" {
					ae.Bytes(unix.NFTA_SET_ELEM_USERDATA,
						userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, e.comment))
				}
				if e.rate != 0 {
					encodeLimit(ae, unix.NFTA_SET_ELEM_EXPR, e.rate)
				}
			})
		}
	})
}

// rebuild makes the table anew, without elements. Packets meet the old one until
// the transaction takes place, and the new one, whole, from then on. The counters
// go on from the values given.
func (b *batch) rebuild(old baseState, rules []encodedRule, values []Counter) {
	if old.table {
		b.deleteTable()
	}
	b.addTable()
	for _, name := range counters() {
		c := Counter{Name: name}
		if i := slices.IndexFunc(values, func(v Counter) bool { return v.Name == name }); i >= 0 {
			c = values[i]
		}
		b.addCounter(c)
	}
	for i, s := range sets() {
		b.addSet(s, uint32(i+1))
	}
	for _, c := range chains() {
		b.addChain(c)
	}
	for _, r := range rules {
		b.appendRule(r.chain, r.exprs, r.marker)
	}
}

// encodedRule is a rule ready to be sent.
type encodedRule struct {
	chain  string
	exprs  []byte
	marker []byte
}

// baseHash is what hashOf makes of this version's rules, by which another version's are
// told apart; a test computes it anew. To do so with each ADD would take it half a
// millisecond.
const baseHash = "0874d0c0"

// markersOf returns the rules of the chains with their markers alone: baseHash, and the
// rule's place, so that a missing or foreign one is noticed.
func markersOf(cs []chain) []encodedRule {
	var rules []encodedRule
	for _, c := range cs {
		for range c.rules {
			rules = append(rules, encodedRule{chain: c.name, marker: append([]byte(baseHash), byte(len(rules)))})
		}
	}
	return rules
}

// encodeRules encodes the rules of the chains, with their markers.
func encodeRules(cs []chain) ([]encodedRule, error) {
	rules := markersOf(cs)
	next := 0
	for _, c := range cs {
		for _, r := range c.rules {
			ae := netlink.NewAttributeEncoder()
			for _, e := range r.exprs() {
				data, err := expr.Marshal(unix.NFPROTO_BRIDGE, e)
				if err != nil {
					return nil, fmt.Errorf("encoding rule %q of chain %s: %w", r, c.name, err)
				}
				ae.Bytes(netlink.Nested|unix.NFTA_LIST_ELEM, data)
			}
			exprs, err := ae.Encode()
			if err != nil {
				return nil, fmt.Errorf("encoding rule %q of chain %s: %w", r, c.name, err)
			}
			rules[next].exprs = exprs
			next++
		}
	}
	return rules, nil
}
