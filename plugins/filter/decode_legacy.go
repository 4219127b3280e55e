package filter

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// The layout of struct ipt_entry, of its matches and its target: byte offsets.
const (
	entryDst       = 4
	entrySrcMask   = 8
	entryDstMask   = 12
	entryIfMasks   = 48 // of both interfaces, in one
	entryProto     = 80
	entryFlags     = 82
	entryInverted  = 83
	entryTargetAt  = 88
	entrySize      = 90
	entryElements  = 112
	elementName    = 2
	elementNameEnd = 31
	elementData    = 32

	entryFragment = 0x01 // IPT_F_FRAG
	entryGoto     = 0x02 // IPT_F_GOTO

	standardTarget = ""      // XT_STANDARD_TARGET
	errorTarget    = "ERROR" // XT_ERROR_TARGET
	errorNameLen   = 30      // XT_FUNCTION_MAXNAMELEN
)

// entry is one entry of a legacy table, read.
type entry struct {
	size   int    // bytes, 0 = none
	head   string // of a chain of users' of that name, or of the table's end
	rule   seenRule
	jumps  bool // to the entry at jumpTo
	jumpTo int
}

var errBadEntry = errors.New("its lengths contradict each other")

// decodeEntry reads the entry that b begins with, in the words of seenRule: what is not
// understood makes the rule not plain. An error is a table that no kernel has.
func decodeEntry(b []byte) (e entry, err error) {
	if len(b) < entryElements {
		return e, errBadEntry
	}
	target := int(binary.NativeEndian.Uint16(b[entryTargetAt:]))
	e.size = int(binary.NativeEndian.Uint16(b[entrySize:]))
	if target < entryElements || target > e.size || e.size > len(b) {
		return e, errBadEntry
	}
	e.rule.plain = isZero(b[entrySrcMask:entryDstMask]) && isZero(b[entryIfMasks:entryProto]) && isZero(b[entryProto:entryFlags]) &&
		b[entryFlags]&^entryGoto == 0 && b[entryInverted] == 0
	if mask := b[entryDstMask : entryDstMask+4]; !isZero(mask) {
		length, ok := maskLength(mask)
		addr := netip.AddrFrom4([4]byte(b[entryDst:]))
		e.rule.plain = ok && e.rule.to(netip.PrefixFrom(addr, length)) && e.rule.plain
	}
	for at := entryElements; at < target; {
		name, data, size, err := element(b[at:target])
		if err != nil {
			return e, err
		}
		if name == commentMatch {
			e.rule.comment = trimNUL(data)
		} else {
			e.rule.plain = false
		}
		at += size
	}
	name, data, _, err := element(b[target:e.size])
	if err != nil {
		return e, err
	}
	switch name {
	case errorTarget:
		if len(data) < errorNameLen {
			return e, errBadEntry
		}
		e.head = trimNUL(data[:errorNameLen])
	case standardTarget:
		if len(data) < 4 {
			return e, errBadEntry
		}
		verdict := int32(binary.NativeEndian.Uint32(data))
		// A rule without a target goes on to the next one.
		e.jumps = verdict >= 0 && b[entryFlags]&entryGoto == 0
		e.jumpTo = int(verdict)
	}
	return e, nil
}

// element reads a match or target: its name, what is behind it, and its size.
func element(b []byte) (name string, data []byte, size int, err error) {
	if len(b) < elementData {
		return "", nil, 0, errBadEntry
	}
	size = int(binary.NativeEndian.Uint16(b))
	if size < elementData || size > len(b) {
		return "", nil, 0, errBadEntry
	}
	return trimNUL(b[elementName:elementNameEnd]), b[elementData:size], size, nil
}
