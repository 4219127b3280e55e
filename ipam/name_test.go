package ipam

import (
	"strings"
	"testing"
)

func TestIsNetworkName(t *testing.T) {
	for name, want := range map[string]bool{
		"flat": true, "F": true, "0": true, "k8s.pod-network_1": true, "a..": true, strings.Repeat("a", 200): true,
		"": false, "-a": false, ".": false, "..": false, "_a": false, ".hidden": false, "a/b": false, "a b": false, "a\n": false, "ä": false, "aä": false,
		"a\x00": false, strings.Repeat("a", 201): false,
	} {
		if got := isNetworkName(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}
