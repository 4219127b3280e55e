package filter

import "github.com/flatdhcp/flatdhcp/ipam"

// A chain logs at most this much; xt_limit lets a burst of five by at first. The limit
// is the rule's own: one workload under attack silences no other.
const (
	logRate  = "10/min"
	logLimit = "-m limit --limit " + logRate
)

// maxLogPrefix is the longest prefix xt_LOG takes (30 bytes with the NUL).
const maxLogPrefix = 29

// logPrefix begins the lines of the kernel's log that are about what w's chain did not
// let through. LOG, not NFLOG: what nobody listens to on an NFLOG group is lost, and a
// kernel without LOG says so.
//
// There is room for 22 characters of the workload's name. The namespace goes first, then
// the name's beginning, since its end tells a Deployment's pods apart; of a container ID
// the first twelve digits are what people know. The line has the address as DST=, so
// nothing is ambiguous.
func logPrefix(w ipam.Workload) string {
	const before, after = "flat ", ": "
	room := maxLogPrefix - len(before) - len(after)
	name := w.Value
	if w.Kind == ipam.KindCID {
		name = name[:min(len(name), 12)]
	} else if full := w.Namespace + "/" + w.Value; w.Namespace != "" && len(full) <= room {
		name = full
	}
	return before + cleanWord(name[max(0, len(name)-room):]) + after
}
