package filter

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-iptables/iptables"
)

// RuleCounter is one rule of a chain and what it has matched so far.
type RuleCounter struct {
	Packets, Bytes uint64
	Rule           string // as iptables -S prints it, without counters
}

// Counters lists a chain's rules with their counters. It runs iptables twice (the
// first time for its version), and needs no lock: the kernel answers as of one
// moment.
func (t *Table) Counters(ctx context.Context, chain string) ([]RuleCounter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, _, err := t.looking(ctx)
	if err == nil {
		err = p.missing
	}
	if err != nil {
		return nil, err
	}
	t.runs.Add(2)
	ipt, err := iptables.New(iptables.Path(p.IPTables), iptables.IPFamily(iptables.ProtocolIPv4), iptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("preparing to list chain %s: %w", chain, err)
	}
	lines, err := ipt.ListWithCounters(tableOf(chain), chain)
	if err != nil {
		return nil, fmt.Errorf("listing chain %s: %w", chain, err)
	}
	var counters []RuleCounter
	for _, line := range lines {
		if strings.HasPrefix(line, "-A ") {
			c, err := parseCounter(line)
			if err != nil {
				return nil, fmt.Errorf("listing chain %s: %w", chain, err)
			}
			counters = append(counters, c)
		}
	}
	return counters, nil
}

// counterPattern is iptables' "-c PACKETS BYTES": before the target with the legacy
// back end, at the end with the other (go-iptables moves it there). Compiled when it is
// first needed: no plugin does.
var counterPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(` -c ([0-9]+) ([0-9]+)( |$)`) })

func parseCounter(line string) (RuleCounter, error) {
	// A comment may look like counters: the last match is the real one, since
	// comments of ours are followed by a target, those of others may deceive.
	all := counterPattern().FindAllStringSubmatchIndex(line, -1)
	if len(all) == 0 {
		return RuleCounter{}, fmt.Errorf("rule %q has no counters", line)
	}
	at := all[len(all)-1]
	packets, err := strconv.ParseUint(line[at[2]:at[3]], 10, 64)
	if err != nil {
		return RuleCounter{}, fmt.Errorf("reading packets of rule %q: %w", line, err)
	}
	bytes, err := strconv.ParseUint(line[at[4]:at[5]], 10, 64)
	if err != nil {
		return RuleCounter{}, fmt.Errorf("reading bytes of rule %q: %w", line, err)
	}
	rule := strings.TrimSpace(line[:at[0]] + " " + line[at[1]:])
	return RuleCounter{Packets: packets, Bytes: bytes, Rule: rule}, nil
}
