package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// legacyEntry builds struct ipt_entry for `-d DST -m comment --comment COMMENT` with a
// standard target, or with the target ERROR if head is given.
func legacyEntry(dst, comment, head string, verdict int32) []byte {
	b := make([]byte, entryElements)
	if dst != "" {
		p := netip.MustParsePrefix(dst)
		copy(b[entryDst:], p.Addr().AsSlice())
		binary.BigEndian.PutUint32(b[entryDstMask:], ^uint32(0)<<(32-p.Bits()))
	}
	add := func(name string, data []byte) {
		e := make([]byte, elementData)
		binary.NativeEndian.PutUint16(e, uint16(elementData+len(data)))
		copy(e[elementName:], name)
		b = slices.Concat(b, e, data)
	}
	if comment != "" {
		add(commentMatch, append([]byte(comment), make([]byte, 256-len(comment))...))
	}
	binary.NativeEndian.PutUint16(b[entryTargetAt:], uint16(len(b)))
	if head != "" {
		add(errorTarget, append([]byte(head), make([]byte, 32-len(head))...))
	} else {
		data := make([]byte, 8) // padded
		binary.NativeEndian.PutUint32(data, uint32(verdict))
		add(standardTarget, data)
	}
	binary.NativeEndian.PutUint16(b[entrySize:], uint16(len(b)))
	return b
}

// legacyTable is FORWARD with a jump to FLAT-FORWARD, and that chain with one dispatch.
func legacyTable() (info iptInfo, entries []byte) {
	const back = -5 // XT_RETURN
	var starts []int
	add := func(e []byte) {
		starts = append(starts, len(entries))
		entries = append(entries, e...)
	}
	add(legacyEntry("", "", "", 0)) // FORWARD's jump; its verdict comes below
	add(legacyEntry("", "", "", -2))
	add(legacyEntry("", "", chainForward, 0))
	add(legacyEntry("10.0.0.0/24", "flatdhcp flat 01234567", "", 0))
	add(legacyEntry("", "", "", back))
	add(legacyEntry("", "", "FLAT-T-0a000000-24", 0))
	add(legacyEntry("", "", "", back))
	add(legacyEntry("", "", errorTarget, 0))
	jump := func(from, to int) {
		binary.NativeEndian.PutUint32(entries[starts[from+1]-8:], uint32(starts[to]))
	}
	jump(0, 3)
	jump(3, 6)
	info.ValidHooks, info.HookEntry[2], info.Underflow[2] = 1<<2, 0, uint32(starts[1])
	return info, entries
}

func TestDecodeEntries(t *testing.T) {
	info, entries := legacyTable()
	s := &seen{depth: whole, chains: map[string][]seenRule{}}
	if err := decodeEntries(s, filterTable, info, entries); err != nil {
		t.Fatal(err)
	}
	want := map[string][]seenRule{
		"FORWARD": {{jump: chainForward, plain: true}},
		chainForward: {{dst: netip.MustParsePrefix("10.0.0.0/24"), jump: "FLAT-T-0a000000-24",
			comment: "flatdhcp flat 01234567", plain: true}},
		"FLAT-T-0a000000-24": nil,
	}
	if diff := cmp.Diff(want, s.chains, cmp.AllowUnexported(seenRule{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for cut := 1; cut < len(entries); cut++ {
		_ = decodeEntries(&seen{chains: map[string][]seenRule{}}, filterTable, info, entries[:cut]) // and does not panic
	}
	if err := decodeEntries(s, filterTable, info, entries[:len(entries)-1]); err == nil || !strings.Contains(err.Error(), "contradict") {
		t.Errorf("cut off: error %v", err)
	}
}

func FuzzDecodeEntries(f *testing.F) {
	info, entries := legacyTable()
	f.Add(info.HookEntry[2], entries)
	f.Fuzz(func(t *testing.T, hook uint32, entries []byte) {
		info := iptInfo{ValidHooks: 1 << 2}
		info.HookEntry[2] = hook
		s := &seen{chains: map[string][]seenRule{}}
		if decodeEntries(s, filterTable, info, entries) != nil {
			return
		}
		for chain, rules := range s.chains {
			if !wanted(filterTable, chain) {
				t.Errorf("kept chain %q", chain)
			}
			for _, r := range rules {
				if r.plain && !strings.HasPrefix(r.jump, ourPrefix) {
					t.Errorf("%s: plain, but jumps to %q", chain, r.jump)
				}
			}
		}
	})
}
