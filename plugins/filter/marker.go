package filter

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// What is in place is told by comments: rules do not come back from the kernel in
// the words in which they went in, a comment does. It starts with markerWord, the
// network and a hash of what was planned; in a workload's chain the address stands
// between, and the workload's name follows, for people.
const markerWord = "flatdhcp"

// sharedMarker stands for the network on rules that belong to all of them. The
// specification lets no network's name start so.
const sharedMarker = "-"

// maxComment is the longest comment xtables takes (256 bytes with the NUL).
const maxComment = 255

// maxMarkedName leaves room for address, hash and the workload's name.
const maxMarkedName = 160

// marker is a comment of ours, read.
type marker struct {
	network string     // as markedName returns it
	addr    netip.Addr // of a workload's chain; else invalid
}

// markedName is a network's name as comments carry it. The hash beside it covers
// the whole name.
func markedName(network string) string { return clean(network, maxMarkedName) }

func networkComment(network, hash string) string {
	return markerWord + " " + network + " " + hash
}

func workloadComment(network string, addr netip.Addr, hash, workload string) string {
	return clean(strings.Join([]string{markerWord, markedName(network), addr.String(), hash, clean(workload, maxComment)}, " "), maxComment)
}

// parseMarker reads a comment of ours.
func parseMarker(comment string) (marker, bool) {
	words := strings.Fields(comment)
	if len(words) < 3 || words[0] != markerWord {
		return marker{}, false
	}
	m := marker{network: words[1]}
	if addr, err := netip.ParseAddr(words[2]); err == nil {
		m.addr = addr
	}
	return m, true
}

// contentHash is short because it guards against change, not against forgery: who
// may write rules here may do anything.
func contentHash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:4])
}

// clean leaves of s what needs no quoting in iptables-restore's input, up to a
// length in bytes. A tenant chooses workload names: a quote or a line break in one
// must not become a rule.
func clean(s string, length int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9',
			strings.ContainsRune("-_.:/@ ", r):
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), length)]
}

// cleanWord is clean without blanks, so that a name cannot pass for a field of a log's
// line (SRC=, DST=) either.
func cleanWord(s string) string { return strings.ReplaceAll(clean(s, len(s)), " ", "_") }
