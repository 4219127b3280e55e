package server

import (
	"encoding/binary"
)

// Encoder writes replies. It keeps its working memory from one reply to the next so
// that encoding does not allocate; it is for one goroutine at a time.
type Encoder struct {
	list    []option
	numbers [4][4]byte // values of 54, 51, 58, 59
	kind    [1]byte
	text    []byte
	routes  []byte
	fixed   int // entries at the head of list that every lease or NAK must have
	sent    codeSet
	dropped []byte
}

// Dropped returns the codes of options for which the last reply had no room.
func (e *Encoder) Dropped() []byte { return e.dropped }

// Append writes r to dst and returns the longer slice. Fields and options are those
// of RFC 2131 table 3: hops and secs are 0, flags, giaddr and all 16 bytes of chaddr
// are the client's.
func (e *Encoder) Append(dst []byte, r *Reply) []byte {
	start, q := len(dst), r.query
	dst = append(dst, make([]byte, optionsOffset)...)
	b := dst[start:]
	b[0], b[1], b[2] = opReply, q.HType, q.HLen
	binary.BigEndian.PutUint32(b[4:], q.XID)
	binary.BigEndian.PutUint16(b[10:], r.Flags)
	ci, yi, si, gi := r.CIAddr.As4(), r.YIAddr.As4(), r.SIAddr.As4(), q.GIAddr.As4()
	copy(b[12:], ci[:])
	copy(b[16:], yi[:])
	copy(b[20:], si[:])
	copy(b[24:], gi[:])
	copy(b[28:44], q.CHAddr[:])
	copy(b[fileOffset:cookieOffset], r.File)
	copy(b[cookieOffset:], magicCookie[:])

	e.collect(r)
	dst = e.place(dst, start, r)
	for len(dst)-start < minReply {
		dst = append(dst, optPad)
	}
	return dst
}

// collect lists the options of r in the order in which they are sent: the message
// type first (some embedded clients look nowhere else), what RFC 2131 demands, then
// what the client asked for in its own order, the echoes last.
func (e *Encoder) collect(r *Reply) {
	q, s := r.query, r.scope
	e.list, e.sent, e.dropped, e.routes = e.list[:0], codeSet{}, e.dropped[:0], e.routes[:0]
	e.kind[0] = byte(r.Type)
	e.add(optMessageType, e.kind[:])
	e.numbers[0] = r.ServerID.As4()
	e.add(optServerID, e.numbers[0][:])
	if r.Type == Nak {
		e.text = append(e.text[:0], r.Reason...)
		e.add(optMessage, e.text)
	} else {
		e.seconds(optLeaseTime, 1, r.Lease)
		e.seconds(optRenewalTime, 2, r.T1)
		e.seconds(optRebindTime, 3, r.T2)
		// Demanded, as T1 and T2 are, by RFC 2131 section 4.3.1 because it is not what a
		// host would take by default; RFC 2132 section 3.3 wants it before the router.
		e.add(optSubnetMask, s.mask[:])
	}
	if r.Rapid {
		e.add(optRapidCommit, nil)
	}
	e.fixed = len(e.list)
	if r.Type != Nak {
		e.choose(r)
	}
	// RFC 6842: returned as it came if it came, and never otherwise.
	if id, ok := q.long(optClientID); ok {
		e.add(optClientID, id)
	}
	// RFC 3046 section 2.2: last, unmodified.
	if info, ok := q.long(optRelayInfo); ok {
		e.add(optRelayInfo, info)
	}
}

func (e *Encoder) seconds(code byte, slot int, v uint32) {
	if v != 0 {
		binary.BigEndian.PutUint32(e.numbers[slot][:], v)
		e.add(code, e.numbers[slot][:])
	}
}

func (e *Encoder) add(code byte, value []byte) {
	e.sent.add(code)
	e.list = append(e.list, option{code, value})
}

// place writes the collected options behind the header at start. If they are too
// many for its limit they continue in file, unless a boot file's name is there, then in
// sname (option 52). What fits nowhere is left out and noted: an option is never truncated.
func (e *Encoder) place(dst []byte, start int, r *Reply) []byte {
	total := 0
	for _, o := range e.list {
		total += wireLen(o)
	}
	room := r.Limit - optionsOffset - 1 // 1 for END
	if total <= room {
		for _, o := range e.list {
			dst = appendOption(dst, o)
		}
		return append(dst, optEnd)
	}
	return append(e.overload(dst, start, room, len(r.File) > 0), optEnd)
}

func (e *Encoder) overload(dst []byte, start, room int, fileTaken bool) []byte {
	var last option // option 82 stays the last one of the options field
	list := e.list
	if o := list[len(list)-1]; o.code == optRelayInfo {
		last, list = o, list[:len(list)-1]
	}
	// The client identifier must go back, the configured options need not.
	if o := list[len(list)-1]; o.code == optClientID {
		copy(list[e.fixed+1:], list[e.fixed:len(list)-1])
		list[e.fixed] = o
	}
	const optionSize = 3 // option 52 itself
	room -= optionSize
	if last.code != 0 {
		if wireLen(last) > room/2 {
			// An echo must not push out the lease. Without giaddr nobody needs it.
			e.dropped = append(e.dropped, last.code)
			last = option{}
		} else {
			room -= wireLen(last)
		}
	}
	// What is appended never exceeds a field, so it never runs into its neighbour. dst
	// may move when it grows: the fields are copied to where it is in the end.
	file := dst[start+fileOffset : start+fileOffset : start+cookieOffset]
	sname := dst[start+snameOffset : start+snameOffset : start+fileOffset]
	var used byte
	for _, o := range list {
		n := wireLen(o)
		switch {
		case n <= room:
			dst = appendOption(dst, o)
			room -= n
		case !fileTaken && n < cap(file)-len(file):
			file, used = appendOption(file, o), used|1
		case n < cap(sname)-len(sname):
			sname, used = appendOption(sname, o), used|2
		default:
			e.dropped = append(e.dropped, o.code)
		}
	}
	if used&1 != 0 {
		copy(dst[start+fileOffset:], append(file, optEnd))
	}
	if used&2 != 0 {
		copy(dst[start+snameOffset:], append(sname, optEnd))
	}
	if used != 0 {
		dst = append(dst, optOverload, 1, used)
	}
	if last.code != 0 {
		dst = appendOption(dst, last)
	}
	return dst
}

// wireLen returns the length of o on the wire, split as RFC 3396 says if it is long.
func wireLen(o option) int {
	return len(o.value) + 2*max((len(o.value)+254)/255, 1)
}

func appendOption(dst []byte, o option) []byte {
	v := o.value
	for len(v) > 255 {
		dst = append(append(dst, o.code, 255), v[:255]...)
		v = v[255:]
	}
	return append(append(dst, o.code, byte(len(v))), v...)
}
