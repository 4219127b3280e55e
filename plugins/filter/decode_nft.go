package filter

import (
	"bytes"
	"math/bits"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// daddrOffset is where an IPv4 header has its destination address.
const daddrOffset = 16

// commentMatch is the xtables match that carries comments.
const commentMatch = "comment"

// ruleDecoder follows one rule's expressions. iptables-nft writes `-d 10.0.0.16/28`
// as: load 4 bytes at 16 into a register, mask it, compare; whole octets without a
// mask, by loading 1 to 3 bytes.
type ruleDecoder struct {
	rule seenRule
	load *expr.Payload // a destination address in a register, not yet compared
	mask []byte        // applied to it
	jump bool
}

// decodeRule reads the attributes of one rule. What it does not know makes the
// rule not plain; an error is a message that the kernel does not send.
func decodeRule(b []byte) (seenRule, error) {
	attrs, err := decoder(b)
	if err != nil {
		return seenRule{}, err
	}
	d := ruleDecoder{rule: seenRule{plain: true}}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_HANDLE:
			d.rule.handle = attrs.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(d.expressions)
		case unix.NFTA_RULE_USERDATA:
			// Later iptables may keep comments here instead of in a match.
			if c := userComment(attrs.Bytes()); c != "" {
				d.rule.comment = c
			}
		}
	}
	d.rule.plain = d.rule.plain && d.jump && d.load == nil
	return d.rule, attrs.Err()
}

func (d *ruleDecoder) expressions(list *netlink.AttributeDecoder) error {
	for list.Next() {
		list.Nested(d.expression)
	}
	return list.Err()
}

func (d *ruleDecoder) expression(attrs *netlink.AttributeDecoder) error {
	var name string
	var data []byte
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_EXPR_NAME:
			name = attrs.String()
		case unix.NFTA_EXPR_DATA:
			data = attrs.Bytes()
		}
	}
	if err := attrs.Err(); err != nil {
		return err
	}
	known := false
	var err error
	switch name {
	case "counter":
		known = true
	case "payload":
		known, err = d.payload(data)
	case "bitwise":
		known, err = d.bitwise(data)
	case "cmp":
		known, err = d.compare(data)
	case "match":
		known, err = d.match(data)
	case "immediate":
		known, err = d.immediate(data)
	}
	d.rule.plain = d.rule.plain && known
	return err
}

func (d *ruleDecoder) payload(data []byte) (known bool, err error) {
	var e expr.Payload
	if err := expr.Unmarshal(unix.AF_INET, data, &e); err != nil {
		return false, err
	}
	if d.load != nil || d.rule.dst.IsValid() || e.OperationType != expr.PayloadLoad || e.Base != expr.PayloadBaseNetworkHeader ||
		e.Offset != daddrOffset || e.Len < 1 || e.Len > 4 {
		return false, nil
	}
	d.load = &e
	return true, nil
}

func (d *ruleDecoder) bitwise(data []byte) (known bool, err error) {
	var e expr.Bitwise
	if err := expr.Unmarshal(unix.AF_INET, data, &e); err != nil {
		return false, err
	}
	// Without a mask it is one of bitwise's other operations: a shift, say.
	if d.load == nil || d.mask != nil || e.SourceRegister != d.load.DestRegister || e.DestRegister != d.load.DestRegister ||
		len(e.Mask) != int(d.load.Len) || bytes.Count(e.Xor, []byte{0}) != int(d.load.Len) {
		d.load = nil
		return false, nil
	}
	d.mask = e.Mask
	return true, nil
}

func (d *ruleDecoder) compare(data []byte) (known bool, err error) {
	var e expr.Cmp
	if err := expr.Unmarshal(unix.AF_INET, data, &e); err != nil {
		return false, err
	}
	if d.load == nil || e.Op != expr.CmpOpEq || e.Register != d.load.DestRegister || len(e.Data) != int(d.load.Len) {
		return false, nil
	}
	length := 8 * len(e.Data)
	if d.mask != nil {
		var ok bool
		if length, ok = maskLength(d.mask); !ok {
			return false, nil
		}
	}
	var addr [4]byte
	copy(addr[:], e.Data)
	d.load, d.mask = nil, nil
	return d.rule.to(netip.PrefixFrom(netip.AddrFrom4(addr), length)), nil
}

// match reads the comment match; every other match is a condition unknown here.
func (d *ruleDecoder) match(data []byte) (known bool, err error) {
	attrs, err := decoder(data)
	if err != nil {
		return false, err
	}
	var name string
	var info []byte
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_MATCH_NAME:
			name = attrs.String()
		case unix.NFTA_MATCH_INFO:
			info = attrs.Bytes()
		}
	}
	if name != commentMatch {
		return false, attrs.Err()
	}
	d.rule.comment = trimNUL(info)
	return true, attrs.Err()
}

func (d *ruleDecoder) immediate(data []byte) (known bool, err error) {
	attrs, err := decoder(data)
	if err != nil {
		return false, err
	}
	code, chain := int32(0), ""
	for attrs.Next() {
		if attrs.Type() != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		attrs.Nested(func(nested *netlink.AttributeDecoder) error {
			for nested.Next() {
				if nested.Type() != unix.NFTA_DATA_VERDICT {
					continue
				}
				nested.Nested(func(verdict *netlink.AttributeDecoder) error {
					for verdict.Next() {
						switch verdict.Type() {
						case unix.NFTA_VERDICT_CODE:
							code = int32(verdict.Uint32())
						case unix.NFTA_VERDICT_CHAIN:
							chain = verdict.String()
						}
					}
					return verdict.Err()
				})
			}
			return nested.Err()
		})
	}
	if code != unix.NFT_JUMP || d.jump || !isKnown(chain) {
		return false, attrs.Err()
	}
	d.jump, d.rule.jump = true, chain
	return true, attrs.Err()
}

// maskLength is the prefix length of a mask, if it is one.
func maskLength(mask []byte) (length int, ok bool) {
	ended := false
	for _, b := range mask {
		ones := bits.LeadingZeros8(^b)
		if ended && b != 0 || b<<ones != 0 {
			return 0, false
		}
		length += ones
		ended = ones < 8
	}
	return length, true
}

// userComment returns the comment among a rule's user data: type, length, value.
func userComment(data []byte) string {
	const typeComment = 0 // NFTNL_UDATA_RULE_COMMENT
	for len(data) >= 2 {
		kind, length := data[0], int(data[1])
		data = data[2:]
		if length > len(data) {
			return ""
		}
		if kind == typeComment {
			return trimNUL(data[:length])
		}
		data = data[length:]
	}
	return ""
}
