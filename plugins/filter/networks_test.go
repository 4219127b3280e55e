package filter

import "testing"

func TestIsLinkName(t *testing.T) {
	for name, want := range map[string]bool{
		"br100": true, "B": true, "eth0.42": true, "a_b-c": true, "abcdefghijklmno": true,
		"": false, "br+": false, "br 0": false, "br0\n": false, "a/b": false, "brü": false, "br\x00": false, "abcdefghijklmnop": false,
	} {
		if got := isLinkName(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}
