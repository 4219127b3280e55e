package ipam

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// The buckets of a store. Addresses are keys in their network byte order (4 or 16
// bytes; a network has one family), so bbolt's order is the order of addresses.
const (
	bucketMeta      = "meta"      // schema version, network record, counters, hint
	bucketRows      = "rows"      // address -> Reservation
	bucketWorkloads = "workloads" // workload -> address of its row or of its claim in history
	bucketHolders   = "holders"   // container ID NUL interface -> address of its row
	bucketMACs      = "macs"      // MAC -> address of its row
	bucketHistory   = "history"   // address -> past: released, not given again
	bucketReleased  = "released"  // time and address -> nothing: history, oldest first
	bucketFree      = "free"      // last -> first address of an interval never given
)

// allBuckets is what a store of this schema has.
var allBuckets = [...]string{bucketMeta, bucketRows, bucketWorkloads, bucketHolders,
	bucketMACs, bucketHistory, bucketReleased, bucketFree}

// Keys of bucketMeta.
const (
	keySchema   = "schema"
	keyNetwork  = "network"
	keyCounters = "counters"
	keyHint     = "hint"
	keySubnet   = "subnet" // the subnet's address, for who does not need the record
)

// schemaVersion is the layout this version reads and writes.
const schemaVersion = 1

// past is what is remembered of a released address.
type past struct {
	// Workload is whom the address is kept for; nil if it has another address now,
	// or an administrator gave the claim up.
	Workload     *Workload `json:"workload,omitempty"`
	MAC          MAC       `json:"mac"`
	MACRequested bool      `json:"macRequested,omitempty"`
	Hostname     string    `json:"hostname"`
	Released     time.Time `json:"released"`
	// Unproven: nobody has shown that no foreign host uses the address, or one does.
	Unproven bool `json:"unproven,omitempty"`
}

// counters make statistics cost the same whatever the number of rows.
type counters struct {
	Used     uint64 `json:"used"`     // rows with a holder
	Reserved uint64 `json:"reserved"` // rows without
	History  uint64 `json:"history"`
	Free     uint64 `json:"free"` // addresses, not intervals
}

func addrKey(a netip.Addr) []byte { return a.AsSlice() }

func parseAddrKey(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%x is no address", b)
	}
	return a, nil
}

func holderKey(containerID, ifName string) []byte {
	return []byte(containerID + "\x00" + ifName)
}

// releasedKey sorts by time. The sign bit is flipped so that a clock that stood
// before 1970 still sorts first.
func releasedKey(at time.Time, a netip.Addr) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())^(1<<63))
	return append(k, addrKey(a)...)
}

func parseReleasedKey(k []byte) (time.Time, netip.Addr, error) {
	if len(k) < 8 {
		return time.Time{}, netip.Addr{}, fmt.Errorf("%x is no time and address", k)
	}
	a, err := parseAddrKey(k[8:])
	return time.Unix(0, int64(binary.BigEndian.Uint64(k)^(1<<63))).UTC(), a, err
}

// decodeRow reads a value of bucketRows and holds it against its key.
func decodeRow(key, value []byte) (Reservation, error) {
	var r Reservation
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("reading row %x: %w", key, err)
	}
	if a, err := parseAddrKey(key); err != nil || a != r.Addr {
		return r, fmt.Errorf("row %x names the address %v", key, r.Addr)
	}
	return r, nil
}

func decodePast(key, value []byte) (past, error) {
	var p past
	if err := json.Unmarshal(value, &p); err != nil {
		return p, fmt.Errorf("reading history %x: %w", key, err)
	}
	return p, nil
}

// encode cannot fail for the types of this package but for a time outside the
// years 0 to 9999, which a caller's clock might give.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return b, nil
}
