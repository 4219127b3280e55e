package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
)

// hashOf is a hash of rules, in words and as they are sent.
func hashOf(t *testing.T, cs []chain) string {
	t.Helper()
	rules, err := encodeRules(cs)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	next := 0
	for _, c := range cs {
		fmt.Fprintf(hash, "chain %s %+v\n", c.name, c.hook)
		for _, r := range c.rules {
			fmt.Fprintf(hash, "%s\n%x\n", r, rules[next].exprs)
			next++
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:4])
}

// A node whose table has another version's rules must notice.
func TestBaseHashIsThatOfTheRules(t *testing.T) {
	if got := hashOf(t, chains()); got != baseHash {
		t.Errorf("the rules have changed: baseHash in message.go must be %q, not %q", got, baseHash)
	}
	less := chains()
	less[0].rules = less[0].rules[1:]
	if hashOf(t, less) == baseHash {
		t.Error("the control: with a rule less the hash is the same")
	}
}
