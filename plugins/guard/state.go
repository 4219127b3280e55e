package guard

import (
	"bytes"
	"errors"
	"slices"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// baseState is what the kernel has of the base. Its zero value is: nothing.
type baseState struct {
	table  bool
	defect string // in what it is not this version's whole base; empty if it is
}

// generation is the number of the ruleset of this network namespace: any change of
// any table changes it.
func (c *conn) generation() (uint32, error) {
	replies, err := c.get(unix.NFT_MSG_GETGEN, 0, nil)
	if err != nil {
		return 0, err
	}
	var id uint32
	for _, m := range replies {
		err = decode(body(m), func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		})
		if err != nil {
			return 0, err
		}
	}
	if id == 0 {
		return 0, errors.New("reading the generation of nf_tables: the kernel names none")
	}
	return id, nil
}

// table says whether the table is there, and asleep.
func (c *conn) table() (there, dormant bool, err error) {
	replies, err := c.get(unix.NFT_MSG_GETTABLE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, tableName)
	})
	for _, m := range replies {
		there = true
		err = decode(body(m), func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_TABLE_FLAGS {
				dormant = ad.Uint32()&unix.NFT_TABLE_F_DORMANT != 0
			}
		})
	}
	return there, dormant, err
}

// base reads the base and compares it with this version's, whose rules it returns as
// well if they differ.
func (c *conn) base() (baseState, []encodedRule, error) {
	want := chains()
	s, err := c.compareBase(want, markersOf(want))
	if err != nil || s.defect == "" {
		return s, nil, err
	}
	rules, err := encodeRules(want)
	return s, rules, err
}

func (c *conn) compareBase(want []chain, rules []encodedRule) (s baseState, err error) {
	var dormant bool
	if s.table, dormant, err = c.table(); err != nil {
		return s, err
	}
	if !s.table {
		s.defect = "the table was missing"
		return s, nil
	}
	found, err := c.chains()
	if err != nil {
		return s, err
	}
	markers, err := c.markers()
	if err != nil {
		return s, err
	}
	switch {
	case dormant:
		s.defect = "the table was dormant"
	case !sameChains(found, want):
		s.defect = "its chains were not this version's"
	case !sameMarkers(markers, rules):
		s.defect = "its rules were not this version's"
	}
	return s, nil
}

// foundChain is a chain as the kernel describes it, comparable.
type foundChain struct {
	name, typ        string
	hook             uint32
	priority, policy int32
	hooked           bool
}

func (c *conn) chains() ([]foundChain, error) {
	replies, err := c.get(unix.NFT_MSG_GETCHAIN, netlink.Dump, nil)
	if err != nil {
		return nil, err
	}
	var found []foundChain
	for _, m := range replies {
		var f foundChain
		var table string
		err := decode(body(m), func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				f.name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				f.typ = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				f.policy = ad.Int32()
			case unix.NFTA_CHAIN_HOOK:
				f.hooked = true
				nested(ad, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						f.hook = ad.Uint32()
					case unix.NFTA_HOOK_PRIORITY:
						f.priority = ad.Int32()
					}
				})
			}
		})
		if err != nil {
			return nil, err
		}
		if table == tableName && len(m.Data) > 0 && m.Data[0] == unix.NFPROTO_BRIDGE {
			found = append(found, f)
		}
	}
	return found, nil
}

func sameChains(found []foundChain, want []chain) bool {
	if len(found) != len(want) {
		return false
	}
	for _, w := range want {
		f := foundChain{name: w.name}
		if w.hook != nil {
			f = foundChain{w.name, chainType, w.hook.number, w.hook.priority, policyAccept, true}
		}
		if !slices.Contains(found, f) {
			return false
		}
	}
	return true
}

// markers reads the rules' markers, in the rules' order within each chain.
func (c *conn) markers() (map[string][][]byte, error) {
	replies, err := c.get(unix.NFT_MSG_GETRULE, netlink.Dump, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, tableName)
	})
	if err != nil {
		return nil, err
	}
	markers := map[string][][]byte{}
	for _, m := range replies {
		var name string
		var data []byte
		err := decode(body(m), func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				name = ad.String()
			case unix.NFTA_RULE_USERDATA:
				data = ad.Bytes()
			}
		})
		if err != nil {
			return nil, err
		}
		markers[name] = append(markers[name], data)
	}
	return markers, nil
}

func sameMarkers(found map[string][][]byte, rules []encodedRule) bool {
	n := 0
	for _, f := range found {
		n += len(f)
	}
	if n != len(rules) {
		return false
	}
	place := map[string]int{}
	for _, r := range rules {
		i := place[r.chain]
		place[r.chain]++
		if i >= len(found[r.chain]) || !bytes.Equal(found[r.chain][i], markerData(r.marker)) {
			return false
		}
	}
	return true
}

func (c *conn) counters() ([]Counter, error) {
	replies, err := c.get(unix.NFT_MSG_GETOBJ, netlink.Dump, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, tableName)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	})
	if err != nil {
		return nil, err
	}
	var cs []Counter
	for _, m := range replies {
		var counter Counter
		err := decode(body(m), func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_OBJ_NAME:
				counter.Name = ad.String()
			case unix.NFTA_OBJ_DATA:
				nested(ad, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_COUNTER_PACKETS:
						counter.Packets = ad.Uint64()
					case unix.NFTA_COUNTER_BYTES:
						counter.Bytes = ad.Uint64()
					}
				})
			}
		})
		if err != nil {
			return nil, err
		}
		cs = append(cs, counter)
	}
	return cs, nil
}

// elements reads all members of a set. Of a set that is ours in name only, whose
// keys have another length, it returns none.
//
// The kernel grows a set's hash table some milliseconds after it was filled, and a
// listing that is under way goes on by counting, in another order: it then has some
// members twice and lacks as many, with no other sign. It is read again.
func (c *conn) elements(s set) ([]element, error) {
	members, err := c.readElements(s.name, netlink.Dump, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, string(s.name))
	})
	if err != nil {
		return nil, err
	}
	once := make(map[element]bool, len(members))
	for _, e := range members {
		if once[e] {
			return nil, errChanged
		}
		once[e] = true
	}
	return slices.DeleteFunc(members, func(e element) bool { return len(e.key) != int(s.keyLength()) }), nil
}

// element reads one member of a set, whatever the set's size; none if it is not there.
func (c *conn) element(e element) ([]element, error) {
	return c.readElements(e.set, 0, func(ae *netlink.AttributeEncoder) { encodeElements(ae, e.set, []element{e}) })
}

func (c *conn) readElements(set setName, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) ([]element, error) {
	replies, err := c.get(unix.NFT_MSG_GETSETELEM, flags, fill)
	if err != nil {
		return nil, err
	}
	var es []element
	for _, m := range replies {
		err := decode(body(m), func(ad *netlink.AttributeDecoder) {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			nested(ad, func(ad *netlink.AttributeDecoder) {
				e := element{set: set}
				nested(ad, func(ad *netlink.AttributeDecoder) { e.read(ad) })
				es = append(es, e)
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return es, nil
}

func (e *element) read(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case unix.NFTA_SET_ELEM_KEY:
		nested(ad, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_DATA_VALUE {
				e.key = string(ad.Bytes())
			}
		})
	case unix.NFTA_SET_ELEM_EXPR:
		e.rate = readRate(ad)
	case unix.NFTA_SET_ELEM_USERDATA:
		e.comment = comment(ad.Bytes())
	}
}

// comment is the comment in an element's user data. The library's parser trusts the
// lengths in it, so they are checked first.
func comment(data []byte) string {
	for rest := data; len(rest) > 0; rest = rest[2+int(rest[1]):] {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return ""
		}
	}
	s, _ := userdata.GetString(data, userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
	return s
}

func markerData(marker []byte) []byte { return userdata.Append(nil, markerType, marker) }
