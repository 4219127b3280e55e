package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tally is what strace counted of one execution.
type tally struct {
	programs int // the plugin itself among them
	calls    int
	syncs    int // fsync and fdatasync
}

// count runs every verb under strace. A verb that a contender does not do is left out.
func (b *bench) count(ctx context.Context, row population) error {
	for i, c := range b.contenders {
		tallies := map[string][]tally{}
		for range b.counts {
			b.serial++
			if err := b.countOnce(ctx, c, fmt.Sprintf("counted-%d", b.serial), tallies); err != nil {
				return err
			}
		}
		for verb, of := range tallies {
			f := row.Contenders[i].Verbs[verb]
			if f == nil {
				f = &figure{}
				row.Contenders[i].Verbs[verb] = f
			}
			f.Programs = median(of, func(t tally) int { return t.programs })
			f.Calls = median(of, func(t tally) int { return t.calls })
			f.Syncs = median(of, func(t tally) int { return t.syncs })
		}
	}
	return nil
}

func (b *bench) countOnce(ctx context.Context, c *contender, id string, tallies map[string][]tally) error {
	summary := filepath.Join(c.scratch, "strace")
	var result json.RawMessage
	for _, verb := range verbs {
		k := call{verb: verb, id: id, netns: measured, under: []string{"strace", "-f", "-c", "-o", summary}}
		switch verb {
		case "ADD", "STATUS":
		case "GC":
			k.extra = map[string]any{"cni.dev/valid-attachments": append([]attachment{{id, ifName}}, c.attached...)}
		default:
			k.extra = map[string]any{"prevResult": result}
		}
		out, _, err := c.execute(ctx, c.stations[0], k)
		if err != nil && (verb == "ADD" || verb == "DEL") {
			return err
		}
		if err != nil {
			first, _, _ := strings.Cut(err.Error(), "\n")
			b.say("not counted: %s", first)
			continue
		}
		if verb == "ADD" {
			result = out
		}
		text, err := os.ReadFile(summary)
		if err != nil {
			return err
		}
		t, err := parseSummary(text)
		if err != nil {
			return fmt.Errorf("counting %s of %s: %w", verb, c.name, err)
		}
		tallies[verb] = append(tallies[verb], t)
	}
	return nil
}

// parseSummary reads the table of `strace -c`: percentage, seconds, microseconds a call,
// calls, errors where there were any, name.
func parseSummary(text []byte) (tally, error) {
	var t tally
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		words := strings.Fields(sc.Text())
		if len(words) < 5 {
			continue
		}
		calls, err := strconv.Atoi(words[3])
		if err != nil {
			continue // head and rules
		}
		failed := 0
		if len(words) > 5 {
			if failed, err = strconv.Atoi(words[4]); err != nil {
				return t, fmt.Errorf("reading strace's line %q: %w", sc.Text(), err)
			}
		}
		switch words[len(words)-1] {
		case "total":
			t.calls = calls
		case "execve", "execveat":
			t.programs += calls - failed
		case "fsync", "fdatasync":
			t.syncs += calls
		}
	}
	if t.calls == 0 || t.programs == 0 {
		return t, fmt.Errorf("strace's summary has no calls: %q", text)
	}
	return t, nil
}
