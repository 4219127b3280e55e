package link

import (
	"strings"
	"testing"
)

func TestPortNameIsFixedByTheAttachment(t *testing.T) {
	// printf 'abc\0eth0' | sha256sum
	const want = "fdpd887cd286879"
	if got := PortName("abc", "eth0"); got != want {
		t.Errorf("PortName = %s, want %s", got, want)
	}
	if PortName("abc", "eth0") == PortName("abceth", "0") {
		t.Error("container ID and interface name run together")
	}
	if n := PortName(strings.Repeat("f", 64), "eth0"); len(n) != maxName {
		t.Errorf("PortName gives %d bytes, want %d", len(n), maxName)
	}
}

func TestAliasFitsTheKernel(t *testing.T) {
	cid := strings.Repeat("f", 64)
	tests := []struct{ name, network, cid, want string }{
		{"usual", "flat", cid, "flatdhcp flat " + cid + " eth0"},
		{"long container ID", "flat", strings.Repeat("f", 300), "flatdhcp flat " + strings.Repeat("f", 235) + "~ eth0"},
		{"exactly 255 bytes", "flat", strings.Repeat("f", 236), "flatdhcp flat " + strings.Repeat("f", 236) + " eth0"},
		{"long network", strings.Repeat("n", 300), "c", "flatdhcp " + strings.Repeat("n", 246)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Alias(tt.network, tt.cid, "eth0")
			if got != tt.want {
				t.Errorf("Alias = %q, want %q", got, tt.want)
			}
			if len(got) > maxAlias {
				t.Errorf("alias has %d bytes", len(got))
			}
		})
	}
}

func TestNamesTheKernelWouldRefuse(t *testing.T) {
	for _, name := range []string{"", ".", "..", "sixteen-bytes-xx", "a b", "a/b", "a:b", "a\tb"} {
		if checkName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"br100", "fifteen-bytes-x", "eth0.5", "a@b"} {
		if err := checkName(name); err != nil {
			t.Error(err)
		}
	}
	if checkPortName("veth123") == nil {
		t.Error("veth123 is accepted as a port of ours")
	}
}

func TestAliasNetwork(t *testing.T) {
	long := strings.Repeat("c", 300)
	for alias, want := range map[string]string{
		Alias("flat", "c1", "eth0"):                   "flat",
		Alias(strings.Repeat("n", 128), long, "eth0"): strings.Repeat("n", 128),
		"":                       "",
		"flatdhcp flat":          "",
		"somebody else's port 1": "",
	} {
		if got, ok := AliasNetwork(alias); got != want || ok != (want != "") {
			t.Errorf("AliasNetwork(%q) = %q, %t; want %q", alias, got, ok, want)
		}
	}
}
